//! Values where no line of a log is: several in one text, and those in prose, a mail or a file. A
//! finding for each, in their order.

use super::{odd, value as usual};
use crate::{
    input::excerpt,
    report::{Basis, ExplainReport, Judgement, LogFinding, LogLine, LogReport, Subject, Topic},
};

/// Values of a text that are kept.
const MOST: usize = 16;
/// Lines of a text that are looked at, and the longest of them.
const LINES: u64 = 256;
const LINE: usize = 4096;
/// The rule of a value in prose.
const IN_TEXT: &str = "value-in-text";

/// A report on the values; `None` if there are none.
pub(super) fn explain(text: &str, values: &[Subject]) -> Option<ExplainReport> {
    let found = values.iter().filter_map(|value| finding(1, text, value, "one-of-several-values"));
    let findings: Vec<_> = found.collect();
    if findings.is_empty() {
        return None;
    }
    let log = LogReport { lines: 1, boots: 1, findings, findings_left_out: 0, unknown_lines: 0, unknown: Vec::new() };
    Some(ExplainReport::new(text, Subject::Log(log)))
}

/// True if a report has found nothing but values in prose.
pub(super) fn are_all(report: &ExplainReport) -> bool {
    match &report.subject {
        Subject::Log(log) => !log.findings.is_empty() && log.findings.iter().all(|found| found.rule == IN_TEXT),
        _ => true,
    }
}

/// Values on the lines of a text that may turn out to be no log.
#[derive(Debug, Default)]
pub(super) struct Prose {
    /// The text, as long as it has one line.
    only: Option<String>,
    lines: u64,
    /// A warning or an oops: its registers are those of other code, or those of a warning in TDX
    /// code, which is judged elsewhere.
    of_code: bool,
    values: Vec<(u64, String, Subject)>,
}

impl Prose {
    /// Takes a line.
    pub(super) fn take(&mut self, number: u64, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        self.lines += 1;
        if number > LINES || text.len() > LINE {
            self.only = None;
            return;
        }
        self.only = (self.lines == 1).then(|| text.to_owned());
        self.of_code |= ["WARNING: ", "BUG: ", "Oops: ", "RIP: "].iter().any(|words| text.contains(words));
        if self.of_code || self.values.len() >= MOST || !may_hold(text) {
            return;
        }
        for value in odd::statuses(text) {
            if !self.values.iter().any(|(_, _, known)| odd::same(known, &value)) && self.values.len() < MOST {
                self.values.push((number, excerpt(text), value));
            }
        }
    }

    /// The value that the whole text is.
    pub(super) fn only(&self) -> Option<Subject> {
        let text = self.only.as_deref().map(str::trim).filter(|text| !odd::is_plain(text))?;
        usual(text).or_else(|| odd::value(text)).filter(odd::known)
    }

    /// A finding for each value.
    pub(super) fn findings(&self) -> Vec<LogFinding> {
        self.values.iter().filter_map(|(line, text, value)| finding(*line, text, value, IN_TEXT)).collect()
    }
}

/// True if the line has what a status is written with.
fn may_hold(text: &str) -> bool {
    let hex = |word: &str| word.len() == 16 && word.bytes().all(|b| b.is_ascii_hexdigit());
    text.contains("0x") || text.contains("TDX_") || text.split(|c: char| !c.is_ascii_alphanumeric()).any(hex)
}

fn finding(line: u64, text: &str, value: &Subject, rule: &'static str) -> Option<LogFinding> {
    let (topic, failed, cause, remedy) = match value {
        Subject::Status(status) => {
            let name = status.name.clone().unwrap_or_else(|| status.raw.clone());
            (Topic::Seamcall, status.error, format!("{name}: {}", status.meaning), status.todo.clone())
        }
        Subject::Errno(errno) => {
            let name = errno.name.map_or_else(String::new, |name| format!(" ({name})"));
            (Topic::BringUp, true, format!("{}{name}: {}", errno.number, errno.meaning), errno.todo.clone())
        }
        Subject::Msr(msr) => {
            let todo = msr.todo.clone().unwrap_or_else(|| "nothing".to_owned());
            (Topic::MachineCheck, true, msr.meaning.clone(), todo)
        }
        Subject::Log(_) => return None,
    };
    Some(LogFinding {
        topic,
        judgement: if failed { Judgement::Failed } else { Judgement::Info },
        rule,
        basis: Basis::Sourced,
        evidence: vec![LogLine { line, text: excerpt(text) }],
        cause,
        remedy,
        boot: 1,
    })
}
