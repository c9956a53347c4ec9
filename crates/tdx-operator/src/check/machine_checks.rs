//! Machine checks since boot: which of their lines are kept, and what they say on private memory.
//! Errors that were corrected are left out: they say nothing on TDX, and come by the thousand.

use crate::{
    explain,
    report::{Judgement, LogFinding, Subject, Topic},
};

/// Lines that are kept.
const MAX_LINES: usize = 256;
/// Bit 61 of a bank's status: the error was not corrected.
const UNCORRECTED: u64 = 1 << 61;

/// What becomes of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept<'a> {
    /// It is of another kind.
    Other,
    /// It is left out.
    Nothing,
    /// This part of it.
    Part(&'a str),
}

impl<'a> From<Option<&'a str>> for Kept<'a> {
    fn from(part: Option<&'a str>) -> Self {
        part.map_or(Self::Nothing, Self::Part)
    }
}

/// Chooses the lines.
#[derive(Debug, Default)]
pub(super) struct CheckLines {
    /// The record of the kernel that is read is of an error that was corrected.
    corrected: bool,
    /// The same of the firmware's.
    corrected_firmware: bool,
    count: usize,
}

impl CheckLines {
    /// What of a message is kept.
    pub(super) fn kept<'a>(&mut self, message: &'a str) -> Kept<'a> {
        let kept = self.part(message);
        self.count += usize::from(matches!(kept, Kept::Part(_)));
        if self.count > MAX_LINES && kept != Kept::Other { Kept::Nothing } else { kept }
    }

    fn part<'a>(&mut self, message: &'a str) -> Kept<'a> {
        if let Some(rest) = message.strip_prefix("mce: [Hardware Error]: ") {
            return self.kernel(message, rest).into();
        }
        if message.starts_with("Memory failure: ") {
            // Other lines name the program that is killed.
            return Some(message).filter(|text| text.contains(": recovery action for ")).into();
        }
        // Without a number (BERT, ERST) it is of the boot before.
        if message.starts_with("[Hardware Error]:") {
            return Kept::Nothing;
        }
        let numbered = || {
            let (group, rest) = message.strip_prefix('{')?.split_once("}[Hardware Error]:")?;
            group.bytes().all(|b| b.is_ascii_digit()).then_some(rest)
        };
        let Some(firmware) = numbered() else { return Kept::Other };
        let rest = firmware.trim();
        if let Some(severity) = rest.strip_prefix("event severity:") {
            self.corrected_firmware = matches!(severity.trim(), "corrected" | "info");
        }
        let words = [
            "event severity:",
            "Error ",
            "section_type:",
            "section type:",
            "physical_address:",
            "error_type:",
            "version_info:",
        ];
        let is_kept = !self.corrected_firmware && words.iter().any(|word| rest.starts_with(word));
        Some(message).filter(|_| is_kept).into()
    }

    /// What of a line of the kernel's record is kept: no number of the CPU (PPIN), no name of a
    /// function or a program.
    fn kernel<'a>(&mut self, message: &'a str, rest: &str) -> Option<&'a str> {
        if rest.starts_with("CPU ") && rest.contains(": Machine Check") && rest.contains(" Bank ") {
            let status = rest.rsplit(": ").next().and_then(|status| u64::from_str_radix(status.trim(), 16).ok());
            self.corrected = status.is_some_and(|status| status & UNCORRECTED == 0);
            return Some(message).filter(|_| !self.corrected);
        }
        let said = ["Machine check: ", "Machine Check: ", "Uncorrected hardware memory error in user-access at "];
        if said.iter().any(|word| rest.starts_with(word)) {
            return Some(message);
        }
        if self.corrected {
            return None;
        }
        let words = if rest.starts_with("PROCESSOR ") {
            2
        } else if rest.starts_with("TSC ") && rest.contains(" ADDR ") {
            4
        } else {
            return None;
        };
        let head = message.len() - rest.len();
        let end = rest.match_indices(' ').nth(words - 1).map_or(rest.len(), |(at, _)| at);
        message.get(..head + end)
    }
}

/// What the machine checks since boot say on private memory.
#[derive(Debug, Default)]
pub(super) struct MachineChecks {
    /// Those in private memory of TDX.
    pub(super) private: Vec<LogFinding>,
    /// Those that may be.
    pub(super) perhaps: Vec<LogFinding>,
}

impl MachineChecks {
    /// Of a kernel log.
    pub(super) fn of(log: &str) -> Self {
        let mut out = Self::default();
        if !log.contains("[Hardware Error]") && !log.contains("Memory failure: ") {
            return out;
        }
        let Ok(report) = explain::from_reader("boot.log", log.as_bytes()) else { return out };
        let Subject::Log(log) = report.subject else { return out };
        let last = log.boots;
        for found in log.findings.into_iter().filter(|found| found.topic == Topic::MachineCheck && found.boot == last) {
            match (found.judgement, found.rule) {
                (Judgement::TdxPoison, _) | (_, "private-key-id") => out.private.push(found),
                (Judgement::Undecidable, "in-a-guest" | "record-not-in-log" | "status-not-valid") => {}
                (Judgement::Undecidable, _) => out.perhaps.push(found),
                _ => {}
            }
        }
        out
    }
}
