//! Stopping CPUs: what a kernel implements, what a CPU does when it is told to stop, and what is
//! said if one does not.

use arrayvec::ArrayVec;
use core::fmt;

use super::kexec::{Kexec, Loaded};
use crate::gate::{CpuActivity, GateHandle};
use crate::platform::{Cpu, CpuId, CpuTask, Step, TdxPlatform};

/// Stops the other CPUs for an orderly kexec. Implemented by the kernel.
///
/// # Safety
/// * [`StopCpus::stop_other_cpus`] returns 1 only if every other online CPU has run
///   [`stop_this_cpu`] to its end and executes nothing but [`StopCpus::run_on_stopped`] after it,
///   until it is resumed.
/// * [`StopCpus::run_on_stopped`] runs the task on this CPU at least, and returns after each CPU
///   that runs it has said [`Step::Done`]; all effects are visible to the caller.
pub unsafe trait StopCpus {
    /// A handle to a CPU.
    type Cpu: Cpu;

    /// The CPU that runs the kexec, pinned to it and with interrupts off once the others have
    /// stopped.
    fn this_cpu(&self) -> Self::Cpu;

    /// Makes every other online CPU run [`stop_this_cpu`] and then wait with interrupts off, and
    /// returns the number of CPUs that still run: 1 if all have stopped. A CPU counts as stopped
    /// only once it has acknowledged, after its caches were written back. The wait is bounded.
    fn stop_other_cpus(&self) -> u32;

    /// Lets the CPUs that have stopped go on: some other has not stopped, and the kexec is off.
    fn resume_other_cpus(&self);

    /// Runs the task on this CPU and on every stopped one, in parallel, until each has said
    /// [`Step::Done`]. All effects of the task are visible to the caller on return. The tasks of this
    /// crate write lines and caches back and make no SEAMCALL.
    ///
    /// A kernel whose stopped CPUs can run nothing any more runs it on this CPU alone: slower, as
    /// correct.
    fn run_on_stopped<T: CpuTask<Self::Cpu>>(&self, task: &T);
}

/// What a CPU does when it is told to stop, before it acknowledges: writes back its caches if this
/// is a TDX host, or if its slot of the gate says that it has made a SEAMCALL.
///
/// The gate is closed: after this the CPU makes no SEAMCALL. Source: Linux `stop_this_cpu`; the
/// acknowledgement comes after WBINVD since 2023 (commit 1f5e7eb7868e), when a CPU counted as
/// stopped was still in the middle of it.
#[expect(clippy::needless_pass_by_value, reason = "the CPU's handle ends here, and its SEAMCALL with it")]
pub fn stop_this_cpu<C: Cpu>(cpu: C, platform: Option<&TdxPlatform>) {
    let gate = cpu.cpu_gate();
    if platform.is_some() || gate.may_hold_private_lines().is_some() {
        cpu.write_back_caches();
        gate.written_back();
    }
    gate.stopped();
}

/// What a CPU does on its way offline: the same. Its caches live on in a package whose other CPUs
/// go on, and no handover asks it to write them back later. A CPU that comes online again counts as
/// running from its first SEAMCALL on.
///
/// Linux does so since 2026 (an explicit WBINVD in CPU offline).
pub fn offline_this_cpu<C: Cpu>(cpu: C, platform: Option<&TdxPlatform>) {
    stop_this_cpu(cpu, platform);
}

/// WBINVD on each CPU whose slot says that its caches may hold private lines.
pub(super) struct WriteBackHeld;

impl<C: Cpu> CpuTask<C> for WriteBackHeld {
    type Local = ();

    fn step(&self, cpu: &C, (): &mut ()) -> Step {
        let gate = cpu.cpu_gate();
        if gate.may_hold_private_lines().is_some() {
            cpu.write_back_caches();
            gate.written_back();
        }
        Step::Done
    }
}

/// Suspects that are named; more are counted only.
pub const MAX_NAMED: usize = 8;

/// CPUs of which the host cannot prove that they do no harm to what is reset.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Suspects {
    /// CPUs that did not stop in the time given.
    pub not_stopped: u32,
    /// CPUs whose caches may hold private lines all the same, and write them back over what was
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

/// Why the CPUs were not stopped.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopCause {
    /// The gate was closed: another kexec or a crash is on its way.
    #[error("the machine is being handed over already")]
    HandoverUnderWay,
    /// The CPUs pass another gate than that of the memory that is handed over: it is not theirs.
    #[error("the CPUs pass another gate than that of this host")]
    OtherGate,
    /// Some CPU does not stop. The others run again, and the gate is open again.
    #[error("{0}")]
    NotAlone(Suspects),
}

/// The CPUs were not stopped. Nothing was reset, the module was not asked, and the host goes on as
/// before.
#[derive(Debug)]
pub struct StopError<'k> {
    /// The kexec, to be tried again.
    pub kexec: Kexec<'k, Loaded>,
    /// Why.
    pub cause: StopCause,
}

impl fmt::Display for StopError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kexec put off: {}", self.cause)
    }
}

impl core::error::Error for StopError<'_> {}
