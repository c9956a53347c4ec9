//! `cleanslate explore`: command-line arguments and order of work.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use clap::{Args, ValueEnum};
use tdx_explorer::{Bug, Effort, Options, Scenario, Schedule, report::ExploreReport};
use tdx_operator::{
    host::{Host, HostOptions},
    input::{InputError, Rule},
};

use crate::output::{json, unless_closed};
use crate::stop::Stop;
use crate::{human, progress};

/// Crashes a kernel and does a kexec at every instant of its life with TDX, and checks for private
/// memory left behind.
///
/// Without arguments: the bundled scenarios and all short sequences of operations. At each instant
/// the machine is cloned and handed over by kexec and by a panic on each CPU, and the next kernel
/// uses memory.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate explore                                 the bundled set
  cleanslate explore --scenario td-life              one scenario of it
  cleanslate explore --scenario mine.toml            a scenario of your own
  cleanslate explore --bug all                       every bug of the catalogue must be found
  cleanslate explore --bug mark-after-give           one of them, with its story and its replay
  cleanslate explore --host boot.log --every 5003    a TD's life on a large host, some of its instants
  cleanslate explore --list                          names of scenarios and bugs
  cleanslate explore --report out.html               a page with pictures, for people
  cleanslate explore --format json | jq .violations  for programs

Exit codes: 0 if no rule was broken (with --bug alone: if every bug was found), 1 if not.")]
pub(crate) struct ExploreArgs {
    /// A bundled scenario or a TOML file; may be repeated. [default: all bundled ones, and the
    /// short sequences]
    #[arg(long, value_name = "NAME|FILE")]
    scenario: Vec<String>,
    /// Runs the scenarios on this host (boot log, /proc/iomem, TOML) instead of their own; without
    /// --scenario: td-life.
    #[arg(long, value_name = "FILE", conflicts_with = "sequence")]
    host: Option<PathBuf>,
    /// Branches from every N-th instant only: for large hosts, where all instants take days.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Searches for this bug in the scenarios that can show it; with --scenario: runs that one with
    /// the bug. `all` for all bugs.
    #[arg(long, value_name = "NAME|all")]
    bug: Option<String>,
    /// Lists the bundled scenarios and the bugs.
    #[arg(long, conflicts_with_all = ["scenario", "bug", "report", "format"])]
    list: bool,
    /// Maximum length of short sequences: starting without a TD, and with a running TD.
    #[arg(long, value_name = "N,M", value_parser = lengths)]
    sequences: Option<[usize; 2]>,
    /// Seed of the random schedules.
    #[arg(long, default_value_t = Effort::default().seed)]
    seed: u64,
    /// Random schedules for each scenario with concurrent CPUs.
    #[arg(long, value_name = "N", default_value_t = Effort::default().random)]
    random: u64,
    /// Systematic schedules for each of these, those with the fewest preemptions first.
    #[arg(long, value_name = "N", default_value_t = Effort::default().systematic)]
    schedules: usize,
    /// Preemptions in a systematic schedule.
    #[arg(long, value_name = "N", default_value_t = Effort::default().preemptions)]
    preemptions: usize,
    /// Replay: only this instant.
    #[arg(long, value_name = "N")]
    instant: Option<u64>,
    /// Replay: only this schedule.
    #[arg(long, value_name = "POINT:CPU,...", requires = "scenario")]
    schedule: Option<Schedule>,
    /// Replay: only these steps of the scenario, from 0.
    #[arg(long, value_name = "STEP,...", value_delimiter = ',', requires = "scenario")]
    keep: Vec<usize>,
    /// Replay: one short sequence.
    #[arg(long, value_name = "START:LETTER,...", conflicts_with_all = ["scenario", "sequences"])]
    sequence: Option<String>,
    /// Writes an HTML report: one self-contained file, no network access.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Reports every instant (JSON only).
    #[arg(long)]
    timeline: bool,
    /// Output format: for people, for programs, or TAP.
    #[arg(long, value_enum, default_value_t = ExploreFormat::Human)]
    format: ExploreFormat,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum ExploreFormat {
    Human,
    Json,
    /// Test Anything Protocol: a line for each scenario, each length of sequences, each bug.
    Tap,
}

fn lengths(text: &str) -> Result<[usize; 2], String> {
    let pair = text.split_once(',').and_then(|(one, two)| Some([one.parse().ok()?, two.parse().ok()?]));
    pair.ok_or_else(|| "two numbers are expected, e.g. 5,3; 0,0 for none".to_owned())
}

impl ExploreArgs {
    fn options(&self) -> Options {
        let effort =
            Effort { preemptions: self.preemptions, systematic: self.schedules, random: self.random, seed: self.seed };
        let all = self.scenario.is_empty() && self.host.is_none();
        let none = if all { Options::LENGTHS } else { [0, 0] };
        Options {
            effort,
            lengths: self.sequences.unwrap_or(none),
            timeline: self.timeline || self.report.is_some(),
            instant: self.instant,
            every: self.every,
            schedule: self.schedule.clone(),
        }
    }

