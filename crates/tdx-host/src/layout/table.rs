//! The result: the table of TDMRs, owner of the PAMT pages, in storage of fixed size.

use arrayvec::ArrayVec;
use tdx_abi::{MAX_RESERVED_AREAS, MAX_TDMRS, PAGE_SIZE, Page, PageRange, PageSize, ReservedArea, TdmrInfo, union};

use super::LayoutError;
use super::given_up::Dropped;
use super::span::{Border, Spans};
use super::{FrameRequest, FrameSource, OwnedPlaces, Places};
use crate::platform::NodeId;

/// PAMT ranges of a full table: one for each TDMR and level.
const MAX_PAMTS: usize = 3 * MAX_TDMRS;

/// A trust-domain memory region, its PAMTs and its reserved areas.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tdmr {
    pub(super) range: PageRange,
    pub(super) node: NodeId,
    pub(super) border: Border,
    pub(super) pamt: [PageRange; 3],
    /// The three PAMTs came from the frame source in one piece and go back in one.
    pub(super) one_chunk: bool,
    pub(super) reserved: ArrayVec<PageRange, MAX_RESERVED_AREAS>,
}

impl Tdmr {
    pub(super) const fn new(range: PageRange, node: NodeId, border: Border) -> Self {
        let none = PageRange::new(range.start(), range.start());
        Self { range, node, border, pamt: [none; 3], one_chunk: true, reserved: ArrayVec::new_const() }
    }

    /// The region, 1 GiB granular.
    pub const fn range(&self) -> PageRange {
        self.range
    }

    /// The node its PAMT was wanted on.
    pub const fn node(&self) -> NodeId {
        self.node
    }

    /// Why it starts where it does.
    pub const fn border(&self) -> Border {
        self.border
    }

    /// The PAMT of one level.
    pub const fn pamt(&self, level: PageSize) -> PageRange {
        let [small, large, huge] = self.pamt;
        match level {
            PageSize::Size4K => small,
            PageSize::Size2M => large,
            PageSize::Size1G => huge,
        }
    }

    /// The parts that the module must not use, ascending, all inside the region.
    pub fn reserved(&self) -> &[PageRange] {
        &self.reserved
    }

    /// Bytes of PAMT, all levels.
    pub fn pamt_bytes(&self) -> u64 {
        self.pamt.iter().map(|pamt| pamt.bytes()).sum()
    }

    /// The structure that SYS.CONFIG reads.
    pub fn to_tdmr_info(&self) -> TdmrInfo {
        let mut info = TdmrInfo { base: self.range.base().get(), size: self.range.bytes(), ..TdmrInfo::default() };
        for level in PageSize::ALL {
            let pamt = self.pamt(level);
            info.set_pamt(level, pamt.base(), pamt.bytes());
        }
        for (area, range) in info.reserved.iter_mut().zip(&self.reserved) {
            let offset = (range.start().index() - self.range.start().index()) * PAGE_SIZE;
            *area = ReservedArea { offset, size: range.bytes() };
        }
        info
    }

    /// From the first page of the 4 KiB level to the last of the 1 GiB level; the PAMTs alone if
    /// they are one chunk.
    pub(super) fn pamt_hull(&self) -> PageRange {
        let [small, _, huge] = self.pamt;
        PageRange::new(small.start(), huge.end())
    }

    /// The ranges as they came from the frame source.
    pub(super) fn chunks(&self) -> impl Iterator<Item = PageRange> + use<> {
        let none = PageRange::default();
        let chunks = if self.one_chunk { [self.pamt_hull(), none, none] } else { self.pamt };
        chunks.into_iter().filter(|chunk| !chunk.is_empty())
    }
}

/// Cuts one chunk into the PAMTs of the three levels, smallest pages first.
pub(super) fn cut_chunk(chunk: PageRange, pages: [u64; 3]) -> [PageRange; 3] {
    let mut at = chunk.start();
    pages.map(|pages| {
        let end = Page::new(at.index() + pages);
        let part = PageRange::new(at, end);
        at = end;
        part
    })
}

/// TDMRs with their PAMTs and reserved areas: what [`super::build`] plans and a bring-up uses.
///
/// More than 20 KiB: keep it in a static or in memory from the kernel's allocator, not on a stack.
/// [`super::build`] fills it with places, which are numbers; a bring-up fills it with memory of its
/// [`FrameSource`], which the layout then owns. Dropping it without [`Layout::release`] leaks
/// the pages, which is safe.
#[derive(Debug)]
pub struct Layout {
    pub(super) tdmrs: ArrayVec<Tdmr, MAX_TDMRS>,
    /// Pages that hold PAMT, as they came from the frame source, ascending.
    pub(super) pamts: ArrayVec<PageRange, MAX_PAMTS>,
    /// What was left out, and why.
    pub(super) dropped: Dropped,
    /// The plan of [`super::Fit`], on which the table stands; unused by other algorithms.
    pub(super) spans: Spans,
    /// The PAMTs are memory of a [`FrameSource`], and not only places.
    owned: bool,
    /// The module may write to its PAMTs.
    private: bool,
}

