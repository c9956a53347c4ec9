//! What a kernel does that means harm, or is broken, under seamvisor: nothing of it may end the
//! hypervisor or reach its memory. Each attempt is survived, or the run fails.

use core::arch::asm;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicU64, Ordering};
use metal::interrupts::{self, Frame};
use metal::lapic::{self, Ipi};
use metal::{clock, println};
use tdx_abi::{Registers, Status};
use tdx_host::arch;
use tdx_host::ledger::Ledger;

use crate::cpus::AllCpus;
use crate::vmx;

/// The hypervisor's slice: reserved in the memory map that it gives, by its own choice of place.
const SLICE: core::ops::Range<u64> = (2 << 20)..(16 << 20);

static NMIS: AtomicU64 = AtomicU64::new(0);

/// The other CPUs and this one take NMIs and go on.
pub fn handle(frame: &mut Frame) {
    match frame.vector as u8 {
        interrupts::NMI => drop(NMIS.fetch_add(1, Ordering::Relaxed)),
        interrupts::WAKE => lapic::end_of_interrupt(),
        lapic::SPURIOUS_VECTOR => {}
        _ => interrupts::unexpected(frame),
    }
}

/// SEAMCALL with anything. Under seamvisor whatever the module takes is the guest's own memory;
/// this kernel has none to lose.
fn seamcall(registers: Registers) -> Registers {
    let mut registers = registers;
    // SAFETY: ring 0 with the fix-ups; every operand that the module may write to is chosen in
    // memory that this kernel does not use.
    unsafe { arch::seamcall(&mut registers) };
    registers
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Random SEAMCALLs.
const CALLS: u64 = 10_000;
/// NMIs and INITs to each other CPU.
const STORM: u64 = 2_000;

/// Tries everything.
pub fn run() {
    let outside_vmx = seamcall(Registers::call(tdx_abi::Leaf::SYS_INIT)).status();
    println!("hostile: SEAMCALL outside VMX operation: {outside_vmx}");
    assert!(outside_vmx == Status::UNDEFINED_OPCODE, "no #UD");
    vmxon_with_nonsense();
    assert!(vmx::enter(), "no VMX operation");

    slice();
    assert!(!is_success(seamcall(Registers::call(tdx_abi::Leaf::SYS_CONFIG).rcx(SLICE.start).rdx(64))));
    // SYS.INFO writes: to the hypervisor, to where nothing is, to the end of all addresses.
    for address in [SLICE.start, SLICE.start + 0x10_0000, SLICE.end - 1024, 0xffff_ffff_f000, 1 << 51, !1023] {
        seamcall(Registers::call(tdx_abi::Leaf::SYS_INFO).rcx(address).rdx(1024).r8(address).r9(32));
    }
    slice();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut successes = 0u64;
    for _ in 0..CALLS {
        let mut word = || match random.next() % 6 {
            0 => SLICE.start + random.next() % (SLICE.end - SLICE.start),
            1 => random.next() % (1 << 52),
            2 => (random.next() % (1 << 30)) & !0xfff,
            3 => random.next(),
            _ => random.next() % 64,
        };
        let (rcx, rdx, r8, r9) = (word(), word(), word(), word());
        let leaf = (random.next() % 80) | (u64::from(random.next().is_multiple_of(50)) * random.next());
        // SYS.INFO writes wherever it is told: into this kernel, too, if it were let.
        let (rcx, r8) = if leaf & 0xffff == u64::from(tdx_abi::Leaf::SYS_INFO.0) {
            (SLICE.start + rcx % 0xd0_0000, SLICE.start + r8 % 0xd0_0000)
        } else {
            (rcx, r8)
        };
        let answer = seamcall(Registers { rax: leaf, rcx, rdx, r8, r9, ..Registers::default() });
        successes += u64::from(is_success(answer));
    }
    println!("hostile: {CALLS} random SEAMCALLs, {successes} of them succeeded");

    svm();
    far_away();
    push_to_the_apic();
    control_registers();
    apic_base();
    forge_a_summary();
    across_the_border();
    storms();
    println!("@ {{\"event\":\"hostile\",\"calls\":{CALLS},\"nmis\":{}}}", NMIS.load(Ordering::Relaxed));
}

fn is_success(registers: Registers) -> bool {
    !registers.status().is_error()
}

/// Reads and writes all over the hypervisor: ones come back, and nothing is kept.
fn slice() {
    for address in (SLICE.start..SLICE.end).step_by(0x3_f008) {
        let word = with_exposed_provenance_mut::<u64>(address as usize);
        // SAFETY: not memory of this kernel; the hypervisor answers, or is broken.
        let read = unsafe {
            word.write_volatile(0x0bad_0bad_0bad_0bad);
            word.read_volatile()
        };
        assert!(read == u64::MAX, "{address:#x} of the hypervisor reads as {read:#x}");
    }
}

/// VMXON with regions that are none.
fn vmxon_with_nonsense() {
    const VMXE: u64 = 1 << 13;
    // SAFETY: VMXE is legal on a CPU with VMX.
    unsafe { metal::registers::set_cr4(metal::registers::cr4() | VMXE) };
    for region in [SLICE.start, 123, u64::MAX, 0xffff_ffff_f000, 0x8000] {
        let failed: u8;
        // SAFETY: VMXON reads the region at most.
        unsafe { asm!("vmxon [{}]", "setbe {}", in(reg) &raw const region, out(reg_byte) failed, options(nostack)) }
        assert!(failed == 1, "VMXON took {region:#x}");
    }
}

/// Instructions of SVM raise #UD: the guest has none.
fn svm() {
    /// Runs an instruction that may raise #UD, and says whether it did.
    macro_rules! undefined {
        ($instruction:literal) => {{
            let status: u64;
            // SAFETY: the fix-up continues behind the instruction; under seamvisor it does nothing
            // else.
            unsafe {
                asm!(
                    "xor eax, eax",
                    concat!("2: ", $instruction),
                    "3:",
                    ".pushsection cleanslate_fixups, \"a\", @progbits",
                    ".balign 4",
                    ".long 2b - .",
                    ".long 3b - .",
                    ".popsection",
                    out("rax") status,
                    out("rcx") _,
                    options(nostack),
                );
            }
            assert!(status == Status::UNDEFINED_OPCODE.raw(), concat!($instruction, " did not raise #UD"));
        }};
    }
    undefined!("vmrun rax");
    undefined!("vmload rax");
    undefined!("vmsave rax");
    undefined!("stgi");
    undefined!("clgi");
    undefined!("vmmcall");
    undefined!("invlpga rax, ecx");
    undefined!("skinit eax");
}

/// A store that begins before the APIC's command register and ends in it: INIT for every other CPU,
/// if it reached the real one. The CPUs must be there afterwards: the storms ask them.
fn push_to_the_apic() {
    const INIT_ALL_OTHERS: u64 = 0xc_4500;
    let stack = lapic::BASE + 0x304;
    // SAFETY: interrupts are off, so nobody else uses the stack meanwhile; RSP is restored. Eight
    // bytes go to the APIC's page.
    unsafe {
        asm!(
            "mov {save}, rsp", "mov rsp, {stack}", "push {value}", "mov rsp, {save}",
            save = out(reg) _, stack = in(reg) stack, value = in(reg) INIT_ALL_OTHERS << 32,
        );
    }
}

/// Where no memory can be: ones, and no endless fault.
fn far_away() {
    const TABLES: u64 = 160 << 20;
    const WRITABLE: u64 = 3;
    const LARGE: u64 = 0x80;
    // The tables map the first 512 GiB one to one and the next 512 GiB, too.
    let word = |address: u64, value: u64| {
        // SAFETY: memory that this kernel does not use, mapped one to one.
        unsafe { with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) }
    };
    for index in 0..512 {
        word(TABLES + 8 * index, 0);
        word(TABLES + 0x1000 + 8 * index, index << 30 | LARGE | WRITABLE);
        word(TABLES + 0x2000 + 8 * index, (512 + index) << 30 | LARGE | WRITABLE);
    }
    word(TABLES, (TABLES + 0x1000) | WRITABLE);
    word(TABLES + 8, (TABLES + 0x2000) | WRITABLE);
    let read: u64;
    // SAFETY: the new tables map all that the old ones do, for the length of two accesses; CR3 is
    // restored.
    unsafe {
        asm!(
            "mov {old}, cr3", "mov cr3, {new}", "mov qword ptr [{far}], 1", "mov {read}, [{far}]", "mov cr3, {old}",
            old = out(reg) _, new = in(reg) TABLES, far = in(reg) 512u64 << 30, read = out(reg) read,
        );
    }
    assert!(read == u64::MAX, "512 GiB away there is {read:#x}");
}

