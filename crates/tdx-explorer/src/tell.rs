//! Turns what was explored into the report: names, words, replay commands.

use std::collections::BTreeMap;

use tdx_abi::{Leaf, PageSize, StatusCode};
use tdx_machine::ModuleProfile;

use super::bug::Bug;
use super::explorer::{Found, InstantKind, Tally};
use super::play::Up;
use super::run::{Explored, end_name, shorten, shorten_schedule};
use super::scenario::Scenario;
use super::schedule::Schedule;
use super::sequences::{OfLength, Start};
use super::verdict::Rule;
use crate::report::{
    BugRun, Covered, ExploreReport, FindingReport, MapPiece, ScenarioRun, SequenceRun, TimePointReport,
};
use first_kernel::AnyPolicy;
use tdx_lab::platform::LabError;

/// Crash points by leaf and status: after it, inside it.
pub(super) type Coverage = BTreeMap<(Leaf, StatusCode), (u64, u64)>;

pub(super) fn cover(coverage: &mut Coverage, tally: &Tally) {
    for ((leaf, status, kind), count) in &tally.coverage {
        let (after, inside) = coverage.entry((*leaf, *status)).or_default();
        *(if *kind == InstantKind::InFlight { inside } else { after }) += count;
    }
}

pub(super) fn coverage(coverage: Coverage) -> Vec<Covered> {
    let row = |((leaf, status), (after, inside)): ((Leaf, StatusCode), (u64, u64))| Covered {
        leaf: leaf.to_string(),
        status: status.with(0).to_string(),
        after,
        inside,
    };
    coverage.into_iter().map(row).collect()
}

impl ExploreReport {
    pub(super) fn add_scenario(&mut self, run: ScenarioRun) {
        self.instants += run.instants;
        self.crash_points += run.crash_points;
        self.schedules += run.schedules;
        self.violations += run.violations;
        self.scenarios.push(run);
    }

    pub(super) fn add_sequences(&mut self, run: SequenceRun) {
        self.instants += run.instants;
        self.crash_points += run.crash_points;
        self.sequences += run.sequences;
        self.violations += run.violations;
        self.short_sequences.push(run);
    }
}

impl Explored {
    /// One run.
    pub(super) fn of(tally: Tally, schedule: Option<&Schedule>) -> Self {
        let schedule_of = tally.found.iter().map(|_| schedule.cloned()).collect();
        Self { schedule_of, schedules: u64::from(schedule.is_some()), tally, ..Self::default() }
    }
}

const fn module_name(module: ModuleProfile) -> &'static str {
    match (module.has_sys_disable(), module.has_dynamic_pamt()) {
        (true, true) => "1.5.25 with TDH.SYS.DISABLE",
        (true, false) => "1.5.01 with TDH.SYS.DISABLE",
        (false, true) => "dynamic PAMT",
        (false, false) => "1.5.01",
    }
}

pub(super) fn scenario(scenario: &Scenario, up: &Up, explored: Explored, bug: Option<&Bug>) -> ScenarioRun {
    let Explored { tally, schedules, schedule_of, unmet } = explored;
    let base = replay(&scenario.name, bug, "");
    let findings = tally.found.iter().zip(&schedule_of);
    ScenarioRun {
        name: scenario.name.clone(),
        about: scenario.about.clone(),
        cpu: scenario.host.cpu().to_string(),
        cpus: scenario.host.cpus(),
        packages: scenario.host.packages(),
        module: module_name(scenario.module),
        policy: AnyPolicy::from(scenario.policy).name(),
        memory_map: memory_map(scenario, up, &tally),
        steps: words(scenario),
        instants: tally.instants,
        crash_points: tally.branches,
        schedules,
        violations: tally.violations + unmet.len() as u64,
        unmet,
        findings: findings.map(|(found, schedule)| finding(scenario, found, schedule.as_ref(), &base)).collect(),
        timeline: tally
            .timeline
            .into_iter()
            .map(|point| TimePointReport {
                instant: point.instant,
                step: point.step,
                kind: point.kind.name(),
                cpu: point.cpu,
                private_lines: point.private,
                marked_lines: point.marked,
                operation: point.text,
                crash_points: point.branches,
                broken: point.broken.map(Rule::name),
            })
            .collect(),
    }
}

/// Every step in words; those that run beside each other come last, a line for each CPU.
fn words(scenario: &Scenario) -> Vec<String> {
    let beside = scenario.concurrent.iter().map(|steps| {
        let all: Vec<String> = steps.iter().map(|step| step.what.to_string()).collect();
        let cpu = steps.first().map(|step| step.cpu.to_string()).unwrap_or_default();
        format!("{cpu}, beside the others: {}", all.join("; "))
    });
    scenario.steps.iter().map(ToString::to_string).chain(beside).collect()
}

