//! What is said of failed calls: what the status means, what to do, what stays private.

use std::collections::BTreeSet;

use tdx_abi::{Leaf, Status, StatusCode};

use super::{
    super::status,
    group::Group,
    left::{at_kexec, left_behind},
};
use crate::{
    bootlog::{
        BootLog, Speaker,
        call::{self, Call, INSTALL},
    },
    report::{Basis, Given, Judgement, LogFinding, Topic},
    words,
};

/// KeyIDs that a finding names, and further statuses.
const MAX_NAMED: usize = 8;

/// What is said of calls of one leaf with one status.
pub(super) fn finding(group: &Group, log: &BootLog) -> LogFinding {
    let Call { leaf, status, .. } = group.call;
    let name = leaf.map_or_else(|| "a SEAMCALL".to_owned(), |leaf| leaf.to_string());
    let times = if group.count > 1 { format!(", {} times", words::grouped(group.count)) } else { String::new() };
    if let Some(number) = group.call.loader {
        return of_loader(group, number, &times);
    }
    let mut found = LogFinding {
        topic: Topic::Seamcall,
        judgement: Judgement::Undecidable,
        rule: "seamcall-later",
        basis: Basis::Sourced,
        evidence: group.evidence.clone(),
        cause: String::new(),
        remedy: String::new(),
        boot: 0,
    };
    if let Some(status) = status {
        let report = status::explain(status, Given::Whole);
        let source = if group.from_registers { " (RAX of the warning)" } else { "" };
        let key_id = group.call.key_id.filter(|_| leaf == Some(Leaf::VP_ENTER));
        let key_id = key_id.map_or_else(String::new, |(id, _)| format!(". The TD has KeyID {id:#x}"));
        let reason = report.detail.as_ref().filter(|detail| detail.starts_with("exit reason"));
        let reason = reason.map_or_else(String::new, |reason| format!(" ({reason})"));
        let status = status::shown(status);
        found.cause = format!("{name}{source} returned {status}{times}: {}{reason}{key_id}", report.meaning);
        if report.known {
            found.judgement = Judgement::Failed;
        }
        found.remedy = report.todo;
        if leaf == Some(Leaf::VP_ENTER) && group.call.status.is_some_and(|status| status.code() == StatusCode::SUCCESS)
        {
            let number = group.call.status.map_or(0, |status| status.raw() & 0xffff);
            found.judgement = Judgement::Undecidable;
            found.cause =
                format!("a VCPU left its TD with exit reason {number}, which KVM did not expect{times}{key_id}");
            "look up the exit reason in the CPU's documentation, and the messages of KVM and QEMU beside this line"
                .clone_into(&mut found.remedy);
        }
    } else {
        found.cause = format!("{name} failed{times}; the line does not show a whole completion status");
        "provide the complete line: the status has 16 hex digits".clone_into(&mut found.remedy);
    }
    for (line, other) in others(group) {
        let meaning = status::explain(other, Given::Whole).meaning;
        found.cause = format!("{}. Line {line} also shows {}: {meaning}", found.cause, status::shown(other));
    }
    if !group.leaked.is_empty() {
        found.judgement = Judgement::Failed;
        found.rule = "keyid-leaked";
        let (key_ids, stay, tds) = named(&group.leaked);
        found.cause = format!("{name} failed, so {key_ids} {stay} in use: no TD can have {tds} cannot be reclaimed");
        "see the status in the line before; reboot through the firmware when KeyIDs run out"
            .clone_into(&mut found.remedy);
    }
    let linux = !log.speaker.as_ref().is_some_and(|at| matches!(at.value.0, Speaker::Esxi | Speaker::Xen));
    if !linux {
        return found;
    }
    if let Some(left) = left_behind(leaf.or(group.like), status, !group.leaked.is_empty(), group.count) {
        found.cause = format!("{}. {left}. {}", found.cause, at_kexec(log));
        found.remedy += "; reboot through the firmware instead of a kexec, or load cleanslate.ko before TDX is used";
    }
    found
}

/// A call of the P-SEAMLDR that failed: its statuses are none of the module's.
fn of_loader(group: &Group, number: u16, times: &str) -> LogFinding {
    let status = group.call.status.map_or_else(
        || "failed; the line does not show a whole status".to_owned(),
        |status| format!("returned {:#x}", status.raw()),
    );
    let own = "The statuses of the P-SEAMLDR are its own, not those of the module, and not known to this program";
    let (name, means, remedy) = if number == INSTALL {
        (
            "INSTALL",
            ", the update of the module. Linux shuts the module down before it installs another one, and a failed \
             step ends the update: TDX cannot be used, TDs cannot run, and what is private stays private",
            "save what the TDs need elsewhere, do not kexec, and reset the machine through the firmware; then check the \
             module's image against its release notes (the CPU, the P-SEAMLDR and the BIOS that it asks for)",
        )
    } else {
        (
            if number == 0 { "INFO" } else { "unknown" },
            ". It changes nothing: without its answer the kernel offers no update of the module",
            "look the status up in Intel's specification of the P-SEAMLDR; update the BIOS, which brings the P-SEAMLDR",
        )
    };
    let name = if name == "unknown" { format!("call {number}") } else { format!("SEAMLDR.{name}") };
    let means = if number > INSTALL { "" } else { means };
    LogFinding {
        topic: Topic::Seamcall,
        judgement: if number == INSTALL { Judgement::Failed } else { Judgement::Undecidable },
        rule: "seamldr-call",
        basis: Basis::Deduced,
        evidence: group.evidence.clone(),
        cause: format!("the P-SEAMLDR (loader of the TDX module) failed: {name} {status}{times}{means}. {own}"),
        remedy: remedy.to_owned(),
        boot: 0,
    }
}

/// Further statuses on the lines of a call, each once.
fn others(group: &Group) -> Vec<(u64, Status)> {
    let mut found: Vec<(u64, Status)> = Vec::new();
    for line in &group.evidence {
        for status in call::statuses(&line.text) {
            let known = group.call.status == Some(status) || found.iter().any(|(_, other)| *other == status);
            if !known && found.len() < MAX_NAMED {
                found.push((line.line, status));
            }
        }
    }
    found
}

/// `KeyID 33`, `stays`, and what follows for TDs; of several all or the first.
fn named(key_ids: &BTreeSet<u64>) -> (String, &'static str, &'static str) {
    if let (Some(only), 1) = (key_ids.first(), key_ids.len()) {
        return (format!("KeyID {only}"), "stays", "it until the next power cycle, and the pages of its TD");
    }
    let shown: Vec<String> = key_ids.iter().take(MAX_NAMED).map(u64::to_string).collect();
    let more = match key_ids.len().saturating_sub(MAX_NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let text = format!("KeyIDs {}{more}", shown.join(", "));
    (text, "stay", "them until the next power cycle, and the pages of their TDs")
}
