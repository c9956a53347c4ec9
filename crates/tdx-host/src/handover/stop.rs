//! Stopping CPUs: what a kernel implements, what a CPU does when it is told to stop, and what is
//! said if one does not.

use super::suspects::Suspects;
use crate::platform::{Cpu, CpuTask, NodeRange, Step, TdxPlatform};

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
    /// [`Step::Done`]. All effects of the task are visible to the caller on return. The tasks of
    /// this crate write lines and caches back. One makes SEAMCALLs, under
    /// [`Policy::Keep`](super::Policy::Keep): VP.FLUSH, for which the CPU is in VMX operation.
    ///
    /// A kernel whose stopped CPUs can run nothing any more runs it on this CPU alone: slower, as
    /// correct. Under `Keep` it makes VP.FLUSH on the other CPUs itself, before
    /// [`Kexec::stop_other_cpus`](super::Kexec::stop_other_cpus), which closes the gate, and enters
    /// no VCPU after.
    fn run_on_stopped<T: CpuTask<Self::Cpu>>(&self, task: &T);

    /// Memory with its NUMA nodes, ascending: CPUs begin a reset with that of their own node
    /// ([`Cpu::node`]). Empty, as without an implementation: all CPUs share all memory alike.
    fn memory_of_nodes(&self) -> &[NodeRange] {
        &[]
    }
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
