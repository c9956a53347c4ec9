//! Stopping CPUs: what a kernel implements, what a CPU does when it is told to stop, and what is said if one does not.

use arrayvec::ArrayVec;
use core::fmt;

use super::kexec::{Kexec, Loaded};
use crate::gate::CpuActivity;
use crate::platform::{Cpu, CpuId, CpuTask, Step, TdxPlatform};

/// Stops the other CPUs for an orderly kexec. Implemented by the kernel.
pub trait StopCpus {
    /// A handle to a CPU.
    type Cpu: Cpu;

    /// The CPU that runs the kexec, pinned to it and with interrupts off once the others have stopped.
    fn this_cpu(&self) -> Self::Cpu;

    /// Makes every other online CPU run [`stop_this_cpu`] and then wait with interrupts off, and returns the number of CPUs
    /// that still run: 1 if all have stopped. A CPU counts as stopped only once it has acknowledged, after its caches were
    /// written back. The wait is bounded.
    fn stop_other_cpus(&self) -> u32;

    /// Lets the CPUs that have stopped go on: some other has not stopped, and the kexec is off.
    fn resume_other_cpus(&self);

    /// Runs the task on this CPU and on every stopped one, in parallel, until each has said [`Step::Done`]. All effects of the
    /// task are visible to the caller on return. Only tasks of this crate come here: they write lines and caches back and
    /// make no SEAMCALL.
    ///
    /// A kernel whose stopped CPUs can run nothing any more runs it on this CPU alone: slower, as correct.
    fn run_on_stopped<T: CpuTask<Self::Cpu>>(&self, task: &T);
}

/// What a CPU does when it is told to stop, before it acknowledges: writes back its caches if this is a TDX host, or if its slot
/// of the gate says that it has made a SEAMCALL.
///
/// The gate is closed: after this the CPU makes no SEAMCALL. Source: Linux `stop_this_cpu`; the acknowledgement comes after
/// WBINVD since 2023 (commit 1f5e7eb7868e), when a CPU counted as stopped was still in the middle of it.
#[expect(clippy::needless_pass_by_value, reason = "the CPU's handle ends here, and its SEAMCALL with it")]
pub fn stop_this_cpu<C: Cpu>(cpu: C, platform: Option<&TdxPlatform>) {
    let admission = cpu.admission();
    if platform.is_some() || admission.may_hold_private_lines().is_some() {
        cpu.write_back_caches();
        admission.written_back();
    }
    admission.stopped();
}

/// What a CPU does on its way offline: the same. Its caches live on in a package whose other CPUs go on, and nobody asks it to
/// write them back later. A CPU that comes online again counts as running from its first SEAMCALL on.
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
        let admission = cpu.admission();
        if admission.may_hold_private_lines().is_some() {
            cpu.write_back_caches();
            admission.written_back();
        }
        Step::Done
    }
}

/// Other CPUs that are named when they do not stop; more are counted only.
pub const MAX_NAMED: usize = 8;

/// Other CPUs still run after they were told to stop.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotAlone {
    /// CPUs that run, this one included.
    pub running: u32,
    /// What those of them with a SEAMCALL behind them were doing, the first [`MAX_NAMED`].
    pub doing: ArrayVec<CpuActivity, MAX_NAMED>,
}

impl NotAlone {
    pub(super) fn new(running: u32, this: CpuId, activity: impl Iterator<Item = CpuActivity>) -> Self {
        let doing =
            activity.filter(|activity| activity.cpu != this && activity.has_made_seamcalls && !activity.stopped);
        Self { running, doing: doing.take(MAX_NAMED).collect() }
    }
}

impl fmt::Display for NotAlone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { running, doing } = self;
        write!(f, "{running} CPUs still run after the stop, 1 expected: they may hold dirty private lines")?;
        for activity in doing {
            write!(f, "; {activity}")?;
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
    /// Some CPU does not stop. The others run again, and the gate is open again.
    #[error("{0}")]
    NotAlone(NotAlone),
}

/// The CPUs were not stopped. Nothing was reset, the module was not asked, and the host goes on as before.
#[derive(Debug)]
pub struct StopError<'k, const N: usize> {
    /// The kexec, to be tried again.
    pub kexec: Kexec<'k, Loaded, N>,
    /// Why.
    pub cause: StopCause,
}

impl<const N: usize> fmt::Display for StopError<'_, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kexec put off: {}", self.cause)
    }
}

impl<const N: usize> core::error::Error for StopError<'_, N> {}
