//! Sizes of PAMT entries, and of the bitmap that replaces PAMT_4K under dynamic PAMT.

/// Bytes of a PAMT entry.
pub(super) const ENTRY: u64 = 16;
/// Bits of the bitmap for each page: PAMT_PAGE_BITMAP_ENTRY_BITS.
pub(super) const BITMAP_BITS_PER_PAGE: u64 = 1;
/// Pages under a byte of the bitmap.
pub(super) const PAGES_PER_BITMAP_BYTE: u64 = 8 / BITMAP_BITS_PER_PAGE;
