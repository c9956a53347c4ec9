//! The task `kvm-sweep`: each SEAMCALL of a TD's life under KVM fails once in each way, the VMM
//! ends, Linux kexecs or crashes. Each row goes on from a snapshot of a machine that is ready for
//! its first VMM. Results are kept in a file, and what is there is not run again.

mod judge;
mod row;
mod table;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::args::BootArgs;
use crate::messages::{self, Messages};
use crate::snapshot::Snapshot;
use crate::{kernels, machine, pool, qemu, root};
use judge::{RULES, judge, sysfs};
use row::Row;
use table::table;

/// Fails every SEAMCALL of a TD's life under KVM once in each way, and jumps. Resumes where it
/// left off.
#[derive(Args, Clone, Debug)]
pub struct SweepArgs {
    /// Starts no boot after this many minutes. Without it: runs to the end, which takes hours.
    #[arg(long)]
    minutes: Option<u64>,
    /// Where results are kept, one JSON object on a line.
    #[arg(long, value_name = "FILE", default_value = "target/kvm-sweep.jsonl")]
    results: PathBuf,
    /// Writes the results there as a Markdown table.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
    /// Only rows whose name contains this, for example `PAGE.AUG` or `dies exit kexec`.
    #[arg(long, default_value = "")]
    only: String,
    /// Runs rows again whose outcome was wrong.
    #[arg(long)]
    again: bool,
    /// Boots a machine for each row, from power-on, instead of going on from a snapshot.
    #[arg(long)]
    whole: bool,
    /// Runs each row both ways; what differs between them is wrong.
    #[arg(long, conflicts_with = "whole")]
    both: bool,
    /// Rows at once, each on one core.
    #[arg(long, default_value = "1")]
    jobs: NonZero<u32>,
}

/// What a row came to.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Outcome {
    #[serde(flatten)]
    row: Row,
    verdict: String,
    right: bool,
    why: String,
    /// The ioctl that failed, if one did.
    vmm: String,
    /// Pages that are kept, of sysfs.
    held: Option<u64>,
    seconds: f64,
    discarded: usize,
    /// Booted from power-on?
    #[serde(default)]
    whole: bool,
    /// [`RULES`] at that time.
    #[serde(default)]
    rules: u32,
}

impl Outcome {
    /// What differs in the outcome of the same row.
    fn difference(&self, other: &Self) -> Option<String> {
        let told = |outcome: &Self| format!("{}, {:?}, held {:?}", outcome.verdict, outcome.vmm, outcome.held);
        let (this, that) = (told(self), told(other));
        (this != that).then(|| format!("from the snapshot: {this}; from power-on: {that}"))
    }
}

/// Runs a row from a snapshot and from power-on; the outcome of the first, wrong if that of the
/// second is wrong or differs.
fn run_both(row: &Row, snapshot: &Snapshot, messages: &Messages) -> Result<Outcome> {
    let mut outcome = run(row, Some(snapshot), messages)?;
    let whole = run(row, None, messages)?;
    outcome.discarded += whole.discarded;
    if outcome.right {
        outcome.why = outcome.difference(&whole).unwrap_or_else(|| whole.why.clone());
        outcome.right = outcome.why.is_empty();
    }
    Ok(outcome)
}

/// Why one row differs between the two ways, or is wrong.
pub(crate) fn sample(messages: &Messages) -> Result<Option<String>> {
    let row = Row::sample();
    let outcome = run_both(&row, &Snapshot::take(&row.args()?)?, messages)?;
    Ok((!outcome.right).then_some(outcome.why))
}

/// How the row of [`sample`] is booted.
pub(crate) fn sample_args() -> Result<BootArgs> {
    Row::sample().args()
}

fn run(row: &Row, from: Option<&Snapshot>, messages: &Messages) -> Result<Outcome> {
    let report = qemu::run_from(&row.args()?, from, messages)?;
    let wrong = judge(row, &report);
    let failed = report.event("vmm-failed");
    let told = |key: &str| failed[key].as_str().unwrap_or_default();
    let outcome = Outcome {
        row: row.clone(),
        verdict: report.verdict().name().to_owned(),
        right: wrong.is_none(),
        why: wrong.unwrap_or_default(),
        vmm: if failed.is_null() { String::new() } else { format!("{}: {}", told("what"), told("why")) },
        held: sysfs(&report, "held").and_then(Value::as_u64),
        seconds: report.elapsed().as_secs_f64(),
        discarded: report.discarded().len(),
        whole: from.is_none(),
        rules: RULES,
    };
    if !outcome.right {
        println!("{}{}", report.human(), BootArgs::shell(&row.words()));
    }
    Ok(outcome)
}

/// The snapshot that this row goes on from.
fn find<'s>(snapshots: &'s [Snapshot], row: &Row) -> Result<Option<&'s Snapshot>> {
    let args = row.args()?;
    for snapshot in snapshots {
        if snapshot.suits(&args)? {
            return Ok(Some(snapshot));
        }
    }
    Ok(None)
}

/// A snapshot for each kind of machine that these rows need.
fn snapshots(rows: &[&Row]) -> Result<Vec<Snapshot>> {
    let mut snapshots: Vec<Snapshot> = Vec::new();
    for row in rows {
        if find(&snapshots, row)?.is_none() {
            println!("a machine for `{}` and rows like it boots", row.name());
            snapshots.push(Snapshot::take(&row.args()?)?);
        }
    }
    Ok(snapshots)
}

