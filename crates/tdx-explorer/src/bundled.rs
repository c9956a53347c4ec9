//! The scenarios that come with the program: every path of bring-up, TD life and handover.

use super::file::parse;
use super::scenario::Scenario;
use tdx_operator::input::InputError;

macro_rules! bundled {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../scenarios/", $name, ".toml")))),*]
    };
}

/// Names and texts, in the order in which they are run.
const FILES: [(&str, &str); 44] = bundled![
    "bring-up",
    "two-tdmrs",
    "key-config-fails",
    "bring-up-fails",
    "bring-up-again",
    "module-dies-in-bring-up",
    "td-life",
    "two-tds",
    "half-torn-down",
    "cpu-offline",
    "create-fails",
    "addcx-fails",
    "demote-interrupted",
    "calls-refused",
    "write-back-refused",
    "stray-writes",
    "module-dies",
    "update-fails",
    "shutdown-refused",
    "module-update",
    "td-fatal",
    "l2-tables",
    "guest-memory-freed",
    "dynamic-pamt",
    "dynamic-pamt-large",
    "pamt-add-fails",
    "module-policy",
    "module-policy-bring-up",
    "module-interrupted",
    "everything",
    "no-erratum",
    "kexec-then-panic",
    "kexec-jump",
    "two-cpus",
    "augment-beside",
    "build-beside-teardown",
    "kexec-beside",
    "panic-beside",
    "overlapping-builds",
    "overlapping-shutdown",
    "shutdown-beside-guest",
    "keep-life",
    "keep-relay",
    "keep-panic",
];

/// All of them.
///
/// # Errors
/// [`InputError`], which a test rules out.
pub fn bundled() -> Result<Vec<Scenario>, InputError> {
    FILES.iter().map(|(name, text)| parse(&format!("scenarios/{name}.toml"), text)).collect()
}

/// The one with this name.
///
/// # Errors
/// As [`bundled`].
pub fn find(name: &str) -> Result<Option<Scenario>, InputError> {
    let file = FILES.iter().find(|(known, _)| *known == name);
    file.map(|(name, text)| parse(&format!("scenarios/{name}.toml"), text)).transpose()
}

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}
