//! Every instant of a kernel's life, crashed and kexec'ed: shows that none leaves a private line
//! behind, and that the judge would notice if one did.
//!
//! # What an instant is
//! A point between two operations of the kernel on the platform ([`tdx_lab::platform::Operation`]:
//! SEAMCALL, MOVDIR64B, fence, WBINVD, CLFLUSHOPT, a store to shared memory, IPI, NMI, allocation),
//! a point between two stores to the ledger, and the inside of a SEAMCALL as another CPU sees it.
//!
//! * Stores to the ledger are atomics of the product, no operations of the platform. The explorer
//!   compares which pages are marked at one operation and at the next, and looks at each state in
//!   between, in which some of the changed words are new and the others old. The states have a
//!   whole summary, and a mark that came and went between two operations is not seen: that nothing
//!   but the right order of such stores is harmless is loom's to show, as is the record of PAMT,
//!   whose change counts as one store here.
//! * Inside a SEAMCALL of one CPU another may panic, or begin a kexec. The caller takes its NMI
//!   when it has left SEAM, or never in time. Each line is written before the reset or after it,
//!   and lines do not look at each other: so "the whole call before the reset" and "the whole call
//!   after it" are all that an outcome can show. In the second case the host must say that it does
//!   not vouch for the machine; and a kexec must be put off, with nothing changed and the gate open
//!   again.
//!
//! # What happens at an instant
//! The machine is cloned (its memory is shared between clones, so this costs a few microseconds),
//! the original waits, and each clone is handed over by the product's own code: kexec on the acting
//! CPU, a panic on every CPU (of more than eight, on those whose caches may hold private lines
//! first), and a panic in which the acting CPU never answers. Then the next kernel uses memory. No
//! prefix is run again. The judge knows the machine alone, never the ledger: no machine check, no
//! old line over memory that was reset, no reset of a page in use, nothing private
//! after a handover that calls itself clean, and a report that says clean if it is. At the
//! instant itself: what is private is marked, and no dirty line of the host waits over private
//! memory. A kexec that is a step of a scenario is explored like any other step; the operations of
//! a branch's own handover are not branched from again.
//!
//! # The adversary, and why nothing is enumerated
//! Dirty lines may leave their caches at any moment and in any order. An eviction changes one line,
//! and what another line is does not depend on it. So for each line alone, an outcome can show
//! whether it went before or after (a) the module's write to that line, (b) a partial write to it,
//! (c) its reset, (d) the next kernel's use of it.
//! * (a) A line of the host that is dirty while a private KeyID owns its place is harmful whenever
//!   it goes: the judge asks whether there is one, at every instant, and needs no eviction.
//! * (b) Poison hits what is private in memory. Before three of four panics and one of four kexecs
//!   all of it is poisoned as memory stands, so that lines in caches are written over the poison
//!   later; before the others, all private lines have left their caches first. Which, is chance
//!   from the instant's number: the same every time.
//! * (c, d) A private line that is dirty when the reset begins is harmful if it goes after the
//!   reset and harmless before. The machine keeps lines in caches as long as it can, which is the
//!   harmful order, and the judge then evicts what is left under the next kernel. A set that is
//!   empty has nothing to be ordered: with a kernel that writes back, that is every time.
//! * Clean lines that stray reads allocate are dropped, never written back; a read of memory finds
//!   memory.
//!
//! Other mixtures, some lines early and some late, are what `tests/traffic.rs` draws at random,
//! with a seeded eviction between any two operations.
//!
//! # Where TDX is handed over with its TDs
//! Scenarios of policy `keep` play one kernel after another. A branch lets the next kernel take
//! over, adopt and tear down by the product's code, and asks the machine what became of the TDs.
//! Instants are there before and after each operation, of a handover, an adoption and a vacuum as
//! well. A branch copies the records of its kernel by way of a takeover table, so that it shows
//! what a reader of the ledger sees. The machine loses no VMCS at VMXOFF; whose VCPUs a CPU held
//! then is remembered, and their TDs must never be adopted.
//!
//! # What it does not show
//! SEAMCALLs overlap only where a scenario says so ([`Scenario::overlapping`]), and then what a
//! call does is done at once, its locks held until it returns. CPUs change turns at operations on
//! the platform only: between two atomics of the product, and in weak memory order, is loom's
//! matter (`crates/tdx-host/tests/loom_*`). A guest accepts, stores and loads, and runs no code. A
//! kexec that was put off is not continued on the same machine.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod branch;
mod bug;
mod bundled;
mod catalogue;
mod explorer;
mod file;
mod foreign;
mod history;
pub mod html;
mod live;
mod play;
mod relay;
pub mod report;
mod rng;
mod run;
mod scenario;
mod schedule;
mod sequences;
mod tell;
mod verdict;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

