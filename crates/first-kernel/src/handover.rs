//! The handover of a first kernel: by a policy of the product, or for comparison as other kernels
//! do it.
//!
//! A comparison is the product's own handover in a kernel that knows less than there is: `none`
//! knows of no private memory, `pamt` of no page of a TD, `module-only` asks the module and knows
//! of nothing else. The account of it ([`Handed`]) is made from what there is.

// UNSAFETY: a comparison leaves private memory to the next kernel on purpose; other blocks pass a
// promise on.
#![allow(unsafe_code)]

use core::fmt;

use tdx_abi::{Page, PageRange, intersect};
use tdx_host::{
    handover::{
        HandoverKind, HandoverReport, HostMemory, Kexec, KexecKind, LeftPrivate, Leftover, LeftoverKind,
        LeftoverReason, LeftoverTable, ModuleAnswer, NmiStop, NothingToDo, Outcome, Policy, Refused, StopCause,
        StopCpus, Suspects, TableError, Written, hand_over_crash,
    },
    ledger::Ledger,
    platform::{Cpu, CpuTask, Step},
    seamcall::SeamcallError,
};

/// What a kernel does that does not use this product's policies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Comparison {
    /// Resets nothing and jumps.
    None,
    /// Resets the PAMTs, and no page of a TD: the series of 2023.
    Pamt,
    /// Asks the module (TDH.SYS.DISABLE) without looking at its features, at a kexec and at a
    /// crash, and jumps whatever it answers: Linux 7.2.
    ModuleOnly,
}

/// What a first kernel does with private memory at its handover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnyPolicy {
    /// A policy of the product.
    Product(Policy),
    /// What another kernel does.
    Compared(Comparison),
}

impl Default for AnyPolicy {
    fn default() -> Self {
        Self::Product(Policy::default())
    }
}

impl From<Policy> for AnyPolicy {
    fn from(policy: Policy) -> Self {
        Self::Product(policy)
    }
}

impl From<Comparison> for AnyPolicy {
    fn from(comparison: Comparison) -> Self {
        Self::Compared(comparison)
    }
}

impl AnyPolicy {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Product(Policy::Tracked),
        Self::Product(Policy::Module),
        Self::Compared(Comparison::ModuleOnly),
        Self::Compared(Comparison::Pamt),
        Self::Product(Policy::Everything),
        Self::Compared(Comparison::None),
        Self::Product(Policy::Refuse),
        Self::Product(Policy::Keep),
    ];

    /// Its name on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Product(Policy::Tracked) => "tracked",
            Self::Product(Policy::Module) => "module",
            Self::Product(Policy::Everything) => "everything",
            Self::Product(Policy::Refuse) => "refuse",
            Self::Product(Policy::Keep) => "keep",
            Self::Compared(Comparison::None) => "none",
            Self::Compared(Comparison::Pamt) => "pamt",
            Self::Compared(Comparison::ModuleOnly) => "module-only",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// It asks the module at a kexec.
    pub const fn asks_module(self) -> bool {
        matches!(self, Self::Product(Policy::Module) | Self::Compared(Comparison::ModuleOnly))
    }

    /// What the product is told to do.
    const fn product(self) -> Policy {
        match self {
            Self::Product(policy) => policy,
            Self::Compared(Comparison::ModuleOnly) => Policy::Module,
            Self::Compared(Comparison::None | Comparison::Pamt) => Policy::Tracked,
        }
    }

    /// What the kernel knows of its memory.
    fn known(self, memory: HostMemory<'_>) -> HostMemory<'_> {
        let Self::Compared(comparison) = self else { return memory };
        // SAFETY: not what the contracts ask for: no one answers for what is left out. A handover
        // of less memory resets less and overwrites nothing else; what it leaves private, the next
        // kernel meets. No report of it opens the gate again ([`Handed`]).
        let (pamts_alone, nothing) = unsafe {
            let pamts_alone = memory.with_ledger(None);
            (pamts_alone, pamts_alone.without_pamts())
        };
        match comparison {
            Comparison::None => nothing,
            Comparison::Pamt => pamts_alone,
            Comparison::ModuleOnly => nothing.with_features(memory.features().unwrap_or_default().with_sys_disable()),
        }
    }
}

