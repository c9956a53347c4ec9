//! `cleanslate explain`: statuses, errnos, registers, kernel logs.

use std::{io::Write, process::ExitCode};

use clap::Args;
use tdx_operator::explain;

use crate::exit::Exit;
use crate::options::{Format, OutputArgs};
use crate::output::{json, unless_closed};
use crate::stop::Stop;
use crate::{human, progress};

/// Explains a completion status, an errno, an MSR value, or a log: why TDX did not come up, why a
/// kexec was refused or a TD did not start, what a failed SEAMCALL or a machine check means.
///
/// Each answer names its rule and the basis of the rule. Unknown input is reported as unknown; what
/// a log cannot decide is reported as undecidable.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate explain 0xc000050500000000        a completion status: meaning, what to do, which leaf returns it
  cleanslate explain OPERAND_BUSY              the same by name
  cleanslate explain -28                       an errno of a failed bring-up: which failures give it
  cleanslate explain --msr 0x87 0x200000001f   a register's value, as `rdmsr` prints it
  dmesg | cleanslate explain -                 why TDX did not come up; is a machine check poison or hardware
  journalctl -k -b -1 | cleanslate explain -   the same for the boot before
  cleanslate explain two-boots.log --boot 2    one boot of a log that holds several
  cleanslate explain crash.log --format json   for programs (docs/schemas/explain.schema.json)

A number of 16 digits without 0x is hex, as the kernel prints it; from -1 to -4095 it is an errno. A file with the name of a number: give it with its folder, ./1234.

Exit codes: 0 if there is an explanation, also of a failure; 3 if the value is not known, nothing in the log is, or input cannot be used.")]
pub(crate) struct ExplainArgs {
    /// A completion status (hex, decimal or name), an errno (-28, ENOSPC), the file of a kernel
    /// log, or `-` for standard input.
    #[arg(value_name = "VALUE|FILE", allow_negative_numbers = true)]
    subject: String,
    /// Decode the value as this MSR: a number (0x982, 982h) or a name.
    #[arg(long, value_name = "MSR", value_parser = msr)]
    msr: Option<tdx_host::platform::Msr>,
    /// Only this boot of a log that holds several, from 1.
    #[arg(long, value_name = "N", conflicts_with = "msr")]
    boot: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

fn msr(text: &str) -> Result<tdx_host::platform::Msr, String> {
    explain::msr(text)
        .ok_or_else(|| "expected a register number such as 0x87 or a name such as IA32_FEATURE_CONTROL".to_owned())
}

/// Explains, and says by the exit code whether there was something to explain.
pub(crate) fn run(args: &ExplainArgs, out: &mut impl Write) -> Result<ExitCode, Stop> {
    let report = match args.msr {
        Some(msr) => explain::register(msr, &args.subject)?,
        None => explain::subject_of_boot(&args.subject, args.boot, &progress::Line::new())?,
    };
    unless_closed(match args.output.format {
        Format::Json => json(out, &report),
        Format::Human => human::explain::print(out, &report),
    })?;
    unless_closed(out.flush())?;
    Ok(if report.is_known() { ExitCode::SUCCESS } else { Exit::Input.into() })
}
