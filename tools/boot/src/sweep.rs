//! The task `kvm-sweep`: each SEAMCALL of a TD's life under KVM fails once in each way, the VMM
//! ends, Linux kexecs or crashes. Boot after boot; results are kept in a file, and what is there is
//! not run again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tdx_abi::Leaf;

use crate::args::BootArgs;
use crate::expect::different_counts;
use crate::messages::{self, Messages};
use crate::report::{Report, Verdict};
use crate::{qemu, root};

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
}

/// SEAMCALLs that KVM makes in the life of a TD of bare/linux/vmm.c, and which of the calls of each
/// fail: the first and, where there are more, a later one.
const CALLS: [(Leaf, &[u64]); 24] = [
    (Leaf::MNG_CREATE, &[1]),
    (Leaf::MNG_KEY_CONFIG, &[1]),
    (Leaf::MNG_ADDCX, &[1, 4]),
    (Leaf::MNG_INIT, &[1]),
    (Leaf::MNG_RD, &[1]),
    (Leaf::VP_CREATE, &[1]),
    (Leaf::VP_ADDCX, &[1, 3]),
    (Leaf::VP_INIT, &[1]),
    (Leaf::VP_WR, &[1]),
    (Leaf::MEM_SEPT_ADD, &[1, 2]),
    (Leaf::MEM_PAGE_ADD, &[1, 3]),
    (Leaf::MR_EXTEND, &[1, 20]),
    (Leaf::MR_FINALIZE, &[1]),
    (Leaf::VP_ENTER, &[1, 5]),
    (Leaf::MEM_PAGE_AUG, &[1, 3]),
    (Leaf::MEM_RANGE_BLOCK, &[1, 2]),
    (Leaf::MEM_TRACK, &[1]),
    (Leaf::MEM_PAGE_REMOVE, &[1, 3]),
    (Leaf::PHYMEM_PAGE_WBINVD, &[1, 3]),
    (Leaf::VP_FLUSH, &[1]),
    (Leaf::MNG_VPFLUSHDONE, &[1]),
    (Leaf::PHYMEM_CACHE_WB, &[1]),
    (Leaf::MNG_KEY_FREEID, &[1]),
    (Leaf::PHYMEM_PAGE_RECLAIM, &[1, 5]),
];

const FAILURES: [&str; 5] = ["dies", "busy", "non-recoverable", "interrupted", "entropy"];

/// How the VMM ends and what comes then. The order in which rows are run: breadth first.
const ENDINGS: [(&str, &str); 4] = [("exit", "kexec"), ("kill", "crash"), ("kill", "kexec"), ("exit", "crash")];

/// One boot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
struct Row {
    leaf: String,
    call: u64,
    failure: String,
    end: String,
    jump: String,
}

impl Row {
    fn name(&self) -> String {
        format!("{} {} {} {} {}", self.leaf, self.call, self.failure, self.end, self.jump)
    }

    fn all() -> Vec<Self> {
        let mut rows = Vec::new();
        for (end, jump) in ENDINGS {
            for failure in FAILURES {
                for (leaf, calls) in CALLS {
                    let leaf = leaf.name().unwrap_or_default();
                    rows.extend(calls.iter().map(|call| Self {
                        leaf: leaf.to_owned(),
                        call: *call,
                        failure: failure.to_owned(),
                        end: end.to_owned(),
                        jump: jump.to_owned(),
                    }));
                }
            }
        }
        rows
    }

    fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = ["kvm", "--module", "--timeout=240"].map(str::to_owned).into();
        words.push(format!("--fail={}:{}:{}", self.leaf, self.call, self.failure));
        words.push(format!("--end={}", self.end));
        if self.jump == "crash" {
            words.extend(["--crash".to_owned(), "--memory=768".to_owned()]);
        } else {
            words.push("--memory=640".to_owned());
        }
        words
    }
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
}

/// Did the call fail as was asked?
fn has_failed(row: &Row, report: &Report) -> bool {
    let calls = report.summary()["seamcalls"].as_array().map_or(&[][..], Vec::as_slice);
    let status = match row.failure.as_str() {
        // A status is counted without bits 31:0.
        "dies" => "unknown status 0x8000ff0000000000",
        "busy" => "TDX_OPERAND_BUSY",
        "entropy" => "TDX_RND_NO_ENTROPY",
        "interrupted" => "TDX_INTERRUPTED_RESUMABLE",
        _ if row.leaf == "VP.ENTER" => "TDX_NON_RECOVERABLE_TD",
        _ => "TDX_TD_FATAL",
    };
    let leaf = format!("TDH.{}", row.leaf);
    calls.iter().any(|call| call["leaf"] == leaf && call["status"].as_str().is_some_and(|is| is.starts_with(status)))
}

/// The last value of a file of /sys/kernel/cleanslate.
fn sysfs<'r>(report: &'r Report, file: &str) -> Option<&'r Value> {
    let last = report.events().iter().rfind(|event| event["event"] == "sysfs" && event["file"] == file);
    last.map(|event| &event["value"])
}

