//! A hostile TD: instructions of its code must raise the exceptions of a TD, and nothing of it must
//! reach the hypervisor. Built by raw SEAMCALLs.

use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;
use metal::println;
use tdx_abi::{Leaf, LeafCall, PAGE_SIZE, Registers, Status};
use tdx_host::arch::{self, SavedRegisters};

use super::memory::SLICE;
use super::td_code::{ATTEMPTS, DATA, END, GIGABYTES, IDT, PLACE, ROOT, SHARED_READ, SHARED_WORD, page};
use crate::memory::Kernel;

/// KeyIDs that no TD of this kernel has: of the TD that makes attempts, and of those that lose a
/// line.
const KEY: u64 = 56;
const KEYS_OF_LOST: [u64; 2] = [57, 58];
/// And of those that have shared memory: the first of them.
const KEYS_WITH_SHARED: u64 = 50;
/// Exit reasons.
const INTERRUPT: u64 = 1;
const EPT_VIOLATION: u64 = 48;
const EPT_MISCONFIGURATION: u64 = 49;
pub(super) const TDCALL: u64 = 77;
pub(super) const TRIPLE_FAULT: u64 = 0x4000_0001_0000_0002;
/// TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE: a machine check in the guest.
const MACHINE_CHECK: u64 = 0x6000_0005_0000_0000;
const TD_FATAL: u64 = 0xe000_0604_0000_0000;
/// Present, writable; a large page.
const TABLE: u64 = 0b11;
const LARGE: u64 = 0x83;
/// The guest address is shared.
const SHARED: u64 = 1 << 47;

fn call(registers: Registers) -> Registers {
    let mut registers = registers;
    // SAFETY: ring 0, with fix-ups. The pages that the module takes or writes are those of
    // `Pages`, which this kernel has allocated and does not use.
    unsafe { arch::seamcall(&mut registers) };
    registers
}

pub(super) fn succeed(registers: Registers) -> Registers {
    let out = call(registers);
    assert!(out.status() == Status::SUCCESS, "{registers:x?}: {}", out.status());
    out
}

/// Pages of this kernel that are given to the module.
pub(super) struct Pages {
    next: u64,
}

impl Pages {
    pub(super) fn take(&mut self) -> u64 {
        self.next += PAGE_SIZE;
        self.next - PAGE_SIZE
    }
}

pub(super) fn store(page: u64, bytes: &[u8]) {
    let to = with_exposed_provenance_mut::<u8>(page as usize);
    // SAFETY: a page of `Pages` that nothing uses.
    unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
}

/// A TD of the pages of its code.
pub(super) struct Td {
    pub(super) tdvpr: u64,
    /// Its page of data, as this kernel sees it.
    data: u64,
}

