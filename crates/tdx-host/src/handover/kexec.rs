//! The kexec path, from a loaded image to the jump. Orderly: it is for a kernel that can still stop
//! its CPUs.

use core::fmt;
use tdx_abi::{PageRange, subtract};

use super::memory::HostMemory;
use super::module::{ModuleAnswer, disable};
use super::policy::{KexecKind, LeftPrivate, NothingToDo, Policy, Refused, check_image_load};
use super::report::{HandoverReport, Outcome};
use super::stop::{StopCause, StopCpus, StopError, Suspects, WriteBackHeld};
use crate::platform::Cpu;
use crate::reset::{ResetCount, SharedReset};

/// The image is loaded and allowed; all CPUs run.
#[derive(Debug)]
pub struct Loaded(());

/// The gate is closed and only this CPU runs.
pub struct Stopped<'c, P>(&'c P);

/// The module has been asked, if the policy wants it. No SEAMCALL is made after this.
pub struct Asked<'c, P> {
    cpus: &'c P,
    module: Option<ModuleAnswer>,
}

/// Caches are written back on every CPU that may hold private lines.
pub struct WrittenBack<'c, P> {
    cpus: &'c P,
    module: Option<ModuleAnswer>,
    suspects: Suspects,
}

macro_rules! debug_by_name {
    ($($state:ident),*) => {$(
        /// By name: a kernel's type need not be printable.
        impl<P> fmt::Debug for $state<'_, P> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($state))
            }
        }
    )*};
}
debug_by_name!(Stopped, Asked, WrittenBack);

/// A kexec on its way. `S` is how far it has come.
#[derive(Debug)]
#[must_use = "a kexec that stops half-way leaves the other CPUs stopped"]
pub struct Kexec<'k, S, const N: usize> {
    policy: Policy,
    kind: KexecKind,
    memory: HostMemory<'k, N>,
    state: S,
}

impl<'k, const N: usize> Kexec<'k, Loaded, N> {
    /// Begins a kexec.
    ///
    /// # Errors
    /// [`Refused`], as [`check_image_load`]; the segments were checked when they were loaded.
    pub fn begin(policy: Policy, kind: KexecKind, memory: HostMemory<'k, N>) -> Result<Self, Refused> {
        check_image_load(policy, kind, &memory, &[])?;
        Ok(Self { policy, kind, memory, state: Loaded(()) })
    }

    /// Closes the gate, stops the other CPUs and checks that they have stopped.
    ///
    /// # Errors
    /// [`StopError`] with the kexec; the gate is open again, and the CPUs run.
    pub fn stop_other_cpus<P: StopCpus>(self, cpus: &P) -> Result<Kexec<'k, Stopped<'_, P>, N>, StopError<'k, N>> {
        let gate = self.memory.gate;
        if !gate.close() {
            return Err(StopError { kexec: self, cause: StopCause::HandoverUnderWay });
        }
        match cpus.stop_other_cpus() {
            1 => Ok(self.with_state(|_| Stopped(cpus))),
            running => {
                let cause = StopCause::NotAlone(Suspects::running(running, gate, cpus.this_cpu().id()));
                gate.open();
                cpus.resume_other_cpus();
                Err(StopError { kexec: self, cause })
            }
        }
    }
}

impl<'k, 'c, P: StopCpus, const N: usize> Kexec<'k, Stopped<'c, P>, N> {
    /// TDH.SYS.DISABLE on this CPU, if the policy is to ask the module; goes on all the same if it
    /// does not help. `progress` hears the number of calls after each.
    ///
    /// It is asked on a CPU without the erratum too: nothing else lets the next kernel bring TDX up
    /// again.
    ///
    /// # SEAMCALL
    /// SYS.DISABLE on this CPU, under [`Policy::Module`] if the module has it and under
    /// [`Policy::ModuleOnly`] in any case; never for a kexec jump. All other CPUs have stopped. At
    /// most [`super::DISABLE_CALLS`] calls. The last SEAMCALL of this kernel.
    pub fn ask_module(self, progress: impl FnMut(u32)) -> Kexec<'k, Asked<'c, P>, N> {
        let has_leaf = self.memory.features.is_some_and(tdx_abi::TdxFeatures0::sys_disable);
        let comes_back = self.kind == KexecKind::Jump;
        let module = match self.policy {
            _ if self.memory.platform.is_none() || comes_back => None,
            Policy::Module if !has_leaf => Some(ModuleAnswer::NoLeaf),
            Policy::Module | Policy::ModuleOnly => Some(disable(&self.state.0.this_cpu(), progress)),
            _ => None,
        };
        self.with_state(|state| Asked { cpus: state.0, module })
    }
}