/// Why there was no handover. The kernel goes on.
#[derive(Debug)]
pub enum NotHandedOver {
    /// The policy refuses.
    Refused(Refused),
    /// Some CPU did not stop.
    Stop(StopCause),
}

impl fmt::Display for NotHandedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(refused) => refused.fmt(f),
            Self::Stop(cause) => write!(f, "kexec put off: {cause}"),
        }
    }
}

/// What became of private memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandedOutcome {
    /// As the product says.
    Product(Outcome),
    /// It was left as it is, or to the module, by a kernel that does no more.
    Left(Comparison),
}

/// A handover that was made, and the account of it.
#[derive(Debug)]
pub struct Handed<'h> {
    policy: AnyPolicy,
    memory: HostMemory<'h>,
    report: HandoverReport,
}

impl<'h> Handed<'h> {
    /// What was asked for.
    pub const fn policy(&self) -> AnyPolicy {
        self.policy
    }

    /// Kexec or crash.
    pub const fn kind(&self) -> HandoverKind {
        self.report.kind
    }

    /// What the module answered, if it was asked.
    pub const fn module(&self) -> Option<ModuleAnswer> {
        self.report.module
    }

    /// The first VP.FLUSH that failed.
    pub const fn not_flushed(&self) -> Option<SeamcallError> {
        self.report.not_flushed
    }

    /// CPUs that the handover does not answer for.
    pub const fn suspects(&self) -> &Suspects {
        &self.report.suspects
    }

    /// What became of private memory.
    pub fn outcome(&self) -> HandedOutcome {
        match self.policy {
            AnyPolicy::Product(_) => HandedOutcome::Product(self.report.outcome),
            AnyPolicy::Compared(comparison) => match (nothing_to_do(&self.memory), comparison) {
                (Some(nothing), _) => HandedOutcome::Product(Outcome::NothingToDo(nothing)),
                (None, Comparison::Pamt) => HandedOutcome::Product(self.report.outcome),
                (None, comparison) => HandedOutcome::Left(comparison),
            },
        }
    }

    /// What the next kernel must not touch.
    pub fn leftovers(&self) -> impl Iterator<Item = Leftover> + use<'h> {
        let comparison = match (self.policy, self.outcome()) {
            (_, HandedOutcome::Product(Outcome::NothingToDo(_))) | (AnyPolicy::Product(_), _) => None,
            (AnyPolicy::Compared(comparison), _) => Some(comparison),
        };
        let mut report = self.report.clone();
        if comparison.is_some() {
            // The product's word for private memory that no one has reset.
            report.outcome = Outcome::LeftPrivate(LeftPrivate::KexecJump);
        }
        let disabled = matches!(self.report.module, Some(ModuleAnswer::Disabled { .. }));
        let unknown = self.memory.ledger().map(Ledger::unknown_to_module);
        report.leftovers(&self.memory).flat_map(move |left| {
            let by_policy = left.reason == LeftoverReason::NotReset;
            let cleared_by_module = by_policy && comparison == Some(Comparison::ModuleOnly) && disabled;
            let reset = by_policy && comparison == Some(Comparison::Pamt) && left.kind == LeftoverKind::Pamt;
            let whole = core::iter::once(left).filter(move |_| !cleared_by_module && !reset);
            let pages = unknown.clone().into_iter().flatten();
            let parts =
                intersect([left.range], pages).filter(move |_| cleared_by_module && left.kind == LeftoverKind::Page);
            whole.chain(parts.map(move |range| Leftover { range, ..left }))
        })
    }

    /// Nothing is left that can do harm, as far as the host can know.
    pub fn is_clean(&self) -> bool {
        self.leftovers().next().is_none()
    }

    /// Writes the table of leftovers.
    ///
    /// # Errors
    /// As [`LeftoverTable::write`].
    pub fn write_table(&self, table: &mut [u8]) -> Result<Written, TableError> {
        LeftoverTable::write_list(table, self.leftovers(), &self.report.suspects)
    }
}

