//! The crash path: from a panic on any CPU at any instant to the jump into the crash kernel. It
//! refuses to wait for anybody, to allocate, to take a lock and to panic; but for
//! [`Policy::ModuleOnly`] it refuses to make a SEAMCALL.
//!
//! 1. The gate closes. A CPU that has passed it shows so in its slot; no other makes a SEAMCALL any
//!    more.
//! 2. The other CPUs are stopped by NMI, in a time that the kernel bounds. Each writes back its
//!    caches if its slot says that they may hold private lines. A CPU inside SEAM takes the NMI
//!    when it leaves.
//! 3. This CPU writes back its own, and resets alone: every PAMT and every marked page, but for
//!    what is never touched.
//! 4. A CPU that has not answered and whose slot says that it may hold private lines spoils the
//!    proof, not the reset: the report says so, and names every private page as a leftover.
//!
//! A CPU may be stopped between any two stores of the ledger, of the record or of its slot. What it
//! leaves says too much and never too little; a page too much in the reset is a page that nobody
//! uses.

use tdx_abi::PageRange;

use super::kexec::{nothing_to_do, write_back_this_cpu};
use super::memory::HostMemory;
use super::module::disable;
use super::policy::{LeftPrivate, Policy};
use super::report::{HandoverKind, HandoverReport, Outcome};
use super::stop::Suspects;
use crate::gate::GateHandle;
use crate::platform::{Cpu, CpuId};
use crate::reset::{ResetCount, SharedReset};

/// Stops the other CPUs at a crash. Implemented by the kernel.
pub trait NmiStop {
    /// Sends an NMI to every other CPU that is online and waits until each has run
    /// [`stop_this_cpu_at_crash`], but not for longer than the kernel can bear (Linux: one second).
    fn stop_other_cpus(&self);

    /// True for a CPU that was online at the panic: it was sent an NMI.
    fn is_online(&self, cpu: CpuId) -> bool;
}

/// What the NMI handler does on a CPU that a crash stops, before it halts for good. Touches the
/// CPU's own slot and caches alone.
///
/// Unlike [`super::stop_this_cpu`] it writes nothing back without a reason: at a crash WBINVD is
/// time in which the machine may fall apart, and the slot is the proof that there is none.
pub fn stop_this_cpu_at_crash<C: Cpu>(cpu: &C) {
    let admission = cpu.admission();
    if admission.may_hold_private_lines().is_some() {
        cpu.write_back_caches();
        admission.written_back();
    }
    admission.stopped();
}

/// Hands the machine to the crash kernel. Called on the CPU that panics, with interrupts off; the
/// jump follows.
///
/// `gate` is the kernel's one gate. `memory` is asked for after the others have stopped, so that it
/// names the ledger that was in use last.
///
/// [`Policy::Module`] and [`Policy::Everything`] reset what [`Policy::Tracked`] resets: a module
/// that was interrupted anywhere is not to be relied on, and memory is to be dumped.
/// [`Policy::Refuse`] too: its word was for kexec.
///
/// # SEAMCALL
/// SYS.DISABLE on this CPU under [`Policy::ModuleOnly`], and none under any other policy.
pub fn hand_over_crash<'h, C: Cpu, const N: usize>(
    policy: Policy,
    cpu: &C,
    gate: GateHandle<'h>,
    others: &impl NmiStop,
    memory: impl FnOnce() -> HostMemory<'h, N>,
) -> HandoverReport {
    // It may be closed: the panic came in the middle of a kexec, whose reset is then done again.
    gate.close();
    others.stop_other_cpus();
    let memory = memory();
    let module = match policy {
        Policy::ModuleOnly if memory.platform.is_some() => Some(disable(cpu, |_| ())),
        _ => None,
    };
    write_back_this_cpu(cpu, &memory);
    // Before the reset: lines that a CPU writes back from here on may land on top of it, so its
    // stop proves nothing any more.
    let suspects = Suspects::at_crash(gate, cpu.id(), |cpu| others.is_online(cpu));
    HandoverReport { policy, kind: HandoverKind::Crash, module, outcome: reset(policy, cpu, &memory), suspects }
}

fn reset<C: Cpu, const N: usize>(policy: Policy, cpu: &C, memory: &HostMemory<'_, N>) -> Outcome {
    if let Some(nothing) = nothing_to_do(memory) {
        return Outcome::NothingToDo(nothing);
    }
    Outcome::Reset(match policy {
        Policy::None => return Outcome::LeftPrivate(LeftPrivate::PolicyNone),
        Policy::ModuleOnly => return Outcome::LeftPrivate(LeftPrivate::ModuleOnly),
        Policy::Pamt => reset_alone(cpu, memory, memory.pamts()),
        Policy::Tracked | Policy::Module | Policy::Everything | Policy::Refuse => {
            reset_alone(cpu, memory, memory.private_ranges())
        }
    })
}

fn reset_alone<C: Cpu, const N: usize>(
    cpu: &C,
    memory: &HostMemory<'_, N>,
    ranges: impl Iterator<Item = PageRange> + Clone,
) -> ResetCount {
    let work = SharedReset::new(memory.spare(ranges));
    work.run_alone(cpu);
    work.count()
}
