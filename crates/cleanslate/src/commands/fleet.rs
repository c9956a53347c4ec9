//! `cleanslate fleet`: many saved machines in one table.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use tdx_operator::{
    check,
    input::{InputError, Rule, path_text},
    report::{CheckReport, FleetReport, prometheus},
};

use super::check::{Requirement, code, names};
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
    let mut failed = Vec::new();
    for folder in &args.folders {
        if let Err(error) = machines(folder, &mut folders) {
            folders.push(folder.clone());
            failed.push((folder.clone(), error));
        }
    }
    // A folder that is given twice is one machine.
    let mut seen = BTreeSet::new();
    folders.retain(|folder| seen.insert(place(folder)));
    let why_not = |folder: &PathBuf| failed.iter().find(|(path, _)| path == folder).map(|(_, error)| error.clone());
    // Not one machine: no table, but the first reason.
    if let (true, Some((_, error))) = (folders.iter().all(|folder| why_not(folder).is_some()), failed.first()) {
        return Err(error.clone().into());
    }
    let look = |folder: &PathBuf| why_not(folder).map_or_else(|| checked(folder), Err);
    let checked: Vec<_> = names(&folders).into_iter().zip(folders.iter().map(look)).collect();
    let mut bytes = Vec::new();
    let report = match args.format {
        FleetFormat::Prometheus => {
            // The label is the name in the table.
            let labeled = checked.iter().map(|(name, checked)| (Some(name.as_str()), checked.as_ref().ok()));
            bytes = prometheus::text(&labeled.collect::<Vec<_>>()).into_bytes();
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
    Ok(check::check(&path_text(folder), &check::load(folder)?))
}

/// Where a folder really is; a link that leads nowhere is where it stands.
fn place(folder: &Path) -> PathBuf {
    fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned())
}

/// The folder, or the folders in it.
fn machines(folder: &Path, out: &mut Vec<PathBuf>) -> Result<(), InputError> {
    if folder.join(ABOUT).symlink_metadata().is_ok() {
        out.push(folder.to_owned());
        return Ok(());
    }
    let name = path_text(folder);
    let unreadable = |error: std::io::Error| InputError::of_file(&name, Rule::Unreadable(error.to_string()));
    let (mut found, mut links) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let kind = entry.file_type().map_err(unreadable)?;
        if kind.is_dir() {
            found.push(entry.path());
        } else if kind.is_symlink() {
            links.push(entry.path());
        }
    }
    // A link to a saved machine is that machine, one that leads nowhere an error; any other is none
    // of ours, e.g. one back to this folder.
    let mut real: BTreeSet<_> = found.iter().map(|folder| place(folder)).collect();
    links.sort();
    for link in links {
        match fs::canonicalize(&link) {
            Ok(target) if target.join(ABOUT).symlink_metadata().is_err() => {}
            Ok(target) => found.extend(real.insert(target).then_some(link)),
            Err(_) => found.push(link),
        }
    }
    if found.is_empty() {
        return Err(InputError::of_file(&name, Rule::NotASavedMachine(format!("no {ABOUT} and no folder in it"))));
    }
    found.sort();
    out.append(&mut found);
    Ok(())
}
