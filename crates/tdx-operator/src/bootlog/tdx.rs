//! TDX host messages, `virt/tdx:` or (up to 6.5) `tdx:`, in every wording seen in logs, including
//! typos of the kernels. A line that starts like a known one must parse; other lines are ignored.

use tdx_abi::{KeyIdPartition, Leaf, PageRange, PhysAddr, Status};

use super::{
    call::{self, Call},
    number::{bare_hex, decimal, hex},
    words::Words,
};
use crate::input::Rule;

/// The version of a TDX module, as far as a log tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ModuleVersion {
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Update version.
    pub update: Option<u16>,
    /// Build number.
    pub build: Option<u32>,
    /// Build date, decimal yyyymmdd.
    pub date: Option<u32>,
}

impl core::fmt::Display for ModuleVersion {
    /// `1.5`, `1.5.06 build 744 of 2024-04-07`.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if let Some(update) = self.update {
            write!(f, ".{update:02}")?;
        }
        if let Some(build) = self.build {
            write!(f, " build {build}")?;
        }
        let Some(date) = self.date else { return Ok(()) };
        write!(f, " of {:04}-{:02}-{:02}", date / 10000, date / 100 % 100, date % 100)
    }
}

/// Why the kernel did not bring TDX up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// `initialization failed (-28)`.
    Errno(u32),
    /// `initialization failed: TDMR [a, b): reserved areas exhausted`.
    ReservedAreasExhausted(PageRange),
    /// A SEAMCALL failed.
    Seamcall(Leaf, Status),
    /// Words only: not enabled, not loaded, ...
    Words(Words),
}

/// The leaves of a bring-up. Another one that fails has nothing to do with whether TDX came up.
const BRING_UP: [Leaf; 8] = [
    Leaf::SYS_KEY_CONFIG,
    Leaf::SYS_INFO,
    Leaf::SYS_INIT,
    Leaf::SYS_RD,
    Leaf::SYS_RDALL,
    Leaf::SYS_LP_INIT,
    Leaf::SYS_TDMR_INIT,
    Leaf::SYS_CONFIG,
];

/// Leaf of debug builds of the module that old kernels try (TDDEBUGCONFIG).
pub(crate) const DEBUG_CONFIG: Leaf = Leaf(0xfe);

/// True for a leaf of the initialization.
pub(crate) fn is_bring_up(leaf: Leaf) -> bool {
    BRING_UP.contains(&leaf)
}

/// What a line says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TdxLine {
    KeyIds(KeyIdPartition),
    Cmr(PageRange),
    Module(ModuleVersion),
    PamtKb(u64),
    Initialized,
    Failed(Failure),
    /// A SEAMCALL after the initialization: TDs, an update of the module.
    Later(Leaf, Status),
    /// The module's answer to TDH.SYS.DISABLE, by which a kernel since 7.2 hands over.
    NotDisabled(Status),
    DynamicPamt,
    /// A warning in the middle of a bring-up that goes on.
    UnderWay,
    /// Known to mean nothing here, or not known.
    Other,
}