/// Bits that the processor does not have.
fn control_registers() {
    for bit in [12u32, 15, 19, 31, 63] {
        let value = metal::registers::cr4() | 1 << bit;
        let status: u64;
        // SAFETY: the fix-up continues behind the instruction, and CR4 is then as it was.
        unsafe {
            asm!(
                "xor eax, eax",
                "2: mov cr4, {value}",
                "3:",
                ".pushsection cleanslate_fixups, \"a\", @progbits",
                ".balign 4",
                ".long 2b - .",
                ".long 3b - .",
                ".popsection",
                value = in(reg) value,
                out("rax") status,
                options(nostack),
            );
        }
        assert!(status == Status::GENERAL_PROTECTION.raw(), "CR4 took bit {bit}");
    }
}

/// The APIC cannot be moved to where nobody watches it.
fn apic_base() {
    const APIC_BASE: u32 = 0x1b;
    // SAFETY: every CPU has it.
    let before = unsafe { metal::registers::rdmsr(APIC_BASE) };
    let status: u64;
    // SAFETY: the fix-up continues behind the instruction, and the APIC is then where it was.
    unsafe {
        asm!(
            "2: wrmsr",
            "3:",
            ".pushsection cleanslate_fixups, \"a\", @progbits",
            ".balign 4",
            ".long 2b - .",
            ".long 3b - .",
            ".popsection",
            in("ecx") APIC_BASE,
            inout("rax") u64::from(before as u32 + 0x1000) => status,
            in("edx") (before >> 32) as u32,
            options(nostack),
        );
        assert!(status == Status::GENERAL_PROTECTION.raw(), "the APIC was moved");
        assert!(metal::registers::rdmsr(APIC_BASE) == before, "the APIC is elsewhere");
    }
}