/// What rows have come to, and whether more are started.
struct Progress {
    done: BTreeMap<Row, Outcome>,
    /// Why no more are.
    failed: Option<anyhow::Error>,
}

/// Runs these rows, several at once, until one cannot be run or it is `end`.
fn run_rows(
    rows: &[&Row],
    args: &SweepArgs,
    end: Option<Instant>,
    progress: &Mutex<Progress>,
    messages: &Messages,
) -> Result<()> {
    let path = root().join(&args.results);
    let snapshots = if args.whole { Vec::new() } else { snapshots(rows)? };
    let one = |row: &Row| -> Result<()> {
        let outcome = match find(&snapshots, row)? {
            Some(snapshot) if args.both => run_both(row, snapshot, messages)?,
            from => run(row, from, messages)?,
        };
        let is = if outcome.right { "right" } else { "WRONG" };
        let line = serde_json::to_string(&outcome)?;
        let mut progress = pool::lock(progress);
        println!("{}: {}, {is} {} ({:.0} s)", row.name(), outcome.verdict, outcome.why, outcome.seconds);
        let file = OpenOptions::new().append(true).create(true).open(&path);
        writeln!(file.with_context(|| format!("cannot write {}", path.display()))?, "{line}")?;
        progress.done.insert(row.clone(), outcome);
        Ok(())
    };
    let work = |row: &Row| {
        let over = end.is_some_and(|end| Instant::now() >= end) || pool::lock(progress).failed.is_some();
        if !over && let Err(error) = one(row) {
            pool::lock(progress).failed = Some(error);
        }
    };
    pool::run(rows.iter().copied(), args.jobs.get(), |_| 1, work);
    pool::lock(progress).failed.take().map_or(Ok(()), Err)
}

/// The task `kvm-sweep`; true if no row's outcome is wrong.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn sweep(args: &SweepArgs) -> Result<bool> {
    let messages = messages::load()?;
    let rows = Row::all();
    let done = load(&root().join(&args.results))?;
    let is_done = |row: &Row| done.get(row).is_some_and(|outcome| outcome.right || !args.again);
    let wanted: Vec<&Row> = rows.iter().filter(|row| row.name().contains(&args.only) && !is_done(row)).collect();
    let end = args.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let progress = Mutex::new(Progress { done, failed: None });
    if let Some(row) = wanted.first() {
        machine::build()?;
        // Packs the initrd where its sources have changed, before several boots want it at once.
        kernels::first(&row.args()?)?;
        run_rows(&wanted, args, end, &progress, &messages)?;
    }
    let done = &pool::lock(&progress).done;
    let results: Vec<&Outcome> = rows.iter().filter_map(|row| done.get(row)).collect();
    let wrong = results.iter().filter(|outcome| !outcome.right).count();
    println!("{} of {} rows run, {wrong} wrong", results.len(), rows.len());
    if let Some(file) = &args.table {
        let file = root().join(file);
        fs::write(&file, table(&results, rows.len())).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(wrong == 0)
}

/// Results of earlier runs that were judged by the same rules; of the same row the last one.
fn load(path: &Path) -> Result<BTreeMap<Row, Outcome>> {
    let mut done = BTreeMap::new();
    if !path.exists() {
        return Ok(done);
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (number, line) in text.lines().enumerate() {
        let outcome: Outcome = serde_json::from_str(line)
            .with_context(|| format!("{}, line {}: no result of this task", path.display(), number + 1))?;
        if outcome.rules == RULES {
            done.insert(outcome.row.clone(), outcome);
        }
    }
    ensure!(done.keys().all(|row| !row.leaf.is_empty()), "{}: a row without a leaf", path.display());
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_the_two_ways_is_told() {
        let outcome = |verdict: &str, vmm: &str, held| Outcome {
            row: Row::sample(),
            verdict: verdict.to_owned(),
            right: true,
            why: String::new(),
            vmm: vmm.to_owned(),
            held,
            seconds: 1.0,
            discarded: 0,
            whole: false,
            rules: RULES,
        };
        let one = outcome("clean", "KVM_RUN: Input/output error", Some(10));
        assert_eq!(one.difference(&Outcome { seconds: 30.0, whole: true, ..one.clone() }), None);
        for other in [
            outcome("failed", "KVM_RUN: Input/output error", Some(10)),
            outcome("clean", "", Some(10)),
            outcome("clean", "KVM_RUN: Input/output error", None),
        ] {
            assert!(one.difference(&other).is_some(), "{other:?}");
        }
    }

    #[test]
    fn results_of_other_rules_do_not_count() {
        let folder = std::env::temp_dir().join(format!("cleanslate-sweep-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("results.jsonl");
        // As before there was a number of the rules.
        let old = r#"{"leaf":"MNG.CREATE","call":1,"failure":"dies","end":"exit","jump":"kexec","verdict":"clean","right":true,"why":"","vmm":"","held":1,"seconds":9.5,"discarded":0}"#;
        let now = old.replace("MNG.CREATE", "MNG.INIT").replace('}', &format!(r#","rules":{RULES}}}"#));
        fs::write(&path, format!("{old}\n{now}\n")).unwrap();
        let done = load(&path);
        fs::remove_dir_all(&folder).unwrap();
        let leaves: Vec<String> = done.unwrap().into_keys().map(|row| row.leaf).collect();
        assert_eq!(leaves, ["MNG.INIT"]);
    }
}
