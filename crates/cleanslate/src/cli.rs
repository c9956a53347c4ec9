//! The command line: subcommands, help, version. The arguments of a subcommand are in its own file.

use std::sync::LazyLock;

use clap::{Parser, Subcommand};

use crate::commands::{bench, check, explain, explore, fleet, kexec, linux, packaging, plan};

/// Initializes TDX on the memory map of a real host, in software, and shows what the next kernel
/// finds after a kexec.
///
/// The host comes from a boot log, /proc/iomem or a TOML file; the TDX code is that of the product,
/// the machine and the TDX module are emulated cache line by cache line. No command changes the
/// machine it runs on or needs root, except `linux up` and `linux td-test`, which control the Linux
/// module cleanslate.ko; `check` and `collect` only read, and see more as root.
#[derive(Parser, Debug)]
#[command(
    name = "cleanslate",
    version,
    long_version = LONG_VERSION.as_str(),
    after_help = AFTER_HELP.as_str()
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  cleanslate kexec                     the bundled host, a real one with 2 TiB
  cleanslate kexec --host boot.log     the host of this boot log
  dmesg | cleanslate plan --host -     TDMRs and PAMT of this machine
  cleanslate explore                   a crash at every instant
  cleanslate check                     the machine this runs on: TDX, the erratum, what a kexec does
  dmesg | cleanslate explain -         why TDX did not come up, what a machine check was";

static AFTER_HELP: LazyLock<String> = LazyLock::new(|| format!("{EXAMPLES}\n\n{}", crate::exit::TABLE));

/// Shows the version and the limits of the emulation.
static LONG_VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut text = format!(
        "{} (commit {})\nTDX module: {}\n\nThe software machine behind every verdict has limits:\n",
        env!("CARGO_PKG_VERSION"),
        env!("CLEANSLATE_COMMIT"),
        tdx_abi::MODULE_RANGE
    );
    for limit in tdx_lab::LIMITS {
        text.extend(["- ", limit, "\n"]);
    }
    text
});

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    Bench(bench::BenchArgs),
    Completions(packaging::CompletionsArgs),
    Check(check::CheckArgs),
    Collect(check::CollectArgs),
    Explain(explain::ExplainArgs),
    Explore(explore::ExploreArgs),
    Fleet(fleet::FleetArgs),
    Kexec(kexec::KexecArgs),
    Linux(linux::LinuxArgs),
    #[command(hide = true)]
    Man(packaging::ManArgs),
    Plan(plan::PlanArgs),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// Words of a line of a shell, as far as our examples need it.
    fn words(line: &str) -> Vec<String> {
        // Two blanks begin the comment; what comes after a pipe or into a file is the shell's.
        let command = line.split("  ").next().unwrap_or_default();
        let command = command.split(['|', '>']).find(|part| part.contains("cleanslate")).unwrap_or_default();
        let words = command.split_whitespace().skip_while(|word| *word != "cleanslate");
        words.map(str::to_owned).collect()
    }

    #[test]
    fn every_example_of_the_help_is_understood() {
        let mut command = Cli::command();
        command.build();
        let mut count = 0;
        for part in std::iter::once(&command).chain(command.get_subcommands()) {
            let Some(help) = part.get_after_help() else {
                assert!(part.is_hide_set() || part.get_name() == "help", "{} has no examples", part.get_name());
                continue;
            };
            let help = help.to_string();
            for line in help.lines().map(str::trim).filter(|line| line.contains("cleanslate ") && !line.contains('`')) {
                let words = words(line);
                assert!(words.len() > 1, "{line}");
                Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
                count += 1;
            }
        }
        assert!(count > 30, "{count}");
    }
}
