//! CPUs that did not stop, or whose caches may hold private lines, at a handover.

use arrayvec::ArrayVec;
use core::fmt;

use crate::gate::{CpuActivity, GateHandle};
use crate::platform::CpuId;

/// Suspects that are named; more are counted only.
pub const MAX_NAMED: usize = 8;

/// CPUs of which the host cannot prove that they do no harm to what is reset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Suspects {
    /// CPUs that did not stop in the time given.
    pub not_stopped: u32,
    /// CPUs whose caches may still hold private lines, and write them back over what was
    /// reset.
    pub may_hold_private_lines: u32,
    /// What they were doing, the first [`MAX_NAMED`].
    pub named: ArrayVec<CpuActivity, MAX_NAMED>,
}

impl Suspects {
    /// Before a reset at a crash. `is_online` says which CPUs were to stop.
    pub(super) fn at_crash(gate: GateHandle<'_>, this: CpuId, is_online: impl Fn(CpuId) -> bool) -> Self {
        let mut suspects = Self::default();
        for activity in gate.activity() {
            let runs = activity.cpu != this && !activity.stopped && is_online(activity.cpu);
            suspects.add(activity, runs);
        }
        suspects
    }

    /// Before the reset of a kexec, for which all CPUs have stopped.
    pub(super) fn at_kexec(gate: GateHandle<'_>) -> Self {
        let mut suspects = Self::default();
        gate.activity().for_each(|activity| suspects.add(activity, false));
        suspects
    }

    /// `running` CPUs did not stop for a kexec; their numbers are not known, but their slots are.
    pub(super) fn running(running: u32, gate: GateHandle<'_>, this: CpuId) -> Self {
        let mut suspects = Self::default();
        for activity in gate.activity().filter(|activity| activity.cpu != this && !activity.stopped) {
            suspects.add(activity, activity.has_made_seamcalls);
        }
        Self { not_stopped: running.saturating_sub(1), ..suspects }
    }

    fn add(&mut self, activity: CpuActivity, runs: bool) {
        let may_hold = activity.may_hold_private_lines.is_some();
        self.not_stopped += u32::from(runs);
        self.may_hold_private_lines += u32::from(may_hold);
        if runs || may_hold {
            // The list may be full; the counts are complete.
            let _ = self.named.try_push(activity);
        }
    }
}

impl fmt::Display for Suspects {
    /// `1 CPU did not stop, 1 may hold private lines: CPU 2 in TDH.VP.ENTER`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.not_stopped == 1 { "" } else { "s" };
        write!(
            f,
            "{} CPU{plural} did not stop, {} may hold private lines",
            self.not_stopped, self.may_hold_private_lines
        )?;
        for (index, activity) in self.named.iter().enumerate() {
            write!(f, "{} {activity}", if index == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}
