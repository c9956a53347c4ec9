//! What a kernel's page allocator must do for this crate: hand out contiguous ranges of pages and
//! take them back.

use tdx_abi::{Page, PageRange};

use crate::platform::NodeId;

/// A wish for contiguous pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRequest {
    /// How many 4 KiB pages, all adjacent; at least 1.
    pub pages: u64,
    /// The node they should come from. A wish: pages of another node are better than none.
    pub node: Option<NodeId>,
    /// Where they must lie. Often this is exactly as long as the pages asked for: then it is a
    /// place, take it or leave it.
    pub within: PageRange,
}

impl FrameRequest {
    /// All of physical memory.
    pub const ANYWHERE: PageRange = PageRange::new(Page::new(0), Page::new(1 << 40));

    /// Pages wherever the source likes best.
    pub const fn anywhere(pages: u64, node: Option<NodeId>) -> Self {
        Self { pages, node, within: Self::ANYWHERE }
    }
}

/// The kernel's allocator of contiguous page ranges, e.g. `alloc_contig_range` in Linux.
///
/// Ranges it hands out belong to this crate until they come back: nobody else writes, moves or
/// reuses them.
pub trait FrameSource {
    /// Takes `request.pages` adjacent pages inside `request.within`, or `None` if they cannot be
    /// had.
    ///
    /// The content of the pages does not matter. A refusal is normal: places are tried in order of
    /// preference.
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange>;

    /// Pages wherever the source likes best.
    fn allocate_any(&mut self, pages: u64) -> Option<PageRange> {
        self.allocate(FrameRequest::anywhere(pages, None))
    }

    /// Takes back a range, exactly as [`FrameSource::allocate`] returned it. All its lines are
    /// normal memory again.
    fn free(&mut self, range: PageRange);
}

/// Asks the source and does not trust it: a range of the wrong length or outside the window goes
/// straight back.
pub(super) fn allocate<F: FrameSource + ?Sized>(frames: &mut F, request: FrameRequest) -> Option<PageRange> {
    let range = frames.allocate(request)?;
    if range.pages() == request.pages && request.within.contains_range(range) {
        return Some(range);
    }
    frames.free(range);
    None
}
