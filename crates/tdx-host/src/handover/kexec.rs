//! The kexec path, from a loaded image to the jump. Orderly: it is for a kernel that can still stop
//! its CPUs.

use core::fmt;
use tdx_abi::{Page, PageRange, subtract};

use super::keep::leave_in_order;
use super::memory::HostMemory;
use super::module::{ModuleAnswer, disable};
use super::policy::{KexecKind, LeftPrivate, NothingToDo, Policy, Refused, check_image_load};
use super::report::{HandoverReport, Outcome, ReturnRight};
use super::steps::{nothing_to_do, write_back_this_cpu};
use super::stop::{StopCause, StopCpus, WriteBackHeld};
use super::suspects::Suspects;
use crate::gate::Closing;
use crate::platform::Cpu;
use crate::reset::{NodeMap, ParallelReset, ResetCount};
use crate::seamcall::SeamcallError;

/// The image is loaded and allowed; all CPUs run.
#[derive(Debug)]
pub struct Loaded(());

/// The gate is closed and only this CPU runs.
pub struct Stopped<'c, P> {
    cpus: &'c P,
    closing: Closing,
}

/// The module has been asked, if the policy wants it. No SEAMCALL is made after this.
pub struct Asked<'c, P> {
    cpus: &'c P,
    closing: Closing,
    module: Option<ModuleAnswer>,
    not_flushed: Option<SeamcallError>,
}

/// Caches are written back on every CPU that may hold private lines.
pub struct WrittenBack<'c, P> {
    cpus: &'c P,
    closing: Closing,
    module: Option<ModuleAnswer>,
    not_flushed: Option<SeamcallError>,
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
pub struct Kexec<'k, S> {
    policy: Policy,
    kind: KexecKind,
    memory: HostMemory<'k>,
    state: S,
}

impl<'k> Kexec<'k, Loaded> {
    /// Begins a kexec.
    ///
    /// # Errors
    /// [`Refused`], as [`check_image_load`]; the segments were checked when they were loaded, and
    /// are once more in [`Kexec::check_segments`].
    pub fn begin(policy: Policy, kind: KexecKind, memory: HostMemory<'k>) -> Result<Self, Refused> {
        check_image_load(policy, kind, &memory, &[])?;
        Ok(Self { policy, kind, memory, state: Loaded(()) })
    }

    /// Closes the gate, stops the other CPUs and checks that they have stopped.
    ///
    /// # Errors
    /// [`StopError`]; the gate is open again, and the CPUs run. The kexec can be tried again.
    pub fn stop_other_cpus<'c, P: StopCpus>(&self, cpus: &'c P) -> Result<Kexec<'k, Stopped<'c, P>>, StopError> {
        let gate = self.memory.gate();
        if !cpus.this_cpu().cpu_gate().is_of(gate) {
            return Err(StopError { cause: StopCause::OtherGate });
        }
        let Some(closing) = gate.close_for_handover() else {
            return Err(StopError { cause: StopCause::HandoverUnderWay });
        };
        match cpus.stop_other_cpus() {
            1 => Ok(self.next(Stopped { cpus, closing })),
            running => {
                let cause = StopCause::NotAlone(Suspects::running(running, gate, cpus.this_cpu().id()));
                gate.reopen(closing);
                cpus.resume_other_cpus();
                Err(StopError { cause })
            }
        }
    }
}

impl<'k, 'c, P: StopCpus> Kexec<'k, Stopped<'c, P>> {
    /// Asks again where the parts of the image are to go, as [`check_image_load`]: no page is given
    /// to a TD any more, and TDs may have got some since the image was loaded.
    ///
    /// # Errors
    /// [`Refused`]; the gate is open again, and the CPUs run.
    pub fn check_segments(self, segments: &[PageRange]) -> Result<Self, Refused> {
        let refused = check_image_load(self.policy, self.kind, &self.memory, segments);
        if refused.is_err() {
            self.memory.gate().reopen(self.state.closing);
            self.state.cpus.resume_other_cpus();
        }
        refused.map(|()| self)
    }

