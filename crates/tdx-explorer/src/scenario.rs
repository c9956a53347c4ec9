//! A scenario: a host, what its kernel does step by step, what goes wrong on the way, and what is
//! expected. Written as TOML by people, see `crates/tdx-explorer/scenarios`; [`super::file`] reads
//! it.

use tdx_abi::PageSize;
use tdx_host::{handover::Policy, platform::CpuId};
use tdx_machine::{Fault, ModuleProfile, When};

use first_kernel::Move;
use tdx_operator::host::Host;

/// What a kernel does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Brings TDX up.
    BringUp,
    /// The host uses memory: ordinary stores to all that is its own, which stay in the caches of
    /// its CPUs.
    HostWrites,
    /// One move for the TD in a slot.
    Move(usize, Move),
    /// Builds the TD in a slot until it runs.
    Build(usize),
    /// Tears the TD in a slot down.
    TearDown(usize),
    /// From here on something is wrong.
    Inject(Fault, When),
    /// It is over.
    Heal(Fault),
    /// Every dirty line leaves its cache.
    Evict,
    /// A device writes a part of every private line: all of them are poisoned.
    StrayWrites,
    /// A runtime update of the module begins, and goes no further.
    ShutDown,
    /// A runtime update of the module: SYS.SHUTDOWN, another module, SYS.UPDATE.
    Update,
    /// A TD with an L2 VM lives and dies, by code that is not the product's; `follow` marks its
    /// pages.
    Foreign,
    /// What ends a TD for good: a machine check in its guest. Every call but those of the teardown
    /// answers TD_FATAL.
    MakeFatal(usize),
    /// A CPU goes offline. Its next step brings it back.
    Offline,
    /// The kernel hands over by kexec; the scenario ends.
    Kexec,
    /// The kernel hands over by kexec jump, and comes back.
    KexecJump,
    /// The kernel panics; the scenario ends.
    Panic,
    /// The kernel hands over by kexec with TDX up, and the next kernel goes on with the scenario.
    Keep,
    /// The same by a panic.
    KeepPanic,
    /// A kernel that inherited TDX adopts the TDs that can run.
    Adopt,
    /// It tears the others down.
    Vacuum,
}

impl What {
    /// Where TDX is handed over with its TDs, steps are those of a TD's life and of the handover;
    /// these are of no other policy.
    pub(super) fn can_be_with(self, policy: Policy) -> bool {
        match self {
            Self::Keep | Self::KeepPanic | Self::Adopt | Self::Vacuum => policy == Policy::Keep,
            Self::BringUp | Self::Move(..) | Self::Build(_) | Self::TearDown(_) => true,
            _ => policy != Policy::Keep,
        }
    }

    /// The next kernel goes on after it.
    pub(super) fn keeps(self) -> bool {
        matches!(self, Self::Keep | Self::KeepPanic)
    }

    /// It can be done while other CPUs do something: it acts on its own TD, and on nothing that all
    /// share. Where calls overlap, also what shows only then.
    pub(super) fn can_be_beside(self, overlapping: bool) -> bool {
        match self {
            Self::Move(_, Move::Enter) | Self::ShutDown => overlapping,
            Self::Move(..)
            | Self::Build(_)
            | Self::TearDown(_)
            | Self::Evict
            | Self::StrayWrites
            | Self::Kexec
            | Self::Panic => true,
            _ => false,
        }
    }
}

/// A step, on a CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// The CPU.
    pub cpu: CpuId,
    /// What it does.
    pub what: What,
    /// The line of the scenario file, from 1; 0 if it stands in none.
    pub line: u64,
}

impl Step {
    /// The slot of the TD it is about.
    pub fn td(&self) -> Option<usize> {
        match self.what {
            What::Move(td, _) | What::Build(td) | What::TearDown(td) | What::MakeFatal(td) => Some(td),
            _ => None,
        }
    }
}

impl core::fmt::Display for Step {
    /// `CPU 1: augment td 0 page 3 of 4K`.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: {}", self.cpu, self.what)
    }
}

fn size_name(size: PageSize) -> &'static str {
    match size {
        PageSize::Size4K => "4K",
        PageSize::Size2M => "2M",
        PageSize::Size1G => "1G",
    }
}

/// What goes wrong.
fn fault_name(fault: &Fault) -> String {
    match fault {
        Fault::NoEntropy => "no entropy".to_owned(),
        Fault::KeyEngineBusy => "the key engine is busy".to_owned(),
        Fault::KeyEngineNoEntropy => "the key engine has no entropy".to_owned(),
        Fault::InterruptPending => "an interrupt is pending".to_owned(),
        Fault::LateFailure => "the call fails after it has written".to_owned(),
        Fault::Crash => "the module crashes".to_owned(),
        Fault::Answer(status) => format!("the answer is {status}"),
        // One of a newer machine.
        _ => format!("{fault:?}"),
    }
}