/// `rest` is what follows the prefix.
pub(super) fn parse(rest: &str) -> Result<TdxLine, Rule> {
    let rest = rest.trim();
    let key_id_range = ["BIOS enabled: private KeyID range", "TDX private KeyID range"];
    if let Some(range) = key_id_range.iter().find_map(|words| rest.strip_prefix(words)) {
        let range = range.strip_prefix(':').unwrap_or(range).trim_end_matches('.');
        return key_ids(range).map(TdxLine::KeyIds);
    }
    if let Some(range) = rest.strip_prefix("CMR:").or_else(|| rest.strip_prefix("Kernel-checked-CMR :")) {
        return half_open(range).ok_or(Rule::Malformed { form: "CMR: [0xBASE, 0xEND)" })?.map(TdxLine::Cmr);
    }
    if let Some(version) = rest.strip_prefix("TDX SEAM module:") {
        return seam_module(version).map(TdxLine::Module);
    }
    if let Some(version) = module_prefix(rest) {
        return module(version).map(TdxLine::Module);
    }
    if let Some(kb) = pamt(rest) {
        return kb.map(TdxLine::PamtKb);
    }
    if rest == "Guest detected" {
        return Err(Rule::Guest);
    }
    if let Some(status) = rest.strip_prefix("TDH.SYS.DISABLE failed: ") {
        let form = "TDH.SYS.DISABLE failed: 0xSTATUS";
        let status = hex(status.trim_end_matches('.')).ok_or(Rule::Malformed { form })?;
        return Ok(TdxLine::NotDisabled(Status::new(status)));
    }
    if rest.starts_with("SEAMCALL additional output") {
        return Ok(TdxLine::Other);
    }
    match failed(rest)? {
        // Debug builds of the module have it, others answer that they have not.
        Some(Failure::Seamcall(DEBUG_CONFIG, _)) => return Ok(TdxLine::Other),
        Some(Failure::Seamcall(Leaf::SYS_DISABLE, status)) => return Ok(TdxLine::NotDisabled(status)),
        Some(Failure::Seamcall(leaf, status)) if !BRING_UP.contains(&leaf) => return Ok(TdxLine::Later(leaf, status)),
        Some(failure) => return Ok(TdxLine::Failed(failure)),
        None => {}
    }
    let words = rest.trim_end_matches('.');
    let initialized = [
        "module initialized",
        "TDX module initialized",
        "TDX-Module initialized",
        "Initialized TDX module",
        "Successfully initialized TDX module",
    ]
    .contains(&words);
    Ok(match words {
        _ if initialized => TdxLine::Initialized,
        "Enable Dynamic PAMT" => TdxLine::DynamicPamt,
        _ if words.contains("local NUMA node for PAMT") => TdxLine::UnderWay,
        _ if words.starts_with("consumed TDMRs reaching limit") => TdxLine::UnderWay,
        _ => TdxLine::Other,
    })
}

/// ` [32, 64)`.
fn key_ids(text: &str) -> Result<KeyIdPartition, Rule> {
    let malformed = Rule::Malformed { form: "BIOS enabled: private KeyID range [START, END)" };
    let inside = text.trim().strip_prefix('[').and_then(|t| t.strip_suffix(')'));
    let (start, end) = inside.and_then(|t| t.split_once(", ")).ok_or_else(|| malformed.clone())?;
    let (start, end) = decimal(start).zip(decimal(end)).ok_or(malformed)?;
    check_key_ids(start, end)
}

/// The rules for a private KeyID range `[start, end)`, for logs and host files.
pub(crate) fn check_key_ids(start: u64, end: u64) -> Result<KeyIdPartition, Rule> {
    let counts = (start >= 1 && start < end && end <= 1 << 15)
        .then(|| Some((u32::try_from(start - 1).ok()?, u32::try_from(end - start).ok()?)));
    let (shared, private) = counts.flatten().ok_or(Rule::KeyIdRange)?;
    if private < 2 {
        Err(Rule::TooFewKeyIds { count: private.into() })
    } else {
        Ok(KeyIdPartition::new(shared, private))
    }
}

/// ` [0x100000, 0x77800000)`, page aligned. The outer `None` means that the form is not there.
fn half_open(text: &str) -> Option<Result<PageRange, Rule>> {
    let (start, end) = text.trim().strip_prefix('[')?.strip_suffix(')')?.split_once(", ")?;
    let (start, end) = (PhysAddr::new(hex(start)?), PhysAddr::new(hex(end)?));
    Some(check_cmr(start, end))
}

/// The rules for one CMR, for logs and host files.
pub(crate) fn check_cmr(start: PhysAddr, end: PhysAddr) -> Result<PageRange, Rule> {
    let range = PageRange::from_addresses(start, end).map_err(Rule::Range)?;
    if range.is_empty() {
        return Err(Rule::EmptyRange);
    }
    let bits = tdx_abi::MAX_PHYS_BITS;
    if end.get() > 1 << bits { Err(Rule::BeyondAddressWidth { end, bits }) } else { Ok(range) }
}