    /// TDH.SYS.DISABLE on this CPU, if the policy is to ask the module; goes on if it does not
    /// help. `progress` is called with the number of calls after each.
    ///
    /// It is asked on a CPU without the erratum too: nothing else lets the next kernel bring TDX up
    /// again.
    ///
    /// # SEAMCALL
    /// SYS.DISABLE on this CPU, under [`Policy::Module`] if the module has it; PHYMEM.PAGE.RDMD as
    /// [`Kexec::flush_vcpus`], under [`Policy::Keep`]; never for a kexec jump. All other CPUs have
    /// stopped. At most [`super::DISABLE_CALLS`] calls, none once a crash has been handed over. The
    /// last SEAMCALL of this kernel.
    pub fn ask_module(self, progress: impl FnMut(u32)) -> Kexec<'k, Asked<'c, P>> {
        let has_leaf = self.memory.features().is_some_and(tdx_abi::TdxFeatures0::sys_disable);
        let comes_back = self.kind == KexecKind::Jump;
        let module = match self.policy {
            // Its questions need no platform.
            Policy::Keep => return self.flush_vcpus(&[]),
            _ if self.memory.platform().is_none() || comes_back => None,
            Policy::Module if !has_leaf => Some(ModuleAnswer::NoLeaf),
            Policy::Module => Some(disable(&self.state.cpus.this_cpu(), self.state.closing, progress)),
            _ => None,
        };
        self.with_state(|state| Asked { cpus: state.cpus, closing: state.closing, module, not_flushed: None })
    }

    /// Leaves the TDs in order under [`Policy::Keep`], in place of [`Kexec::ask_module`]: no CPU
    /// holds the VMCS of a VCPU any more, and the ledger knows which TDs own the pages that were in
    /// flight or returned when the CPUs stopped.
    ///
    /// `vcpus` are the TDVPR pages of all VCPUs of TDs that this kernel has built or adopted, and
    /// whose KeyIDs are in use: the next kernel adopts no TD with a VCPU that was not flushed. Of
    /// an inherited TD that this kernel has not adopted it names no VCPU: if the earlier kernel has
    /// crashed, what a CPU held of it is lost, and a VP.FLUSH now hides that from the next kernel.
    ///
    /// Under other policies it does nothing.
    ///
    /// # SEAMCALL
    /// Under [`Policy::Keep`], never for a kexec jump: VP.FLUSH of each VCPU on every stopped CPU
    /// and on this one, PHYMEM.PAGE.RDMD on this CPU for each page in flight or returned, and for
    /// each marked page if the answer of a SEAMCALL that returned pages is lost. None once a crash
    /// has been handed over. The last SEAMCALLs of this kernel.
    pub fn flush_vcpus(self, vcpus: &[Page]) -> Kexec<'k, Asked<'c, P>> {
        let keeps = self.policy == Policy::Keep && self.kind == KexecKind::Normal;
        let not_flushed =
            if keeps { leave_in_order(self.state.cpus, &self.memory, vcpus, self.state.closing) } else { None };
        self.with_state(|state| Asked { cpus: state.cpus, closing: state.closing, module: None, not_flushed })
    }
}

impl<'k, 'c, P: StopCpus> Kexec<'k, Asked<'c, P>> {
    /// WBINVD on this CPU, and on every other that may hold private lines in spite of its stop.
    pub fn write_back_caches(self) -> Kexec<'k, WrittenBack<'c, P>> {
        let cpus = self.state.cpus;
        write_back_this_cpu(&cpus.this_cpu(), &self.memory);
        if Suspects::at_kexec(self.memory.gate()).may_hold_private_lines > 0 {
            cpus.run_on_stopped(&WriteBackHeld);
        }
        let suspects = Suspects::at_kexec(self.memory.gate());
        self.with_state(|state| WrittenBack {
            cpus: state.cpus,
            closing: state.closing,
            module: state.module,
            not_flushed: state.not_flushed,
            suspects,
        })
    }
}

impl<P: StopCpus> Kexec<'_, WrittenBack<'_, P>> {
    /// Resets what the policy says, on all CPUs. [`Policy::Everything`] resets what is private, as
    /// [`Policy::Tracked`]: for more it must be told what may be overwritten, see
    /// [`Kexec::reset_everything`].
    ///
    /// The record and the ledger decide: what they name is reset even if the caller forgot the
    /// platform.
    ///
    /// A takeover table that stands in memory is wiped before this under any policy but
    /// [`Policy::Keep`] ([`TakeoverWriter::new`](crate::takeover::TakeoverWriter::new)): the next
    /// kernel would take over TDs whose pages are reset, or a module that is disabled.
    pub fn reset(self) -> HandoverReport {
        // SAFETY: no memory is named.
        unsafe { self.reset_everything([]) }
    }

