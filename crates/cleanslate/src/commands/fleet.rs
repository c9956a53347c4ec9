//! `cleanslate fleet`: many saved machines in one table.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use tdx_operator::{
    check,
    input::{InputError, Rule},
    report::{CheckReport, FleetReport},
};

use super::check::{Requirement, code, last_part, of_machines};
use crate::exit::Exit;
use crate::output::{json, unless_closed};
use crate::stop::Stop;
use crate::{files, human};

/// The file that `collect` writes last.
const ABOUT: &str = "machine.toml";

/// Checks many machines saved by `cleanslate collect`: what to do first, then one table, the worst
/// first.
///
/// A folder is a saved machine, or holds saved machines, one in each of its folders.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate fleet saved                           every machine in the folder saved, e.g. as Ansible fetched them
  cleanslate fleet saved/node1 saved/node2         these two
  cleanslate fleet saved --require kdump           exit 1 if one of them cannot dump
  cleanslate fleet saved --format json             for programs (docs/schemas/fleet.schema.json)

Exit codes: as those of `cleanslate check`, of the worst machine; 3 also if a folder cannot be used.")]
pub(crate) struct FleetArgs {
    /// Saved machines, or folders of saved machines.
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
    /// Exit 1 unless this holds on every machine; may be repeated.
    #[arg(long, value_enum, value_name = "WHAT")]
    require: Vec<Requirement>,
    /// Output format: for people, for programs, a line for each machine, or Prometheus.
    #[arg(long, value_enum, default_value_t = FleetFormat::Human)]
    format: FleetFormat,
    /// Writes the report to a file, complete or not at all, instead of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum FleetFormat {
    Human,
    Json,
    /// One line for each machine.
    Short,
    /// For the textfile collector of node_exporter, with a label for the machine.
    Prometheus,
}

/// Checks all machines, and says how it went by the exit code.
pub(crate) fn run(args: &FleetArgs, out: &mut impl Write) -> Result<ExitCode, Stop> {
    if let Some(path) = &args.output {
        files::probe(path)?;
    }
    let mut folders = Vec::new();
    for folder in &args.folders {
        machines(folder, &mut folders)?;
    }
    let checked: Vec<_> = named(&folders).into_iter().map(|(name, folder)| (name, checked(&folder))).collect();
    let mut bytes = Vec::new();
    let report = match args.format {
        FleetFormat::Prometheus => {
            let mut reports: Vec<CheckReport> = Vec::new();
            for (name, checked) in &checked {
                // The label is the name in the table.
                reports.extend(
                    checked.as_ref().ok().map(|report| CheckReport { machine: name.clone(), ..report.clone() }),
                );
            }
            bytes = of_machines(&reports).into_bytes();
            FleetReport::new(checked)
        }
        format => {
            let report = FleetReport::new(checked);
            match format {
                FleetFormat::Json => json(&mut bytes, &report)?,
                FleetFormat::Short => human::fleet::short(&mut bytes, &report)?,
                _ => human::fleet::print(&mut bytes, &report)?,
            }
            report
        }
    };
    match &args.output {
        None => unless_closed(out.write_all(&bytes))?,
        Some(path) => files::write(path, &bytes)?,
    }
    unless_closed(out.flush())?;
    let all = code(&args.require, report.machines.iter().map(|machine| &machine.verdict));
    Ok(if all == ExitCode::SUCCESS && !report.unreadable.is_empty() { Exit::Input.into() } else { all })
}

fn checked(folder: &Path) -> Result<CheckReport, InputError> {
    Ok(check::check(&folder.display().to_string(), &check::load(folder)?))
}

/// The folder, or the folders in it.
fn machines(folder: &Path, out: &mut Vec<PathBuf>) -> Result<(), InputError> {
    if folder.join(ABOUT).symlink_metadata().is_ok() {
        out.push(folder.to_owned());
        return Ok(());
    }
    let name = folder.display().to_string();
    let unreadable = |error: std::io::Error| InputError::of_file(&name, Rule::Unreadable(error.to_string()));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        // A link is not followed, as in a saved machine.
        if entry.file_type().map_err(unreadable)?.is_dir() {
            found.push(entry.path());
        }
    }
    if found.is_empty() {
        return Err(InputError::of_file(&name, Rule::NotASavedMachine(format!("no {ABOUT} and no folder in it"))));
    }
    found.sort();
    out.append(&mut found);
    Ok(())
}

/// Each folder by its last part, or whole where two have the same.
fn named(folders: &[PathBuf]) -> Vec<(String, PathBuf)> {
    let short = |folder: &PathBuf| last_part(&folder.display().to_string());
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for folder in folders {
        *count.entry(short(folder)).or_default() += 1;
    }
    let name = |folder: &PathBuf| Some(short(folder)).filter(|name| count.get(name) == Some(&1));
    folders
        .iter()
        .map(|folder| (name(folder).unwrap_or_else(|| folder.display().to_string()), folder.clone()))
        .collect()
}
