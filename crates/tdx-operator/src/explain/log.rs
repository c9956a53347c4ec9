//! Log reader of `explain`: reads a log of any size and content once, and judges it boot by boot.

use std::io::BufRead;

use super::{
    boot,
    boot_facts::{Boot, text_of},
    machine_check,
};
use crate::{
    bootlog::{self, FILE_LIMIT, Lines},
    host::encoding,
    input::{InputError, Rule},
    report::{Basis, ExplainReport, Judgement, LogFinding, LogReport, Subject, Topic},
};

/// Findings that are reported.
const MAX_FINDINGS: usize = 256;

/// Reads a log to its end, in bounded memory; `name` stands for the file in errors.
///
/// # Errors
/// A file that is not text or too large, or one that holds nothing on TDX or machine checks.
pub fn from_reader(name: &str, mut reader: impl BufRead) -> Result<ExplainReport, InputError> {
    let unreadable = |error: std::io::Error| InputError::of_file(name, Rule::Unreadable(error.to_string()));
    if let Some(encoding) = encoding(reader.fill_buf().map_err(unreadable)?) {
        return Err(InputError::of_file(name, Rule::Encoded(encoding)));
    }
    let mut lines = Lines::new(reader);
    let mut report =
        LogReport { lines: 0, findings: Vec::new(), findings_left_out: 0, unknown_lines: 0, unknown: Vec::new() };
    let mut boot = Boot::default();
    while let Some(line) = lines.next_line().map_err(unreadable)? {
        if line.bytes.contains(&0) {
            return Err(InputError { line: Some(line.number), ..InputError::of_file(name, Rule::Binary) });
        }
        report.lines = line.number;
        let text = text_of(&line);
        let message = bootlog::message(&text);
        if message.starts_with("Linux version ") && boot.log.kernel.is_some() {
            finish(std::mem::take(&mut boot), &mut report);
        }
        boot.line(name, &line, message, &mut report);
    }
    if lines.hit_limit() {
        return Err(InputError::of_file(name, Rule::TooLarge { limit: FILE_LIMIT }));
    }
    finish(boot, &mut report);
    if report.findings.is_empty() && report.unknown_lines == 0 {
        return Err(InputError::of_file(name, Rule::NothingToExplain));
    }
    Ok(ExplainReport::new(name, Subject::Log(report)))
}

/// Judges the boot.
fn finish(boot: Boot, report: &mut LogReport) {
    let mut findings = boot::judge(&boot);
    findings.extend(boot.records.done.iter().map(|record| machine_check::judge(record, &boot.log)));
    if let (true, Some(line)) = (boot.records.done.is_empty(), boot.records.logged) {
        findings.push(LogFinding {
            topic: Topic::MachineCheck,
            judgement: Judgement::Undecidable,
            rule: "record-not-in-log",
            basis: Basis::Sourced,
            evidence: vec![line],
            cause: "a machine check was logged, and its record is not in this log".to_owned(),
            remedy: "give the record: `ras-mc-ctl --errors`, `journalctl -u mcelog`, or the firmware's event log"
                .to_owned(),
        });
    }
    report.findings_left_out += boot.records.left_out;
    let room = MAX_FINDINGS.saturating_sub(report.findings.len());
    report.findings_left_out += findings.len().saturating_sub(room) as u64;
    report.findings.extend(findings.into_iter().take(room));
}