/// Why there is nothing to reset, if there is nothing.
fn nothing_to_do(memory: &HostMemory<'_>) -> Option<NothingToDo> {
    let private = memory.may_have_private_memory();
    match memory.platform() {
        None if !private => Some(NothingToDo::NoTdx),
        _ if !private => Some(NothingToDo::NoPrivateMemory),
        Some(platform) if !platform.has_partial_write_erratum() => Some(NothingToDo::NoErratum),
        _ => None,
    }
}

/// Everything between `kexec -e` and the jump. `image` is where the parts of the next kernel's
/// image go at the jump.
///
/// # Errors
/// [`NotHandedOver`].
///
/// # SEAMCALL
/// As [`Kexec::ask_module`], without regard to the module's features under
/// [`Comparison::ModuleOnly`]; under [`Policy::Keep`] as [`Kexec::flush_vcpus`], for `vcpus`.
///
/// # Safety
/// As [`Kexec::reset_everything`]: `all_memory` (ascending) is RAM and holds nothing that anyone
/// needs.
pub unsafe fn kexec<'h, P: StopCpus>(
    policy: AnyPolicy,
    cpus: &P,
    memory: HostMemory<'h>,
    vcpus: &[Page],
    image: &[PageRange],
    all_memory: impl IntoIterator<Item = PageRange, IntoIter: Clone + Sync>,
) -> Result<Handed<'h>, NotHandedOver> {
    let kexec =
        Kexec::begin(policy.product(), KexecKind::Normal, policy.known(memory)).map_err(NotHandedOver::Refused)?;
    let stopped = kexec.stop_other_cpus(cpus).map_err(|error| NotHandedOver::Stop(error.cause))?;
    let stopped = stopped.check_segments(image).map_err(NotHandedOver::Refused)?;
    let asked = match policy.product() {
        Policy::Keep => stopped.flush_vcpus(vcpus),
        _ => stopped.ask_module(|_| ()),
    };
    let ready = asked.write_back_caches();
    // SAFETY: the caller's promise.
    let report = unsafe { ready.reset_everything(all_memory) };
    Ok(Handed { policy, memory, report })
}

/// A panic on this CPU, up to the jump into the crash kernel.
///
/// # SEAMCALL
/// SYS.DISABLE on this CPU under [`Comparison::ModuleOnly`], and none under any other policy.
pub fn crash<'h, C: Cpu + Copy, O: NmiStop>(
    policy: AnyPolicy,
    cpu: &C,
    others: &O,
    memory: HostMemory<'h>,
) -> Handed<'h> {
    let known = policy.known(memory);
    if policy == AnyPolicy::Compared(Comparison::ModuleOnly) {
        let panicking = Panicking { cpu: *cpu, others };
        if let Ok(kexec) = Kexec::begin(policy.product(), KexecKind::Normal, known)
            && let Ok(stopped) = kexec.stop_other_cpus(&panicking)
        {
            let mut report = stopped.ask_module(|_| ()).write_back_caches().reset();
            report.kind = HandoverKind::Crash;
            return Handed { policy, memory, report };
        }
    }
    Handed { policy, memory, report: hand_over_crash(policy.product(), cpu, others, &known) }
}

/// The CPUs at a panic, as a kexec sees them: Linux 7.2 asks the module at a crash too, which the
/// product's crash path does not.
struct Panicking<'o, C, O> {
    cpu: C,
    others: &'o O,
}

// SAFETY: made for `crash` alone, whose memory names no page that would be reset, so that nothing
// rests on a CPU that an NMI did not stop.
unsafe impl<C: Cpu + Copy, O: NmiStop> StopCpus for Panicking<'_, C, O> {
    type Cpu = C;

    fn this_cpu(&self) -> C {
        self.cpu
    }

    fn stop_other_cpus(&self) -> u32 {
        self.others.stop_other_cpus();
        1
    }

    fn resume_other_cpus(&self) {}

    fn run_on_stopped<T: CpuTask<C>>(&self, task: &T) {
        let mut local = T::Local::default();
        while task.step(&self.cpu, &mut local) == Step::Again {}
    }
}