impl Default for Layout {
    fn default() -> Self {
        Self::new()
    }
}

impl Layout {
    /// An empty table, for [`super::build`] to fill.
    pub const fn new() -> Self {
        Self {
            tdmrs: ArrayVec::new_const(),
            pamts: ArrayVec::new_const(),
            dropped: Dropped::new(),
            spans: ArrayVec::new_const(),
            owned: false,
            private: false,
        }
    }

    /// The TDMRs, ascending.
    pub fn tdmrs(&self) -> &[Tdmr] {
        &self.tdmrs
    }

    /// Number of TDMRs.
    pub fn tdmr_count(&self) -> usize {
        self.tdmrs.len()
    }

    /// True before [`super::build`] and after [`Layout::release`].
    pub fn is_empty(&self) -> bool {
        self.tdmrs.is_empty()
    }

    /// Every page of every PAMT, as ascending ranges; PAMTs that touch are one range.
    pub fn pamt_ranges(&self) -> impl Iterator<Item = PageRange> + Clone + '_ {
        union(self.pamts.iter().copied(), core::iter::empty())
    }

    /// Bytes of PAMT, all TDMRs.
    pub fn pamt_bytes(&self) -> u64 {
        self.pamts.iter().map(|pamt| pamt.bytes()).sum()
    }

    /// KiB of PAMT, the figure Linux logs as "KB allocated for PAMT".
    pub fn pamt_kb(&self) -> u64 {
        self.pamt_bytes() / 1024
    }

    /// Frees the PAMT places of a plan and empties the table.
    ///
    /// # Errors
    /// [`LayoutError::OwnsFrames`] or [`LayoutError::Private`] if a bring-up has filled it.
    pub fn release<P: Places + ?Sized>(&mut self, places: &mut P) -> Result<(), LayoutError> {
        if self.private {
            return Err(LayoutError::Private);
        }
        if self.owned {
            return Err(LayoutError::OwnsFrames);
        }
        self.discard(places);
        Ok(())
    }

    /// Gives the PAMT pages of a bring-up that was dropped before it configured keys back to their
    /// source, and empties the table. A plan has no pages and is only emptied.
    ///
    /// # Errors
    /// [`LayoutError::Private`] once the bring-up has handed the PAMTs to the module: nothing but
    /// the way back of that bring-up or a handover makes them normal memory again.
    pub(crate) fn release_frames<F: FrameSource + ?Sized>(&mut self, frames: &mut F) -> Result<(), LayoutError> {
        if self.private {
            return Err(LayoutError::Private);
        }
        if self.owned {
            self.discard(&mut OwnedPlaces(frames));
        } else {
            self.discard(&mut Forgotten);
        }
        self.owned = false;
        Ok(())
    }

    /// The PAMTs that [`super::build`] puts in from now on are memory. Of an empty layout.
    pub(crate) fn set_owned(&mut self) {
        debug_assert!(self.is_empty());
        self.owned = true;
    }

    /// As [`Self::release`], of a layout that no module knows, to where the places came from.
    pub(super) fn discard<F: Places + ?Sized>(&mut self, frames: &mut F) {
        self.release_pamts(frames);
        self.spans.clear();
        self.dropped.clear();
    }

    /// Takes over the table of another layout, whose PAMTs this one owns from now on.
    pub(crate) fn take_over(&mut self, other: &Self) {
        let Self { tdmrs, pamts, dropped, spans, owned, private } = other;
        self.tdmrs.clone_from(tdmrs);
        self.pamts.clone_from(pamts);
        self.dropped.clone_from(dropped);
        self.spans.clone_from(spans);
        (self.owned, self.private) = (*owned, *private);
    }

    /// The module may write to the PAMTs from now on, or does not any more.
    pub(crate) fn set_private(&mut self, private: bool) {
        self.private = private;
    }

    /// Gives the PAMT pages back but keeps the plan they were for.
    pub(super) fn release_pamts<F: Places + ?Sized>(&mut self, frames: &mut F) {
        for tdmr in &self.tdmrs {
            tdmr.chunks().for_each(|chunk| frames.free(chunk));
        }
        self.tdmrs.clear();
        self.pamts.clear();
    }

    /// Records pages that hold PAMT; false if there is no room, and then nothing is changed.
    pub(super) fn add_pamt(&mut self, range: PageRange) -> bool {
        let at = self.pamts.partition_point(|other| other.start() < range.start());
        self.pamts.try_insert(at, range).is_ok()
    }

    /// Forgets what [`Layout::add_pamt`] recorded.
    pub(super) fn remove_pamt(&mut self, range: PageRange) {
        self.pamts.retain(|pamt| *pamt != range);
    }
}

/// Places that are not handed out again.
struct Forgotten;

impl Places for Forgotten {
    fn allocate(&mut self, _request: FrameRequest) -> Option<PageRange> {
        None
    }

    fn free(&mut self, _range: PageRange) {}
}
