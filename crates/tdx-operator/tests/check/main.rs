//! `check` on saved machines: the five made-up ones of the fixtures, variations of them, and the
//! boot logs of real hosts. The expected answers are written down here, from the references, not
//! taken from the program.

mod evidence;
mod machines;
mod variations;

use std::path::{Path, PathBuf};

use tdx_operator::{
    check::{Item, Snapshot, Unseen, load},
    report::{Basis, CheckFinding, CheckReport, Status},
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn machine(name: &str) -> Snapshot {
    load(&fixture("machines").join(name)).unwrap()
}

/// Checks a machine, and what every report owes its readers: what to do about all that does not
/// pass, and what an answer was told by.
fn check(name: &str, machine: &Snapshot) -> CheckReport {
    let report = tdx_operator::check::check(name, machine);
    for found in report.checks() {
        let hinted = found.status == Status::Pass || found.hint.as_ref().is_some_and(|hint| !hint.is_empty());
        assert!(hinted, "{name}: {} {:?} has no hint: {}", found.id, found.status, found.text);
        let shown = found.status == Status::Unknown || !found.evidence.is_empty();
        assert!(shown, "{name}: {} {:?} has no evidence: {}", found.id, found.status, found.text);
    }
    report
}

fn find<'a>(report: &'a CheckReport, id: &str) -> &'a CheckFinding {
    report.checks().find(|check| check.id == id).unwrap_or_else(|| panic!("{id}"))
}

/// Every check that does not pass.
fn not_passed(report: &CheckReport) -> Vec<(&'static str, Status)> {
    report.checks().filter(|check| check.status != Status::Pass).map(|check| (check.id, check.status)).collect()
}

/// One change of a saved machine.
fn with(name: &str, item: Item, change: impl Fn(&str) -> String) -> Snapshot {
    let mut machine = machine(name);
    let text = change(machine.get(item).unwrap_or_default());
    machine.put(item, Ok(text));
    machine
}

fn without(mut machine: Snapshot, item: Item, why: Unseen) -> Snapshot {
    machine.put(item, Err(why));
    machine
}

fn machine_text(name: &str, item: Item) -> String {
    machine(name).get(item).unwrap().to_owned()
}
