//! Facts of one boot that the rules look at, gathered line by line. Lines about TDX or machine
//! checks in an unknown form are kept, and reported as unknown.

use super::{calls::Calls, kexec::Refusals, record::Records, registers::Report, update::Updates, vmm::Errors};
use crate::{
    bootlog::{self, BootLog, Failure, Line, Source, Split, Words, call},
    input::{At, InputError, Rule, excerpt},
    report::{LogLine, LogReport},
};

/// Lines of one kind that are kept for each boot.
const MAX_LINES: usize = 24;
/// Further calls of an initialization that are kept.
const MAX_MORE: usize = 8;
/// Unknown lines that are named.
const MAX_UNKNOWN: usize = 16;

/// What one boot says.
#[derive(Debug, Default)]
pub(super) struct Boot {
    /// The facts.
    pub(super) log: BootLog,
    /// The first known line that does not hold; the facts after it were still taken.
    pub(super) broken: Option<InputError>,
    /// A failed initialization before the one that succeeded.
    pub(super) earlier: Option<At<(Failure, String)>>,
    /// The errno of an initialization that failed for a reason in unknown words.
    pub(super) errno: Option<u32>,
    /// Calls of the initialization that failed with another status than the first.
    pub(super) more: Vec<At<(Failure, String)>>,
    /// The first failure after the module came up.
    pub(super) after: Option<At<(Failure, String)>>,
    /// Lines of the TDX host code, but for CMRs.
    pub(super) tdx: Vec<LogLine>,
    /// The last CMR.
    pub(super) cmr: Option<LogLine>,
    /// Lines of KVM about TDX.
    pub(super) kvm: Vec<LogLine>,
    /// Lines of the memory-encryption code.
    pub(super) encryption: Vec<LogLine>,
    /// The kernel's command line turned TDX on in KVM.
    pub(super) asked: Option<bool>,
    /// An option that looks like `kvm_intel.tdx` and is not.
    pub(super) misspelt: Option<LogLine>,
    /// Why KVM does not use TDX, and its line.
    pub(super) refused_by_kvm: Option<(Words, LogLine)>,
    /// The first line on TDX in a form that is not known.
    pub(super) unknown: Option<LogLine>,
    /// The line of the kernel's version, or the first row of the memory map.
    pub(super) first: Vec<LogLine>,
    /// The line of the CPU model.
    pub(super) cpu: Option<LogLine>,
    /// The first line with letters in a number, as a photo of a screen is read.
    pub(super) letters: Option<LogLine>,
    /// The first line that was put together, as it was read.
    pub(super) folded: Option<String>,
    /// Machine checks.
    pub(super) records: Records,
    /// SEAMCALLs that failed.
    pub(super) calls: Calls,
    /// Images for kexec that were refused.
    pub(super) kexec: Refusals,
    /// Updates of the module that failed.
    pub(super) updates: Updates,
    /// Errors of QEMU and libvirt.
    pub(super) vmm: Errors,
    /// Registers of `system-report.sh`.
    pub(super) report: Option<Report>,
}

impl Boot {
    /// Takes a line of the log.
    pub(super) fn line(&mut self, name: &str, line: &Line<'_>, split: &Split<'_>, report: &mut LogReport) {
        let message = split.text;
        if message.starts_with('#') && !message.starts_with("###") {
            return;
        }
        let text = text_of(line);
        self.facts(name, line, message);
        let here = || LogLine { line: line.number, text: excerpt(message) };
        if self.folded.is_none() && self.log.fold.is_some() {
            self.folded = Some(excerpt(message));
        }
        if self.letters.is_none() && concerns(message) && has_letters_for_digits(message) {
            self.letters = Some(here());
        }
        if self.first.is_empty() && (message.starts_with("Linux version ") || message.starts_with("BIOS-e820:")) {
            self.first.push(here());
        }
        if self.cpu.is_none() && message.starts_with("smpboot: CPU0: ") {
            self.cpu = Some(here());
        }
        let known = match split.source {
            Source::Program(ident) => self.program(line.number, ident, split) || !concerns_of(ident, message),
            Source::Kernel => {
                let fact = !is_tdx(message) && bootlog::is_fact(&text);
                let told = split.stamped || is_tagged(message);
                self.kernel(line.number, split) || fact || !(told && concerns(message))
            }
        };
        if !known {
            if about_tdx(message) {
                self.unknown.get_or_insert_with(here);
            }
            report.unknown_lines += 1;
            if report.unknown.len() < MAX_UNKNOWN {
                report.unknown.push(here());
            }
        }
    }