/// What follows the words that start a version line.
fn module_prefix(rest: &str) -> Option<&str> {
    let words =
        ["TDX module version:", "Module version:", "module version:", "module verson:", "TDX module:", "TDX module "];
    let version = words.iter().find_map(|words| rest.strip_prefix(words))?.trim_start();
    // "TDX module initialized." and the like start the same way.
    let starts = ["attributes", "atributes", "vendor_id", "major_version"].iter().any(|key| version.starts_with(key));
    (starts || version.starts_with(|c: char| c.is_ascii_digit())).then_some(version)
}

const MODULE_FORM: &str = "TDX module: .. major_version N, minor_version N, build_date YYYYMMDD, build_num N";

fn module(text: &str) -> Result<ModuleVersion, Rule> {
    let malformed = || Rule::Malformed { form: MODULE_FORM };
    let mut version = ModuleVersion::default();
    let mut fields = text.trim_end_matches('.').split(", ");
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let numbers: Option<Vec<u16>> = fields.next().and_then(|dotted| dotted.split('.').map(small).collect());
        match numbers.as_deref() {
            Some([major, minor]) => (version.major, version.minor) = (*major, *minor),
            Some([major, minor, update] | [major, minor, update, _]) => {
                (version.major, version.minor, version.update) = (*major, *minor, Some(*update));
            }
            _ => return Err(malformed()),
        }
    } else if !text.contains("major_version ") || !text.contains("minor_version ") {
        return Err(malformed());
    }
    for field in fields {
        let (key, value) = field.rsplit_once(' ').ok_or_else(malformed)?;
        match key {
            "major_version" => version.major = small(value).ok_or_else(malformed)?,
            "minor_version" => version.minor = small(value).ok_or_else(malformed)?,
            "build_num" | "build number" => {
                let build = decimal(value).and_then(|n| u32::try_from(n).ok());
                version.build = Some(build.ok_or_else(malformed)?);
            }
            "build_date" => version.date = Some(date(decimal(value)).ok_or_else(malformed)?),
            // Newer kernels print the decimal date as a hex number: 0134fed5 is 20250325.
            "build date" => version.date = Some(date(bare_hex(value)).ok_or_else(malformed)?),
            _ => {}
        }
    }
    Ok(version)
}

/// ` attributes 0x0 vendor_id 0x8086 build_date 20220420 build_num 0x156 minor_version 0x0
/// major_version 0x1.` of kernels of 5.15 and before.
fn seam_module(text: &str) -> Result<ModuleVersion, Rule> {
    let number = |key: &str| {
        let (_, rest) = text.split_once(key)?;
        let word = rest.split_whitespace().next()?.trim_end_matches('.');
        hex(word).or_else(|| decimal(word))
    };
    let part = |key| number(key).and_then(|n| u16::try_from(n).ok());
    let (major, minor) =
        part("major_version ").zip(part("minor_version ")).ok_or(Rule::Malformed { form: MODULE_FORM })?;
    let build = number("build_num ").and_then(|n| u32::try_from(n).ok());
    Ok(ModuleVersion { major, minor, update: None, build, date: date(number("build_date ")) })
}

fn small(text: &str) -> Option<u16> {
    decimal(text).and_then(|n| u16::try_from(n).ok())
}

/// Decimal yyyymmdd that is a date.
fn date(number: Option<u64>) -> Option<u32> {
    let number = u32::try_from(number?).ok()?;
    let (year, month, day) = (number / 10000, number / 100 % 100, number % 100);
    ((2000..2100).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)).then_some(number)
}

/// `8396820 KB allocated for PAMT`, `KBs`, `KB?`, `65667 pages allocated for PAMT.`, and a line cut
/// after `KB`.
///
/// The outer `None` means that this is no such line.
fn pamt(rest: &str) -> Option<Result<u64, Rule>> {
    let malformed = Rule::Malformed { form: "N KB allocated for PAMT" };
    let (number, words) = rest.split_once(' ')?;
    let words = words.trim_end_matches('.');
    let (unit, tail) = words.split_once(' ').unwrap_or((words, ""));
    let kb_per_unit = match unit {
        "KB" | "KBs" | "KB?" => 1,
        "pages" => 4,
        _ => 0,
    };
    let complete = tail == "allocated for PAMT";
    let cut = tail.is_empty() && decimal(number).is_some();
    if kb_per_unit == 0 || !(complete || cut) {
        // Anything else that ends so is a figure we could not read.
        return words.ends_with("allocated for PAMT").then_some(Err(malformed));
    }
    // 2^52 bytes of PAMT would need more memory than an address can name.
    let kb = decimal(number).and_then(|n| n.checked_mul(kb_per_unit)).filter(|kb| (1..=1 << 42).contains(kb));
    Some(kb.ok_or(malformed))
}

