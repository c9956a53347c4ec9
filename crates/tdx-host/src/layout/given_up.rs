//! Usable memory that TDX does not get, and why.

use arrayvec::ArrayVec;
use tdx_abi::PageRange;

/// Why a usable page is of no use to TDX.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GiveUpReason {
    /// It lies in no CMR: the platform never let TDX have it.
    OutsideCmrs,
    /// A reserved area covers it: [`super::Fit`] had to join two areas over it, because more are
    /// not allowed.
    ReservedAreas,
    /// It lies in no TDMR, because more are not allowed.
    Tdmrs,
    /// It lies in no TDMR, because there is no contiguous memory for the PAMT of one more, or of a
    /// larger one.
    PamtMemory,
}

/// Usable memory that TDX does not have. PAMT itself does not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GivenUp {
    /// The pages.
    pub range: PageRange,
    /// Why.
    pub reason: GiveUpReason,
}

/// Stretches of memory that no TDMR covers, and why. If there are more than it has room for,
/// neighbors share a reason.
#[derive(Clone, Debug)]
pub(super) struct Dropped {
    /// Ascending by start.
    pub(super) list: ArrayVec<GivenUp, 64>,
}

impl Dropped {
    pub(super) const fn new() -> Self {
        Self { list: ArrayVec::new_const() }
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn add(&mut self, range: PageRange, reason: GiveUpReason) {
        let at = self.list.partition_point(|part| part.range.start() < range.start());
        if self.list.try_insert(at, GivenUp { range, reason }).is_ok() {
            return;
        }
        if let Some(near) = self.list.get_mut(at.saturating_sub(1)) {
            let start = near.range.start().min(range.start());
            near.range = PageRange::new(start, near.range.end().max(range.end()));
        }
    }
}