    /// The facts of the line, and the first line that does not hold.
    fn facts(&mut self, name: &str, line: &Line<'_>, message: &str) {
        let failed = self.log.failure.is_some();
        let was_up = self.log.initialized;
        if let Err(error) = self.log.line(name, line) {
            // A TD guest is no fault of the log: it is told apart from a host by `speaker`.
            if error.rule != Rule::Guest {
                self.broken.get_or_insert(error);
            }
        }
        if self.errno.is_none()
            && self.log.failure.as_ref().is_some_and(|at| at.value.0 == Failure::Words(Words::Unknown))
        {
            self.errno = bootlog::errno_of(message);
        }
        // A failure of a module that is up is none of the initialization.
        if was_up.is_some() && !failed && self.log.failure.is_some() {
            let later = self.log.failure.take();
            self.after = self.after.take().or(later);
        }
        // What failed before the module came up was an attempt, or a field that it can do without.
        if failed && was_up.is_none() && self.log.initialized.is_some() {
            self.earlier = self.log.failure.take();
        }
        if let Some(call) = call::of(message)
            && let (Some(leaf), Some(status)) = (call.leaf, call.status)
            && bootlog::is_bring_up(leaf)
            && self.log.initialized.is_none()
        {
            let (failure, text) = (Failure::Seamcall(leaf, status), excerpt(message));
            let first =
                self.log.failure.get_or_insert_with(|| At { line: line.number, value: (failure, text.clone()) });
            let known = first.value.0 == failure || self.more.iter().any(|other| other.value.0 == failure);
            if !known && self.more.len() < MAX_MORE {
                self.more.push(At { line: line.number, value: (failure, text) });
            }
        }
    }

    /// A line of the kernel, or one without an identifier; false if it is of no known form.
    fn kernel(&mut self, line: u64, split: &Split<'_>) -> bool {
        let message = split.text;
        let keep = |lines: &mut Vec<LogLine>| {
            if lines.len() < MAX_LINES {
                lines.push(LogLine { line, text: excerpt(message) });
            }
        };
        if self.calls.warning(line, message) || self.call(line, message) {
            return true;
        }
        if let Some(words) = of_kvm(message) {
            // A reason says more than that it failed.
            if self.refused_by_kvm.as_ref().is_none_or(|(known, _)| *known == Words::NotSaid) {
                self.refused_by_kvm = Some((words, LogLine { line, text: excerpt(message) }));
            }
            keep(&mut self.kvm);
            return true;
        }
        if let Some(rest) = bootlog::tdx_line(message) {
            let rest = rest.trim();
            if self.log.speaker.as_ref().is_some_and(|at| at.line == line) || of_a_guest(rest) {
                return true;
            }
            if self.updates.take(line, message) {
                return true;
            }
            if rest.starts_with("CMR:") {
                self.cmr = Some(LogLine { line, text: excerpt(message) });
            } else {
                keep(&mut self.tdx);
            }
            return bootlog::is_known_tdx(rest) || is_irrelevant(rest);
        }
        if message.starts_with("x86/tme:") || message.starts_with("x86/mktme:") {
            keep(&mut self.encryption);
            return true;
        }
        if let Some(options) = command_line(message) {
            self.options(line, options);
            return true;
        }
        self.log.speaker.as_ref().is_some_and(|at| at.line == line)
            || of_a_guest(message)
            || is_irrelevant(message.strip_prefix("kvm_intel: ").unwrap_or(message))
            || self.records.take(line, split)
            || self.kexec.take(line, None, message)
            || self.updates.take(line, message)
            || self.vmm.take(line, message)
            || Report::take(&mut self.report, line, message)
    }

