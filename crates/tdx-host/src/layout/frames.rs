//! Requests for contiguous pages, and the two kinds of allocator that answer them: places (numbers,
//! for planning) and frames (memory, for a bring-up).

use tdx_abi::{Page, PageRange};

use crate::platform::{NodeId, OwnedPages};

/// A request for contiguous pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameRequest {
    /// How many 4 KiB pages, all adjacent; at least 1.
    pub pages: u64,
    /// The preferred node. Pages of another node are better than none.
    pub node: Option<NodeId>,
    /// Where they must lie. If it is exactly as long as the pages asked for, it is an exact
    /// placement.
    pub within: PageRange,
}

impl FrameRequest {
    /// All of physical memory.
    pub const ANYWHERE: PageRange = PageRange::new(Page::new(0), Page::new(1 << 40));

    /// Pages wherever the source prefers.
    pub const fn anywhere(pages: u64, node: Option<NodeId>) -> Self {
        Self { pages, node, within: Self::ANYWHERE }
    }
}

/// Places for PAMTs, as numbers: what [`super::build`] asks. A tool that plans the layout of a host
/// it does not run on needs nothing else; [`super::MapFrames`] is one.
pub trait Places {
    /// Reserves `request.pages` adjacent pages inside `request.within`, or `None` if they cannot be
    /// had. Places are tried in order of preference, so `None` is a normal answer.
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange>;

    /// Reserves pages wherever the source prefers.
    fn allocate_any(&mut self, pages: u64) -> Option<PageRange> {
        self.allocate(FrameRequest::anywhere(pages, None))
    }

    /// Frees a place, exactly as [`Places::allocate`] returned it.
    fn free(&mut self, range: PageRange);
}

/// The kernel's allocator of contiguous page ranges, e.g. `alloc_contig_range` in Linux.
///
/// # Safety
/// * What [`FrameSource::allocate`] returns fulfills [`OwnedPages::new`]: nothing else uses the
///   pages until [`FrameSource::free`] takes them back. They are no pages of firmware, of this
///   kernel's image or of the crash kernel.
/// * [`FrameSource::free`] accepts any [`OwnedPages`] of this machine. Pages that it did not hand
///   out, or a part of what it handed out, it may keep for good.
pub unsafe trait FrameSource {
    /// Takes `request.pages` adjacent pages inside `request.within`, or `None` if they cannot be
    /// had.
    ///
    /// The content of the pages does not matter. Places are tried in order of preference, so `None`
    /// is a normal answer.
    fn allocate(&mut self, request: FrameRequest) -> Option<OwnedPages>;

    /// Pages wherever the source prefers.
    fn allocate_any(&mut self, pages: u64) -> Option<OwnedPages> {
        self.allocate(FrameRequest::anywhere(pages, None))
    }

    /// Takes pages back. All their lines are normal memory.
    fn free(&mut self, pages: OwnedPages);
}

/// The frames of a kernel, as the places of a layout that owns what it reserves.
pub(crate) struct OwnedPlaces<'f, F: ?Sized>(pub(crate) &'f mut F);

impl<F: FrameSource + ?Sized> Places for OwnedPlaces<'_, F> {
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange> {
        self.0.allocate(request).map(OwnedPages::into_range)
    }

    fn free(&mut self, range: PageRange) {
        // SAFETY: this type is used with a layout that owns its places (`Layout::is_owned`), and
        // which frees a place once, when it drops its own record of it; the place came out of an
        // `OwnedPages` in `allocate`. A layout whose PAMTs may be private frees nothing.
        self.0.free(unsafe { OwnedPages::new(range) });
    }
}

/// Asks the source and does not trust it: a range of the wrong length or outside the window goes
/// straight back.
pub(super) fn allocate<F: Places + ?Sized>(frames: &mut F, request: FrameRequest) -> Option<PageRange> {
    let range = frames.allocate(request)?;
    if range.pages() == request.pages && request.within.contains_range(range) {
        return Some(range);
    }
    frames.free(range);
    None
}
