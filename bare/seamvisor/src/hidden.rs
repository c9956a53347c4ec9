//! Guest physical memory that is hidden from the guest: the hypervisor's slice, the local APIC, and
//! everything beyond the nested map.

use core::ops::Range;
use metal::lapic;

/// The hypervisor's own memory: its image at the start, its heap behind it.
pub const SLICE: Range<u64> = (2 << 20)..(16 << 20);

/// Number of 4 KiB pages that the nested page tables map: the first 512 GiB.
pub const MAPPED_PAGES: u64 = (512 << 30) / 4096;

/// Page number of the local APIC. Hidden, because INIT, SIPI and NMI of the guest must not reach a
/// real CPU.
pub const APIC_PAGE: u64 = lapic::BASE >> 12;

/// Page ranges below [`MAPPED_PAGES`] that are hidden.
pub fn ranges() -> [Range<u64>; 2] {
    [SLICE.start >> 12..SLICE.end >> 12, APIC_PAGE..APIC_PAGE + 1]
}

/// True if the guest must not reach this page.
pub fn is_hidden(page: u64) -> bool {
    page >= MAPPED_PAGES || ranges().iter().any(|range| range.contains(&page))
}
