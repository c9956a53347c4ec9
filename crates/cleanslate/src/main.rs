//! The `cleanslate` command: arguments in, one report out. What the reports say is worked out in
//! `tdx-operator`, `tdx-lab` and `tdx-explorer`; here they are asked for, printed, and turned into an exit code.

mod args;
mod bench;
mod check;
mod exit;
mod explain;
mod explore;
mod files;
mod human;
mod linux;
mod packaging;
mod progress;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, FromArgMatches};
use tdx_lab::{kexec, platform::LabError};
use tdx_operator::{cost::Rates, input::InputError, plan::plan, report::svg};

use args::{Cli, Command, Format};
use exit::Exit;

/// Why there is no report.
enum Stop {
    Input(Box<InputError>),
    Lab(LabError),
    /// The command line asks for something that there is not.
    Usage(String),
    Output(io::Error),
}

impl From<LabError> for Stop {
    fn from(error: LabError) -> Self {
        Self::Lab(error)
    }
}

impl From<InputError> for Stop {
    fn from(error: InputError) -> Self {
        Self::Input(Box::new(error))
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Says it on stderr; if that cannot be written there is nobody left to tell.
fn complain(what: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "cleanslate: {what}");
}

/// A reader that has seen enough, e.g. `head`, changes nothing about the verdict.
fn unless_closed(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

fn main() -> ExitCode {
    let mut command = human::width::fit(Cli::command());
    let cli =
        Cli::from_arg_matches(&command.get_matches_mut()).unwrap_or_else(|error| error.format(&mut command).exit());
    // Without a handler Ctrl-C still works, but for the line and the piece of a file that it
    // leaves.
    let _ = ctrlc::set_handler(|| {
        files::give_up();
        progress::interrupted();
        std::process::exit(Exit::Interrupted.code().into())
    });
    // The default hook has printed the place already; what is left is the promise about exit codes.
    let result = std::panic::catch_unwind(|| run(&cli));
    match result {
        Ok(Ok(code)) => code,
        Ok(Err(Stop::Input(error))) => {
            complain(format_args!("{error}"));
            Exit::Input.into()
        }
        Ok(Err(Stop::Lab(error))) => {
            complain(format_args!("{error}"));
            // What the host is made of comes from the input; what the laboratory asks of the
            // machine does not.
            let internal = matches!(error, LabError::Refused(_));
            if internal { Exit::Internal } else { Exit::Input }.into()
        }
        Ok(Err(Stop::Usage(what))) => {
            complain(format_args!("{what}"));
            Exit::Usage.into()
        }
        Ok(Err(Stop::Output(error))) => {
            complain(format_args!("cannot write the report: {error}"));
            Exit::Internal.into()
        }
        Err(_) => {
            complain(format_args!("internal error; please report it with the command and the host file"));
            Exit::Internal.into()
        }
    }
}

fn run(cli: &Cli) -> Result<ExitCode, Stop> {
    let mut out = io::BufWriter::new(anstream::AutoStream::auto(io::stdout().lock()));
    let good = match &cli.command {
        Command::Kexec(args) => {
            let host = args.host.read(&progress::Line::new())?;
            let report = kexec::run(&host, args.options(), &progress::Line::new())?;
            unless_closed(match args.output.format {
                Format::Json => json(&mut out, &report),
                Format::Human => human::kexec::print(&mut out, &report),
            })?;
            report.verdict.is_good() && report.bringup.error.is_none()
        }
        Command::Check(args) => return check::run(args, &mut out),
        Command::Collect(args) => return check::collect(args, &mut out),
        Command::Explain(args) => return explain::run(args, &mut out),
        Command::Explore(args) => explore::run(args, &mut out)?,
        Command::Bench(args) => {
            unless_closed(bench::run(args, &mut out))?;
            true
        }
        Command::Plan(args) => planned(args, &mut out)?,
        Command::Linux(args) => linux::run(args, &mut out)?,
        Command::Completions(args) => {
            packaging::completions(args, &mut out)?;
            true
        }
        Command::Man(args) => {
            packaging::man(args)?;
            true
        }
    };
    unless_closed(out.flush())?;
    Ok(Exit::from(good).into())
}

/// `plan`; true if there is a layout.
fn planned(args: &args::PlanArgs, out: &mut impl Write) -> Result<bool, Stop> {
    let host = args.host.read(&progress::Line::new())?;
    let assumed = Rates::assumed(&host);
    let rates = args.bandwidth.map_or(assumed, |(one, all)| Rates {
        one_core: one * 1e9,
        all_cores: all.map_or(assumed.all_cores.max(one * 1e9), |all| all * 1e9),
        origin: "given with --bandwidth",
        assumed_cpus: assumed.assumed_cpus.filter(|_| all.is_none()),
    });
    let report = plan(&host, args.layout.algorithm(), rates);
    let good = report.layout.error.is_none();
    if let Some(path) = &args.svg {
        let picture = svg::memory_map(&report);
        if path.as_os_str() == "-" {
            unless_closed(out.write_all(picture.as_bytes()))?;
            return Ok(good);
        }
        files::write(path, picture.as_bytes())?;
    }
    unless_closed(match args.output.format {
        Format::Json => json(out, &report),
        Format::Human => human::plan::print(out, &report),
    })?;
    Ok(good)
}

fn json(out: &mut impl Write, report: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}
