//! What went wrong after the bring-up: a call for a TD, and the handover to the next kernel. A
//! kernel since 7.2 asks the module by TDH.SYS.DISABLE to give all memory back and goes on whatever
//! it answers, so that a refusal is one line and nothing else.
//!
//! Sources: `linux.md` sections 0, 2.7 and 2.8, `tdx_abi.md` section 4.

use tdx_abi::{Status, StatusCode};

use super::{causes::Cause, status};
use crate::{
    bootlog::{self, BootLog},
    report::{Basis, Given, Judgement, LogLine, Topic},
};

/// The causes with the lines that they come from.
pub(super) fn after(log: &BootLog) -> Vec<(Topic, Cause, LogLine)> {
    let mut causes = Vec::new();
    if let Some(later) = &log.later {
        let (leaf, found, text) = &later.value;
        let report = status::explain(*found, Given::Whole);
        let judgement = if report.known { Judgement::Failed } else { Judgement::Undecidable };
        let cause =
            format!("line {}: {leaf} says {found}: {}. That is no call of the bring-up", later.line, report.meaning);
        let cause =
            Cause { judgement, rule: "seamcall-later", basis: Basis::Sourced, text: cause, remedy: report.todo };
        causes.push((Topic::Seamcall, cause, LogLine { line: later.line, text: message(text) }));
    }
    if let Some(refused) = &log.not_disabled {
        let (found, text) = &refused.value;
        let line = LogLine { line: refused.line, text: message(text) };
        causes.push((Topic::Handover, not_disabled(log, *found), line));
    }
    causes
}

fn message(text: &str) -> String {
    bootlog::message(text).to_owned()
}

fn not_disabled(log: &BootLog, found: Status) -> Cause {
    let (rule, why) = if found.code() == StatusCode::OPERAND_INVALID {
        ("module-without-disable", "the module does not know TDH.SYS.DISABLE (leaf 69)".to_owned())
    } else {
        let report = status::explain(found, Given::Whole);
        ("disable-failed", format!("the module answers {found} to TDH.SYS.DISABLE: {}", report.meaning))
    };
    let pamt = log.pamt_kb.map_or_else(|| "its PAMTs".to_owned(), |kb| format!("{} KB of PAMT", kb.value));
    let next = match log.cpu.map(|cpu| cpu.value.has_partial_write_erratum()) {
        Some(true) => {
            "This CPU has the partial-write erratum: a write of less than 64 bytes to one of them ends in a machine check of the next kernel"
        }
        Some(false) => "Without the partial-write erratum that harms nobody",
        None => {
            "On a CPU with the partial-write erratum (Sapphire Rapids, Emerald Rapids) a write of less than 64 bytes to one of them ends in a \
             machine check of the next kernel"
        }
    };
    let cause = format!(
        "{why}, so nothing was given back and nothing was reset: {pamt} and the pages of every TD stay private while the kernel jumps to the \
         next one. {next}; and TDX cannot be used until the machine is reset"
    );
    let remedy = "reset the machine through the firmware now; before the next kexec load cleanslate.ko, which resets private memory itself, get a \
                  module with TDH.SYS.DISABLE, or reboot through the firmware instead";
    Cause { judgement: Judgement::Failed, rule, basis: Basis::Deduced, text: cause, remedy: remedy.to_owned() }
}
