//! Pages of ordinary memory as a value with one owner.

use tdx_abi::{Page, PageRange, PhysAddr};

use super::{Cpu, SharedMemory};

/// A contiguous range of ordinary memory that its holder owns alone: nothing else reads, writes,
/// maps or frees it, and no line of it is private.
///
/// A [`FrameSource`](crate::layout::FrameSource) hands it out, [`SharedPage::take`] consumes it,
/// and [`SharedPage::release`] gives it back. It cannot be copied, so a page has one owner at a
/// time. Dropping it leaks the pages: the allocator never sees them again.
///
/// [`SharedPage::take`]: crate::page::SharedPage::take
/// [`SharedPage::release`]: crate::page::SharedPage::release
#[derive(PartialEq, Eq, Debug)]
#[must_use = "dropping owned pages leaks them"]
pub struct OwnedPages {
    range: PageRange,
}

/// A write would leave the owned pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{bytes} bytes at offset {offset:#x} do not fit into {range}")]
pub struct OutOfPages {
    /// The pages.
    pub range: PageRange,
    /// Offset of the write in bytes.
    pub offset: u64,
    /// Length of the write in bytes.
    pub bytes: usize,
}

impl OwnedPages {
    /// Takes ownership of a range.
    ///
    /// # Safety
    /// Every page of `range` is RAM of this machine, is ordinary memory (no line of it is private
    /// or poisoned) and belongs to the caller alone: no allocator, no other `OwnedPages`, no
    /// reference and no mapping that is still used covers it. The caller does not use it by any
    /// other way as long as the value, or one made from it, exists. This crate may give the pages
    /// to the TDX module and overwrite them.
    pub unsafe fn new(range: PageRange) -> Self {
        Self { range }
    }

    /// The pages.
    pub const fn range(&self) -> PageRange {
        self.range
    }

    /// Physical address of the first byte.
    pub const fn base(&self) -> PhysAddr {
        self.range.base()
    }

    /// Number of 4 KiB pages.
    pub const fn pages(&self) -> u64 {
        self.range.pages()
    }

    /// Ends the ownership: the pages are what the caller's allocator makes of them.
    pub const fn into_range(self) -> PageRange {
        self.range
    }

    /// Cuts off the first `pages` pages.
    ///
    /// # Errors
    /// The value itself, if it has fewer pages.
    pub fn split_at(self, pages: u64) -> Result<(Self, Self), Self> {
        if pages > self.pages() {
            return Err(self);
        }
        let middle = Page::new(self.range.start().index() + pages);
        let first = PageRange::new(self.range.start(), middle);
        Ok((Self { range: first }, Self { range: PageRange::new(middle, self.range.end()) }))
    }

    /// Stores `bytes` at `offset` (in bytes) through KeyID 0.
    ///
    /// # Errors
    /// [`OutOfPages`]; nothing was written.
    pub fn write<M: SharedMemory + ?Sized>(
        &mut self,
        memory: &mut M,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), OutOfPages> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.range.bytes()) {
            return Err(OutOfPages { range: self.range, offset, bytes: bytes.len() });
        }
        // SAFETY: the bytes lie inside pages that `self` owns alone, and `&mut self` is the only
        // access to them during the call.
        unsafe { memory.write(PhysAddr::new(self.base().get() + offset), bytes) };
        Ok(())
    }

    /// Writes this CPU's own lines of the pages back to memory (CLFLUSHOPT, MFENCE).
    pub fn flush<C: Cpu + ?Sized>(&self, cpu: &C) {
        // SAFETY: the lines are RAM, and `self` owns them.
        unsafe { cpu.flush_lines(self.range.lines()) };
        cpu.fence();
    }
}
