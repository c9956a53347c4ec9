//! What a package ships beside the program: manual pages and shell completions, made from the same description as the command line itself.

use std::{io::Write, path::PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;

use crate::{Stop, args::Cli, files};

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

pub(crate) fn completions(args: &CompletionsArgs, out: &mut impl Write) -> Result<(), Stop> {
    let mut bytes = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "cleanslate", &mut bytes);
    crate::unless_closed(out.write_all(&bytes))?;
    Ok(())
}

pub(crate) fn man(args: &ManArgs) -> Result<(), Stop> {
    std::fs::create_dir_all(&args.folder)?;
    let mut root = Cli::command().disable_help_subcommand(true);
    root.build();
    page(&root, args)?;
    for command in root.get_subcommands().filter(|command| !command.is_hide_set()) {
        page(command, args)?;
    }
    Ok(())
}

fn page(command: &Command, args: &ManArgs) -> Result<(), Stop> {
    let manual = clap_mangen::Man::new(command.clone()).manual("Cleanslate");
    let manual = manual.source(concat!("cleanslate ", env!("CARGO_PKG_VERSION")));
    let mut bytes = Vec::new();
    manual.render(&mut bytes)?;
    // As `git-log(1)`: `build` has named it so.
    let name = command.get_display_name().unwrap_or(command.get_name());
    files::write(&args.folder.join(format!("{name}.1")), &bytes)?;
    Ok(())
}