impl<'k, 'c, P: StopCpus, const N: usize> Kexec<'k, Asked<'c, P>, N> {
    /// WBINVD on this CPU, and on every other that may hold private lines in spite of its stop.
    pub fn write_back_caches(self) -> Kexec<'k, WrittenBack<'c, P>, N> {
        let cpus = self.state.cpus;
        write_back_this_cpu(&cpus.this_cpu(), &self.memory);
        if Suspects::at_kexec(self.memory.gate).may_hold_private_lines > 0 {
            cpus.run_on_stopped(&WriteBackHeld);
        }
        let suspects = Suspects::at_kexec(self.memory.gate);
        self.with_state(|state| WrittenBack { cpus: state.cpus, module: state.module, suspects })
    }
}

impl<P: StopCpus, const N: usize> Kexec<'_, WrittenBack<'_, P>, N> {
    /// Resets what the policy says, on all CPUs. `all_memory`, ascending, is what
    /// [`Policy::Everything`] overwrites: memory that holds nothing anyone needs, so neither this
    /// code nor the next image.
    ///
    /// The record and the ledger decide: what they name is reset even if the caller forgot the
    /// platform, or left it out of `all_memory`.
    pub fn reset(self, all_memory: impl IntoIterator<Item = PageRange, IntoIter: Clone + Sync>) -> HandoverReport {
        let outcome = self.outcome(all_memory.into_iter());
        HandoverReport {
            policy: self.policy,
            kind: self.kind.into(),
            module: self.state.module,
            outcome,
            suspects: self.state.suspects,
        }
    }

    fn outcome(&self, all_memory: impl Iterator<Item = PageRange> + Clone + Sync) -> Outcome {
        let memory = &self.memory;
        if let Some(nothing) = nothing_to_do(memory) {
            return Outcome::NothingToDo(nothing);
        }
        if self.kind == KexecKind::Jump {
            return Outcome::LeftPrivate(LeftPrivate::KexecJump);
        }
        Outcome::Reset(match (self.policy, self.state.module) {
            (Policy::None, _) => return Outcome::LeftPrivate(LeftPrivate::PolicyNone),
            (Policy::ModuleOnly, _) => return Outcome::LeftPrivate(LeftPrivate::ModuleOnly),
            (Policy::Pamt, _) => self.reset_ranges(memory.pamts()),
            (Policy::Module, Some(ModuleAnswer::Disabled { .. })) => self.reset_ranges(memory.unknown_to_module()),
            (Policy::Everything, _) => {
                let left_out = subtract(memory.private_ranges(), all_memory.clone());
                self.reset_ranges(all_memory.chain(left_out))
            }
            // `Refuse` comes here only if TDX was brought up after `begin`: too late to refuse, so
            // clean up.
            (Policy::Tracked | Policy::Module | Policy::Refuse, _) => self.reset_ranges(memory.private_ranges()),
        })
    }

    fn reset_ranges(&self, ranges: impl Iterator<Item = PageRange> + Clone + Sync) -> ResetCount {
        let work = SharedReset::new(self.memory.spare(ranges));
        self.state.cpus.run_on_stopped(&work);
        work.count()
    }
}

/// WBINVD on the CPU that hands over, wherever there may be TDX.
pub(super) fn write_back_this_cpu<C: Cpu, const N: usize>(cpu: &C, memory: &HostMemory<'_, N>) {
    let admission = cpu.admission();
    let may_hold = admission.may_hold_private_lines().is_some();
    if may_hold || memory.platform.is_some() || memory.may_have_private_memory() {
        cpu.write_back_caches();
        admission.written_back();
    }
}

/// Why nothing needs to be reset, if nothing does. The record decides: if the flag is up, a
/// forgotten platform is no reason.
pub(super) fn nothing_to_do<const N: usize>(memory: &HostMemory<'_, N>) -> Option<NothingToDo> {
    match memory.platform {
        None if !memory.may_have_private_memory() => Some(NothingToDo::NoTdx),
        _ if !memory.may_have_private_memory() => Some(NothingToDo::NoPrivateMemory),
        Some(platform) if !platform.has_partial_write_erratum() => Some(NothingToDo::NoErratum),
        _ => None,
    }
}

impl<'k, S, const N: usize> Kexec<'k, S, N> {
    fn with_state<T>(self, next: impl FnOnce(S) -> T) -> Kexec<'k, T, N> {
        Kexec { policy: self.policy, kind: self.kind, memory: self.memory, state: next(self.state) }
    }
}