/// What is written to the debug console does not come from the guest.
fn forge_a_summary() {
    for byte in b"\n@ {\"schema\":\"cleanslate/seamvisor\",\"forged\":true}\n" {
        // SAFETY: a console touches no memory.
        unsafe { metal::registers::out8(0xe9, *byte) };
    }
}

/// Stores and copies across the border between memory of this kernel and the hypervisor's.
fn across_the_border() {
    let border = with_exposed_provenance_mut::<u64>(SLICE.end as usize);
    // SAFETY: the first bytes of this kernel's own image are the note for the loader, which nobody
    // reads any more; they are put back. What lies below is the hypervisor's, which answers.
    unsafe {
        let before = border.read_volatile();
        let (place, word): (*mut u64, u64) = (border.byte_sub(4), 0x1122_3344_5566_7788);
        asm!("mov [{place}], {word}", place = in(reg) place, word = in(reg) word, options(nostack));
        let word: u64;
        asm!("mov {word}, [{place}]", place = in(reg) place, word = out(reg) word, options(nostack));
        assert!(word == 0x1122_3344_ffff_ffff, "across the border: {word:#x}");
        border.write_volatile(before);
        let from = with_exposed_provenance::<u8>((SLICE.end - 4096) as usize);
        let mut page = [0u8; 4096];
        asm!("rep movsb", inout("rcx") 4096u64 => _, inout("rsi") from => _, inout("rdi") page.as_mut_ptr() => _, options(nostack));
        assert!(page.iter().all(|byte| *byte == 0xff), "a copy out of the hypervisor is not all ones");
    }
}

