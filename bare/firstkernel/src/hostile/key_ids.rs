//! Accesses to addresses with a KeyID: each raises #PF with the reserved-bit error.

use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::{AtomicU64, Ordering};
use metal::interrupts::Frame;
use metal::registers;

/// Page tables of this test.
const TABLES: u64 = 160 << 20;
const WRITABLE: u64 = 0b11;
const LARGE: u64 = 0x80;
/// Linear address of the first page with a KeyID; 1 GiB for each.
const FIRST: u64 = 512 << 30;
/// Shared KeyIDs 1 and 2, and 63, which is private. QEMU itself finds the bits of the last one, and
/// leaves "present" clear in the error code, where a processor sets it.
const KEYS: [(u64, u64); 3] = [(1 << 46, PRESENT), (1 << 47, PRESENT), (63 << 46, 0)];

/// Error code: present, write, reserved bit, fetch.
const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const RESERVED: u64 = 1 << 3;
const FETCH: u64 = 1 << 4;

/// CR2 and error code of the last page fault.
static FAULT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Handles #PF: goes on at the address in R15.
pub fn handle_page_fault(frame: &mut Frame) {
    FAULT[0].store(registers::cr2(), Ordering::Relaxed);
    FAULT[1].store(frame.error, Ordering::Relaxed);
    frame.rip = frame.r15;
}

/// CR2 and error code of the last page fault; 0 if there was none since.
pub fn take_page_fault() -> [u64; 2] {
    FAULT.each_ref().map(|word| word.swap(0, Ordering::Relaxed))
}

fn check(what: &str, linear: u64, code: u64) {
    let found = take_page_fault();
    assert!(found == [linear, code], "{what} with a KeyID: CR2 and code {found:x?}, not {linear:#x} {code:#x}");
}

/// Reads, writes, fetches and page-table walks.
pub fn raise_page_faults() {
    let word = |address: u64, value: u64| {
        // SAFETY: memory that this kernel does not use, mapped one to one.
        unsafe { with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) }
    };
    for index in 0..512 {
        word(TABLES + 8 * index, 0);
        word(TABLES + 0x1000 + 8 * index, index << 30 | LARGE | WRITABLE);
        word(TABLES + 0x2000 + 8 * index, 0);
    }
    for (index, (key, _)) in (0..).zip(KEYS) {
        word(TABLES + 0x2000 + 8 * index, key | LARGE | WRITABLE);
        // A table behind an address with the KeyID.
        word(TABLES + 0x2000 + 8 * (256 + index), key | (TABLES + 0x3000) | WRITABLE);
    }
    // A page of code, and nothing behind it: `mov rax, [rsi]` in its last bytes.
    const CODE_INDEX: u64 = 300;
    const CODE: u64 = FIRST + (CODE_INDEX << 30) + 0x1000 - 3;
    for index in 0..512 {
        word(TABLES + 0x4000 + 8 * index, 0);
        word(TABLES + 0x5000 + 8 * index, 0);
    }
    word(TABLES + 0x2000 + 8 * CODE_INDEX, (TABLES + 0x4000) | WRITABLE);
    word(TABLES + 0x4000, (TABLES + 0x5000) | WRITABLE);
    word(TABLES + 0x5000, (TABLES + 0x6000) | WRITABLE);
    word(TABLES + 0x6ff8, 0x0006_8b48 << 40);
    word(TABLES, (TABLES + 0x1000) | WRITABLE);
    word(TABLES + 8, (TABLES + 0x2000) | WRITABLE);
    let old = registers::cr3();
    // SAFETY: the new tables map all that the old ones do.
    unsafe { asm!("mov cr3, {}", in(reg) TABLES, options(nostack)) };
    let places = (0..).zip(KEYS).flat_map(|(index, (_, present))| [(index, present), (256 + index, present)]);
    for (index, present) in places {
        let code = RESERVED | present;
        let linear = FIRST + (index << 30) + 0x4_5678;
        // SAFETY: each instruction faults, and the handler goes on behind it.
        unsafe {
            asm!("lea r15, [rip + 2f]", "mov rax, [{}]", "2:", in(reg) linear, out("r15") _, out("rax") _);
            check("a read", linear, code);
            asm!("lea r15, [rip + 2f]", "mov [{}], rax", "2:", in(reg) linear, out("r15") _, out("rax") _);
            check("a write", linear, code | WRITE);
            asm!("lea r15, [rip + 2f]", "jmp {}", "2:", in(reg) linear, out("r15") _);
            check("a fetch", linear, code | FETCH);
            asm!("lea r15, [rip + 2f]", "jmp {}", "2:", in(reg) CODE, in("rsi") linear, out("r15") _, out("rax") _);
            check("a read by the last instruction of a page", linear, code);
        }
    }
    // SAFETY: as before.
    unsafe { asm!("mov cr3, {}", in(reg) old, options(nostack)) };
}
