//! State and policy of cleanslate.ko as reported in sysfs: what it does at kexec and at a crash.
//! Its report is trusted; it has not been seen on a CPU with TDX.
//!
//! Source: `linux/report.c`, `linux/handover.c` and `linux/cleanslate.4`.

use super::{
    item::{Item, Unseen},
    snapshot::Snapshot,
};
use crate::input::excerpt;

/// The first word of `/sys/kernel/cleanslate/mode`.
pub(super) const MODES: [&str; 5] = ["host", "watching", "learning", "failed", "unknown"];
/// What `/sys/module/cleanslate/parameters/policy` may say.
pub(super) const POLICIES: [&str; 3] = ["tracked", "none", "refuse"];

/// What it says in the kernel log once it tracks the kernel's SEAMCALLs (`linux/watch.c`).
pub(super) const TRACKS: &str = "cleanslate: tracking SEAMCALLs";

/// Who brings TDX up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Host {
    /// The kernel; the module listens.
    Kernel,
    /// The module, on request.
    Module,
}

/// What the module does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ko {
    /// It is not loaded, or there is nothing to do here.
    NotThere,
    /// Not determined.
    Unseen(String),
    /// Resets what is private before the next kernel starts.
    Resets(Host),
    /// Lets no kexec image in while something is private, and resets at a crash.
    Refuses(Host),
    /// Resets nothing: its policy is `none`.
    Leaves(Host),
    /// The kernel's own bring-up failed; there is nothing to reset.
    NothingToReset,
    /// Does not know what is private, and lets no kexec image in.
    Lost(String),
}

impl Ko {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mode = match snapshot.get(Item::KoMode) {
            Ok(mode) => mode.trim(),
            Err(Unseen::Absent) => return Self::NotThere,
            Err(why) => return Self::Unseen(format!("{} {why}", Item::KoMode.place())),
        };
        let (word, why) = mode.split_once(": ").unwrap_or((mode, "it does not say why"));
        let host = match word {
            "host" => Host::Module,
            "watching" => Host::Kernel,
            "failed" => return Self::NothingToReset,
            "unknown" => return Self::Lost(excerpt(why)),
            // `learning 43 %`.
            word if word.starts_with("learning ") => return Self::Lost(format!("{}, ask again later", excerpt(word))),
            _ => return Self::Unseen(format!("unknown mode `{}`", excerpt(mode))),
        };
        match snapshot.get(Item::KoPolicy).map(str::trim) {
            Ok("tracked") => Self::Resets(host),
            Ok("refuse") => Self::Refuses(host),
            Ok("none") => Self::Leaves(host),
            Ok(other) => Self::Unseen(format!("unknown policy `{}`", excerpt(other))),
            Err(why) => Self::Unseen(format!("{} {why}", Item::KoPolicy.place())),
        }
    }

    /// True if the module may have brought TDX up in a kernel that cannot.
    pub(super) fn may_be_host(&self) -> bool {
        matches!(self, Self::Resets(Host::Module) | Self::Refuses(Host::Module) | Self::Leaves(Host::Module))
            || matches!(self, Self::Unseen(_) | Self::Lost(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_says() {
        let of = |mode: Result<&str, Unseen>, policy: &str| {
            let mut snapshot = Snapshot::default();
            snapshot.put(Item::KoMode, mode.map(str::to_owned));
            snapshot.put(Item::KoPolicy, Ok(policy.to_owned()));
            Ko::of(&snapshot)
        };
        assert_eq!(of(Err(Unseen::Absent), "tracked\n"), Ko::NotThere);
        assert_eq!(of(Ok("watching\n"), "tracked\n"), Ko::Resets(Host::Kernel));
        assert_eq!(of(Ok("host\n"), "none\n"), Ko::Leaves(Host::Module));
        assert_eq!(of(Ok("host\n"), "refuse\n"), Ko::Refuses(Host::Module));
        assert_eq!(of(Ok("failed\n"), "tracked\n"), Ko::NothingToReset);
        let why = "this kernel builds TDs and its reset function is unknown";
        assert_eq!(of(Ok(&format!("unknown: {why}\n")), "tracked\n"), Ko::Lost(why.to_owned()));
        assert_eq!(of(Ok("learning 43 %\n"), "tracked"), Ko::Lost("learning 43 %, ask again later".to_owned()));
        for (mode, policy) in [("idle", "tracked"), ("host", "hope"), ("", "")] {
            assert!(matches!(of(Ok(mode), policy), Ko::Unseen(_)), "{mode} {policy}");
        }
        assert!(matches!(of(Err(Unseen::Denied), "tracked"), Ko::Unseen(_)));
    }
}
