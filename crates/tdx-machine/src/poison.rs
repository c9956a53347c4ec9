//! Causes of poison: the agent, the kind of store, the step. A line keeps an index into this table.

use alloc::{sync::Arc, vec::Vec};
use core::fmt;
use tdx_abi::LineRange;

use crate::Agent;

/// A way to write less than a line to the memory controller.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PartialStore {
    /// MOVNTI and its kin.
    NonTemporal,
    /// Through an uncached (UC) mapping.
    Uncached,
    /// Through a write-combining (WC) mapping, with a buffer that was not full.
    WriteCombining,
    /// A device wrote part of a line.
    Dma,
}

impl fmt::Display for PartialStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NonTemporal => "non-temporal store",
            Self::Uncached => "uncached store",
            Self::WriteCombining => "write-combining store",
            Self::Dma => "DMA write",
        })
    }
}

/// The partial write that poisoned a line.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PoisonCause {
    /// CPU or device.
    pub by: Agent,
    /// Kind of store.
    pub store: PartialStore,
    /// The machine's step number at that moment.
    pub step: u64,
}

impl fmt::Display for PoisonCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {} at step {}", self.store, self.by, self.step)
    }
}

/// Index into [`PoisonTable`]; 0 is "not poisoned".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CauseId(u32);

impl CauseId {
    pub(crate) const CLEAN: Self = Self(0);

    pub(crate) const fn is_poison(self) -> bool {
        self.0 != 0
    }
}

/// Every cause so far. Grows by one per operation that poisoned something, however many lines.
#[derive(Clone, Debug, Default)]
pub(crate) struct PoisonTable {
    causes: Arc<Vec<PoisonCause>>,
}

impl PoisonTable {
    /// The number for this cause; the last one is reused if it is the same.
    pub(crate) fn id(&mut self, cause: PoisonCause) -> CauseId {
        if self.causes.last() != Some(&cause) && self.causes.len() < u32::MAX as usize {
            Arc::make_mut(&mut self.causes).push(cause);
        }
        CauseId(self.causes.len() as u32)
    }

    pub(crate) fn cause(&self, id: CauseId) -> Option<PoisonCause> {
        self.causes.get((id.0 as usize).checked_sub(1)?).copied()
    }
}

/// A run of poisoned lines with one cause.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoisonedRun {
    /// The lines.
    pub lines: LineRange,
    /// What poisoned them.
    pub cause: PoisonCause,
}