/// Was this module loaded?
fn is_loaded(events: &[Value], module: &str) -> bool {
    events.iter().any(|event| event["event"] == "loaded" && event["module"] == module)
}

/// Why the outcome is wrong, if it is.
fn judge(row: &Row, report: &Report) -> Option<String> {
    if report.verdict() != Verdict::Clean {
        return Some(report.why().to_owned());
    }
    if !has_failed(row, report) {
        return Some("the call did not fail: the TD's life has no such call".to_owned());
    }
    judge_end(row, report.events(), &report.summary()["lines"]["private"])
}

/// The same of a run whose last kernel finished its work, after the call has failed.
/// `private`: lines that are private at the end.
fn judge_end(row: &Row, events: &[Value], private: &Value) -> Option<String> {
    let last = |name: &str| events.iter().rfind(|event| event["event"] == name);
    if let Some(event) = last("kexec-failed") {
        return Some(format!("an image was refused: {}", event["why"]));
    }
    if *private != 0 {
        return Some(format!("{private} lines are private at the end"));
    }
    // Otherwise nobody has looked whether memory in use was overwritten, or what is left.
    let canaries = last("canaries").is_some_and(|event| event["pages"].as_u64().is_some_and(|pages| pages > 0));
    if !canaries || !is_loaded(events, "/next/cleanslate_canary.ko") {
        return Some("no canaries were in free memory".to_owned());
    }
    if row.jump == "kexec" && !is_loaded(events, "/modules/cleanslate_use.ko") {
        return Some("the next kernel did not use free memory".to_owned());
    }
    if last("vmm-end").is_none_or(|event| event["how"] == "hangs") {
        return Some("the VMM hangs".to_owned());
    }
    match last("pages") {
        Some(pages) if pages["when"] == "end" => different_counts(pages),
        _ => Some("no pages were counted at the end".to_owned()),
    }
}

fn run(row: &Row, messages: &Messages) -> Result<Outcome> {
    let words = row.words();
    let args = BootArgs::from_words(words.iter().map(String::as_str))?;
    let report = qemu::run(&args, messages)?;
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
    };
    if !outcome.right {
        println!("{}", report.human());
        println!("{}", BootArgs::shell(&words));
    }
    Ok(outcome)
}

/// The task `kvm-sweep`; true if no row's outcome is wrong.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn sweep(args: &SweepArgs) -> Result<bool> {
    let messages = messages::load()?;
    qemu::build()?;
    let path = root().join(&args.results);
    let mut done = load(&path)?;
    let rows = Row::all();
    let start = Instant::now();
    let limit = args.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    let wanted = |row: &&Row, done: &BTreeMap<Row, Outcome>| {
        row.name().contains(&args.only) && done.get(row).is_none_or(|outcome| args.again && !outcome.right)
    };
    for row in &rows {
        if limit.is_some_and(|limit| start.elapsed() >= limit) {
            break;
        }
        if !wanted(&row, &done) {
            continue;
        }
        let outcome = run(row, &messages)?;
        let is = if outcome.right { "right" } else { "WRONG" };
        println!("{}: {}, {is} {} ({:.0} s)", row.name(), outcome.verdict, outcome.why, outcome.seconds);
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        writeln!(file, "{}", serde_json::to_string(&outcome)?)?;
        done.insert(row.clone(), outcome);
    }
    let results: Vec<&Outcome> = rows.iter().filter_map(|row| done.get(row)).collect();
    let wrong = results.iter().filter(|outcome| !outcome.right).count();
    println!("{} of {} rows run, {wrong} wrong", results.len(), rows.len());
    if let Some(file) = &args.table {
        let file = root().join(file);
        fs::write(&file, table(&results, rows.len())).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(wrong == 0)
}

