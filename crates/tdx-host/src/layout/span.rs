//! TDMRs in the making: the working list of the default algorithm, kept in the layout because it is
//! too large for a kernel stack.

use arrayvec::ArrayVec;
use tdx_abi::{MAX_TDMRS, PageRange};

use crate::platform::NodeId;

/// Why a TDMR starts where it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Border {
    /// Memory starts here, or starts again after a gap.
    #[default]
    Memory,
    /// The memory of another node starts in this GiB: its PAMT stays local to it.
    Node,
    /// The TDMR in front would need more reserved areas than allowed.
    ReservedAreas,
    /// One TDMR in place of the two would need more contiguous PAMT memory than there is.
    PamtMemory,
}

/// A TDMR to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Whole GiB.
    pub(super) range: PageRange,
    /// The node of its largest piece of memory.
    pub(super) node: NodeId,
    /// Why it starts where it does.
    pub(super) border: Border,
    /// Usable pages in it.
    pub(super) usable: u64,
    /// Usable pages that its reserved areas swallow; PAMTs placed so far are counted in.
    pub(super) given_up: u64,
    /// Reserved areas it would like to have.
    pub(super) natural: u64,
    /// What it costs to merge it with the span in front; `None` if that cannot be. Kept while the
    /// cover is made.
    pub(super) merge_cost: Option<MergeCost>,
}

/// Smallest first: lost memory, then PAMT for the gap, then balance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct MergeCost {
    pub(super) given_up: u64,
    pub(super) gap: u64,
    pub(super) pages: u64,
}

/// One more than a table holds: merging starts when there is one too many.
pub(super) type Spans = ArrayVec<Span, { MAX_TDMRS + 1 }>;
