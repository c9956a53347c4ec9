//! What an exploration reports. It holds no time of day and no duration: the same input and seed
//! give the same bytes.

use serde::Serialize;

use tdx_operator::report::Span;

/// All of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ExploreReport {
    /// `cleanslate/explore`.
    pub schema: &'static str,
    /// 1.
    pub version: u32,
    /// Name and version of the program.
    pub tool: &'static str,
    /// What the random schedules came from.
    pub seed: u64,
    /// Points at which a machine was looked at.
    pub instants: u64,
    /// Handovers that were run from them: an instant and a way to end.
    pub crash_points: u64,
    /// Short sequences of operations.
    pub sequences: u64,
    /// Orders in which CPUs took turns.
    pub schedules: u64,
    /// Rules that were broken, and expectations that were not met.
    pub violations: u64,
    /// Bugs that were looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bugs: Option<usize>,
    /// Bugs that were found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bugs_found: Option<usize>,
    /// Each scenario.
    pub scenarios: Vec<ScenarioRun>,
    /// The short sequences, by length.
    pub short_sequences: Vec<SequenceRun>,
    /// Each bug that was looked for.
    pub catalogue: Vec<BugRun>,
    /// Which leaves with which status were crashed at.
    pub coverage: Vec<Covered>,
    /// What the software machine does not model.
    pub limits: &'static [&'static str],
}

/// A scenario and what came of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ScenarioRun {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub about: String,
    /// The CPU model, e.g. `06-8f-08`.
    pub cpu: String,
    /// CPUs.
    pub cpus: u32,
    /// Packages.
    pub packages: u32,
    /// The module that was emulated.
    pub module: &'static str,
    /// What handovers did with private memory.
    pub policy: &'static str,
    /// Usable memory, TDMRs, PAMTs, and private pages when there were most of them. Ascending by
    /// kind, then by address.
    pub memory_map: Vec<MapPiece>,
    /// Its steps, in words.
    pub steps: Vec<String>,
    /// Points at which the machine was looked at.
    pub instants: u64,
    /// Handovers that were run from them.
    pub crash_points: u64,
    /// Orders in which its CPUs took turns.
    pub schedules: u64,
    /// Rules that were broken, and expectations that were not met.
    pub violations: u64,
    /// What was expected and is not so.
    pub unmet: Vec<String>,
    /// The first broken rules.
    pub findings: Vec<FindingReport>,
    /// Every instant, if that was asked for.
    pub timeline: Vec<TimePointReport>,
}

/// A piece of memory and what it is.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MapPiece {
    /// Where.
    pub span: Span,
    /// `memory`, `TDMR`, `PAMT_4K`, `PAMT_2M`, `PAMT_1G`, `TDR`, `TDCX`, `TDVPR`, `SEPT`,
    /// `guest page`, `PAMT page pair`.
    pub kind: &'static str,
}

/// An instant.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct TimePointReport {
    /// Its number, from 1.
    pub instant: u64,
    /// The step of the scenario, from 0.
    pub step: usize,
    /// `between operations`, `ledger store` or `inside a SEAMCALL`.
    pub kind: &'static str,
    /// The CPU that acts.
    pub cpu: u32,
    /// Lines that are private in memory.
    pub private_lines: u64,
    /// Lines that the kernel has marked, those of PAMTs included.
    pub marked_lines: u64,
    /// The operation.
    pub operation: String,
    /// Handovers that were run from it.
    pub crash_points: u64,
    /// The rule that was broken, if one was.
    pub broken: Option<&'static str>,
}

/// A broken rule and its story.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FindingReport {
    /// The instant, from 1.
    pub instant: u64,
    /// Operations on the platform before it.
    pub operations: u64,
    /// The step of the scenario, in words.
    pub step: String,
    /// What kind of point it is.
    pub kind: &'static str,
    /// The operation at the instant.
    pub operation: String,
    /// How the kernel ended: `kexec-0`, `panic-1`; none if the rule was broken before.
    pub end: Option<String>,
    /// The rule.
    pub rule: &'static str,
    /// What broke it.
    pub what: String,
    /// Line by line.
    pub story: Vec<String>,
    /// The order of CPUs, if several ran.
    pub schedule: Option<String>,
    /// The command that shows it again.
    pub replay: String,
}

/// Short sequences of one length.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SequenceRun {
    /// `no TD` or `a TD that runs`.
    pub start: &'static str,
    /// Operations in each.
    pub length: usize,
    /// How many there are, all of them run.
    pub sequences: u64,
    /// Instants of their last operations.
    pub instants: u64,
    /// Handovers that were run from them.
    pub crash_points: u64,
    /// Rules that were broken.
    pub violations: u64,
    /// The first broken rules.
    pub findings: Vec<FindingReport>,
}

/// A bug and whether it was found.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BugRun {
    /// Its name.
    pub name: &'static str,
    /// What the kernel does wrongly.
    pub what: &'static str,
    /// Where it comes from.
    pub origin: &'static str,
    /// It was found.
    pub found: bool,
    /// What it took: `instants`, `adversary`, `schedules`, or `rule`: what may be private was asked
    /// for at the instant, and is not marked.
    pub found_by: Option<&'static str>,
    /// The scenario that showed it.
    pub scenario: Option<String>,
    /// Steps of the shortest scenario that shows it.
    pub replay_steps: Option<usize>,
    /// Operations on the platform up to it, in that scenario.
    pub replay_operations: Option<u64>,
    /// Handovers that were run until it was found.
    pub crash_points: u64,
    /// The story.
    pub finding: Option<FindingReport>,
}

/// Crash points at one leaf.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Covered {
    /// The leaf.
    pub leaf: String,
    /// What it answered.
    pub status: String,
    /// Crash points right after it.
    pub after: u64,
    /// Crash points inside it, as another CPU sees it. It has not answered yet: they stand in the
    /// row of success.
    pub inside: u64,
}