/// Results of earlier runs; of the same row the last one.
fn load(path: &PathBuf) -> Result<BTreeMap<Row, Outcome>> {
    let mut done = BTreeMap::new();
    if !path.exists() {
        return Ok(done);
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    for (number, line) in text.lines().enumerate() {
        let outcome: Outcome = serde_json::from_str(line)
            .with_context(|| format!("{}, line {}: no result of this task", path.display(), number + 1))?;
        done.insert(outcome.row.clone(), outcome);
    }
    ensure!(done.keys().all(|row| !row.leaf.is_empty()), "{}: a row without a leaf", path.display());
    Ok(done)
}

/// A row of the table for each call and failure, a column for each ending.
fn table(results: &[&Outcome], rows: usize) -> String {
    let wrong = results.iter().filter(|outcome| !outcome.right).count();
    let discarded: usize = results.iter().map(|outcome| outcome.discarded).sum();
    let mut text = format!(
        "# Failing SEAMCALLs of a TD under KVM\n\n\
         Written by `cargo xtask kvm-sweep --table docs/KVM_SWEEP.md`; what is run and what is right:\n\
         [KVM](kvm.md). {} of {rows} rows run, {wrong} wrong; {discarded} runs of QEMU discarded. An empty\n\
         cell has not been run. `held`: pages that stay out of the page allocator until the kexec, in the\n\
         first ending that was run.\n\n\
         | SEAMCALL | call | failure | the VMM sees | held |",
        results.len()
    );
    for (end, jump) in ENDINGS {
        // Writing to a string never fails.
        let _ = write!(text, " {end}, {jump} |");
    }
    text.push_str("\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (leaf, calls) in CALLS {
        let leaf = leaf.name().unwrap_or_default();
        for call in calls {
            for failure in FAILURES {
                let of = |outcome: &&&Outcome| {
                    outcome.row.leaf == leaf && outcome.row.call == *call && outcome.row.failure == failure
                };
                let Some(first) = results.iter().find(of) else { continue };
                let vmm = if first.vmm.is_empty() { "no error" } else { &first.vmm };
                let held = first.held.map(|held| held.to_string()).unwrap_or_default();
                let _ = write!(text, "| {leaf} | {call} | {failure} | {vmm} | {held} |");
                for (end, jump) in ENDINGS {
                    let cell =
                        results.iter().filter(of).find(|outcome| outcome.row.end == end && outcome.row.jump == jump);
                    let cell = cell.map_or(String::new(), |outcome| {
                        if outcome.right {
                            outcome.verdict.clone()
                        } else {
                            format!("**{}**: {}", outcome.verdict, outcome.why)
                        }
                    });
                    let _ = write!(text, " {} |", cell.replace('|', "/"));
                }
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_boot() {
        let rows = Row::all();
        for row in &rows {
            let words = row.words();
            let args = BootArgs::from_words(words.iter().map(String::as_str)).unwrap();
            assert_eq!((args.end().name(), args.crash), (row.end.as_str(), row.jump == "crash"), "{}", row.name());
        }
        let names: std::collections::BTreeSet<String> = rows.iter().map(Row::name).collect();
        assert_eq!(names.len(), rows.len());
    }

    #[test]
    fn a_clean_run_is_right_only_if_its_memory_was_looked_at() {
        let row = |jump: &str| Row::all().into_iter().find(|row| row.jump == jump).unwrap();
        let loaded = |module: &str| serde_json::json!({ "event": "loaded", "module": module });
        let two = [2, 2];
        let pages = serde_json::json!({ "event": "pages", "when": "end", "tdr": two, "tdcx": two, "tdvpr": two, "sept": two, "guest": two });
        let events = vec![
            serde_json::json!({ "event": "vmm-end", "how": "exit 0" }),
            pages,
            serde_json::json!({ "event": "canaries", "pages": 9 }),
            loaded("/next/cleanslate_canary.ko"),
            loaded("/modules/cleanslate_use.ko"),
        ];
        let zero = Value::from(0);
        assert_eq!(judge_end(&row("kexec"), &events, &zero), None);
        assert!(judge_end(&row("kexec"), &events, &Value::from(1)).is_some());
        for missing in 0..events.len() {
            let mut fewer = events.clone();
            fewer.remove(missing);
            assert!(judge_end(&row("kexec"), &fewer, &zero).is_some(), "{}", events[missing]);
        }
        // A crash kernel reads the dump and uses no other memory.
        assert_eq!(judge_end(&row("crash"), &events[..4], &zero), None);
        let mut changed = events.clone();
        changed[0]["how"] = "hangs".into();
        assert!(judge_end(&row("kexec"), &changed, &zero).is_some());
        let mut changed = events.clone();
        changed[1]["tdr"] = serde_json::json!([-1, 2]);
        assert!(judge_end(&row("kexec"), &changed, &zero).is_some());
        let mut changed = events.clone();
        changed[2]["pages"] = 0.into();
        assert!(judge_end(&row("kexec"), &changed, &zero).is_some());
        let mut refused = events;
        refused.push(serde_json::json!({ "event": "kexec-failed", "why": "jump: not loaded" }));
        assert!(judge_end(&row("kexec"), &refused, &zero).is_some());
    }

    #[test]
    fn a_wrong_row_is_seen_in_the_table() {
        let row = Row::all().swap_remove(0);
        let outcome = Outcome {
            row,
            verdict: "overwritten".to_owned(),
            right: false,
            why: "first at 0x1000".to_owned(),
            vmm: String::new(),
            held: Some(3),
            seconds: 1.0,
            discarded: 0,
        };
        let text = table(&[&outcome], 5);
        assert!(text.contains("1 of 5 rows run, 1 wrong"), "{text}");
        let line = "| MNG.CREATE | 1 | dies | no error | 3 | **overwritten**: first at 0x1000 |  |  |  |";
        assert!(text.contains(line), "{text}");
    }
}
