//! The crash path: from a panic on any CPU at any instant to the jump into the crash kernel. Never
//! blocks, allocates, locks or panics; makes no SEAMCALL.
//!
//! 1. The gate closes. A CPU that has passed it shows so in its slot; no other makes a SEAMCALL any
//!    more.
//! 2. The other CPUs are stopped by NMI, in a time that the kernel bounds. Each writes back its
//!    caches if its slot says that they may hold private lines. A CPU inside SEAM takes the NMI
//!    when it leaves.
//! 3. This CPU writes back its own, and resets alone: every PAMT and every marked page, but for
//!    what is reserved.
//! 4. A CPU that has not answered and whose slot says that it may hold private lines spoils the
//!    proof, not the reset: the report says so, and names every private page as a leftover.
//!
//! A CPU may be stopped between any two stores of the ledger, of the record or of its slot. What it
//! leaves says too much and never too little; a page too much in the reset is a page that is
//! not in use.

use super::memory::HostMemory;
use super::policy::{LeftPrivate, NothingToDo, Policy};
use super::report::{HandoverKind, HandoverReport, Outcome, ReturnRight};
use super::steps::{nothing_to_do, write_back_this_cpu};
use super::suspects::Suspects;
use crate::platform::{Cpu, CpuId};
use crate::reset::{NodeMap, ParallelReset, ResetCount};

/// Stops the other CPUs at a crash. Implemented by the kernel.
///
/// # Safety
/// * A CPU that has run [`stop_this_cpu_at_crash`] executes nothing after it but its halt.
/// * [`NmiStop::is_online`] is true for every CPU that may still run.
/// * No method panics, allocates, takes a lock or waits without a bound.
pub unsafe trait NmiStop {
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
    let gate = cpu.cpu_gate();
    if gate.may_hold_private_lines().is_some() {
        cpu.write_back_caches();
        gate.written_back();
    }
    gate.stopped();
}

/// Hands the machine to the crash kernel. Called on the CPU that panics, with interrupts off; the
/// jump follows. Makes no SEAMCALL.
///
/// The gate stays closed for good. The ledger is looked up after the others have stopped, so that
/// it is the one that was in use last.
///
/// Whatever the policy for kexec, all that may be private is reset, and no more: a module that was
/// interrupted anywhere is not to be relied on, memory is to be dumped, and it is too late to
/// refuse. The report keeps the policy.
///
/// But for [`Policy::Keep`], which resets nothing: only the module knows which TD owns a page in
/// flight, and the next kernel asks it ([`crate::td::TdHost::vacuum`]). The takeover table says
/// what was there at this instant ([`crate::Host::write_takeover`]).
///
/// A takeover table that stands in memory is wiped before this under any other policy
/// ([`TakeoverWriter::new`](crate::takeover::TakeoverWriter::new)): the next kernel would take over
/// TDs whose pages are reset.
///
/// `cpu` passes the gate of `memory`. If it passes another one, `memory` is not that of this
/// machine's host: both gates are closed for good and the other CPUs are stopped, but nothing is
/// reset ([`LeftPrivate::OtherGate`]), and the report says of all memory that it may be private.
pub fn hand_over_crash<C: Cpu>(
    policy: Policy,
    cpu: &C,
    others: &impl NmiStop,
    memory: &HostMemory<'_>,
) -> HandoverReport {
    // It may be closed: the panic came in the middle of a kexec, whose reset is then done again.
    memory.gate().close_for_good();
    cpu.cpu_gate().close_for_good();
    others.stop_other_cpus();
    write_back_this_cpu(cpu, memory);
    // Before the reset: lines that a CPU writes back from here on may land on top of it, so its
    // stop proves nothing any more.
    let suspects = Suspects::at_crash(memory.gate(), cpu.id(), |cpu| others.is_online(cpu));
    HandoverReport {
        policy,
        kind: HandoverKind::Crash,
        module: None,
        not_flushed: None,
        outcome: reset(policy, cpu, memory),
        suspects,
        gate: cpu.cpu_gate().is_of(memory.gate()).then(|| memory.gate().id()),
        return_right: ReturnRight::None,
    }
}

fn reset<C: Cpu>(policy: Policy, cpu: &C, memory: &HostMemory<'_>) -> Outcome {
    if !cpu.cpu_gate().is_of(memory.gate()) {
        return Outcome::LeftPrivate(LeftPrivate::OtherGate);
    }
    match nothing_to_do(memory) {
        Some(NothingToDo::NoErratum) | None if policy == Policy::Keep => return Outcome::Kept(ResetCount::default()),
        Some(nothing) => return Outcome::NothingToDo(nothing),
        None => {}
    }
    // SAFETY: PAMTs and marked pages hold nothing that anyone needs. The gate is closed for good,
    // and caches are written back, but for those that the report names.
    let work = unsafe { ParallelReset::new(memory.without_reserved(memory.private_ranges()), NodeMap::default()) };
    work.run_alone(cpu);
    Outcome::Reset(work.count())
}
