//! The kexec path, from a loaded image to the jump. Orderly: it is for a kernel that can still stop its CPUs.
//!
//! Order of the 2023 patch ("x86/kexec: Reset TDX private memory on platforms with TDX erratum"), made explicit: other
//! CPUs stopped, caches written back, flag read, reset, jump.

use tdx_abi::{PageRange, subtract};

use super::policy::{KexecKind, LeftPrivate, NothingToDo, Policy, Refused, check_image_load};
use crate::platform::{Cpu, LineReset, TdxPlatform};
use crate::private_memory::PrivateMemory;
use crate::reset::{ResetCount, reset_ranges};

/// Stops the other CPUs. Implemented by the kernel.
pub trait StopCpus {
    /// Makes every other CPU run [`stop_this_cpu`] and stop for good, and returns the number of CPUs that still run: 1 if
    /// all have stopped. A CPU counts as stopped only once it has acknowledged, after its caches were written back.
    fn stop_other_cpus(&self) -> u32;
}

/// What a CPU does when it is told to stop, before it acknowledges: writes back its caches if this is a TDX host, or if its slot
/// of the gate says that it has made a SEAMCALL.
///
/// After this the CPU makes no SEAMCALL. Source: Linux `stop_this_cpu`; the acknowledgement comes after WBINVD since 2023
/// (commit 1f5e7eb7868e), when a CPU counted as stopped was still in the middle of it.
#[expect(clippy::needless_pass_by_value, reason = "the CPU's handle ends here, and its SEAMCALL with it")]
pub fn stop_this_cpu<C: Cpu>(cpu: C, platform: Option<&TdxPlatform>) {
    let admission = cpu.admission();
    if platform.is_some() || admission.may_hold_private_lines().is_some() {
        cpu.write_back_caches();
        admission.written_back();
    }
    admission.stopped();
}

/// The image is loaded and allowed; all CPUs run.
#[derive(Debug)]
pub struct Loaded(());

/// Only this CPU runs.
#[derive(Debug)]
pub struct Alone(());

/// Caches are written back on every CPU; what is left of this one can reset lines and nothing else.
#[derive(Debug)]
pub struct WrittenBack<R> {
    cpu: R,
}

/// A kexec on its way. `S` is how far it has come.
#[derive(Debug)]
#[must_use = "a kexec that stops half-way leaves the other CPUs stopped"]
pub struct Kexec<'k, S, const N: usize> {
    policy: Policy,
    kind: KexecKind,
    platform: Option<&'k TdxPlatform>,
    record: &'k PrivateMemory<N>,
    state: S,
}

/// Other CPUs still run after they were told to stop. Nothing was reset: they could make it private again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{running} CPUs still run after the stop, 1 expected: they may hold dirty private lines or make SEAMCALLs")]
pub struct NotAlone {
    /// CPUs that run, this one included.
    pub running: u32,
}

/// What became of private memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every line that may have been private is a normal line now.
    Reset(ResetCount),
    /// There was nothing that could do harm.
    NothingToDo(NothingToDo),
    /// Private memory stays, and why.
    LeftPrivate(LeftPrivate),
}

/// The host's account of a handover. What follows is the jump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use = "says whether the next kernel finds private memory"]
pub struct HandoverReport {
    /// The policy that was asked for.
    pub policy: Policy,
    /// Whether the old kernel comes back.
    pub kind: KexecKind,
    /// What became of private memory.
    pub outcome: Outcome,
}

impl<'k, const N: usize> Kexec<'k, Loaded, N> {
    /// Begins a kexec. `platform` is `None` on a machine without TDX.
    ///
    /// # Errors
    /// [`Refused`], as [`check_image_load`].
    pub fn begin(
        policy: Policy,
        kind: KexecKind,
        platform: Option<&'k TdxPlatform>,
        record: &'k PrivateMemory<N>,
    ) -> Result<Self, Refused> {
        check_image_load(policy, platform, record)?;
        Ok(Self { policy, kind, platform, record, state: Loaded(()) })
    }

    /// Stops the other CPUs and checks that they have stopped.
    ///
    /// # Errors
    /// [`NotAlone`]: some CPU still runs. The reset would prove nothing, so there is none.
    pub fn stop_other_cpus(self, cpus: &impl StopCpus) -> Result<Kexec<'k, Alone, N>, NotAlone> {
        match cpus.stop_other_cpus() {
            1 => Ok(self.with_state(Alone(()))),
            running => Err(NotAlone { running }),
        }
    }
}

impl<'k, const N: usize> Kexec<'k, Alone, N> {
    /// WBINVD on this CPU, the last one: from here on no SEAMCALL. Takes the CPU and keeps its [`LineReset`] only.
    pub fn write_back_caches<C: Cpu>(self, cpu: C) -> Kexec<'k, WrittenBack<impl LineReset>, N> {
        if self.platform.is_some() || self.record.may_have_private_memory() {
            cpu.write_back_caches();
            cpu.admission().written_back();
        }
        self.with_state(WrittenBack { cpu: ResetOnly(cpu) })
    }
}

impl<R: LineReset, const N: usize> Kexec<'_, WrittenBack<R>, N> {
    /// Reads the flag and resets what the policy says. `all_memory` is what [`Policy::Everything`] overwrites: memory that
    /// holds nothing anyone needs, so neither this code nor the next image.
    ///
    /// The record decides: if the flag is up, memory is reset even if the caller forgot the platform; and PAMTs that
    /// `all_memory` leaves out are reset all the same.
    pub fn reset(self, all_memory: impl IntoIterator<Item = PageRange, IntoIter: Clone>) -> HandoverReport {
        let outcome = match self.platform {
            None if !self.record.may_have_private_memory() => Outcome::NothingToDo(NothingToDo::NoTdx),
            _ if !self.record.may_have_private_memory() => Outcome::NothingToDo(NothingToDo::NoPrivateMemory),
            Some(platform) if !platform.has_partial_write_erratum() => Outcome::NothingToDo(NothingToDo::NoErratum),
            _ if self.kind == KexecKind::Jump => Outcome::LeftPrivate(LeftPrivate::KexecJump),
            _ => match self.policy {
                Policy::None => Outcome::LeftPrivate(LeftPrivate::PolicyNone),
                Policy::Everything => {
                    let all_memory = all_memory.into_iter();
                    let left_out = subtract(self.record.pamt_ranges(), all_memory.clone());
                    Outcome::Reset(reset_ranges(&self.state.cpu, all_memory.chain(left_out)))
                }
                // `Refuse` comes here only if TDX was brought up after `begin`: too late to refuse, so clean up.
                Policy::Pamt | Policy::Refuse => {
                    Outcome::Reset(reset_ranges(&self.state.cpu, self.record.pamt_ranges()))
                }
            },
        };
        HandoverReport { policy: self.policy, kind: self.kind, outcome }
    }
}

impl<'k, S, const N: usize> Kexec<'k, S, N> {
    fn with_state<T>(self, state: T) -> Kexec<'k, T, N> {
        Kexec { policy: self.policy, kind: self.kind, platform: self.platform, record: self.record, state }
    }
}

/// A CPU that has lost its SEAMCALL.
struct ResetOnly<C>(C);

impl<C: Cpu> LineReset for ResetOnly<C> {
    fn reset_lines(&self, lines: tdx_abi::LineRange) {
        self.0.reset_lines(lines);
    }

    fn fence(&self) {
        self.0.fence();
    }
}
