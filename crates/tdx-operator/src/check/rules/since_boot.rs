//! What failed SEAMCALLs have left behind since boot: is the host still safe, may it be kexeced,
//! must it be power-cycled.

use super::{
    Finding, Rule,
    way::{Outcome, outcome},
};
use crate::{
    check::{facts::Facts, item::Item},
    explain::calls::Left,
    report::LogFinding,
    words,
};

pub(super) const RULE: Rule = Rule {
    id: "kexec.still-safe",
    title: "Is this host still safe, or must it be power-cycled?",
    source: "failed SEAMCALLs in the kernel log; Linux v6.16 to v7.3: what each of them leaves private",
    look: still_safe,
};

/// Whether the machine must be reset through the firmware.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::check) enum PowerCycle {
    /// Nothing asks for it.
    No,
    /// At the next occasion: the host is safe to run until then.
    Planned,
    /// Private memory may be in use by others.
    Now,
    /// Not determined.
    Unknown,
}

impl PowerCycle {
    /// One word for programs.
    pub(in crate::check) const fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Planned => "planned",
            Self::Now => "now",
            Self::Unknown => "unknown",
        }
    }
}

/// Decides.
pub(in crate::check) fn power_cycle(facts: &Facts<'_>) -> PowerCycle {
    let harmless = facts.erratum() == Some(false);
    let Left { leaked, freed, tds, key_ids, dead, .. } = &facts.left;
    if facts.no_tdx() {
        return PowerCycle::No;
    }
    if facts.log_of_another() {
        return PowerCycle::Unknown;
    }
    if facts.initialized_before().is_some() {
        return if harmless { PowerCycle::Planned } else { PowerCycle::Now };
    }
    if *freed > 0 && !harmless {
        return PowerCycle::Now;
    }
    if !facts.checks.private.is_empty() && !harmless {
        return PowerCycle::Now;
    }
    if *leaked > 0 || *tds > 0 || !key_ids.is_empty() || *dead {
        return PowerCycle::Planned;
    }
    // Without TDX host code no machine check is one in private memory.
    let none = facts.no_host_code() && !facts.ko.may_be_host();
    if facts.left.unclear > 0 || (!facts.checks.perhaps.is_empty() && !harmless && !none) {
        return PowerCycle::Unknown;
    }
    match &facts.log {
        _ if none => PowerCycle::No,
        Ok(_) if facts.log_is_whole && !facts.left.lines_lost => PowerCycle::No,
        _ => PowerCycle::Unknown,
    }
}

/// What was left behind, in words.
fn what(left: &Left) -> String {
    let mut parts = Vec::new();
    if left.freed > 0 {
        parts.push(format!("{} after which Linux may free a private page", words::count(left.freed, "failed call")));
    }
    if left.leaked > 0 {
        parts.push(format!("{} leaked", words::count(left.leaked, "private page")));
    }
    if left.tds > 0 {
        parts.push(format!("all pages of a TD leaked ({})", words::count(left.tds, "failed call")));
    }
    if !left.key_ids.is_empty() {
        parts.push(format!("{} lost", words::count(left.key_ids.len() as u64, "KeyID")));
    }
    if left.dead {
        parts.push("the module has shut down".to_owned());
    }
    parts.join(", ")
}

const SAVE_LOG: &str = "save the log of the whole boot where the journal still has it, `journalctl -k -b > FILE`, and run \
    `cleanslate check --log FILE`";

/// Shows the first lines of the machine checks.
fn checked(finding: Finding, checks: &[LogFinding]) -> Finding {
    let lines = checks.iter().take(MAX_CHECKS).flat_map(|check| check.evidence.iter().take(MAX_LINES));
    lines.fold(finding, |finding, line| finding.evidence(format!("boot.log:{}: {}", line.line, line.text)))
}

/// Machine checks that are shown.
const MAX_CHECKS: usize = 4;
/// Lines of each of them.
const MAX_LINES: usize = 6;

