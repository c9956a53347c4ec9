//! The `cleanslate` command: parses arguments, runs one subcommand, returns its exit code.

mod cli;
mod commands;
mod exit;
mod files;
mod human;
mod interrupt;
mod options;
mod output;
mod progress;
mod stop;
mod threads;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches};

use cli::{Cli, Command};
use commands::{bench, check, explain, explore, fleet, kexec, linux, packaging, plan};
use exit::Exit;
use output::{report_error, unless_closed};
use stop::Stop;

fn main() -> ExitCode {
    let mut command = human::width::fit(Cli::command());
    let cli =
        Cli::from_arg_matches(&command.get_matches_mut()).unwrap_or_else(|error| error.format(&mut command).exit());
    interrupt::install();
    // A panic has been printed by the default hook; here it becomes the documented exit code.
    match std::panic::catch_unwind(|| run(&cli)) {
        Ok(Ok(code)) => code,
        Ok(Err(stop)) => {
            report_error(format_args!("{}", stop.message()));
            stop.exit().into()
        }
        Err(_) => {
            report_error(format_args!("internal error; please report it with the command line and the host file"));
            Exit::Internal.into()
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Stop> {
    let mut out = io::BufWriter::new(anstream::AutoStream::auto(io::stdout().lock()));
    let good = match &cli.command {
        Command::Check(args) => return check::run(args, &mut out),
        Command::Collect(args) => return check::collect(args, &mut out),
        Command::Explain(args) => return explain::run(args, &mut out),
        Command::Fleet(args) => return fleet::run(args, &mut out),
        Command::Kexec(args) => kexec::run(args, &mut out)?,
        Command::Explore(args) => explore::run(args, &mut out)?,
        Command::Plan(args) => plan::run(args, &mut out)?,
        Command::Linux(args) => {
            let exit = linux::run(args, &mut out)?;
            unless_closed(out.flush())?;
            return Ok(exit.into());
        }
        Command::Bench(args) => {
            bench::run(args, &mut out)?;
            true
        }
        Command::Completions(args) => {
            packaging::completions(args, &Cli::command(), &mut out)?;
            true
        }
        Command::Man(args) => {
            packaging::man(args, Cli::command())?;
            true
        }
    };
    unless_closed(out.flush())?;
    Ok(Exit::from(good).into())
}
