//! MOVDIR64B, which the hypervisor emulates, without the rights that it needs.

use core::arch::asm;
use core::ptr::with_exposed_provenance_mut;
use metal::registers;

use super::key_ids::take_page_fault;

/// Page tables of this test, and a page that they map read-only.
const TABLES: u64 = 160 << 20;
const PAGE: u64 = TABLES + 0x3000;
/// Linear address where the first 1 GiB is read-only. Nothing is mapped behind it.
const READ_ONLY: u64 = 512 << 30;
const NOWHERE: u64 = READ_ONLY + (1 << 30);

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const LARGE: u64 = 0x80;
/// CR0.
const WRITE_PROTECT: u64 = 1 << 16;

/// MOVDIR64B. CR2 and error code of its page fault, 0 if there was none.
fn direct_store(to: u64, from: u64) -> [u64; 2] {
    // SAFETY: the destination is `PAGE`, which this kernel does not use, or faults: the handler
    // goes on at the address in R15.
    unsafe {
        asm!(
            "lea r15, [rip + 2f]",
            ".byte 0x66, 0x0f, 0x38, 0xf8, 0x06", // movdir64b rax, [rsi]
            "2:",
            in("rax") to,
            in("rsi") from,
            out("r15") _,
        );
    }
    take_page_fault()
}

/// Stores to a read-only page with and without CR0.WP, to no page, and from no page.
pub fn of_direct_stores() {
    let word = |address: u64, value: u64| {
        // SAFETY: memory that this kernel does not use, mapped one to one.
        unsafe { with_exposed_provenance_mut::<u64>(address as usize).write_volatile(value) }
    };
    for index in 0..512 {
        word(TABLES + 8 * index, 0);
        word(TABLES + 0x1000 + 8 * index, index << 30 | LARGE | PRESENT | WRITE);
        word(TABLES + 0x2000 + 8 * index, 0);
        word(PAGE + 8 * index, 1);
    }
    word(TABLES, (TABLES + 0x1000) | PRESENT | WRITE);
    word(TABLES + 8, (TABLES + 0x2000) | PRESENT | WRITE);
    word(TABLES + 0x2000, LARGE | PRESENT);
    let (old, line) = (registers::cr3(), TABLES + 0x4000);
    for index in 0..8 {
        word(line + 8 * index, 2);
    }
    // SAFETY: the new tables map all that the old ones do; CR3 and CR0 are restored.
    let (protected, stored, open) = unsafe {
        asm!("mov cr3, {}", in(reg) TABLES, options(nostack));
        assert!(direct_store(NOWHERE, line) == [NOWHERE, WRITE], "MOVDIR64B to no page");
        assert!(direct_store(PAGE, NOWHERE) == [NOWHERE, 0], "MOVDIR64B from no page");
        let cr0: u64;
        asm!("mov {}, cr0", out(reg) cr0, options(nostack, nomem));
        asm!("mov cr0, {}", in(reg) cr0 | WRITE_PROTECT, options(nostack));
        let to = READ_ONLY + PAGE;
        let protected = direct_store(to, line) == [to, WRITE | PRESENT];
        let stored = with_exposed_provenance_mut::<u64>(PAGE as usize).read_volatile();
        asm!("mov cr0, {}", in(reg) cr0 & !WRITE_PROTECT, options(nostack));
        let open = direct_store(to, line);
        asm!("mov cr0, {}", in(reg) cr0, options(nostack));
        asm!("mov cr3, {}", in(reg) old, options(nostack));
        (protected, stored, open)
    };
    assert!(protected && stored == 1, "MOVDIR64B to a read-only page: {stored} is stored");
    // SAFETY: as above.
    let stored = unsafe { with_exposed_provenance_mut::<u64>(PAGE as usize).read_volatile() };
    assert!((open, stored) == ([0; 2], 2), "MOVDIR64B without CR0.WP: {open:x?}, {stored} is stored");
}