/// Builds a TD. `first_rcx` says what its code does.
pub(super) fn build(pages: &mut Pages, key: u64, first_rcx: u64) -> Td {
    let tdr = pages.take();
    succeed(Registers::call(Leaf::MNG_CREATE).rcx(tdr).rdx(key));
    succeed(Registers::call(Leaf::MNG_KEY_CONFIG).rcx(tdr));
    for _ in 0..6 {
        succeed(Registers::call(Leaf::MNG_ADDCX).rcx(pages.take()).rdx(tdr));
    }
    let source = pages.take();
    let mut params = [0; 1024];
    // XFAM, one VCPU, four levels, 1 GHz.
    for (offset, value) in [(8, 3), (16, 1), (24, 0x1e), (40, 40)] {
        params[offset] = value;
    }
    store(source, &params);
    succeed(Registers::call(Leaf::MNG_INIT).rcx(tdr).rdx(source));
    let tdvpr = pages.take();
    succeed(Registers::call(Leaf::VP_CREATE).rcx(tdvpr).rdx(tdr));
    for _ in 0..5 {
        succeed(Registers::call(Leaf::VP_ADDCX).rcx(pages.take()).rdx(tdvpr));
    }
    succeed(Registers::call(LeafCall::with_version(Leaf::VP_INIT, 0)).rcx(tdvpr).rdx(first_rcx));
    for level in [3, 2, 1] {
        let gpa = PLACE & !((1 << (12 + 9 * level)) - 1);
        succeed(Registers::call(Leaf::MEM_SEPT_ADD).rcx(gpa | level).rdx(tdr).r8(pages.take()));
    }
    let table = |words: &[(usize, u64)]| {
        let mut bytes = [0; PAGE_SIZE as usize];
        for (index, word) in words {
            bytes[8 * index..][..8].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    };
    let contents = [
        (IDT, table(&[])),
        (PLACE, *page()),
        (ROOT, table(&[(0, GIGABYTES | TABLE)])),
        (GIGABYTES, table(&[(3, 0xc000_0000 | LARGE), (1, SHARED | LARGE)])),
        (DATA, table(&[])),
    ];
    let mut data = 0;
    for (gpa, content) in contents {
        store(source, &content);
        data = pages.take();
        succeed(Registers::call(Leaf::MEM_PAGE_ADD).rcx(gpa).rdx(tdr).r8(data).r9(source));
    }
    succeed(Registers::call(Leaf::MR_FINALIZE).rcx(tdr));
    Td { tdvpr, data }
}

impl Td {
    /// VP.ENTER, until an exit that is no interrupt. RAX, RCX, RDX, R8 to R13.
    pub(super) fn enter(&self) -> [u64; 9] {
        loop {
            let base = Registers::call(Leaf::VP_ENTER).rcx(self.tdvpr);
            let mut registers = SavedRegisters { base, ..SavedRegisters::default() };
            // SAFETY: the TD has nothing of this kernel's memory but the pages it was given.
            unsafe { arch::seamcall_saved(&mut registers) };
            let Registers { rax, rcx, rdx, r8, r9, r10, r11, r12, r13 } = registers.base;
            if rax != INTERRUPT {
                return [rax, rcx, rdx, r8, r9, r10, r11, r12, r13];
            }
        }
    }
}

/// Pages for all TDs.
pub(super) fn pages(kernel: &mut Kernel<'_>) -> Pages {
    let Some(range) = kernel.pages(256 * PAGE_SIZE) else { panic!("no memory") };
    Pages { next: range.base().get() }
}

/// Runs the TDs.
pub(super) fn run(pages: &mut Pages) {
    let attempts = make_attempts(&build(pages, KEY, 0));
    let [partial, full] = KEYS_OF_LOST.map(|key| build(pages, key, 0));
    lose_a_line(&partial, |line| {
        // SAFETY: a line of the TD, which this kernel does not use.
        unsafe { asm!("movnti [{}], {}", in(reg) line, in(reg) 0u64, options(nostack)) }
    });
    lose_a_line(&full, |line| {
        // SAFETY: as above.
        unsafe { with_exposed_provenance_mut::<u64>(line as usize).write_volatile(0) }
    });
    share_memory(pages);
    println!("@ {{\"event\":\"hostile\",\"td_attempts\":{attempts}}}");
}

/// Runs a TD until its triple fault. Returns how many attempts it has made.
fn make_attempts(td: &Td) -> usize {
    let mut attempts = 0;
    loop {
        let registers = td.enter();
        let [status, .., number, exception] = registers;
        match status {
            TDCALL if number == END => {
                let dr0: u64;
                let mut x87 = 0u16;
                // SAFETY: stores the status word and reads DR0.
                unsafe {
                    asm!("mov {}, dr0", out(reg) dr0, options(nostack, nomem));
                    asm!("fnstsw [{}]", in(reg) &raw mut x87, options(nostack));
                }
                assert!((dr0, x87) == (0, 0), "the TD's state is left: DR0 {dr0:#x}, x87 status {x87:#x}");
            }
            TDCALL => {
                let (what, expected) = ATTEMPTS[number as usize];
                assert!(exception == expected, "TD: {what}: exception {exception}, not {expected}");
                attempts += 1;
            }
            TRIPLE_FAULT => break,
            other => panic!("TD: VP.ENTER returns {other:#x} {registers:x?}"),
        }
    }
    assert!(attempts == ATTEMPTS.len(), "{attempts} attempts");
    attempts
}

/// This kernel stores to a line of a TD that runs: the TD's next access is a machine check, which
/// is the end of the TD and of nothing else.
fn lose_a_line(td: &Td, store: impl FnOnce(u64)) {
    let [status, ..] = td.enter();
    assert!(status == TDCALL, "TD: VP.ENTER returns {status:#x}");
    store(td.data);
    let [status, ..] = td.enter();
    assert!(status == MACHINE_CHECK, "TD that has lost a line: VP.ENTER returns {status:#x}");
    let status = call(Registers::call(Leaf::VP_ENTER).rcx(td.tdvpr)).rax;
    assert!(status == TD_FATAL, "TD that was lost: VP.ENTER returns {status:#x}");
    succeed(Registers::call(Leaf::VP_FLUSH).rcx(td.tdvpr));
}

/// Entries of an EPT: read, write, execute; write-back memory of 4 KiB.
const EPT_TABLE: u64 = 0b111;
const EPT_PAGE: u64 = 0b111 | 6 << 3;
const EPT_READ_ONLY: u64 = 0b101 | 6 << 3;
const SUPPRESS_VE: u64 = 1 << 63;

/// The EPT for shared addresses is data of this kernel: whatever it says, the TD reaches memory of
/// this kernel alone.
fn share_memory(pages: &mut Pages) {
    let [root, third, second, first, word] = core::array::from_fn(|_| pages.take());
    let entry = |table: u64, index: usize, value: u64| store(table + 8 * index as u64, &value.to_le_bytes());
    // Shared address 0: bit 47 is index 256 of the root.
    entry(root, 256, third | EPT_TABLE);
    entry(third, 0, second | EPT_TABLE);
    entry(second, 0, first | EPT_TABLE);
    store(word, &0x1122_3344u64.to_le_bytes());
    let mut number = 0;
    // What VP.ENTER returns at the read; then at the store.
    let mut run = |root: u64, leaf: u64, read: u64, write: u64| {
        entry(first, 0, leaf);
        let td = build(pages, KEYS_WITH_SHARED + number, SHARED_WORD);
        number += 1;
        // Class and code of SHARED_EPTP; all bits that a host may write.
        let field = Registers::call(Leaf::VP_WR).rcx(td.tdvpr).rdx(0x0024_0003_0000_203c);
        succeed(field.r8(root).r9(0x000f_ffff_ffff_f000));
        let out = td.enter();
        assert!(out[0] == read, "TD with a shared page {leaf:#x}: VP.ENTER returns {out:x?}");
        if read != TDCALL {
            return;
        }
        assert!((out[7], out[8]) == (SHARED_READ, 0x1122_3344), "the TD reads {:#x} {:#x}", out[7], out[8]);
        let out = td.enter();
        assert!(out[0] == write, "TD that stores to a shared page {leaf:#x}: VP.ENTER returns {out:x?}");
    };
    run(root, word | EPT_READ_ONLY | SUPPRESS_VE, TDCALL, EPT_VIOLATION);
    run(root, word | EPT_PAGE, TDCALL, TDCALL);
    // SAFETY: the page of this kernel that the TD has stored to.
    let stored = unsafe { with_exposed_provenance_mut::<u64>(word as usize).read_volatile() };
    assert!(stored == 0x0bad, "the TD has stored {stored:#x}");
    run(root, SUPPRESS_VE, EPT_VIOLATION, 0);
    // Write-only is a misconfiguration; so is a table that is no memory.
    run(root, word | 0b010, EPT_MISCONFIGURATION, 0);
    run(SLICE.start, word | EPT_PAGE, EPT_MISCONFIGURATION, 0);
    // The hypervisor's memory: its virtual CPU is stopped.
    run(root, SLICE.start | EPT_PAGE, TRIPLE_FAULT, 0);
}