fn still_safe(facts: &Facts<'_>) -> Finding {
    let left = &facts.left;
    let seen = |finding: Finding| {
        left.lines
            .iter()
            .fold(finding, |finding, line| finding.evidence(format!("boot.log:{}: {}", line.line, line.text)))
    };
    match power_cycle(facts) {
        PowerCycle::No if facts.no_tdx() => {
            Finding::pass("yes: there is no TDX, so no private memory").evidence(facts.why_not())
        }
        PowerCycle::No if left.freed > 0 => {
            seen(Finding::pass(format!("yes: {}; harmless without the erratum", what(left))).deduced())
        }
        PowerCycle::No if facts.no_host_code() => {
            Finding::pass("yes: this kernel has no TDX host code").evidence(facts.why_not())
        }
        PowerCycle::No => Finding::pass("yes: no failed call has left private memory behind")
            .deduced()
            .evidence("the kernel log since boot"),
        PowerCycle::Now if left.freed == 0 && facts.initialized_before().is_none() => checked(
            Finding::fail(format!(
                "no: {} in private memory of TDX since boot: a program of this kernel or a device wrote to it past the \
                 module, or a memory module is faulty; the poison stays until the whole line is written",
                words::count(facts.checks.private.len() as u64, "machine check")
            ))
            .deduced(),
            &facts.checks.private,
        )
        .hint(
            "`cleanslate explain` on the same log tells what speaks for either; move the TDs and all other work away, \
             then reset the machine through the firmware",
        ),
        PowerCycle::Now if left.freed == 0 => Finding::fail(
            "no: memory that an earlier kernel left private is in use; its first partial write and read end in a \
                machine check",
        )
        .deduced()
        .evidence("see `kexec.left-over`")
        .hint("power-cycle it now: reset the machine through the firmware, no kexec"),
        PowerCycle::Now => seen(
            Finding::fail(format!(
                "no: {}. A write of less than 64 bytes to such a page poisons it, and a read then ends in a machine \
                    check",
                what(left)
            ))
            .deduced(),
        )
        .hint(format!(
            "move the TDs and all other work away, then reset the machine through the firmware; {}",
            match outcome(facts) {
                Outcome::Safe => "a kexec is safe: cleanslate.ko resets the pages, and keeps those that Linux frees",
                _ => "no kexec before",
            }
        )),
        PowerCycle::Planned => {
            let kexec = match outcome(facts) {
                Outcome::Safe if facts.erratum() == Some(false) => "a kexec is safe",
                Outcome::Safe => "a kexec is safe: cleanslate.ko resets the pages",
                Outcome::Refused => "no kexec is possible",
                Outcome::Unsafe => "do not kexec it: the pages stay private",
                Outcome::Unknown => "do not kexec it: the pages may stay private",
            };
            let text = format!("yes, as long as this kernel runs: {}; {kexec}", what(left));
            let finding = if left.lines.is_empty() {
                Finding::warn("yes, but the module cannot be used: an earlier kernel initialized it")
                    .evidence("see `kexec.left-over`")
            } else {
                seen(Finding::warn(text))
            };
            finding.deduced().hint(
                "power-cycle it at the next maintenance: a reset through the firmware gives pages and KeyIDs back",
            )
        }
        PowerCycle::Unknown => match &facts.log {
            Err(why) => Finding::unknown(format!("the kernel's log {why}"))
                .hint(format!("{}; or {SAVE_LOG}", Item::BootLog.how(why))),
            Ok(_) if facts.log_of_another() => {
                Finding::unknown("the log is that of another kernel or machine: it says nothing of this boot")
                    .hint(SAVE_LOG)
            }
            Ok(_) if left.unclear > 0 => seen(Finding::unknown(
                "a warning in the kernel's TDX code, and its registers do not tell which call failed: memory may have \
                    stayed private",
            ))
            .hint(
                "`cleanslate explain` on the whole log; until it is known, treat as private: no kexec, and a reset \
                through the firmware at the next occasion",
            ),
            Ok(_) if !facts.checks.perhaps.is_empty() => checked(
                Finding::unknown(format!(
                    "{} since boot, and the log does not tell whether in private memory of TDX",
                    words::count(facts.checks.perhaps.len() as u64, "machine check")
                )),
                &facts.checks.perhaps,
            )
            .hint("`cleanslate explain` on the same log tells what is missing; until it is known, no kexec"),
            Ok(_) if left.lines_lost => {
                Finding::unknown("lines of the kernel are missing from the log: failed calls may be among them")
                    .hint(SAVE_LOG)
            }
            Ok(_) => Finding::unknown("the log does not reach back to the boot: earlier failed calls are not in it")
                .hint(SAVE_LOG),
        },
    }
}
