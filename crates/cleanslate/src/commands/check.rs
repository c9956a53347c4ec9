//! `cleanslate check` and `cleanslate collect`: command-line arguments and dispatch.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use tdx_operator::{
    check::{self, Live},
    report::Status,
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
  cleanslate check --format json | jq .verdict     for programs (docs/schemas/check.schema.json)

Exit codes: 0 if no check failed, TDX or not; 1 if one did; 3 if it cannot be told whether TDX is on, or \
input cannot be used.")]
pub(crate) struct CheckArgs {
    /// A machine saved by `cleanslate collect`, instead of this one.
    #[arg(long, value_name = "DIR")]
    from: Option<PathBuf>,
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
    Ok(match report.verdict.status {
        Status::Fail => Exit::Bad.into(),
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