    /// A line of a program; false if it is of no known form.
    fn program(&mut self, line: u64, ident: &str, split: &Split<'_>) -> bool {
        self.records.take(line, split)
            || self.kexec.take(line, Some(ident), split.text)
            || self.vmm.take(line, split.text)
            || ident.starts_with("qemu") && self.call(line, split.text)
            // `cpu17:2101544)WARNING: TDX: 1044: ..` of ESXi.
            || ident.starts_with("vmk")
                && split.text.split_once(')').is_some_and(|(_, text)| self.call(line, text.trim_start_matches("WARNING: ")))
    }

    /// A call that failed, unless it belongs to the initialization.
    fn call(&mut self, line: u64, message: &str) -> bool {
        let Some(call) = call::of(message) else { return false };
        if call.leaf == Some(bootlog::DEBUG_CONFIG) {
            return true;
        }
        let handover = call.leaf == Some(tdx_abi::Leaf::SYS_DISABLE) && self.log.not_disabled.is_some();
        let of_bring_up = call.leaf.is_some_and(bootlog::is_bring_up);
        if handover || of_bring_up && self.log.initialized.is_none() {
            if self.tdx.len() < MAX_LINES {
                self.tdx.push(LogLine { line, text: excerpt(message) });
            }
            return true;
        }
        if call.leaf.is_none() && call.status.is_none() && call.leaked.is_none() && call.loader.is_none() {
            return false;
        }
        self.calls.take(line, message, call);
        true
    }

    fn options(&mut self, line: u64, options: &str) {
        for option in options.split_whitespace() {
            let Some((name, value)) = option.split_once('=') else { continue };
            if name == "kvm_intel.tdx" || name == "kvm-intel.tdx" {
                self.asked = Some(["1", "y", "Y", "on"].contains(&value));
            } else if name.rsplit_once('.').is_some_and(|(_, option)| option == "tdx") {
                // Only this option: the rest of the command line may be private.
                self.misspelt = Some(LogLine { line, text: excerpt(option) });
            }
        }
    }
}

/// The line as text.
pub(super) fn text_of<'a>(line: &'a Line<'_>) -> std::borrow::Cow<'a, str> {
    String::from_utf8_lossy(line.bytes)
}

/// Steps that backports to 5.10 to 6.4 print, and their tries of a debug build.
const OF_OLD_KERNELS: [&str; 14] = [
    "SEAMRR enabled",
    "TDX enabled by BIOS",
    "TDX module detected",
    "Loading TDX ",
    "Loaded TDX module via P-SEAMLDR",
    "Successfully loaded TDX P-SEAMLDR",
    "Initializing TDX module",
    "Launch NP-SEAMLDR returned",
    "P-SEAMLDR was already loaded",
    "P-SEAMLDR: version",
    "TDX P-SEAMLDR: version",
    "BIOS-CMR :",
    "TDDEBUGCONFIG is",
    "SEAMCALL additional output:",
];

/// Lines of the TDX host code that do not tell whether TDX comes up, or continue the line before.
fn is_irrelevant(rest: &str) -> bool {
    let registers = ["RCX ", "RDX ", "R8", "R9", "R08 ", "R09 ", "R10 ", "R11 ", "additional output:"];
    rest.starts_with("Disable ACPI S3")
        || rest.starts_with("Disable Kexec")
        || rest.starts_with("kvm: TDX is supported")
        || OF_OLD_KERNELS.iter().any(|words| rest.starts_with(words))
        || registers.iter().any(|r| rest.starts_with(r))
        || rest.starts_with("---[ end Kernel panic - not syncing: ")
        || of_a_selftest(rest)
}

