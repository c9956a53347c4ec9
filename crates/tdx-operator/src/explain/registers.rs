//! Registers in the report of canonical's `system-report.sh`: fields of MSRs as `rdmsr -f` prints
//! them.

use crate::report::{Basis, Judgement, LogFinding, LogLine, Topic};

/// A fact, with its ground.
pub(super) fn fact(rule: &'static str, evidence: Vec<LogLine>, cause: impl Into<String>, remedy: &str) -> LogFinding {
    LogFinding {
        topic: Topic::System,
        judgement: Judgement::Info,
        rule,
        basis: Basis::Sourced,
        evidence,
        cause: cause.into(),
        remedy: remedy.to_owned(),
        boot: 0,
    }
}

/// The registers in the report of canonical's `system-report.sh`, which are fields of `rdmsr -f`.
#[derive(Debug, Default)]
pub(super) struct Report {
    wrong: Vec<&'static str>,
    lines: Vec<LogLine>,
}

impl Report {
    /// Takes a line of the report; false if it is none.
    pub(super) fn take(report: &mut Option<Self>, line: u64, text: &str) -> bool {
        let value = |words: &str| {
            let text = text.trim_start_matches(['-', '*', ' ']);
            let value = text.strip_prefix(words)?.split('(').next()?.trim();
            u64::from_str_radix(value.strip_prefix("0x").unwrap_or(value), 16).ok()
        };
        let registers = [
            (
                "MK_TME_ENABLED bit:",
                1,
                "multi-key memory encryption is off (MSR 0x982 bit 1): enable TME-MT in the BIOS",
            ),
            ("SEAM_RR bit:", 1, "SEAM is off (MSR 0x1401 bit 11): enable TDX and its SEAM loader in the BIOS"),
            (
                "SGX_AND_MCHECK_STATUS:",
                0,
                "MCHECK failed (MSR 0xa0 is not 0): check the BIOS setup of SGX and the population of memory",
            ),
        ];
        let found = registers.iter().find_map(|(words, good, wrong)| Some((value(words)? == *good, *wrong)));
        let keys = value("NUM_TDX_PRIV_KEYS:")
            .map(|keys| (keys >= 2, "fewer than 2 private KeyIDs: assign more to TDX in the BIOS"));
        let cpu = text.starts_with("No TDX support in CPU according to /proc/cpuinfo");
        let cpu = cpu.then_some((false, "the kernel does not show the CPU flag of a TDX host"));
        let fault = text.strip_prefix("rdmsr: CPU ").is_some_and(|rest| rest.contains("cannot read MSR"));
        let fault = fault.then_some((
            false,
            "the CPU does not have a register that was read: no multi-key memory encryption and no TDX, or this is a \
             virtual machine",
        ));
        let Some((good, wrong)) = found.or(keys).or(cpu).or(fault) else { return false };
        let report = report.get_or_insert_with(Self::default);
        if !good && !report.wrong.contains(&wrong) {
            report.wrong.push(wrong);
        }
        report.lines.push(LogLine { line, text: crate::input::excerpt(text) });
        true
    }

    /// What they say.
    pub(super) fn finding(&self) -> Option<LogFinding> {
        let evidence: Vec<_> = self.lines.iter().take(12).cloned().collect();
        if evidence.is_empty() {
            return None;
        }
        if self.wrong.is_empty() {
            let cause = if evidence.len() == 1 {
                "the one field of a register here is as TDX needs it; that does not say it of the others"
            } else {
                "the registers of this report are as TDX needs them; each is a field of its register, in hex"
            };
            return Some(fact("registers-of-report", evidence, cause, "nothing"));
        }
        let mut found =
            fact("registers-of-report", evidence, self.wrong.join("; "), "change the BIOS setup, then power cycle");
        found.judgement = Judgement::Failed;
        Some(found)
    }
}
