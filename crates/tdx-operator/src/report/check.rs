//! Report of `check`: categories and checks with status, basis, evidence and hint.

use serde::Serialize;

use super::KeyIdReport;

/// Everything that `check` says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CheckReport {
    /// Always `cleanslate/check`.
    pub schema: &'static str,
    /// Version of the schema: 1.
    pub version: u32,
    /// Program and version.
    pub tool: &'static str,
    /// `live`, or the folder of a saved machine.
    pub machine: String,
    /// All in one.
    pub verdict: CheckVerdict,
    /// What programs ask for most.
    pub facts: CheckFacts,
    /// The tree, in a fixed order.
    pub categories: Vec<CheckCategory>,
    /// What could not be seen.
    pub unseen: Vec<UnseenReport>,
}

impl CheckReport {
    /// Every check, in the order of the tree.
    pub fn checks(&self) -> impl Iterator<Item = &CheckFinding> {
        self.categories.iter().flat_map(|category| &category.checks)
    }
}

/// How a check ended. The order is that of gravity.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// As it should be, or irrelevant here.
    Pass,
    /// Not determined by the data that was seen.
    Unknown,
    /// Works, with a loss or a risk that one should know.
    Warn,
    /// Does not work, or ends in a machine check.
    Fail,
}

impl Status {
    /// As reports write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Unknown => "UNKNOWN",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// What a statement rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    /// Read on the machine, or said by the named source.
    Sourced,
    /// Our conclusion from the named source; not stated there and not tried.
    Deduced,
    /// General knowledge that was not checked against a source.
    Unverified,
}

impl Basis {
    /// As reports write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sourced => "sourced",
            Self::Deduced => "deduced",
            Self::Unverified => "unverified",
        }
    }
}

/// All in one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CheckVerdict {
    /// The gravest status that decides: FAIL of any check; UNKNOWN if it is not known whether TDX
    /// is on; else WARN or PASS.
    pub status: Status,
    /// `on`, `off`, `broken` (on, and cannot work) or `unknown`.
    pub tdx: &'static str,
    /// What a kexec does: `safe`, `refused` (no image can be loaded), `unsafe` (private memory
    /// stays) or `unknown`.
    pub kexec: &'static str,
    /// Whether failed calls since boot ask for a reset through the firmware: `no`, `planned` (safe
    /// until then), `now` or `unknown`.
    pub power_cycle: &'static str,
    /// Whether a panic gives a dump: `ready` (an image is loaded), `not-ready` or `unknown`.
    pub kdump: &'static str,
    /// One sentence.
    pub text: String,
    /// Number of checks that pass.
    pub pass: usize,
    /// Number of warnings.
    pub warn: usize,
    /// Number of failures.
    pub fail: usize,
    /// Number of checks without a result.
    pub unknown: usize,
}

/// What programs ask for most. `None` is what was not seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CheckFacts {
    /// Family and model, as `06_8F`.
    pub cpu_model: Option<String>,
    /// The CPU has the partial-write erratum.
    pub partial_write_erratum: Option<bool>,
    /// Private KeyIDs.
    pub key_ids: Option<KeyIdReport>,
    /// Revision of the microcode; several with commas.
    pub microcode: Option<String>,
    /// Version and date of the BIOS.
    pub bios: Option<String>,
    /// Kernel version.
    pub kernel: Option<String>,
    /// What mainline of this version does: no-tdx-host, excluded, refused, asks-module, newer.
    pub era: Option<&'static str>,
    /// TDX module, as far as the log tells it.
    pub module: Option<String>,
    /// KiB of PAMT that the kernel allocated.
    pub pamt_kb: Option<u64>,
    /// Private pages that were leaked since boot, and those that Linux may have freed private;
    /// `None` if the log does not begin at the boot, or tells of a TD or of caches without a
    /// number.
    pub leaked_pages: Option<u64>,
    /// KeyIDs that were lost since boot, at least; `None` if the log does not begin at the boot.
    pub lost_key_ids: Option<u64>,
    /// An image for a kexec is loaded.
    pub kexec_loaded: Option<bool>,
    /// An image for a crash is loaded.
    pub crash_loaded: Option<bool>,
}

/// Checks that belong together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CheckCategory {
    /// One word.
    pub name: &'static str,
    /// In words.
    pub title: &'static str,
    /// The gravest of its checks.
    pub status: Status,
    /// In a fixed order.
    pub checks: Vec<CheckFinding>,
}

/// One check.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CheckFinding {
    /// Category and name, e.g. `kexec.jump`.
    pub id: &'static str,
    /// What is asked.
    pub title: &'static str,
    /// How it ended.
    pub status: Status,
    /// The answer.
    pub text: String,
    /// What the answer rests on.
    pub basis: Basis,
    /// Where the rule comes from.
    pub source: &'static str,
    /// What was seen on the machine.
    pub evidence: Vec<String>,
    /// What is worth knowing beyond this machine.
    pub notes: Vec<String>,
    /// What to do, if there is something to do.
    pub hint: Option<String>,
    /// What helps, what it gives and what it costs.
    pub remedies: Vec<Remedy>,
}

/// One way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Remedy {
    /// What to do.
    pub what: &'static str,
    /// What is better then.
    pub gives: &'static str,
    /// What is lost.
    pub costs: &'static str,
}

/// Something that could not be seen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct UnseenReport {
    /// The file of a saved machine.
    pub item: &'static str,
    /// Its path on a live machine.
    pub place: &'static str,
    /// absent, denied, not-a-file, not-text, too-large, unreadable, malformed.
    pub reason: &'static str,
    /// The reason in words.
    pub text: String,
    /// How to allow it.
    pub hint: &'static str,
}