pub use branch::End;
pub use bug::Bug;
pub use bundled::{bundled, find, names};
pub use catalogue::bugs;
pub use explorer::InstantKind;
pub use file::parse;
pub use run::Effort;
pub use scenario::{Expect, Scenario, Step, What};
pub use schedule::Schedule;
pub use verdict::Rule;

use crate::report::{BugRun, ExploreReport};
use explorer::Plan;
use play::Up;
use run::{Explored, plan, play_scheduled};
use schedule::Choice;
use tdx_lab::platform::LabError;
use tdx_machine::LIMITS;
use tdx_operator::progress::Progress;
use tdx_operator::report::TOOL;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How many schedules.
    pub effort: Effort,
    /// Operations in the longest short sequences, of those that begin with no TD and of those that
    /// begin with one that runs; 0 for none.
    pub lengths: [usize; 2],
    /// Every instant is reported.
    pub timeline: bool,
    /// One instant is branched from, and no other.
    pub instant: Option<u64>,
    /// Of so many instants of a scenario one is branched from: for hosts on which all would take
    /// too long. 0 is 1.
    pub every: u64,
    /// One schedule is run, and no other.
    pub schedule: Option<Schedule>,
}

impl Options {
    /// Operations in the short sequences of the bundled set.
    pub const LENGTHS: [usize; 2] = [sequences::STARTS[0].length, sequences::STARTS[1].length];
}

/// Explores these scenarios, and the short sequences if some are asked for.
///
/// # Errors
/// [`LabError`]: a scenario cannot be played. A broken rule is no error.
pub fn explore(
    scenarios: &[Scenario],
    bug: Option<&'static Bug>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<ExploreReport, LabError> {
    let mut report = empty(options);
    let mut coverage = BTreeMap::new();
    let mut parts = Parts { progress, begun: 0, of: (scenarios.len() + options.lengths.iter().sum::<usize>()) as u64 };
    for scenario in scenarios {
        parts.begin();
        fits(scenario, bug, options)?;
        let up = Up::new(scenario)?;
        let plan = Plan {
            timeline: options.timeline,
            every: options.every.max(1),
            only: options.instant,
            stop_at_first: false,
            progress,
            ..plan(scenario, bug)
        };
        let explored = match &options.schedule {
            // No CPUs beside each other, and no prefix that can be left out.
            _ if scenario.keeps() => relay::explore(scenario, &up, plan)?,
            Some(schedule) => {
                let plan = Plan { from_point: 1, ..plan };
                let (played, _) = play_scheduled(scenario, &up, true, plan, Choice::Given(schedule.clone()))?;
                Explored::of(played.tally, Some(schedule))
            }
            None if options.instant.is_some() => {
                let (played, _) = play_scheduled(scenario, &up, false, plan, Choice::Given(Schedule::default()))?;
                Explored::of(played.tally, None)
            }
            None => run::explore(scenario, &up, plan, &options.effort)?,
        };
        tell::cover(&mut coverage, &explored.tally);
        report.add_scenario(tell::scenario(scenario, &up, explored, bug));
    }
    if let (Some(host), true) = (bundled::find("td-life").map_err(LabError::scenario)?, options.lengths != [0, 0]) {
        let up = Up::new(&host)?;
        for (index, (start, length)) in sequences::STARTS.iter().zip(options.lengths).enumerate() {
            for of_length in sequences::explore(start, &host, &up, length, bug, &mut parts)? {
                tell::cover(&mut coverage, &of_length.tally);
                report.add_sequences(tell::sequences(index, start, &host, &of_length, bug));
            }
        }
    }
    report.coverage = tell::coverage(coverage);
    Ok(report)
}

/// A bug of a kernel that keeps TDX needs a scenario of policy `keep`, and any other bug another
/// one; a schedule needs CPUs beside each other.
fn fits(scenario: &Scenario, bug: Option<&Bug>, options: &Options) -> Result<(), LabError> {
    if let Some(bug) = bug.filter(|bug| bug.relay.is_some() != scenario.keeps()) {
        let other = if scenario.keeps() { "another policy than" } else { "policy" };
        return Err(LabError::Scenario(format!("bug `{}` needs a scenario of {other} keep", bug.name)));
    }
    if scenario.keeps() && options.schedule.is_some() {
        return Err(LabError::Scenario("a scenario of policy keep has no schedules".to_owned()));
    }
    Ok(())
}

