//! The handover to the next kernel: kernels since 7.2 call TDH.SYS.DISABLE to release all
//! memory and continue regardless of its status, so that a failure is a single log line.

use tdx_abi::{Status, StatusCode};

use super::{causes::Cause, status};
use crate::{
    bootlog::{self, BootLog},
    report::{Basis, Given, Judgement, LogLine, Topic},
};

/// The causes with the lines that they come from.
pub(super) fn after(log: &BootLog) -> Vec<(Topic, Cause, LogLine)> {
    let mut causes = Vec::new();
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
        ("module-without-disable", "the module does not implement TDH.SYS.DISABLE (leaf 69)".to_owned())
    } else {
        let report = status::explain(found, Given::Whole);
        ("disable-failed", format!("TDH.SYS.DISABLE returned {}: {}", status::shown(found), report.meaning))
    };
    let pamt = log.pamt_kb.map_or_else(|| "its PAMTs".to_owned(), |kb| format!("{} KB of PAMT", kb.value));
    let next = match log.cpu.map(|cpu| cpu.value.has_partial_write_erratum()) {
        Some(true) => {
            "This CPU has the partial-write erratum: a write of less than 64 bytes to private memory causes \
                a machine check in the next kernel"
        }
        Some(false) => "Harmless without the partial-write erratum",
        None => {
            "On a CPU with the partial-write erratum (Sapphire Rapids, Emerald Rapids) a write of less than \
                64 bytes to private memory causes a machine check in the next kernel"
        }
    };
    let cause = format!(
        "{why}, so no memory was released or reset: {pamt} and the pages of every TD stay private across \
            the jump to the next kernel. {next}; TDX cannot be used until the machine is reset"
    );
    let remedy = "reset the machine through the firmware now; for the next kexec load cleanslate.ko, which \
        resets private memory, install a module with TDH.SYS.DISABLE, or reboot through the firmware instead";
    Cause { judgement: Judgement::Failed, rule, basis: Basis::Deduced, text: cause, remedy: remedy.to_owned() }
}
