//! Report of `fleet`: many machines in one table, the worst first, and the distinct reasons.

use serde::Serialize;

use super::{CheckFacts, CheckReport, CheckVerdict, Remedy, Status, TOOL};
use crate::input::InputError;

/// Everything that `fleet` says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FleetReport {
    /// Always `cleanslate/fleet`.
    pub schema: &'static str,
    /// Version of the schema: 1.
    pub version: u32,
    /// Program and version.
    pub tool: &'static str,
    /// How many machines have which verdict.
    pub counts: FleetCounts,
    /// Distinct verdicts with their machines, the gravest first.
    pub reasons: Vec<FleetReason>,
    /// The machines, the gravest first, then by name.
    pub machines: Vec<FleetMachine>,
    /// Folders that could not be used.
    pub unreadable: Vec<FleetUnreadable>,
}

/// Machines by verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct FleetCounts {
    /// All that were read.
    pub machines: usize,
    /// Verdict PASS.
    pub pass: usize,
    /// Verdict WARN.
    pub warn: usize,
    /// Verdict FAIL.
    pub fail: usize,
    /// Verdict UNKNOWN.
    pub unknown: usize,
    /// Machines on which a panic gives a dump.
    pub kdump_ready: usize,
    /// Machines that must be power-cycled now.
    pub power_cycle_now: usize,
    /// Folders that could not be used.
    pub unreadable: usize,
}

/// One verdict and the machines that have it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FleetReason {
    /// How grave it is.
    pub status: Status,
    /// The verdict in words.
    pub text: String,
    /// What to do, if a check decided and says it.
    pub hint: Option<String>,
    /// What helps, what it gives and what it costs.
    pub remedies: Vec<Remedy>,
    /// Names of the machines.
    pub machines: Vec<String>,
}

/// One machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FleetMachine {
    /// The name of its folder.
    pub name: String,
    /// As `check` says it.
    pub verdict: CheckVerdict,
    /// As `check` says them.
    pub facts: CheckFacts,
    /// Ids of the checks that fail.
    pub failed: Vec<&'static str>,
    /// Ids of the checks that warn.
    pub warned: Vec<&'static str>,
}

/// A folder that could not be used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FleetUnreadable {
    /// Its name.
    pub name: String,
    /// Why.
    pub text: String,
}

impl FleetReport {
    /// Puts checked machines together.
    pub fn new(checked: Vec<(String, Result<CheckReport, InputError>)>) -> Self {
        let mut report = Self {
            schema: "cleanslate/fleet",
            version: 1,
            tool: TOOL,
            counts: FleetCounts::default(),
            reasons: Vec::new(),
            machines: Vec::new(),
            unreadable: Vec::new(),
        };
        for (name, checked) in checked {
            match checked {
                Ok(check) => report.add(name, check),
                Err(error) => report.unreadable.push(FleetUnreadable { name, text: error.to_string() }),
            }
        }
        report.counts.unreadable = report.unreadable.len();
        report.machines.sort_by(|a, b| (b.verdict.status, &a.name).cmp(&(a.verdict.status, &b.name)));
        for reason in &mut report.reasons {
            reason.machines.sort();
        }
        report
            .reasons
            .sort_by(|a, b| (b.status, b.machines.len(), &a.text).cmp(&(a.status, a.machines.len(), &b.text)));
        report
    }

    fn add(&mut self, name: String, check: CheckReport) {
        let counts = &mut self.counts;
        counts.machines += 1;
        *match check.verdict.status {
            Status::Pass => &mut counts.pass,
            Status::Warn => &mut counts.warn,
            Status::Fail => &mut counts.fail,
            Status::Unknown => &mut counts.unknown,
        } += 1;
        counts.kdump_ready += usize::from(check.verdict.kdump == "ready");
        counts.power_cycle_now += usize::from(check.verdict.power_cycle == "now");
        let (status, text) = (check.verdict.status, &check.verdict.text);
        let same = |reason: &&mut FleetReason| reason.status == status && reason.text == *text;
        if let Some(reason) = self.reasons.iter_mut().find(same) {
            reason.machines.push(name.clone());
        } else {
            // The verdict quotes the check that decided.
            let id = text.split(": ").next().unwrap_or_default();
            let decided = check.checks().find(|check| check.id == id);
            self.reasons.push(FleetReason {
                status,
                text: text.clone(),
                hint: decided.and_then(|check| check.hint.clone()),
                remedies: decided.map(|check| check.remedies.clone()).unwrap_or_default(),
                machines: vec![name.clone()],
            });
        }
        let ids = |status| check.checks().filter(|check| check.status == status).map(|check| check.id).collect();
        let (failed, warned) = (ids(Status::Fail), ids(Status::Warn));
        self.machines.push(FleetMachine { name, verdict: check.verdict, facts: check.facts, failed, warned });
    }
}
