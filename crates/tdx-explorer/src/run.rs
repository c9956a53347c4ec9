//! Explores a whole scenario: its steps in their order, and if it has CPUs that work beside each
//! other, their schedules: all with few changes of turn, then random ones.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::branch::End;
use super::bug::Bug;
use super::explorer::{Found, Plan, Tally};
use super::live::lock;
use super::play::{Played, Up, play};
use super::rng::Rng;
use super::scenario::Scenario;
use super::schedule::{Choice, Schedule, Scheduler, Trace};
use tdx_lab::platform::LabError;
use tdx_operator::words;

/// Findings of all schedules that are kept; more are counted.
const KEPT: usize = 64;

/// How much is explored.
#[derive(Clone, Debug)]
pub struct Effort {
    /// Changes of turn in systematic schedules, at most: those with one first.
    pub preemptions: usize,
    /// So many of them for one scenario; if there are more with the last number of changes, these
    /// are spread evenly over them.
    pub systematic: usize,
    /// Random schedules for one scenario, after them.
    pub random: u64,
    /// What they come from.
    pub seed: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self { preemptions: 2, systematic: 1_000, random: 200, seed: 1 }
    }
}

/// What came of a scenario.
#[derive(Default)]
pub(super) struct Explored {
    pub(super) tally: Tally,
    pub(super) schedules: u64,
    /// The schedule of each finding, in the order of the tally's.
    pub(super) schedule_of: Vec<Option<Schedule>>,
    pub(super) unmet: Vec<String>,
}

