//! A frame source over a memory map, for early boot and for tools: knows what is usable, remembers
//! what it handed out.

use arrayvec::ArrayVec;
use tdx_abi::{PAGE_SIZE, Page, PageRange, subtract};

use super::{
    FrameRequest, Places,
    host::{ONE_MIB, joined},
};
use crate::platform::NodeRange;

/// First page that 32-bit devices cannot reach.
pub(super) const FOUR_GIB: Page = Page::new((4 << 30) / PAGE_SIZE);

/// Ranges that can be taken at a time: every PAMT of 64 TDMRs in three pieces, and 64 more.
const MAX_TAKEN: usize = 256;

/// Hands out pages of a memory map, in the way of memblock: lowest place first, on the wanted node,
/// above 4 GiB if it can (below is what 32-bit devices need), never in the low megabyte. Allocates
/// nothing.
///
/// This is where Linux's own allocator would look first, too, but not exactly what it would take:
/// there the place depends on what else is in use.
#[derive(Clone, Debug)]
pub struct MapFrames<'a> {
    memory: &'a [NodeRange],
    /// Ascending, without overlap.
    taken: ArrayVec<PageRange, MAX_TAKEN>,
}

impl<'a> MapFrames<'a> {
    /// All of `memory` (ascending, without overlap) is free.
    pub const fn new(memory: &'a [NodeRange]) -> Self {
        Self { memory, taken: ArrayVec::new_const() }
    }

    /// Marks a range as in use, e.g. the kernel image. It stays so until it is freed, as this
    /// range.
    ///
    /// False if a page of it is taken already, or the list of taken ranges is full; then nothing
    /// changes.
    #[must_use]
    pub fn reserve(&mut self, range: PageRange) -> bool {
        if range.is_empty() {
            return true;
        }
        let at = self.taken.partition_point(|taken| taken.start() < range.start());
        let overlaps = |index: usize| self.taken.get(index).is_some_and(|taken| taken.overlaps(range));
        if overlaps(at) || at.checked_sub(1).is_some_and(overlaps) {
            return false;
        }
        self.taken.try_insert(at, range).is_ok()
    }

    /// What is handed out or marked, ascending.
    pub fn taken(&self) -> &[PageRange] {
        &self.taken
    }

    /// The lowest free place of a node (or of every other node) inside `window`.
    fn find(&self, request: FrameRequest, local: bool, window: PageRange) -> Option<PageRange> {
        let window = request.within.intersection(window);
        let first = self.memory.partition_point(|part| part.range.end() <= window.start());
        let parts = self.memory.iter().skip(first).take_while(|part| part.range.start() < window.end());
        joined(parts.map(|part| (part.range, part.node)))
            .filter(|(_, owner)| request.node.is_none_or(|node| (*owner == node) == local))
            .map(|(range, _)| range.intersection(window))
            .filter(|range| range.pages() >= request.pages)
            .flat_map(|range| subtract([range], self.taken.iter().copied()))
            .find(|free| free.pages() >= request.pages)
            .map(|free| PageRange::new(free.start(), Page::new(free.start().index() + request.pages)))
    }
}

impl Places for MapFrames<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange> {
        if request.pages == 0 {
            return None;
        }
        let high = PageRange::new(FOUR_GIB, FrameRequest::ANYWHERE.end());
        let low = PageRange::new(ONE_MIB, FOUR_GIB);
        let range = [(true, high), (true, low), (false, high), (false, low)]
            .into_iter()
            .find_map(|(local, window)| self.find(request, local, window))?;
        self.reserve(range).then_some(range)
    }

    fn free(&mut self, range: PageRange) {
        self.taken.retain(|taken| *taken != range);
    }
}
