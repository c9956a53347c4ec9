//! What happens at a kexec: decided from the kernel's version, the erratum and cleanslate.ko.

use crate::check::{
    cleanslate_ko::{Host, Ko},
    facts::{Facts, Private},
    kernel::Era,
    sys_disable::SysDisable,
};

/// What happens at a kexec.
pub(super) enum Way {
    /// Nothing is private.
    Harmless(&'static str),
    /// No image can be loaded: built without.
    NotBuilt,
    /// TDX host code and kexec together, where mainline has not.
    NotMainline,
    /// No image can be loaded: refused at run time.
    Refused,
    /// The CPU has no erratum.
    NoErratum,
    /// cleanslate.ko resets what is private.
    Reset,
    /// cleanslate.ko resets what it has seen, and a call failed before it is known to have
    /// listened.
    ResetInPart,
    /// cleanslate.ko lets no kexec image in, by its policy.
    RefusedByKo,
    /// cleanslate.ko lets no kexec image in: it does not know what is private.
    KoLost(String),
    /// cleanslate.ko may have brought TDX up, and its policy is to reset nothing.
    KoLeaves,
    /// The module is asked, and is not known to have the call.
    NoAnswer,
    /// The module is asked, and it is not known what it has.
    PerhapsAnswer,
    /// Something that decides was not seen.
    Unseen(&'static str),
    /// A kernel that is not known here.
    Newer,
}

/// What happens at a kexec of this host.
pub(super) fn way(facts: &Facts<'_>) -> Way {
    let era = facts.era();
    let host_code = facts.option("INTEL_TDX_HOST").unwrap_or(facts.tdx_line());
    let no_kexec = match facts.has_kexec() {
        Some(has) => !has,
        None => era == Some(Era::Excluded) && host_code,
    };
    // Whether an image can be loaded does not depend on private memory: it is decided before the
    // module is called.
    let refused = era == Some(Era::Refused) && facts.notes_erratum() || said_refused(facts).is_some();
    if let Private::No(why) = facts.private {
        return match () {
            () if facts.no_tdx() => Way::Harmless(why),
            () if no_kexec && host_code => Way::NotBuilt,
            () if refused => Way::Refused,
            () => Way::Harmless(why),
        };
    }
    let Some(era) = era else { return Way::Unseen("the kernel's version") };
    match (facts.erratum(), era, &facts.ko) {
        _ if no_kexec => Way::NotBuilt,
        _ if refused => Way::Refused,
        (Some(false), ..) => Way::NoErratum,
        (.., Ko::Resets(host)) if facts.ko_saw_failures(*host) => Way::Reset,
        (.., Ko::Resets(_)) => Way::ResetInPart,
        (.., Ko::Refuses(_)) => Way::RefusedByKo,
        (.., Ko::Lost(why)) => Way::KoLost(why.clone()),
        (.., Ko::Leaves(Host::Module)) => Way::KoLeaves,
        (_, Era::NoTdxHost | Era::Excluded, _) if host_code => Way::NotMainline,
        (_, Era::NoTdxHost | Era::Excluded, _) => Way::Unseen("the kernel's options"),
        (None, ..) => Way::Unseen("the CPU model"),
        (Some(true), Era::Refused, _) => Way::Refused,
        (Some(true), Era::AsksModule, _) => match facts.sys_disable() {
            Some(SysDisable::Refused | SysDisable::NotNamed) => Way::NoAnswer,
            Some(SysDisable::Newer) | None => Way::PerhapsAnswer,
        },
        (Some(true), Era::Newer, _) => Way::Newer,
    }
}

/// What a kexec does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::check) enum Outcome {
    /// It leaves nothing harmful behind.
    Safe,
    /// No image can be loaded.
    Refused,
    /// Private memory stays.
    Unsafe,
    /// Not determined.
    Unknown,
}

impl Outcome {
    /// One word for programs.
    pub(in crate::check) const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Refused => "refused",
            Self::Unsafe => "unsafe",
            Self::Unknown => "unknown",
        }
    }
}

/// What a kexec of this host does.
pub(in crate::check) fn outcome(facts: &Facts<'_>) -> Outcome {
    match way(facts) {
        Way::Harmless(_) | Way::NoErratum | Way::Reset => Outcome::Safe,
        Way::NotBuilt | Way::Refused | Way::RefusedByKo | Way::KoLost(_) => Outcome::Refused,
        Way::NoAnswer | Way::KoLeaves => Outcome::Unsafe,
        Way::ResetInPart | Way::NotMainline | Way::PerhapsAnswer | Way::Unseen(_) | Way::Newer => Outcome::Unknown,
    }
}

/// The kernel's own line on an image that it refused because of the erratum.
pub(super) fn said_refused(facts: &Facts<'_>) -> Option<String> {
    let refused = facts.log.as_ref().ok()?.kexec_refused.as_ref()?;
    Some(format!("boot.log:{}: {}", refused.line, refused.value))
}
