//! Facts of one boot that the rules look at, gathered line by line. Lines about TDX or machine
//! checks in an unknown form are kept, and reported as unknown.

use super::record::Records;
use crate::{
    bootlog::{self, BootLog, Line, Words},
    input::{InputError, excerpt},
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
    /// Lines of the TDX host code, but for CMRs.
    pub(super) tdx: Vec<LogLine>,
    /// Lines of KVM about TDX.
    pub(super) kvm: Vec<LogLine>,
    /// Lines of the memory-encryption code.
    pub(super) encryption: Vec<LogLine>,
    /// The kernel's command line turned TDX on in KVM.
    pub(super) asked: Option<bool>,
    /// An option that looks like `kvm_intel.tdx` and is not.
    pub(super) misspelt: Option<LogLine>,
    /// Why KVM does not take TDX, and its line.
    pub(super) refused_by_kvm: Option<(Words, LogLine)>,
    /// The first line on TDX in a form that is not known.
    pub(super) unknown: Option<LogLine>,
    /// Machine checks.
    pub(super) records: Records,
}

impl Boot {
    /// Takes a line of the log.
    pub(super) fn line(&mut self, name: &str, line: &Line<'_>, message: &str, report: &mut LogReport) {
        if message.starts_with('#') {
            return;
        }
        if let Err(error) = self.log.line(name, line) {
            self.broken.get_or_insert(error);
        }
        let keep = |lines: &mut Vec<LogLine>| {
            if lines.len() < MAX_LINES {
                lines.push(LogLine { line: line.number, text: excerpt(message) });
            }
        };
        let known = if let Some(rest) = message.strip_prefix("virt/tdx:").or_else(|| message.strip_prefix("tdx:")) {
            let rest = rest.trim();
            if !rest.starts_with("CMR:") {
                keep(&mut self.tdx);
            }
            bootlog::is_known_tdx(rest) || of_no_account(rest)
        } else if message.starts_with("x86/tme:") || message.starts_with("x86/mktme:") {
            keep(&mut self.encryption);
            true
        } else if message.starts_with("kvm_intel: Failed to initialize TDX module") {
            keep(&mut self.kvm);
            true
        } else if let Some(words) = message.strip_prefix("kvm_intel: ").and_then(of_kvm) {
            let line = LogLine { line: line.number, text: excerpt(message) };
            self.refused_by_kvm.get_or_insert((words, line));
            true
        } else if let Some(options) = command_line(message) {
            self.options(line.number, options);
            true
        } else {
            self.records.take(line.number, message) || bootlog::is_fact(&text_of(line)) || !concerns(message)
        };
        if !known {
            if about_tdx(message) {
                let line = LogLine { line: line.number, text: excerpt(message) };
                self.unknown.get_or_insert(line);
            }
            report.unknown_lines += 1;
            if report.unknown.len() < MAX_UNKNOWN {
                report.unknown.push(LogLine { line: line.number, text: excerpt(message) });
            }
        }
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

/// Lines of the TDX host code that say nothing on whether TDX comes up, or repeat the line before.
fn of_no_account(rest: &str) -> bool {
    let registers = ["RCX ", "RDX ", "R8", "R9", "R08 ", "R09 ", "R10 ", "R11 ", "additional output:"];
    rest.starts_with("Disable ACPI S3")
        || rest.starts_with("Disable Kexec")
        || registers.iter().any(|r| rest.starts_with(r))
}

/// What KVM says about TDX: `kvm_intel: tdx: MOVDIR64B is required for TDX`.
fn of_kvm(message: &str) -> Option<Words> {
    Words::of(message.strip_prefix("tdx: ").unwrap_or(message))
}

fn about_tdx(message: &str) -> bool {
    message.contains("TDX") || message.contains("/tdx") || message.contains(" tdx") || message.starts_with("tdx:")
}

fn command_line(message: &str) -> Option<&str> {
    message.strip_prefix("Command line: ").or_else(|| message.strip_prefix("Kernel command line: "))
}

/// True for a line that is about TDX or a machine check, in whatever form.
fn concerns(message: &str) -> bool {
    let words =
        ["[Hardware Error]", "mce: ", "Machine Check", "Machine check", "machine check", "Memory failure", "SEAMCALL"];
    let driver = message.starts_with("EDAC ");
    driver && message.contains("MCE") || about_tdx(message) || words.iter().any(|word| message.contains(word))
}
