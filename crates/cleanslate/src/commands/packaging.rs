//! `cleanslate completions` and `cleanslate man`: shell completions and manual pages, generated
//! from the command line.

use std::{io::Write, path::PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::roff::{Roff, roman};

use crate::files;
use crate::output::unless_closed;
use crate::stop::Stop;

/// Prints completions for a shell.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate completions bash > ~/.local/share/bash-completion/completions/cleanslate
  cleanslate completions zsh > _cleanslate")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

/// Writes the manual pages into a folder.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Where they go; it is made if it is not there.
    folder: PathBuf,
}

/// Prints completions of a command line.
pub(crate) fn completions(args: &CompletionsArgs, command: &Command, out: &mut impl Write) -> Result<(), Stop> {
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut visible(command), "cleanslate", &mut bytes);
    unless_closed(out.write_all(&bytes))?;
    Ok(())
}

/// The command without what is hidden from people: the shells' scripts offer all there is.
fn visible(command: &Command) -> Command {
    let mut shown = Command::new(command.get_name().to_owned())
        .subcommand_required(command.is_subcommand_required_set())
        .args(command.get_arguments().filter(|arg| !arg.is_hide_set()))
        .subcommands(command.get_subcommands().filter(|command| !command.is_hide_set()).map(visible));
    if let Some(about) = command.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(version) = command.get_version() {
        shown = shown.version(version.to_owned());
    }
    shown
}

/// Writes the manual pages of a command line.
pub(crate) fn man(args: &ManArgs, command: Command) -> Result<(), Stop> {
    std::fs::create_dir_all(&args.folder)?;
    let mut root = without_help(command);
    root.build();
    pages(&root, args)
}

/// `help` is no command of its own to read about.
fn without_help(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let command = command.disable_help_subcommand(true);
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, without_help))
}

/// A page for the command, and for every one below it: each refers to those.
fn pages(command: &Command, args: &ManArgs) -> Result<(), Stop> {
    page(command, args)?;
    for below in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        pages(below, args)?;
    }
    Ok(())
}

fn page(command: &Command, args: &ManArgs) -> Result<(), Stop> {
    let manual = clap_mangen::Man::new(command.clone()).manual("Cleanslate");
    let manual = manual.source(concat!("cleanslate ", env!("CARGO_PKG_VERSION")));
    let mut bytes = Vec::new();
    manual.render_title(&mut bytes)?;
    manual.render_name_section(&mut bytes)?;
    manual.render_synopsis_section(&mut bytes)?;
    manual.render_description_section(&mut bytes)?;
    manual.render_options_section(&mut bytes)?;
    if command.get_subcommands().any(|command| !command.is_hide_set()) {
        manual.render_subcommands_section(&mut bytes)?;
    }
    let mut more = Roff::new();
    for part in after_help(command).split("\n\n").filter(|part| !part.trim().is_empty()) {
        section(&mut more, part);
    }
    if let Some(version) = command.get_long_version() {
        more.control("SH", ["VERSION"]);
        rows(&mut more, version);
    }
    more.to_writer(&mut bytes)?;
    // As `git-log(1)`: `build` has named it so.
    let name = command.get_display_name().unwrap_or(command.get_name());
    files::write(&args.folder.join(format!("{name}.1")), &bytes)?;
    Ok(())
}

fn after_help(command: &Command) -> String {
    command.get_after_long_help().or_else(|| command.get_after_help()).map(ToString::to_string).unwrap_or_default()
}

/// One part of the help's end: a table or examples keep their lines, a sentence is filled like any
/// other.
fn section(roff: &mut Roff, part: &str) {
    let (head, rest) = part.split_once('\n').unwrap_or((part, ""));
    match head.split_once(':') {
        Some(("Examples", _)) => {
            roff.control("SH", ["EXAMPLES"]);
        }
        Some(("Exit codes", sentence)) => {
            roff.control("SH", ["EXIT STATUS"]);
            if rest.is_empty() {
                roff.text([roman(sentence.trim())]);
            }
        }
        _ => {
            roff.control("PP", []);
            roff.text([roman(part.replace('\n', " "))]);
            return;
        }
    }
    rows(roff, rest);
}

/// Rows as they are.
fn rows(roff: &mut Roff, rows: &str) {
    if rows.is_empty() {
        return;
    }
    roff.control("nf", []);
    for row in rows.lines() {
        roff.text([roman(row.strip_prefix("  ").unwrap_or(row))]);
    }
    roff.control("fi", []);
}
