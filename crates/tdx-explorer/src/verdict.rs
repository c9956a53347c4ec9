//! What can be wrong at an instant or after it.

use core::fmt;

/// The rule that was broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// The next kernel died.
    MachineCheck,
    /// An old private cache line landed on memory after its reset.
    LateWriteBack,
    /// A page in use was reset.
    ResetInUse,
    /// Lines are private after a handover that calls itself clean.
    LeftPrivate,
    /// A handover does not vouch for itself although every CPU has answered.
    NotClean,
    /// Something private lies in a page that is not marked.
    Unmarked,
    /// A dirty line of the host may land on private memory.
    HostLineOverPrivate,
    /// A page came back to the host's allocator and is not clean.
    CameBackUnclean,
    /// A kexec jump came back, and TDX is not as it was.
    JumpChangedTdx,
    /// The next kernel does not believe the takeover table of a kernel that has written it whole.
    RecordRefused,
    /// A TD that ran does not run in the next kernel.
    TdLost,
    /// A TD is adopted, and the VMCS of a VCPU of it was lost with its CPU's VMX operation.
    StaleVcpu,
    /// A TD runs in the next kernel, and its memory is not what it was.
    ContentsChanged,
    /// The next kernel cannot tear down inherited TDs, or has not.
    NotVacuumed,
    /// A KeyID is given to two TDs.
    KeyIdTwice,
    /// The next kernel cannot build a TD.
    TdxLost,
}

impl Rule {
    /// In a few words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MachineCheck => "machine check in the next kernel",
            Self::LateWriteBack => "stale private cache line over the next kernel's memory",
            Self::ResetInUse => "reset of a page in use",
            Self::LeftPrivate => "private memory left behind",
            Self::NotClean => "handover does not report a clean machine",
            Self::Unmarked => "private memory that is not marked",
            Self::HostLineOverPrivate => "stale cache line of the host over private memory",
            Self::CameBackUnclean => "private page in the host's allocator",
            Self::JumpChangedTdx => "a kexec jump changed TDX's memory",
            Self::RecordRefused => "takeover table refused",
            Self::TdLost => "TD does not run in the next kernel",
            Self::StaleVcpu => "TD adopted whose VCPU state is lost",
            Self::ContentsChanged => "memory of a TD changed",
            Self::NotVacuumed => "TDs left after a vacuum",
            Self::KeyIdTwice => "KeyID given to two TDs",
            Self::TdxLost => "TDX does not go on in the next kernel",
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A rule that was broken, and how it came about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Finding {
    pub(super) rule: Rule,
    pub(super) what: String,
    pub(super) story: Vec<String>,
}