/// NMIs to all, INITs to the others.
fn storms() {
    let others = 1..AllCpus::count();
    for _ in 0..STORM {
        for cpu in others.clone() {
            lapic::send(cpu, Ipi::Nmi);
        }
        lapic::send(0, Ipi::Nmi);
    }
    clock::wait_for(100_000, || false);
    let taken = NMIS.load(Ordering::Relaxed);
    println!("hostile: {} NMIs sent, {taken} taken", STORM * u64::from(AllCpus::count()));
    assert!(taken > 0, "no NMI arrived");
    assert!(taken <= STORM * u64::from(AllCpus::count()), "more NMIs were taken than sent");
    vmx::leave();
    for _ in 0..STORM {
        for cpu in others.clone() {
            lapic::send(cpu, Ipi::Init);
            lapic::send(cpu, Ipi::Nmi);
        }
    }
}

/// Uses pages of a TD as if they were this kernel's: stores across their border, code in them that
/// changes itself, page tables in them. Ordinary stores poison nothing, so nothing of it kills;
/// what they hit is shared from then on.
pub fn on_private_memory(ledger: Option<&Ledger<'_>>) {
    let Some(range) = ledger.and_then(|ledger| ledger.marked().last()) else { panic!("there is no TD: ask for one") };
    let (first, end) = (range.base().get() as usize, range.limit().get() as usize);
    println!("hostile: private pages [{first:#x}, {end:#x})");
    let border = with_exposed_provenance_mut::<u64>(end).wrapping_byte_sub(3);
    let word: u64;
    // SAFETY: the last bytes of a TD's page and the first of the page behind it, which this
    // kernel's allocator has not given to anybody.
    unsafe {
        asm!("mov [{place}], {word}", place = in(reg) border, word = in(reg) 0x1122_3344_5566_7788u64, options(nostack));
        asm!("mov {word}, [{place}]", place = in(reg) border, word = out(reg) word, options(nostack));
    }
    assert!(word == 0x1122_3344_5566_7788, "across private and shared: {word:#x}");

    // mov dword [rip + 1], 42; mov eax, 1: the first changes the operand of the second. Then ret.
    const CODE: [u8; 16] = [0xc7, 0x05, 1, 0, 0, 0, 42, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3];
    let place = with_exposed_provenance_mut::<u8>(end - 4096);
    // SAFETY: the last page of a TD that never runs; it is mapped writable and executable like
    // everything.
    let answer = unsafe {
        for (index, byte) in CODE.iter().enumerate() {
            place.add(index).write_volatile(*byte);
        }
        let function: extern "C" fn() -> u32 = core::mem::transmute(place);
        function()
    };
    assert!(answer == 42, "code that changes itself on a private page gives {answer}");

    // Page tables in private memory: the root of this kernel's own, copied there.
    let root = metal::registers::cr3();
    let copy = end - 2 * 4096;
    // SAFETY: the same tables at another place; the old ones are put back.
    unsafe {
        let (from, to) = (with_exposed_provenance::<u64>(root as usize), with_exposed_provenance_mut::<u64>(copy));
        for index in 0..512 {
            to.add(index).write_volatile(from.add(index).read());
        }
        asm!("mov cr3, {}", in(reg) copy as u64, options(nostack));
        asm!("mov cr3, {}", in(reg) root, options(nostack));
    }
    println!("@ {{\"event\":\"hostile\",\"calls\":0,\"nmis\":0}}");
}