/// A line that says that something did not work.
fn failed(rest: &str) -> Result<Option<Failure>, Rule> {
    if let Some(call) = rest.strip_prefix("SEAMCALL") {
        // What the P-SEAMLDR returns says nothing on the initialization.
        if call::of(rest).is_some_and(|call| call.loader.is_some()) {
            return Ok(None);
        }
        if let Some(Call { leaf: Some(leaf), status: Some(status), .. }) = call::of(rest) {
            return Ok(Some(Failure::Seamcall(leaf, status)));
        }
        return seamcall(call.trim_start()).map(Some);
    }
    let init =
        ["module ", "TDX-Module ", "TDX module "].iter().find_map(|words| rest.strip_prefix(words)).unwrap_or(rest);
    if let Some(reason) = init.strip_prefix("initialization failed") {
        return initialization(reason).map(Some);
    }
    // What keeps KVM from TDs says nothing on the initialization.
    Ok(Words::of(rest).filter(|words| !words.is_of_kvm()).map(Failure::Words))
}

/// `(0x22) failed: 0xc000050500000000` or `failed: CPU 94: leaf 33, error 0xc000092100000122.`
fn seamcall(text: &str) -> Result<Failure, Rule> {
    if let Some((leaf, status)) = text.strip_prefix('(').and_then(|t| t.split_once(") failed: 0x")) {
        let form = "SEAMCALL (0xLEAF) failed: 0xSTATUS";
        let leaf = hex(leaf).or_else(|| decimal(leaf)).and_then(|n| u16::try_from(n & 0xffff).ok());
        let status = bare_hex(status.trim_end_matches('.'));
        let (leaf, status) = leaf.zip(status).ok_or(Rule::Malformed { form })?;
        return Ok(Failure::Seamcall(Leaf(leaf), Status::new(status)));
    }
    if let Some((_, call)) = text.strip_prefix("failed: CPU ").and_then(|t| t.split_once(": leaf ")) {
        let form = "SEAMCALL failed: CPU N: leaf N, error 0xSTATUS";
        let (leaf, status) = call.trim_end_matches('.').split_once(", error ").ok_or(Rule::Malformed { form })?;
        let (leaf, status) = small(leaf).zip(hex(status)).ok_or(Rule::Malformed { form })?;
        return Ok(Failure::Seamcall(Leaf(leaf), Status::new(status)));
    }
    Ok(Failure::Words(Words::of(text.strip_prefix("failed: ").unwrap_or(text)).unwrap_or(Words::Unknown)))
}

/// ` (-28)` or `: TDMR [0x0, 0x80000000): reserved areas exhausted.`
fn initialization(reason: &str) -> Result<Failure, Rule> {
    if let Some(errno) = reason.strip_prefix(" (") {
        let form = "initialization failed (-ERRNO)";
        let number = errno.trim_end_matches('.').strip_suffix(')').and_then(|t| t.strip_prefix('-')).and_then(decimal);
        let errno = number.and_then(|n| u32::try_from(n).ok()).filter(|&n| n < 4096);
        return errno.map(Failure::Errno).ok_or(Rule::Malformed { form });
    }
    let tdmr = reason.strip_prefix(": TDMR ").and_then(|t| t.split_once(": "));
    match tdmr {
        Some((range, words)) if words.trim_end_matches('.') == "reserved areas exhausted" => {
            let form = "initialization failed: TDMR [0xBASE, 0xEND): reserved areas exhausted";
            half_open(range).ok_or(Rule::Malformed { form })?.map(Failure::ReservedAreasExhausted)
        }
        _ => {
            let words = reason.strip_prefix(": ").and_then(Words::of);
            Ok(Failure::Words(words.unwrap_or(Words::Unknown)))
        }
    }
}

#[cfg(test)]
#[path = "tdx_tests.rs"]
mod tests;