/// A scenario is a part of the whole, and so are the short sequences of one length.
struct Parts<'p> {
    progress: &'p dyn Progress,
    begun: u64,
    of: u64,
}

impl Parts<'_> {
    fn begin(&mut self) {
        self.begun += 1;
        self.progress.part(self.begun, self.of);
    }
}

/// One short sequence, written `START:LETTER,LETTER...`.
///
/// # Errors
/// [`LabError`]: there is no such sequence.
pub fn explore_sequence(text: &str, bug: Option<&'static Bug>, options: &Options) -> Result<ExploreReport, LabError> {
    let no = || {
        LabError::Scenario(format!("`{text}` is no sequence; it is written as a replay command prints it, e.g. 1:0,4"))
    };
    let (start, letters) = text.split_once(':').ok_or_else(no)?;
    let start = start.parse().ok().and_then(|index: usize| sequences::STARTS.get(index)).ok_or_else(no)?;
    let letters: Option<Vec<usize>> =
        letters.split(',').map(|letter| letter.parse().ok().filter(|letter| *letter < start.letters())).collect();
    let host = bundled::find("td-life").map_err(LabError::scenario)?.ok_or_else(no)?;
    let scenario = Scenario { name: "sequence".to_owned(), ..start.scenario(&host, &letters.ok_or_else(no)?) };
    let up = Up::new(&scenario)?;
    let from_step = scenario.steps.len() - 1;
    let plan = Plan {
        from_step,
        only: options.instant,
        timeline: options.timeline,
        stop_at_first: false,
        ..plan(&scenario, bug)
    };
    let (played, _) = play_scheduled(&scenario, &up, true, plan, Choice::Given(Schedule::default()))?;
    let mut report = empty(options);
    let mut coverage = BTreeMap::new();
    tell::cover(&mut coverage, &played.tally);
    report.add_scenario(tell::scenario(&scenario, &up, Explored::of(played.tally, None), bug));
    report.coverage = tell::coverage(coverage);
    Ok(report)
}

/// Looks for each of these bugs in the scenarios that can show it, until the first broken rule, and
/// shortens what shows it.
///
/// # Errors
/// [`LabError`]: a scenario cannot be played.
pub fn find_bugs(bugs: &[&'static Bug], options: &Options, progress: &dyn Progress) -> Result<ExploreReport, LabError> {
    let mut report = empty(options);
    let done = AtomicU64::new(0);
    let runs = run::in_parallel(bugs, |_, bug| {
        let run = find_bug(bug, options);
        progress.step("bugs", done.fetch_add(1, Ordering::Relaxed) + 1, bugs.len() as u64);
        run
    });
    for run in runs {
        let run = run?;
        report.crash_points += run.crash_points;
        report.catalogue.push(run);
    }
    report.bugs = Some(report.catalogue.len());
    report.bugs_found = Some(report.catalogue.iter().filter(|run| run.found).count());
    Ok(report)
}

fn find_bug(bug: &'static Bug, options: &Options) -> Result<BugRun, LabError> {
    let mut crash_points = 0;
    for name in bug.scenarios {
        let scenario = bundled::find(name).map_err(LabError::scenario)?;
        let scenario = scenario.ok_or_else(|| LabError::Scenario(format!("there is no scenario {name}")))?;
        let up = Up::new(&scenario)?;
        let plan = plan(&scenario, Some(bug));
        let explored = if scenario.keeps() {
            relay::explore(&scenario, &up, plan)?
        } else {
            run::explore(&scenario, &up, plan, &options.effort)?
        };
        crash_points += explored.tally.branches;
        let Some(found) = explored.tally.found.first() else { continue };
        let schedule = explored.schedule_of.first().cloned().flatten();
        return tell::found_bug(bug, &scenario, &up, found, schedule.as_ref(), crash_points);
    }
    Ok(tell::missed_bug(bug, crash_points))
}

fn empty(options: &Options) -> ExploreReport {
    ExploreReport {
        schema: "cleanslate/explore",
        version: 1,
        tool: TOOL,
        seed: options.effort.seed,
        instants: 0,
        crash_points: 0,
        sequences: 0,
        schedules: 0,
        violations: 0,
        bugs: None,
        bugs_found: None,
        scenarios: Vec::new(),
        short_sequences: Vec::new(),
        catalogue: Vec::new(),
        coverage: Vec::new(),
        limits: LIMITS,
    }
}
