//! `cleanslate check` and `cleanslate collect`: command-line arguments and dispatch.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufReader, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use tdx_operator::{
    check::{self, Live, Snapshot},
    input::{InputError, Rule, path_text},
    report::{CheckReport, CheckVerdict, Status, prometheus},
};

use crate::exit::Exit;
use crate::files;
use crate::human;
use crate::output::{json, unless_closed};
use crate::stop::Stop;

/// Checks this Linux machine, or a collected one: TDX, the erratum, and the effect of a kexec or a
/// crash on the next kernel.
///
/// Read-only. Works without root and without TDX; lists missing data and how to get it.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate check                                 this machine
  sudo cleanslate check --verbose                  with its MSRs, and the evidence of every check
  cleanslate check --from saved                    a machine that `cleanslate collect saved` has saved
  cleanslate check --from a --from b               two saved machines, one after the other; for many: `cleanslate fleet`
  sudo cleanslate check --log FILE                 the log of this boot from FILE, where the ring buffer has lost it
  cleanslate check --require kdump --require tdx   exit 1 on a host that cannot dump or has no TDX
  cleanslate check --format short                  one line
  cleanslate check --format prometheus --output /var/lib/prometheus/node-exporter/cleanslate.prom
  cleanslate check --format json | jq .verdict     for programs (docs/schemas/check.schema.json)

