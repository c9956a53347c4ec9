//! Facts of one boot that the rules look at, gathered line by line. Lines about TDX or machine
//! checks in an unknown form are kept, and reported as unknown.

use super::{calls::Calls, kexec::Refusals, record::Records, registers::Report, vmm::Errors};
use crate::{
    bootlog::{self, BootLog, Failure, Line, Source, Split, Words, call},
    input::{At, InputError, Rule, excerpt},
    report::{LogLine, LogReport},
};

/// Lines of one kind that are kept for each boot.
const MAX_LINES: usize = 24;
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
    /// The first line that was put together, as it was read.
    pub(super) folded: Option<String>,
    /// Machine checks.
    pub(super) records: Records,
    /// SEAMCALLs that failed.
    pub(super) calls: Calls,
    /// Images for kexec that were refused.
    pub(super) kexec: Refusals,
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
                self.kernel(line.number, split) || fact || !concerns(message)
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
            let value = (Failure::Seamcall(leaf, status), excerpt(message));
            self.log.failure.get_or_insert(At { line: line.number, value });
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
            self.refused_by_kvm.get_or_insert_with(|| (words, LogLine { line, text: excerpt(message) }));
            keep(&mut self.kvm);
            return true;
        }
        if let Some(rest) = message.strip_prefix("virt/tdx:").or_else(|| message.strip_prefix("tdx:")) {
            let rest = rest.trim();
            if self.log.speaker.as_ref().is_some_and(|at| at.line == line) || of_a_guest(rest) {
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
        if message.starts_with("kvm_intel: Failed to initialize TDX module") {
            keep(&mut self.kvm);
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
            || self.vmm.take(line, message)
            || Report::take(&mut self.report, line, message)
    }

    /// A line of a program; false if it is of no known form.
    fn program(&mut self, line: u64, ident: &str, split: &Split<'_>) -> bool {
        self.records.take(line, split)
            || self.kexec.take(line, Some(ident), split.text)
            || self.vmm.take(line, split.text)
            || ident.starts_with("qemu") && self.call(line, split.text)
    }

    /// A call that failed, unless it belongs to the initialization.
    fn call(&mut self, line: u64, message: &str) -> bool {
        let Some(call) = call::of(message) else { return false };
        let handover = call.leaf == Some(tdx_abi::Leaf::SYS_DISABLE) && self.log.not_disabled.is_some();
        let of_bring_up = call.leaf.is_some_and(bootlog::is_bring_up);
        if handover || of_bring_up && self.log.initialized.is_none() {
            if self.tdx.len() < MAX_LINES {
                self.tdx.push(LogLine { line, text: excerpt(message) });
            }
            return true;
        }
        if call.leaf.is_none() && call.status.is_none() && call.leaked.is_none() {
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

/// Lines of the TDX host code that do not tell whether TDX comes up, or continue the line before.
fn is_irrelevant(rest: &str) -> bool {
    let registers = ["RCX ", "RDX ", "R8", "R9", "R08 ", "R09 ", "R10 ", "R11 ", "additional output:"];
    rest.starts_with("Disable ACPI S3")
        || rest.starts_with("Disable Kexec")
        || rest.starts_with("kvm: TDX is supported")
        || registers.iter().any(|r| rest.starts_with(r))
}

/// Lines of a TD guest.
fn of_a_guest(message: &str) -> bool {
    let words = [
        "Guest detected",
        "Attributes:",
        "TD_CTLS:",
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
    message.starts_with("virt/tdx:") || message.starts_with("tdx:")
}

fn about_tdx(message: &str) -> bool {
    message.contains("TDX") || message.contains("/tdx") || message.contains(" tdx") || message.starts_with("tdx:")
}

fn command_line(message: &str) -> Option<&str> {
    message.strip_prefix("Command line: ").or_else(|| message.strip_prefix("Kernel command line: "))
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