fn memory_map(scenario: &Scenario, up: &Up, tally: &Tally) -> Vec<MapPiece> {
    let piece = |range: tdx_abi::PageRange, kind| MapPiece { span: range.into(), kind };
    let memory = scenario.host.memory().iter().map(|part| piece(part.range, "memory"));
    let tdmrs = up.tdmrs().iter().map(|tdmr| piece(tdmr.range(), "TDMR"));
    let pamts = up.pamts.iter().map(|(size, range)| {
        let kind = match size {
            PageSize::Size4K => "PAMT_4K",
            PageSize::Size2M => "PAMT_2M",
            PageSize::Size1G => "PAMT_1G",
        };
        piece(*range, kind)
    });
    let private = tally.peak.iter().map(|run| piece(run.pages, run.kind.name()));
    memory.chain(tdmrs).chain(pamts).chain(private).collect()
}

/// The option that plays with a bug.
fn with(bug: Option<&Bug>) -> String {
    bug.map(|bug| format!(" --bug {}", bug.name)).unwrap_or_default()
}

/// The command that plays a scenario again, up to what is special about a finding.
fn replay(name: &str, bug: Option<&Bug>, more: &str) -> String {
    format!("cleanslate explore --scenario {name}{}{more}", with(bug))
}

fn finding(scenario: &Scenario, found: &Found, schedule: Option<&Schedule>, base: &str) -> FindingReport {
    let schedule = schedule.map(ToString::to_string);
    let turns = schedule.as_ref().map(|schedule| format!(" --schedule {schedule}")).unwrap_or_default();
    let step = words(scenario).get(found.step).cloned().unwrap_or_default();
    let mut story = vec![format!("{step}"), format!("{} ({})", found.text, found.kind.name())];
    story.extend(found.finding.story.iter().cloned());
    story.dedup();
    FindingReport {
        instant: found.instant,
        operations: found.operation,
        step,
        kind: found.kind.name(),
        operation: found.text.clone(),
        end: end_name(found.end),
        rule: found.finding.rule.name(),
        what: found.finding.what.clone(),
        story,
        schedule,
        replay: format!("{base}{turns} --instant {}", found.instant),
    }
}

pub(super) fn sequences(
    index: usize,
    start: &Start,
    host: &Scenario,
    of_length: &OfLength,
    bug: Option<&Bug>,
) -> SequenceRun {
    let findings = of_length.tally.found.iter().zip(&of_length.of).take(16).map(|(found, letters)| {
        let scenario = start.scenario(host, letters);
        let letters: Vec<String> = letters.iter().map(ToString::to_string).collect();
        let base = format!("cleanslate explore --sequence {index}:{}{}", letters.join(","), with(bug));
        finding(&scenario, found, None, &base)
    });
    SequenceRun {
        start: start.name,
        length: of_length.length,
        sequences: of_length.sequences,
        instants: of_length.tally.instants,
        crash_points: of_length.tally.branches,
        violations: of_length.tally.violations,
        findings: findings.collect(),
    }
}

/// What it took to find it.
fn found_by(found: &Found, schedule: Option<&Schedule>) -> &'static str {
    match found.finding.rule {
        _ if schedule.is_some_and(|schedule| !schedule.0.is_empty()) => "schedules",
        Rule::LateWriteBack | Rule::HostLineOverPrivate => "adversary",
        Rule::Unmarked => "rule",
        _ => "instants",
    }
}

pub(super) fn found_bug(
    bug: &'static Bug,
    scenario: &Scenario,
    up: &Up,
    found: &Found,
    schedule: Option<&Schedule>,
    crash_points: u64,
) -> Result<BugRun, LabError> {
    let (shortest, kept, found) = shorten(scenario, up, Some(bug), found);
    let (schedule, found) = match schedule {
        Some(schedule) if !schedule.0.is_empty() => {
            let (schedule, still) = shorten_schedule(scenario, up, Some(bug), schedule)?;
            (Some(schedule), still.unwrap_or(found))
        }
        _ => (None, found),
    };
    let kept: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let keep = if kept.len() == scenario.steps.len() { String::new() } else { format!(" --keep {}", kept.join(",")) };
    let base = replay(&scenario.name, Some(bug), &keep);
    let steps = shortest.steps.len() + shortest.concurrent.iter().map(Vec::len).sum::<usize>();
    Ok(BugRun {
        name: bug.name,
        what: bug.what,
        origin: bug.origin,
        found: true,
        found_by: Some(found_by(&found, schedule.as_ref())),
        scenario: Some(scenario.name.clone()),
        replay_steps: Some(steps),
        replay_operations: Some(found.operation),
        crash_points,
        finding: Some(finding(&shortest, &found, schedule.as_ref(), &base)),
    })
}

pub(super) fn missed_bug(bug: &'static Bug, crash_points: u64) -> BugRun {
    BugRun {
        name: bug.name,
        what: bug.what,
        origin: bug.origin,
        found: false,
        found_by: None,
        scenario: None,
        replay_steps: None,
        replay_operations: None,
        crash_points,
        finding: None,
    }
}