Exit codes: 0 if no check failed, TDX or not; 1 if one did, or a --require does not hold; 3 if it cannot be told whether TDX is on, or \
input cannot be used.")]
pub(crate) struct CheckArgs {
    /// A machine saved by `cleanslate collect`, instead of this one; may be repeated.
    #[arg(long, value_name = "DIR")]
    from: Vec<PathBuf>,
    /// Takes the kernel's log of this boot from a file (`journalctl -k -b > FILE`), or `-` for
    /// standard input: for hosts whose ring buffer no longer has the boot.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Exit 1 unless this holds; may be repeated.
    #[arg(long, value_enum, value_name = "WHAT")]
    require: Vec<Requirement>,
    /// Shows evidence and source of every check, not only of those that did not pass.
    #[arg(long, short)]
    verbose: bool,
    /// Output format: for people, for programs, TAP, one line, or Prometheus.
    #[arg(long, value_enum, default_value_t = CheckFormat::Human)]
    format: CheckFormat,
    /// Writes the report to a file, complete or not at all, instead of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Saves the data `check` uses, for `check --from` on another machine.
///
/// Saves only known lines, keys and options: no serial numbers, host names or network addresses.
/// Review the files before sending them.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo cleanslate collect saved                    everything, MSRs included
  sudo cleanslate collect saved --log FILE         with the log of this boot from `journalctl -k -b > FILE`
  cleanslate check --from saved                    anywhere, without root
  cleanslate plan --host saved/boot.log            TDMRs and PAMTs of the saved machine")]
pub(crate) struct CollectArgs {
    /// A new or empty folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Takes the kernel's log of this boot from a file, or `-` for standard input.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Requirement {
    /// A panic gives a dump: an image for a crash is loaded.
    Kdump,
    /// A kexec leaves nothing private behind, and is not refused.
    Kexec,
    /// TDX is on.
    Tdx,
}

impl Requirement {
    /// Whether the machine has it; `None` if that is not known.
    pub(crate) fn holds(self, verdict: &CheckVerdict) -> Option<bool> {
        match self {
            Self::Kdump => match verdict.kdump {
                "ready" => Some(true),
                "not-ready" => Some(false),
                _ => None,
            },
            Self::Kexec => match verdict.kexec {
                "safe" => Some(true),
                "unknown" => None,
                _ => Some(false),
            },
            Self::Tdx => match verdict.tdx {
                "on" => Some(true),
                "unknown" => None,
                _ => Some(false),
            },
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum CheckFormat {
    Human,
    Json,
    /// Test Anything Protocol: a line for each check.
    Tap,
    /// One line for each machine.
    Short,
    /// For the textfile collector of node_exporter.
    Prometheus,
}

/// Checks, and says how it went by the exit code.
pub(crate) fn run(args: &CheckArgs, out: &mut impl Write) -> Result<ExitCode, Stop> {
    if args.log.is_some() && args.from.len() > 1 {
        return Err(Stop::Usage("--log is of one machine: give one --from, or none".to_owned()));
    }
    if let Some(path) = &args.output {
        files::probe(path)?;
    }
    let mut reports = Vec::new();
    if args.from.is_empty() {
        reports.push(one("live", Live::here().snapshot(), args.log.as_deref())?);
    }
    for folder in &args.from {
        reports.push(one(&path_text(folder), check::load(folder)?, args.log.as_deref())?);
    }
    match &args.output {
        None => unless_closed(print(args, &reports, out))?,
        Some(path) => {
            let mut bytes = Vec::new();
            print(args, &reports, &mut bytes)?;
            files::write(path, &bytes)?;
        }
    }
    unless_closed(out.flush())?;
    Ok(code(&args.require, reports.iter().map(|report| &report.verdict)))
}

fn one(name: &str, mut snapshot: Snapshot, log: Option<&Path>) -> Result<CheckReport, Stop> {
    if let Some(log) = log {
        use_log(&mut snapshot, log)?;
    }
    Ok(check::check(name, &snapshot))
}

fn use_log(snapshot: &mut Snapshot, log: &Path) -> Result<(), Stop> {
    if log == Path::new("-") {
        return Ok(check::use_log(snapshot, "standard input", std::io::stdin().lock())?);
    }
    let name = log.display().to_string();
    let file = File::open(log).map_err(|error| InputError::of_file(&name, Rule::Unreadable(error.to_string())))?;
    Ok(check::use_log(snapshot, &name, BufReader::new(file))?)
}

fn print(args: &CheckArgs, reports: &[CheckReport], out: &mut impl Write) -> std::io::Result<()> {
    match args.format {
        CheckFormat::Json => match reports {
            [report] => json(out, report),
            reports => json(out, &reports),
        },
        CheckFormat::Prometheus => {
            // The scraper names a live machine.
            let names = names(&args.from);
            let labeled = reports.iter().enumerate();
            let labeled = labeled.map(|(index, report)| (names.get(index).map(String::as_str), Some(report)));
            out.write_all(prometheus::text(&labeled.collect::<Vec<_>>()).as_bytes())
        }
        CheckFormat::Human => {
            for (index, report) in reports.iter().enumerate() {
                if index > 0 {
                    writeln!(out, "\n{}\n", "=".repeat(40))?;
                }
                human::check::print(out, report, args.verbose)?;
            }
            Ok(())
        }
        CheckFormat::Short => {
            reports.iter().try_for_each(|report| human::check::short(out, &report.machine, &report.verdict))
        }
        CheckFormat::Tap => human::check::tap(out, reports),
    }
}

/// The names of saved machines in tables and labels: the last part of the path, or the whole path
/// where two have the same, and a number where that does not help either.
pub(crate) fn names(folders: &[PathBuf]) -> Vec<String> {
    let short = |folder: &PathBuf| path_text(folder.file_name().map_or(folder, Path::new));
    let mut count: BTreeMap<String, u32> = BTreeMap::new();
    for folder in folders {
        *count.entry(short(folder)).or_default() += 1;
    }
    let mut taken: BTreeMap<String, u32> = BTreeMap::new();
    let name = |folder: &PathBuf| {
        let short = short(folder);
        let name = if count.get(&short) == Some(&1) { short } else { path_text(folder) };
        let times = taken.entry(name.clone()).or_default();
        *times += 1;
        if *times == 1 { name } else { format!("{name} ({times})") }
    };
    folders.iter().map(name).collect()
}

/// 1 if a machine fails or does not meet a requirement, 3 if that is not known of one.
pub(crate) fn code<'a>(require: &[Requirement], verdicts: impl Iterator<Item = &'a CheckVerdict>) -> ExitCode {
    let verdicts: Vec<_> = verdicts.collect();
    let required: Vec<_> = verdicts.iter().flat_map(|verdict| require.iter().map(|what| what.holds(verdict))).collect();
    let any = |status| verdicts.iter().any(|verdict| verdict.status == status);
    match () {
        () if required.contains(&Some(false)) || any(Status::Fail) => Exit::Bad.into(),
        () if required.contains(&None) || any(Status::Unknown) => Exit::Input.into(),
        () => ExitCode::SUCCESS,
    }
}

/// Saves this machine.
pub(crate) fn collect(args: &CollectArgs, out: &mut impl Write) -> Result<ExitCode, Stop> {
    let mut snapshot = Live::here().snapshot();
    if let Some(log) = &args.log {
        use_log(&mut snapshot, log)?;
    }
    let files = check::save(&args.folder, &snapshot)?;
    unless_closed(human::check::saved(out, &args.folder, &files, &snapshot))?;
    unless_closed(out.flush())?;
    Ok(ExitCode::SUCCESS)
}
