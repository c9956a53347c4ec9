//! Zeroed pages of this program by their physical address: page tables and private memory of TDs.

use alloc::alloc::{Layout, alloc_zeroed, dealloc};
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use crate::guest_bytes;

/// Bytes of a page.
pub const BYTES: usize = 4096;
/// Entries of a page table.
pub const ENTRIES: u64 = 512;

const LAYOUT: Layout = match Layout::from_size_align(BYTES, BYTES) {
    Ok(layout) => layout,
    Err(_) => unreachable!(),
};

/// A page of 4 KiB. Freed when dropped: nothing may use its address any more then.
#[derive(Debug)]
pub struct OwnedPage(u64);

impl OwnedPage {
    /// Allocates a zeroed page. `None` if there is no memory.
    pub fn new() -> Option<Self> {
        // SAFETY: the layout has a size.
        let page = unsafe { alloc_zeroed(LAYOUT) };
        (!page.is_null()).then(|| Self(page.expose_provenance() as u64))
    }

    /// Physical address.
    pub fn address(&self) -> u64 {
        self.0
    }

    /// An entry of a page table.
    pub fn entry(&self, index: u64) -> u64 {
        let entry = self.0 + 8 * (index % ENTRIES);
        // SAFETY: an aligned word of this page, which is mapped one to one, lives as long as
        // `self`, and to which no reference is ever made. Volatile: the processor writes accessed
        // and dirty bits.
        unsafe { with_exposed_provenance::<u64>(entry as usize).read_volatile() }
    }

    /// Sets an entry of a page table. One aligned store: a walk sees the old entry or the new one.
    pub fn set_entry(&self, index: u64, value: u64) {
        let entry = self.0 + 8 * (index % ENTRIES);
        // SAFETY: as above.
        unsafe { with_exposed_provenance_mut::<u64>(entry as usize).write_volatile(value) }
    }

    /// Clears all entries.
    pub fn clear(&self) {
        (0..ENTRIES).for_each(|index| self.set_entry(index, 0));
    }

    /// Copies bytes from an offset on, up to the end of the page. Returns how many.
    pub fn read(&self, offset: usize, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(BYTES - offset % BYTES);
        let from = with_exposed_provenance::<u8>(self.0 as usize + offset % BYTES);
        // SAFETY: `length` bytes from there on lie in this page, which lives as long as `self` and
        // to which no reference is ever made. The buffer is the caller's alone.
        unsafe { guest_bytes::copy(from, buffer.as_mut_ptr(), length) };
        length
    }

    /// Overwrites the page.
    pub fn write(&self, bytes: &[u8; BYTES]) {
        // SAFETY: as in `read`; the page has as many bytes as the array.
        unsafe { guest_bytes::copy(bytes.as_ptr(), with_exposed_provenance_mut(self.0 as usize), BYTES) };
    }
}

impl Drop for OwnedPage {
    fn drop(&mut self) {
        // SAFETY: from `alloc_zeroed` with this layout, and freed once.
        unsafe { dealloc(with_exposed_provenance_mut(self.0 as usize), LAYOUT) }
    }
}