/// In which calls.
fn calls(when: &When) -> String {
    match when {
        When::Always => "in every call".to_owned(),
        When::Call(number) => format!("in call {number} from here"),
        When::CallOf(leaf, number) => format!("in call {number} of {leaf} from here"),
    }
}

impl core::fmt::Display for What {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BringUp => f.write_str("bring TDX up"),
            Self::HostWrites => f.write_str("the host writes to its memory"),
            Self::Move(td, what) => match what {
                Move::Build => write!(f, "next build step of TD {td}"),
                Move::Augment(page, size) => write!(f, "TD {td} gets page {page} of {}", size_name(*size)),
                Move::Enter => write!(f, "TD {td} runs"),
                Move::Remove(page, size) => write!(f, "TD {td} loses page {page} of {}", size_name(*size)),
                Move::Relocate(page) => write!(f, "page {page} of TD {td} moves"),
                Move::Demote(page) => write!(f, "page {page} of TD {td} is split"),
                Move::Promote(page) => write!(f, "page {page} of TD {td} is joined"),
                Move::TearDown => write!(f, "next teardown step of TD {td}"),
                Move::ReclaimOne => write!(f, "the VCPU page of TD {td} is reclaimed"),
            },
            Self::Build(td) => write!(f, "build TD {td}"),
            Self::TearDown(td) => write!(f, "tear TD {td} down"),
            Self::Inject(fault, when) => write!(f, "fault: {}, {}", fault_name(fault), calls(when)),
            Self::Heal(fault) => write!(f, "no more fault: {}", fault_name(fault)),
            Self::Evict => f.write_str("every dirty line leaves its cache"),
            Self::StrayWrites => f.write_str("a device writes a part of every private line"),
            Self::ShutDown => f.write_str("SYS.SHUTDOWN"),
            Self::Foreign => f.write_str("a TD with an L2 VM, built by other code"),
            Self::Update => f.write_str("update of the module"),
            Self::MakeFatal(td) => write!(f, "TD {td} is fatal"),
            Self::Offline => f.write_str("goes offline"),
            Self::Kexec => f.write_str("kexec"),
            Self::KexecJump => f.write_str("kexec jump, and back"),
            Self::Panic => f.write_str("panic"),
            Self::Keep => f.write_str("kexec, TDX stays up"),
            Self::KeepPanic => f.write_str("panic, TDX stays up"),
            Self::Adopt => f.write_str("adopt the TDs that can run"),
            Self::Vacuum => f.write_str("tear the other TDs down"),
        }
    }
}

/// What must have come of a scenario that no step has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Expect {
    /// Whether the bring-up succeeds.
    pub bring_up: Option<bool>,
    /// TDs that run at the end.
    pub running: Option<usize>,
    /// 4 KiB pages that are marked at the end.
    pub marked_pages: Option<u64>,
    /// At least so many instants.
    pub instants: u64,
}

/// A scenario.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a key of the file, and none excludes another")]
pub struct Scenario {
    /// Its name on the command line.
    pub name: String,
    /// What it is about, in a sentence.
    pub about: String,
    /// The host.
    pub host: Host,
    /// The module that the machine loads.
    pub module: ModuleProfile,
    /// PAMT is dynamic.
    pub dynamic_pamt: bool,
    /// What a handover does with private memory.
    pub policy: Policy,
    /// The kernel may kexec at any instant.
    pub kexec: bool,
    /// Any CPU may panic at any instant.
    pub panic: bool,
    /// One step after another.
    pub steps: Vec<Step>,
    /// Then these, at the same time, each list on a CPU of its own.
    pub concurrent: Vec<Vec<Step>>,
    /// And their SEAMCALLs overlap: two CPUs may be in the module at once.
    pub overlapping: bool,
    /// What must come of it.
    pub expect: Expect,
}

impl Scenario {
    /// The same scenario with only these of its steps.
    #[must_use]
    pub fn keeping(&self, steps: &[usize]) -> Self {
        let kept = steps.iter().filter_map(|index| self.steps.get(*index)).copied().collect();
        Self { steps: kept, ..self.clone() }
    }

    /// TDX is handed over with its TDs: one kernel after another.
    pub(super) fn keeps(&self) -> bool {
        self.policy == Policy::Keep
    }

    /// Slots for TDs that its steps name.
    pub fn slots(&self) -> usize {
        let all = self.steps.iter().chain(self.concurrent.iter().flatten());
        all.filter_map(Step::td).max().map_or(0, |last| last + 1)
    }
}