    fn scenarios(&self) -> Result<Vec<Scenario>, Stop> {
        let life = ["td-life".to_owned()];
        let names = match (self.scenario.as_slice(), &self.host) {
            ([], None) => return Ok(tdx_explorer::bundled()?),
            ([], Some(_)) => &life[..],
            (names, _) => names,
        };
        let mut scenarios = Vec::new();
        for name in names {
            let mut scenario = read(name)?;
            if !self.keep.is_empty() {
                if let Some(step) = self.keep.iter().find(|step| **step >= scenario.steps.len()) {
                    return Err(usage(format!("--keep {step}: {name} has {} steps, from 0", scenario.steps.len())));
                }
                scenario = scenario.keeping(&self.keep);
            }
            if let Some(path) = &self.host {
                scenario.host = Host::from_path(path, &HostOptions::default())?;
            }
            scenarios.push(scenario);
        }
        Ok(scenarios)
    }

    fn bugs(&self) -> Result<Vec<&'static Bug>, Stop> {
        match self.bug.as_deref() {
            None => Ok(Vec::new()),
            Some("all") => Ok(tdx_explorer::bugs().collect()),
            Some(name) => {
                if let Some(bug) = tdx_explorer::bugs().find(|bug| bug.name == name) {
                    return Ok(vec![bug]);
                }
                let known: Vec<&str> = tdx_explorer::bugs().map(|bug| bug.name).collect();
                Err(usage(format!("unknown bug `{name}`; known: {}", known.join(", "))))
            }
        }
    }
}

/// A bundled scenario by its name, or a file.
fn read(name: &str) -> Result<Scenario, Stop> {
    if let Some(scenario) = tdx_explorer::find(name)? {
        return Ok(scenario);
    }
    let bytes = match fs::read(name) {
        Ok(bytes) => bytes,
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                && Path::new(name).extension().is_none_or(|extension| extension != "toml") =>
        {
            let known: Vec<&str> = tdx_explorer::names().collect();
            return Err(usage(format!("unknown scenario `{name}`; known: {}", known.join(", "))));
        }
        Err(error) => return Err(InputError::of_file(name, Rule::Unreadable(error.to_string())).into()),
    };
    let text = String::from_utf8(bytes).map_err(|_| InputError::of_file(name, Rule::NotUtf8))?;
    Ok(tdx_explorer::parse(name, &text)?)
}

/// A name that does not exist.
fn usage(what: String) -> Stop {
    Stop::Usage(what)
}

/// Explores, and says whether all is well.
pub(crate) fn run(args: &ExploreArgs, out: &mut impl Write) -> Result<bool, Stop> {
    if args.list {
        unless_closed(human::explore::list(out))?;
        return Ok(true);
    }
    if let Some(path) = &args.report {
        crate::files::probe(path)?;
    }
    let options = args.options();
    let bugs = args.bugs()?;
    let start = Instant::now();
    let line = progress::Line::new();
    let searching = !bugs.is_empty() && args.scenario.is_empty() && args.sequence.is_none();
    let bug = if searching { None } else { bugs.first().copied() };
    let report = match &args.sequence {
        Some(sequence) => tdx_explorer::explore_sequence(sequence, bug, &options)?,
        None if searching => tdx_explorer::find_bugs(&bugs, &options, &line)?,
        None => tdx_explorer::explore(&args.scenarios()?, bug, &options, &line)?,
    };
    drop(line);
    let seconds = start.elapsed().as_secs_f64();
    if let Some(path) = &args.report {
        crate::files::write(path, tdx_explorer::html::page(&report).as_bytes())?;
        let _ = writeln!(io::stderr(), "the page is in {}", tdx_operator::input::path_text(path));
    }
    unless_closed(match args.format {
        ExploreFormat::Json => json(out, &report),
        ExploreFormat::Tap => human::explore::tap(out, &report),
        ExploreFormat::Human => human::explore::print(out, &report),
    })?;
    rate(&report, seconds);
    Ok(report.violations == 0 && report.bugs == report.bugs_found)
}

/// How fast it was: not part of the report, which is the same every time.
fn rate(report: &ExploreReport, seconds: f64) {
    if io::stderr().is_terminal() || seconds > 2.0 {
        let per_second = report.crash_points as f64 / seconds.max(1e-9);
        let _ = writeln!(
            io::stderr(),
            "{} crash points in {seconds:.1} s: {per_second:.0} per second",
            human::grouped(report.crash_points)
        );
    }
}