/// Lines of a failed KVM selftest that only name places of its source: `lib/x86/tdx/tdx_util.c:212:
/// !ret`, `1 0x0000000000404b12: main at tdx_vm_test.c:90`, and a test that was skipped.
fn of_a_selftest(rest: &str) -> bool {
    let place = |word: &str| {
        word.split_once(".c:").is_some_and(|(_, line)| !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit()))
    };
    let asserted = rest.split_once(": ").is_some_and(|(at, _)| place(at) && !at.contains(' '));
    let frame = rest.rsplit_once(" at ").is_some_and(|(before, at)| place(at) && before.contains("0x"));
    asserted || frame
}

/// True if a number has letters that look like digits: `bd8OOOOOOO1OO134`.
pub(super) fn has_letters_for_digits(message: &str) -> bool {
    let words = message.split(|c: char| !c.is_ascii_alphanumeric());
    words.filter(|word| word.len() >= 8).any(|word| {
        let digits = word.strip_prefix("0x").or_else(|| word.strip_prefix("Ox")).unwrap_or(word);
        let alike = |b: u8| b"OolI".contains(&b);
        let all = digits.bytes().all(|b| b.is_ascii_hexdigit() || alike(b));
        all && digits.bytes().any(alike) && digits.bytes().filter(u8::is_ascii_digit).count() > 2
    })
}

/// Lines of a TD guest.
fn of_a_guest(message: &str) -> bool {
    let words = [
        "Guest detected",
        "Attributes:",
        "TD_CTLS:",
        "TD misconfiguration",
        "using TDX aware idle routine",
        "process: using TDX aware idle routine",
        "Memory Encryption Features active:",
        "smpboot: CPU0: Intel TDX",
    ];
    words.iter().any(|words| message.starts_with(words))
}

/// What KVM says about TDX: `kvm_intel: tdx: MOVDIR64B is required for TDX`, in older versions
/// without a prefix.
fn of_kvm(message: &str) -> Option<Words> {
    let tagged = message.strip_prefix("kvm_intel: ");
    let rest = tagged.or_else(|| message.strip_prefix("virt/tdx: ")).unwrap_or(message);
    let words = Words::of(rest.strip_prefix("tdx: ").filter(|_| tagged.is_some()).unwrap_or(rest))?;
    (tagged.is_some() || words.is_of_kvm()).then_some(words)
}

/// A line of the TDX host code.
fn is_tdx(message: &str) -> bool {
    bootlog::tdx_line(message).is_some()
}

fn about_tdx(message: &str) -> bool {
    message.contains("TDX") || message.contains("/tdx") || message.contains(" tdx") || is_tdx(message)
}

fn command_line(message: &str) -> Option<&str> {
    message.strip_prefix("Command line: ").or_else(|| message.strip_prefix("Kernel command line: "))
}

/// True for a line that has no timestamp and still looks like one of the kernel: it begins with a
/// tag (`kvm_intel:`), or has words that no prose has. `TDX: does not work` of a mail is none.
fn is_tagged(message: &str) -> bool {
    let tag = message.split(' ').next().and_then(|word| word.strip_suffix(':')).unwrap_or_default();
    let small = tag.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-/[].".contains(&b));
    let drivers = ["EDAC ", "Memory failure: ", "Kernel panic - "];
    let words = ["[Hardware Error]", "Machine Check", "SEAMCALL"];
    !tag.is_empty() && small
        || drivers.iter().any(|driver| message.starts_with(driver))
        || words.iter().any(|word| message.contains(word))
}

/// True for a line that mentions TDX or a machine check in any form.
fn concerns(message: &str) -> bool {
    let words =
        ["[Hardware Error]", "mce: ", "Machine Check", "Machine check", "machine check", "Memory failure", "SEAMCALL"];
    let driver = message.starts_with("EDAC ");
    driver && message.contains("MCE") || about_tdx(message) || words.iter().any(|word| message.contains(word))
}

/// The same for a line of a program: that of one that starts TDs.
fn concerns_of(ident: &str, message: &str) -> bool {
    let vmm = ["qemu", "libvirt", "virtqemud"].iter().any(|name| ident.starts_with(name));
    vmm && about_tdx(message) && (message.contains("fail") || message.contains("error"))
}
