//! `cleanslate check` and `cleanslate collect`: command-line arguments and dispatch.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use tdx_operator::{
    check::{self, Live},
    report::{CheckReport, Status},
};

use crate::exit::Exit;
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
  cleanslate check --require kdump --require tdx   exit 1 on a host that cannot dump or has no TDX
  cleanslate check --format json | jq .verdict     for programs (docs/schemas/check.schema.json)

Exit codes: 0 if no check failed, TDX or not; 1 if one did, or a --require does not hold; 3 if it cannot be told whether TDX is on, or \
input cannot be used.")]
pub(crate) struct CheckArgs {
    /// A machine saved by `cleanslate collect`, instead of this one.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
    /// Exit 1 unless this holds; may be repeated.
    #[arg(long, value_enum, value_name = "WHAT")]
    require: Vec<Requirement>,
    /// Shows evidence and source of every check, not only of those that did not pass.
    #[arg(long, short)]
    verbose: bool,
    /// Output format: for people, for programs, or TAP.
    #[arg(long, value_enum, default_value_t = CheckFormat::Human)]
    format: CheckFormat,
}

/// Saves the data `check` uses, for `check --from` on another machine.
///
/// Saves only known lines, keys and options: no serial numbers, host names or network addresses.
/// Review the files before sending them.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  sudo cleanslate collect saved                    everything, MSRs included
  cleanslate check --from saved                    anywhere, without root
  cleanslate plan --host saved/boot.log            TDMRs and PAMTs of the saved machine")]
pub(crate) struct CollectArgs {
    /// A new or empty folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum Requirement {
    /// A panic gives a dump: an image for a crash is loaded.
    Kdump,
    /// A kexec leaves nothing private behind, and is not refused.
    Kexec,
    /// TDX is on.
    Tdx,
}

impl Requirement {
    /// Whether the machine has it; `None` if that is not known.
    fn holds(self, report: &CheckReport) -> Option<bool> {
        match self {
            Self::Kdump => match report.verdict.kdump {
                "ready" => Some(true),
                "not-ready" => Some(false),
                _ => None,
            },
            Self::Kexec => match report.checks().find(|check| check.id == "kexec.jump")?.status {
                Status::Pass => Some(true),
                Status::Warn | Status::Fail => Some(false),
                Status::Unknown => None,
            },
            Self::Tdx => match report.verdict.tdx {
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
}

/// Checks, and says how it went by the exit code.
pub(crate) fn run(args: &CheckArgs, out: &mut impl Write) -> Result<ExitCode, Stop> {
    let report = match &args.from {
        None => check::check("live", &Live::here().snapshot()),
        Some(folder) => check::check(&folder.display().to_string(), &check::load(folder)?),
    };
    unless_closed(match args.format {
        CheckFormat::Human => human::check::print(out, &report, args.verbose),
        CheckFormat::Json => json(out, &report),
        CheckFormat::Tap => human::check::tap(out, &report),
    })?;
    unless_closed(out.flush())?;
    let required: Vec<_> = args.require.iter().map(|what| what.holds(&report)).collect();
    Ok(match report.verdict.status {
        _ if required.contains(&Some(false)) => Exit::Bad.into(),
        Status::Fail => Exit::Bad.into(),
        _ if required.contains(&None) => Exit::Input.into(),
        Status::Unknown => Exit::Input.into(),
        Status::Pass | Status::Warn => ExitCode::SUCCESS,
    })
}

/// Saves this machine.
pub(crate) fn collect(args: &CollectArgs, out: &mut impl Write) -> Result<ExitCode, Stop> {
    let snapshot = Live::here().snapshot();
    let files = check::save(&args.folder, &snapshot)?;
    unless_closed(human::check::saved(out, &args.folder, &files, &snapshot))?;
    unless_closed(out.flush())?;
    Ok(ExitCode::SUCCESS)
}