    /// As [`Kexec::reset`]; under [`Policy::Everything`] all of `all_memory` (ascending) is reset
    /// too. What is private is reset even if `all_memory` leaves it out. Other policies do not look
    /// at `all_memory`.
    ///
    /// # Safety
    /// `all_memory` is RAM and holds nothing that anyone needs: neither this code nor the next
    /// image.
    pub unsafe fn reset_everything(
        self,
        all_memory: impl IntoIterator<Item = PageRange, IntoIter: Clone + Sync>,
    ) -> HandoverReport {
        let outcome = self.outcome(all_memory.into_iter());
        let report = HandoverReport {
            policy: self.policy,
            kind: self.kind.into(),
            module: self.state.module,
            not_flushed: self.state.not_flushed,
            outcome,
            suspects: self.state.suspects,
            gate: Some(self.memory.gate().id()),
            return_right: ReturnRight::None,
        };
        let return_right = ReturnRight::of(&report, &self.memory, self.state.closing);
        HandoverReport { return_right, ..report }
    }

    fn outcome(&self, all_memory: impl Iterator<Item = PageRange> + Clone + Sync) -> Outcome {
        let memory = &self.memory;
        let nothing = nothing_to_do(memory);
        // Without the erratum a next kernel may use leftovers freely, but not the pages of a TD
        // that lives on.
        let keeps = self.policy == Policy::Keep && self.kind == KexecKind::Normal;
        if let Some(nothing) = nothing.filter(|nothing| !keeps || *nothing != NothingToDo::NoErratum) {
            return Outcome::NothingToDo(nothing);
        }
        if self.kind == KexecKind::Jump {
            return Outcome::LeftPrivate(LeftPrivate::KexecJump);
        }
        if keeps {
            let needed = nothing.is_none();
            return Outcome::Kept(self.reset_ranges(memory.not_of_module().filter(move |_| needed)));
        }
        Outcome::Reset(match (self.policy, self.state.module) {
            (Policy::Module, Some(ModuleAnswer::Disabled { .. })) => self.reset_ranges(memory.unknown_to_module()),
            (Policy::Everything, _) => {
                let left_out = subtract(memory.private_ranges(), all_memory.clone());
                self.reset_ranges(all_memory.chain(left_out))
            }
            // `Refuse` comes here only if TDX was brought up after `begin`, and `check_segments`
            // was not called: too late to refuse, so clean up.
            // `Keep` has returned above.
            (Policy::Tracked | Policy::Module | Policy::Refuse | Policy::Keep, _) => {
                self.reset_ranges(memory.private_ranges())
            }
        })
    }

    fn reset_ranges(&self, ranges: impl Iterator<Item = PageRange> + Clone + Sync) -> ResetCount {
        let nodes = NodeMap::new(self.state.cpus.memory_of_nodes());
        // SAFETY: the ranges are PAMTs and marked pages, which hold nothing that anyone needs, or
        // were promised to `reset_everything`. The gate is closed, all other CPUs have stopped, and
        // caches are written back, but for those that the report names.
        let work = unsafe { ParallelReset::new(self.memory.without_reserved(ranges), nodes) };
        self.state.cpus.run_on_stopped(&work);
        work.count()
    }
}

impl<'k, S> Kexec<'k, S> {
    fn next<T>(&self, state: T) -> Kexec<'k, T> {
        Kexec { policy: self.policy, kind: self.kind, memory: self.memory, state }
    }

    fn with_state<T>(self, next: impl FnOnce(S) -> T) -> Kexec<'k, T> {
        Kexec { policy: self.policy, kind: self.kind, memory: self.memory, state: next(self.state) }
    }
}

/// The CPUs were not stopped. Nothing was reset, the module was not asked, and the host goes on as
/// before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StopError {
    /// Why.
    pub cause: StopCause,
}

impl fmt::Display for StopError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kexec put off: {}", self.cause)
    }
}

impl core::error::Error for StopError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.cause)
    }
}
