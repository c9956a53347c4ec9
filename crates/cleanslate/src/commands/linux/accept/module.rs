//! State of cleanslate.ko from sysfs, as closed values: no text of the machine is taken over.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Why the module has lost track.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Lost {
    /// A SEAMCALL whose page operands it does not know.
    Operands,
    /// SEAMCALLs, resets or stops of CPUs were not observed.
    Missed,
    /// A page that its ledger does not have.
    Ledger,
    /// Something else: `cleanslate linux status` says it.
    Other,
}

/// Reasons of the module (`linux/`, `linux/object`) that contradict an assumption.
const LOST: [(&str, Lost); 7] = [
    ("SEAMCALL with unknown page operands", Lost::Operands),
    ("missed SEAMCALLs (kprobe nmissed)", Lost::Missed),
    ("the kernel splits or joins guest pages by unobserved SEAMCALLs", Lost::Missed),
    ("page outside of the ledger given to the TDX module", Lost::Ledger),
    ("page reset that the TDX module owns", Lost::Ledger),
    ("page given to the TDX module that is not allocated", Lost::Ledger),
    ("an audit found private pages without a mark", Lost::Ledger),
];

/// What the module does here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// The kernel initializes TDX, and the module observes.
    Watching,
    /// The module initializes TDX.
    Host,
    /// Pages of TDs that were there first are being learned.
    Learning,
    /// The kernel's own bring-up has failed.
    Failed,
    /// It has lost track.
    Unknown(Lost),
}

impl Mode {
    fn of(text: &str) -> Option<Self> {
        let text = text.trim();
        Some(match text {
            "watching" => Self::Watching,
            "host" => Self::Host,
            "failed" => Self::Failed,
            _ if text.starts_with("learning ") => Self::Learning,
            _ => {
                let why = text.strip_prefix("unknown: ")?;
                let known = LOST.iter().find(|(reason, _)| *reason == why);
                Self::Unknown(known.map_or(Lost::Other, |(_, lost)| *lost))
            }
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Watching => "watching",
            Self::Host => "host",
            Self::Learning => "learning",
            Self::Failed => "failed",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl Serialize for Mode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What a kexec does with private memory: the module's parameter `policy`.
const POLICIES: [&str; 4] = ["tracked", "module", "refuse", "keep"];

/// The module. `None` is what it does not say.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Module {
    pub(super) version: Option<String>,
    pub(super) mode: Option<Mode>,
    pub(super) lost: Option<Lost>,
    pub(super) policy: Option<&'static str>,
    pub(super) tds: Option<u64>,
    pub(super) pamt_kb: Option<u64>,
    /// Pages of TDs, of SEAMCALLs in flight, and returned ones that were not reset.
    pub(super) given_kb: Option<u64>,
    pub(super) giving_kb: Option<u64>,
    pub(super) returned_kb: Option<u64>,
    /// Of TDs that were there before the module, from the TDX module's answers.
    pub(super) learned_kb: Option<u64>,
    /// SEAMCALLs per second of an audit that is given no rate.
    pub(super) sweep_rate: Option<u64>,
}

/// `0.1.0`, and nothing else.
fn version(text: &str) -> Option<String> {
    let parts: Vec<&str> = text.trim().split('.').collect();
    let number = |part: &&str| !part.is_empty() && part.len() < 6 && part.bytes().all(|byte| byte.is_ascii_digit());
    (parts.len() == 3 && parts.iter().all(number)).then(|| parts.join("."))
}

impl Module {
    /// `None` if it is not loaded, or has nothing to do here.
    pub(super) fn read(root: &Path) -> Option<Self> {
        let (folder, own) = (root.join("sys/kernel/cleanslate"), root.join("sys/module/cleanslate"));
        let text = |path: &Path| fs::read_to_string(path).ok();
        let number = |path: &Path| text(path)?.trim().parse().ok();
        let mode = Mode::of(&text(&folder.join("mode"))?);
        let policy = text(&own.join("parameters/policy")).unwrap_or_default();
        Some(Self {
            version: text(&own.join("version")).and_then(|text| version(&text)),
            mode,
            lost: if let Some(Mode::Unknown(lost)) = mode { Some(lost) } else { None },
            policy: POLICIES.into_iter().find(|known| *known == policy.trim()),
            tds: number(&folder.join("tds")),
            pamt_kb: number(&folder.join("pamt_kb")),
            given_kb: number(&folder.join("given_kb")),
            giving_kb: number(&folder.join("giving_kb")),
            returned_kb: number(&folder.join("returned_kb")),
            learned_kb: number(&folder.join("learned_kb")),
            sweep_rate: number(&own.join("parameters/sweep_rate")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(names: &[&str]) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../linux");
        names.iter().map(|name| fs::read_to_string(folder.join(name)).unwrap()).collect()
    }

    #[test]
    fn reasons_are_those_of_the_module() {
        let all = source(&["watch.c", "sweep.c", "follow.c", "unseen.c", "object/src/watch.rs"]);
        for (reason, lost) in LOST {
            assert!(all.contains(&format!("\"{reason}\"")), "{reason}");
            assert_eq!(Mode::of(&format!("unknown: {reason}\n")), Some(Mode::Unknown(lost)));
        }
        for policy in POLICIES {
            assert!(source(&["main.c"]).contains(&format!("= \"{policy}\",")), "{policy}");
        }
    }

    #[test]
    fn modes() {
        assert_eq!(Mode::of("watching\n"), Some(Mode::Watching));
        assert_eq!(Mode::of("learning 43 %\n"), Some(Mode::Learning));
        assert_eq!(Mode::of("unknown: node7 has burnt\n"), Some(Mode::Unknown(Lost::Other)));
        for bad in ["", "watching node7", "unknown", "idle"] {
            assert_eq!(Mode::of(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_version_is_that_of_the_module_and_no_other_text() {
        assert_eq!(version("0.1.0\n").as_deref(), Some("0.1.0"));
        for bad in ["", "node7", "1.2", "1.2.3.4", "1.2.x", "1..3", "123456.0.0"] {
            assert_eq!(version(bad), None, "{bad}");
        }
        assert!(source(&["main.c"]).contains(concat!("MODULE_VERSION(\"", env!("CARGO_PKG_VERSION"), "\")")));
    }
}
