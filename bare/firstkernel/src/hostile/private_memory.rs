//! Use of TD pages as ordinary memory: stores across their border, self-modifying code, page
//! tables, the stack of a software interrupt, poison.

use core::arch::asm;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use metal::println;
use tdx_host::ledger::Ledger;

use super::interrupts;

/// Uses pages of a TD as if they were this kernel's. Ordinary stores make private lines shared
/// without poison, so no machine check is raised.
pub fn run(ledger: Option<&Ledger<'_>>) {
    let Some(range) = ledger.and_then(|ledger| ledger.marked().last()) else { panic!("no TD: use --tds 1") };
    let (first, end) = (range.base().get() as usize, range.limit().get() as usize);
    println!("hostile: private pages [{first:#x}, {end:#x})");
    let border = with_exposed_provenance_mut::<u64>(end).wrapping_byte_sub(3);
    let word: u64;
    // SAFETY: the last bytes of a TD page and the first of the page behind it, which is free.
    unsafe {
        asm!("mov [{place}], {word}", place = in(reg) border, word = in(reg) 0x1122_3344_5566_7788u64, options(nostack));
        asm!("mov {word}, [{place}]", place = in(reg) border, word = out(reg) word, options(nostack));
    }
    assert!(word == 0x1122_3344_5566_7788, "read across private and shared: {word:#x}");

    // mov dword [rip + 1], 42; mov eax, 1; ret. The first changes the operand of the second.
    const CODE: [u8; 16] = [0xc7, 0x05, 1, 0, 0, 0, 42, 0, 0, 0, 0xb8, 1, 0, 0, 0, 0xc3];
    let place = with_exposed_provenance_mut::<u8>(end - 4096);
    // SAFETY: the last page of a TD that never runs. All memory is mapped writable and executable.
    let result = unsafe {
        for (index, byte) in CODE.iter().enumerate() {
            place.add(index).write_volatile(*byte);
        }
        let function: extern "C" fn() -> u32 = core::mem::transmute(place);
        function()
    };
    assert!(result == 42, "self-modifying code on a private page returns {result}");

    // A copy of this kernel's root page table in private memory.
    let root = metal::registers::cr3();
    let copy = end - 2 * 4096;
    // SAFETY: the copy maps the same memory; CR3 is restored.
    unsafe {
        let (from, to) = (with_exposed_provenance::<u64>(root as usize), with_exposed_provenance_mut::<u64>(copy));
        for index in 0..512 {
            to.add(index).write_volatile(from.add(index).read());
        }
        asm!("mov cr3, {}", in(reg) copy as u64, options(nostack));
        asm!("mov cr3, {}", in(reg) root, options(nostack));
    }
    breakpoint_with_stack(end - 3 * 4096);
    push_flags_with_stack(end - 3 * 4096);
    poison_beside_stopped_cpus(end - 4 * 4096);
    println!("@ {{\"event\":\"hostile\",\"calls\":0,\"nmis\":0}}");
}

/// INT3 with its stack in a private page: its frame must say where it goes on, although the first
/// push is a VM exit.
fn breakpoint_with_stack(page: usize) {
    #[repr(C, packed)]
    struct Pointer(u16, u64);
    /// Present, interrupt gate; the code segment of `metal`. No IST stack.
    const GATE: u64 = 0x8e << 40 | 0x08 << 16;
    let mut table = [[0u64; 2]; 4];
    let mut old = Pointer(0, 0);
    let new = Pointer((size_of_val(&table) - 1) as u16, table.as_ptr().addr() as u64);
    let (found, expected): (u64, u64);
    // SAFETY: interrupts are disabled, and no NMI is sent here. The table has the one entry that is
    // used, and the old one is loaded again, as is the stack. The frame of five words is in the
    // page, which this kernel does not use; the handler is the label 3, with the stack that INT3
    // has pushed to, and returns to the label 2.
    unsafe {
        asm!(
            "sidt [{old}]",
            "lea rax, [rip + 3f]",
            "mov rcx, rax",
            "and ecx, 0xffff",
            "or rcx, {gate}",
            "mov rdx, rax",
            "shr rdx, 16",
            "and edx, 0xffff",
            "shl rdx, 48",
            "or rcx, rdx",
            "mov [{table} + 48], rcx",
            "shr rax, 32",
            "mov [{table} + 56], rax",
            "lidt [{new}]",
            "mov rsi, rsp",
            "mov rsp, {stack}",
            "lea rdx, [rip + 2f]",
            "int3",
            "2: mov rsp, rsi",
            "lidt [{old}]",
            "jmp 4f",
            "3: mov rax, [rsp]",
            "mov [rsp], rdx",
            "iretq",
            "4:",
            old = in(reg) &raw mut old,
            new = in(reg) &raw const new,
            table = in(reg) table.as_mut_ptr(),
            gate = in(reg) GATE,
            stack = in(reg) page + 4096,
            out("rax") found,
            out("rcx") _,
            out("rdx") expected,
            out("rsi") _,
        );
    }
    assert!(found == expected, "INT3 with a private stack returns to {found:#x}, not {expected:#x}");
}

/// PUSHFQ with its stack in a private page pushes this kernel's flags, not those of a step.
fn push_flags_with_stack(page: usize) {
    const TRAP: u64 = 1 << 8;
    let flags: u64;
    // SAFETY: interrupts are disabled, so nothing else uses the stack, which is restored. The word
    // is in the page, which this kernel does not use.
    unsafe {
        asm!(
            "mov {save}, rsp", "mov rsp, {stack}", "pushfq", "mov {flags}, [rsp]", "mov rsp, {save}",
            save = out(reg) _, stack = in(reg) page + 2048, flags = out(reg) flags,
        );
    }
    assert!(flags & TRAP == 0, "PUSHFQ to a private page pushes {flags:#x}");
}

/// Poisons a page, which the hypervisor then takes from all CPUs. One that this kernel has stopped
/// stays so: after a kexec there is no code any more that it could go on with.
fn poison_beside_stopped_cpus(page: usize) {
    let stopped = interrupts::stop_others();
    // SAFETY: a page of a TD that never runs, and that this kernel does not read.
    unsafe { asm!("movnti [{}], {}", in(reg) page, in(reg) 0u64, options(nostack)) }
    let woken = interrupts::woken();
    println!("hostile: {stopped} CPUs stopped, {woken} woken");
    assert!(woken == 0, "{woken} of {stopped} stopped CPUs have gone on");
}
