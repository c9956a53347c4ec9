//! Log reader of `explain`: reads a log of any size and content once, and judges it boot by boot.

use std::io::BufRead;

use super::{
    boot,
    boot_facts::{Boot, text_of},
    machine_check, records,
    values::Prose,
};
use crate::{
    bootlog::{self, Cut, PLAIN_LIMIT, Unfolded},
    host::encoding,
    input::{InputError, Rule},
    report::{ExplainReport, Judgement, LogFinding, LogReport, Subject, Topic},
};

/// Findings that are reported.
const MAX_FINDINGS: usize = 256;

/// Reads a log to its end, in bounded memory; `name` stands for the file in errors.
///
/// # Errors
/// A file that is not text or too large, or one that holds nothing on TDX or machine checks.
pub fn from_reader(name: &str, reader: impl BufRead) -> Result<ExplainReport, InputError> {
    from_reader_of_boot(name, reader, None)
}

/// The same for one boot of the log, by its number from 1.
///
/// # Errors
/// As [`from_reader`], or a log with fewer boots.
pub fn from_reader_of_boot(
    name: &str,
    mut reader: impl BufRead,
    wanted: Option<u64>,
) -> Result<ExplainReport, InputError> {
    let unreadable = |error: std::io::Error| InputError::of_file(name, Rule::Unreadable(error.to_string()));
    let start = reader.fill_buf().map_err(unreadable)?;
    if start.is_empty() {
        return Err(InputError::of_file(name, Rule::Empty));
    }
    if let Some(encoding) = encoding(start) {
        return Err(InputError::of_file(name, Rule::Encoded(encoding)));
    }
    let mut lines = Unfolded::new(reader);
    let mut cut = Cut::default();
    let mut report = LogReport {
        lines: 0,
        boots: 1,
        findings: Vec::new(),
        findings_left_out: 0,
        unknown_lines: 0,
        unknown: Vec::new(),
    };
    let mut boot = Boot::default();
    let mut prose = Prose::default();
    while let Some(line) = lines.next_line().map_err(unreadable)? {
        if line.bytes.contains(&0) {
            return Err(InputError { line: Some(line.number), ..InputError::of_file(name, Rule::Binary) });
        }
        let text = text_of(&line);
        let split = bootlog::split(&text);
        prose.take(line.number, &text);
        if cut.begins(&split) {
            finish(std::mem::take(&mut boot), &mut report);
            report.boots += 1;
        }
        if cut.is_no_log() {
            return Err(InputError::of_file(name, Rule::NoTimeStamps { lines: PLAIN_LIMIT }));
        }
        if wanted.is_none_or(|wanted| wanted == report.boots) {
            boot.line(name, &line, &split, &mut report);
        }
    }
    if let Some(rule) = lines.limit() {
        return Err(InputError::of_file(name, rule));
    }
    report.lines = lines.number();
    finish(boot, &mut report);
    if wanted.is_some_and(|wanted| wanted == 0 || wanted > report.boots) {
        return Err(InputError::of_file(name, Rule::NoSuchBoot { boots: report.boots }));
    }
    if report.findings.is_empty() {
        if let Some(subject) = prose.only() {
            return Ok(ExplainReport::new(name, subject));
        }
        report.findings = prose.findings();
    }
    if report.findings.is_empty() && report.unknown_lines == 0 {
        return Err(InputError::of_file(name, Rule::NothingToExplain));
    }
    Ok(ExplainReport::new(name, Subject::Log(report)))
}

/// Judges the boot.
fn finish(mut boot: Boot, report: &mut LogReport) {
    boot.calls.end_of_warning();
    boot.records.join_equal();
    records::merge(&mut boot);
    let mut findings = boot::judge(&boot);
    let cpu = boot.records.done.iter().find_map(|record| record.cpu);
    let checks = boot.records.done.iter().map(|record| machine_check::judge(record, &boot.log, &boot.calls, cpu));
    let mut checks: Vec<_> = checks.collect();
    checks.sort_by_key(severity);
    findings.extend(checks);
    findings.extend(records::without(&boot.records));
    report.findings_left_out += boot.records.left_out + boot.calls.left_out();
    // Of a long log the gravest findings are shown.
    let over = (report.findings.len() + findings.len()).saturating_sub(MAX_FINDINGS);
    let before = report.findings.len();
    for _ in 0..over.min(findings.iter().filter(|found| severity(found) < MILD).count()) {
        let Some(mild) = report.findings.iter().rposition(|found| severity(found) == MILD) else { break };
        report.findings.remove(mild);
    }
    report.findings_left_out += (before - report.findings.len()) as u64;
    let room = MAX_FINDINGS.saturating_sub(report.findings.len());
    report.findings_left_out += findings.len().saturating_sub(room) as u64;
    let number = report.boots;
    report.findings.extend(findings.into_iter().take(room).map(|found| LogFinding { boot: number, ..found }));
}

/// Rank of a corrected error.
const MILD: u8 = 2;

/// The order of machine checks: poison, what was not corrected, the rest.
fn severity(found: &LogFinding) -> u8 {
    match (found.topic, found.judgement) {
        (Topic::MachineCheck, Judgement::TdxPoison) => 0,
        (Topic::MachineCheck, _) if found.rule == "corrected" => MILD,
        _ => 1,
    }
}
