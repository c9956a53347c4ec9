//! Dynamic PAMT: PAMT_4K is a bitmap, and a pair of pages holds the entries of a 2 MiB page for as
//! long as they are needed.
//!
//! Sources: Intel's module source of a release after 1.5.01 (github.com/intel/tdx-module,
//! `auto_gen_1_5`), and Linux. Nothing here was observed on a module.

use crate::{PAGE_SIZE, Page, PageSize, PhysAddr};

/// Pages in which the module keeps the 512 entries of a 2 MiB page, 256 in each.
pub const PAMT_PAIR_PAGES: usize = 2;
/// R8 of SYS.CONFIG: dynamic PAMT, beside the global KeyID in bits 15:0.
pub const SYS_CONFIG_DYNAMIC_PAMT: u64 = 1 << 16;
/// Dynamic PAMT needs a platform whose physical addresses, KeyID bits not counted, have at most so
/// many bits.
pub const DYNAMIC_PAMT_MAX_PHYS_BITS: u32 = 48;
/// Beside the address (RCX) of a page that a leaf has removed, or alone (R9 of
/// PHYMEM.PAGE.RECLAIM): it was the last one in its 2 MiB, whose pair can be removed.
pub const PAMT_REMOVAL_HINT: u64 = 1 << 62;

/// Bytes of the bitmap that stands in for PAMT_4K: `bits` (1) for each page of a TDMR, rounded up
/// to bytes and then to 4 KiB.
///
/// `None` if the numbers overflow 64 bits. Source: Linux `tdmr_get_pamt_bitmap_sz`.
pub const fn pamt_bitmap_bytes(tdmr_bytes: u64, bits: u16) -> Option<u64> {
    match (tdmr_bytes / PAGE_SIZE).checked_mul(bits as u64) {
        Some(bits) => bits.div_ceil(8).checked_next_multiple_of(PAGE_SIZE),
        None => None,
    }
}

/// RCX of PHYMEM.PAMT.ADD and REMOVE: the address of a page with its level in bits 2:0.
pub const fn page_and_level(page: Page, size: PageSize) -> u64 {
    page.start().get() | size as u64
}

/// What RCX says after a leaf has removed a page: its address, and whether the pair of its 2 MiB
/// can be removed.
pub const fn removed_page(rcx: u64) -> (PhysAddr, bool) {
    (PhysAddr::new(rcx & !PAMT_REMOVAL_HINT), rcx & PAMT_REMOVAL_HINT != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_of_a_tdmr() {
        let gib = 1 << 30;
        // 2^18 pages, one bit each.
        assert_eq!(pamt_bitmap_bytes(gib, 1), Some(32 << 10));
        assert_eq!(pamt_bitmap_bytes(gib, 3), Some(96 << 10));
        assert_eq!(pamt_bitmap_bytes(PAGE_SIZE, 1), Some(PAGE_SIZE), "whole pages");
        assert_eq!(pamt_bitmap_bytes(gib, 0), Some(0));
        assert_eq!(pamt_bitmap_bytes(u64::MAX, u16::MAX), None);
    }

    #[test]
    fn registers() {
        assert_eq!(page_and_level(Page::new(0x200), PageSize::Size2M), 0x20_0001);
        assert_eq!(removed_page(0x4000_0000_0000_3000), (PhysAddr::new(0x3000), true));
        assert_eq!(removed_page(0x3000), (PhysAddr::new(0x3000), false));
    }
}
