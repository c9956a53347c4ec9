//! Counters, and a bounded list of rare events for reports.

use alloc::{collections::BTreeMap, vec::Vec};
use core::fmt;
use tdx_abi::{KeyId, Leaf, LineRange, Status, StatusCode};

use crate::{CpuId, MachineCheck, PoisonCause};

/// Events kept; later ones are only counted.
const KEPT: usize = 1024;

/// A rare event, with the step at which it happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// Partial writes poisoned lines of this range.
    Poisoned {
        /// The range written; not every line of it need be poisoned.
        lines: LineRange,
        /// Lines that were poisoned.
        count: u64,
        /// By whom and how.
        cause: PoisonCause,
    },
    /// A dirty line of a private KeyID was written back over lines that were shared: the owner is
    /// back, and what the host had there is lost.
    PrivateWriteBackOverShared {
        /// The lines.
        lines: LineRange,
        /// The KeyID.
        key: KeyId,
        /// The CPU whose cache held them.
        cpu: CpuId,
    },
    /// A dirty line of the host was written back over TD-owned lines: they are shared now, and TDX
    /// data is lost.
    SharedWriteBackOverPrivate {
        /// The lines.
        lines: LineRange,
        /// The owner they had.
        owner: KeyId,
        /// The CPU whose cache held them.
        cpu: CpuId,
    },
    /// A CPU consumed poison.
    MachineCheck(MachineCheck),
    /// The module is dead: every SEAMCALL fails with VMfailInvalid from here on.
    ModuleDied {
        /// The CPU it was running on.
        cpu: CpuId,
        /// The machine check inside SEAM that killed it; none if it was told to crash.
        check: Option<MachineCheck>,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Poisoned { lines, count, cause } => {
                let plural = if *count == 1 { "" } else { "s" };
                write!(f, "{count} line{plural} of {lines} poisoned: {cause}")
            }
            Self::PrivateWriteBackOverShared { lines, key, cpu } => {
                write!(f, "{lines} overwritten by an old dirty line of KeyID {key} from the cache of {cpu}")
            }
            Self::SharedWriteBackOverPrivate { lines, owner, cpu } => {
                write!(
                    f,
                    "{lines} of KeyID {owner} overwritten by an old dirty line of the host from the cache of {cpu}"
                )
            }
            Self::MachineCheck(check) => check.fmt(f),
            Self::ModuleDied { cpu, check: Some(check) } => write!(f, "module died on {cpu}: {check}"),
            Self::ModuleDied { cpu, check: None } => write!(f, "module died on {cpu}"),
        }
    }
}

/// Counts since the machine was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// SEAMCALLs by what was called and what it answered.
    pub seamcalls: BTreeMap<(Leaf, StatusCode), u64>,
    /// Lines that became poisoned.
    pub lines_poisoned: u64,
    /// Lines that host MOVDIR64B stores have written, at the moment they became visible.
    pub lines_direct_stored: u64,
    /// Lines that partial writes have touched.
    pub lines_partially_written: u64,
    /// Machine checks taken outside SEAM.
    pub machine_checks: u64,
    /// Lines of [`Event::PrivateWriteBackOverShared`].
    pub lines_late_private: u64,
    /// Lines of [`Event::SharedWriteBackOverPrivate`].
    pub lines_late_shared: u64,
    /// Events that found the list full.
    pub events_dropped: u64,
}

/// Counters and events.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) counters: Counters,
    events: Vec<(u64, Event)>,
}

impl Record {
    pub(crate) fn push(&mut self, step: u64, event: Event) {
        if self.events.len() < KEPT {
            self.events.push((step, event));
        } else {
            self.counters.events_dropped += 1;
        }
    }

    pub(crate) fn seamcall(&mut self, leaf: Leaf, status: Status) {
        *self.counters.seamcalls.entry((leaf, status.code())).or_default() += 1;
    }

    pub(crate) fn events(&self) -> &[(u64, Event)] {
        &self.events
    }
}