pub(super) fn plan(scenario: &Scenario, bug: Option<&'static Bug>) -> Plan<'static> {
    Plan {
        policy: scenario.policy,
        kexec: scenario.kexec,
        panic: scenario.panic,
        overlapping: scenario.overlapping,
        bug,
        stop_at_first: bug.is_some(),
        timeline: false,
        from_step: 0,
        from_point: 0,
        only: None,
        every: 1,
        progress: &(),
    }
}

/// Work for all cores of this machine, in the order of the items.
pub(super) fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, R)>> = Mutex::default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(items.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((index, item)) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    items.get(index).map(|item| (index, item))
                } {
                    let result = work(index, item);
                    lock(&results).push((index, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    results.sort_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Plays once, under this schedule.
pub(super) fn play_scheduled(
    scenario: &Scenario,
    up: &Up,
    up_first: bool,
    plan: Plan<'_>,
    choice: Choice,
) -> Result<(Played, Trace), LabError> {
    let cpus = scenario.concurrent.iter().filter_map(|steps| steps.first());
    let scheduler = Scheduler::new(cpus.map(|step| tdx_machine::CpuId(step.cpu.0)), choice);
    let beside = (!scenario.concurrent.is_empty()).then_some(&scheduler);
    let played = play(scenario, up, up_first, plan, beside)?;
    Ok((played, scheduler.trace()))
}

/// Explores it all.
///
/// # Errors
/// [`LabError`]: it cannot be played.
pub(super) fn explore(scenario: &Scenario, up: &Up, plan: Plan<'_>, effort: &Effort) -> Result<Explored, LabError> {
    let (played, trace) = play_scheduled(scenario, up, false, plan, Choice::Given(Schedule::default()))?;
    let mut explored = Explored { unmet: unmet(scenario, &played), ..Explored::default() };
    let nothing_beside = scenario.concurrent.is_empty();
    explored.add(played.tally, None);
    if nothing_beside || (plan.stop_at_first && explored.tally.violations > 0) {
        return Ok(explored);
    }
    explored.schedules = 1;
    explore_schedules(scenario, up, plan, effort, &trace, &mut explored)?;
    Ok(explored)
}

/// A batch is run on all cores; the first finding of a bug is that of its lowest schedule.
const BATCH: usize = 64;

fn explore_schedules(
    scenario: &Scenario,
    up: &Up,
    plan: Plan<'_>,
    effort: &Effort,
    base: &Trace,
    explored: &mut Explored,
) -> Result<(), LabError> {
    let mut level = children(base);
    let mut left = effort.systematic;
    for _ in 0..effort.preemptions {
        let mut next = Vec::new();
        // What does not fit is left out evenly, not at the end.
        let keep = level.len().min(left);
        let all = level.len();
        level = (0..keep).filter_map(|index| level.get(index * all / keep).cloned()).collect();
        left -= level.len();
        for batch in level.chunks(BATCH) {
            let results = in_parallel(batch, |_, schedule| {
                let from_point = schedule.0.last().map_or(0, |(point, _)| *point);
                let choice = Choice::Given(schedule.clone());
                play_scheduled(scenario, up, true, Plan { from_point, timeline: false, ..plan }, choice)
            });
            for (schedule, result) in batch.iter().zip(results) {
                let (played, trace) = result?;
                explored.schedules += 1;
                explored.add(played.tally, Some(schedule));
                if plan.stop_at_first && explored.tally.violations > 0 {
                    return Ok(());
                }
                next.extend(children(&trace));
            }
            plan.progress.step("schedules", explored.schedules, effort.systematic as u64 + effort.random);
        }
        level = next;
    }
    let seeds: Vec<u64> =
        (0..effort.random).map(|number| effort.seed.wrapping_mul(1_000_003).wrapping_add(number)).collect();
    for batch in seeds.chunks(BATCH) {
        let results = in_parallel(batch, |_, seed| {
            let mut rng = Rng::new(*seed);
            let choice = Choice::Random(rng.below(u64::MAX));
            play_scheduled(scenario, up, true, Plan { from_point: 1, timeline: false, ..plan }, choice)
        });
        for result in results {
            let (played, trace) = result?;
            explored.schedules += 1;
            explored.add(played.tally, Some(&trace.schedule));
            if plan.stop_at_first && explored.tally.violations > 0 {
                return Ok(());
            }
        }
        plan.progress.step("schedules", explored.schedules, effort.systematic as u64 + effort.random);
    }
    Ok(())
}

/// Every schedule with one change of turn more, after the last.
fn children(trace: &Trace) -> Vec<Schedule> {
    let last = trace.schedule.0.last().map_or(0, |(point, _)| *point);
    let mut children = Vec::new();
    for (point, (_, others)) in (1u64..).zip(&trace.points).skip(usize::try_from(last).unwrap_or(usize::MAX)) {
        for other in others {
            let mut schedule = trace.schedule.clone();
            schedule.0.push((point, *other));
            children.push(schedule);
        }
    }
    children
}

impl Explored {
    fn add(&mut self, tally: Tally, schedule: Option<&Schedule>) {
        let own = &mut self.tally;
        own.operations += tally.operations;
        own.instants += tally.instants;
        own.branches += tally.branches;
        own.violations += tally.violations;
        let room = KEPT.saturating_sub(own.found.len());
        self.schedule_of.extend(tally.found.iter().take(room).map(|_| schedule.cloned()));
        own.found.extend(tally.found.into_iter().take(room));
        own.timeline.extend(tally.timeline);
        for (key, count) in tally.coverage {
            *own.coverage.entry(key).or_default() += count;
        }
        if own.peak.is_empty() {
            own.peak = tally.peak;
        }
    }
}

/// What was expected and is not so.
pub(super) fn unmet(scenario: &Scenario, played: &Played) -> Vec<String> {
    let expect = scenario.expect;
    let mut unmet = Vec::new();
    let mut check = |met: bool, text: String| {
        if !met {
            unmet.push(text);
        }
    };
    if let Some(ok) = expect.bring_up {
        let word = |ok| if ok { "succeeds" } else { "fails" };
        let got = played.bring_up.map_or("is not tried", word);
        check(played.bring_up == Some(ok), format!("the bring-up {got}, it was expected that it {}", word(ok)));
    }
    if let Some(running) = expect.running {
        let run = if played.running == 1 { "1 TD runs".to_owned() } else { format!("{} TDs run", played.running) };
        check(played.running == running, format!("{run}, {running} were expected"));
    }
    if let Some(pages) = expect.marked_pages {
        check(
            played.marked_pages == pages,
            format!("{} marked, {pages} were expected", words::count(played.marked_pages, "page")),
        );
    }
    let instants = played.tally.points;
    check(
        instants >= expect.instants,
        format!("{}, at least {} were expected", words::count(instants, "instant"), expect.instants),
    );
    unmet
}

/// The same scenario without some of its steps, as long as it still breaks a rule.
pub(super) fn shorten(
    scenario: &Scenario,
    up: &Up,
    bug: Option<&'static Bug>,
    found: &Found,
) -> (Scenario, Vec<usize>, Found) {
    let mut kept: Vec<usize> = (0..scenario.steps.len()).collect();
    let mut shortest = (scenario.clone(), kept.clone(), found.clone());
    if !scenario.concurrent.is_empty() || scenario.keeps() {
        return shortest;
    }
    for step in (0..scenario.steps.len()).rev() {
        let fewer: Vec<usize> = kept.iter().copied().filter(|index| *index != step).collect();
        let candidate = scenario.keeping(&fewer);
        let stop = Plan { stop_at_first: true, ..plan(&candidate, bug) };
        // Without its bring-up, for example, a scenario cannot be played at all.
        let Ok((played, _)) = play_scheduled(&candidate, up, false, stop, Choice::Given(Schedule::default())) else {
            continue;
        };
        let rule = shortest.2.finding.rule;
        if let Some(found) = played.tally.found.iter().find(|found| found.finding.rule == rule) {
            kept = fewer;
            shortest = (candidate, kept.clone(), found.clone());
        }
    }
    shortest
}

/// The same schedule with fewer changes of turn, as long as it still breaks a rule.
pub(super) fn shorten_schedule(
    scenario: &Scenario,
    up: &Up,
    bug: Option<&'static Bug>,
    schedule: &Schedule,
) -> Result<(Schedule, Option<Found>), LabError> {
    let stop = Plan { stop_at_first: true, from_point: 1, ..plan(scenario, bug) };
    let try_it = |schedule: &Schedule| -> Result<Option<Found>, LabError> {
        let (played, _) = play_scheduled(scenario, up, true, stop, Choice::Given(schedule.clone()))?;
        Ok(played.tally.found.into_iter().next())
    };
    let mut shortest = schedule.clone();
    let mut found = try_it(&shortest)?;
    let mut index = 0;
    while index < shortest.0.len() {
        let mut fewer = shortest.clone();
        fewer.0.remove(index);
        match try_it(&fewer)? {
            Some(still) => (shortest, found) = (fewer, Some(still)),
            None => index += 1,
        }
    }
    Ok((shortest, found))
}

/// Where an end is named.
pub(super) fn end_name(end: Option<End>) -> Option<String> {
    end.map(|end| end.to_string())
}
