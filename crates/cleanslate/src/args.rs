//! The command line: what can be asked. Decides nothing.

use std::{ops::RangeInclusive, path::PathBuf, sync::LazyLock};

use clap::{Args, Parser, Subcommand, ValueEnum};
use tdx_abi::PhysAddr;
use tdx_lab::kexec::{Hole, KexecOptions};
use tdx_operator::{
    host::{Host, HostOptions},
    input::InputError,
    progress::Progress,
    size,
};

/// Brings up TDX on the memory of a real host, in software, and shows what the next kernel finds
/// after a kexec.
///
/// The host comes from a boot log, /proc/iomem or a TOML file; the TDX code is the product's own,
/// the machine and the TDX module are emulated, line by line. Nothing here changes the machine it
/// runs on or needs root, but for `linux up` and `linux td-test`, which order the Linux module
/// cleanslate.ko about; `check` and `collect` read, and see more as root.
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

/// Version, and what the verdicts rest on.
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
    Bench(crate::bench::BenchArgs),
    Completions(crate::packaging::CompletionsArgs),
    Check(crate::check::CheckArgs),
    Collect(crate::check::CollectArgs),
    Explain(crate::explain::ExplainArgs),
    Explore(crate::explore::ExploreArgs),
    Kexec(KexecArgs),
    Linux(crate::linux::LinuxArgs),
    #[command(hide = true)]
    Man(crate::packaging::ManArgs),
    Plan(PlanArgs),
}

/// Brings TDX up on a host, runs TDs, kexecs or panics under a policy, and lets the next kernel use
/// memory.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate kexec                                       the bundled host, a real one with 2 TiB
  cleanslate kexec --host boot.log --policy none         what a kernel without a reset does to the next one
  cleanslate kexec --tds 4                               TDs in every phase of their life
  cleanslate kexec --tds 4 --crash                       the same, and the kernel panics
  cleanslate kexec --hole returned --policy module-only  what asking the module alone leaves behind
  cleanslate kexec --host boot.log --layout linux        compares PAMT with what the log's kernel printed
  cleanslate kexec --host boot.log --format json | jq .verdict

A log without NUMA rows may need --node-border to give the kilobytes that its kernel printed.")]
pub(crate) struct KexecArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    /// What the first kernel does with private memory before it jumps.
    #[arg(long, value_enum, default_value_t = PolicyName::Tracked)]
    pub(crate) policy: PolicyName,
    /// TDs that the first kernel runs: running, half-built, half torn down and gone, in turn.
    /// [default: 0, or 3 with a hole that is about TDs]
    #[arg(long, value_name = "N")]
    tds: Option<u32>,
    /// The situation in which the handover begins: one of the four in which asking the module is
    /// not enough.
    #[arg(long, value_enum)]
    hole: Option<HoleName>,
    /// The first kernel panics (a wild pointer has written to private memory), and a crash kernel
    /// reads all of /proc/vmcore.
    #[arg(long)]
    crash: bool,
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl KexecArgs {
    pub(crate) fn options(&self) -> KexecOptions {
        let hole = self.hole.map(Hole::from);
        KexecOptions {
            policy: self.policy.into(),
            algorithm: self.layout.algorithm(),
            tds: self.tds.unwrap_or(KexecOptions::default_tds(hole)),
            hole,
            crash: self.crash,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum HoleName {
    /// The module has no TDH.SYS.DISABLE.
    OldModule,
    /// The bring-up has stopped half-way through SYS.TDMR.INIT.
    BringUp,
    /// The module has returned pages that the host has not rewritten.
    Returned,
    /// The module has died.
    DeadModule,
}

impl From<HoleName> for Hole {
    fn from(name: HoleName) -> Self {
        match name {
            HoleName::OldModule => Self::OldModule,
            HoleName::BringUp => Self::BringUp,
            HoleName::Returned => Self::Returned,
            HoleName::DeadModule => Self::DeadModule,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum PolicyName {
    /// Resets PAMTs and every page that the ledger has marked, with MOVDIR64B.
    Tracked,
    /// Asks the module (TDH.SYS.DISABLE), then resets what it cannot know; `tracked` if it has no
    /// such call or fails.
    Module,
    /// Asks the module and jumps whatever it says, as Linux 7.2 does; for comparison.
    ModuleOnly,
    /// Resets the PAMTs: all private memory there is without TDs.
    Pamt,
    /// Resets nothing.
    None,
    /// Resets all memory but its own and the next image's.
    Everything,
    /// Does not kexec while there may be private memory on a CPU with the erratum. A crash cannot
    /// be refused: there it resets as `tracked` does.
    Refuse,
}

impl From<PolicyName> for tdx_host::handover::Policy {
    fn from(name: PolicyName) -> Self {
        match name {
            PolicyName::Tracked => Self::Tracked,
            PolicyName::Module => Self::Module,
            PolicyName::ModuleOnly => Self::ModuleOnly,
            PolicyName::Pamt => Self::Pamt,
            PolicyName::None => Self::None,
            PolicyName::Everything => Self::Everything,
            PolicyName::Refuse => Self::Refuse,
        }
    }
}

/// Shows TDMRs, PAMTs and reserved areas for a host, and what Linux would do there.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate plan                                            the bundled host, a real one with 2 TiB
  dmesg | cleanslate plan --host -                           this machine
  cleanslate plan --host boot.log --layout linux             what Linux does, its -28 included
  cleanslate plan --svg map.svg                              a picture of TDMRs, PAMTs, reserved areas and what is given up
  cleanslate plan --bandwidth 11.5,38                        seconds of a kexec, by what `cleanslate bench` measured
  cleanslate plan --host boot.log --format json | jq .linux  for programs")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) host: HostArgs,
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
    /// How fast lines are rewritten, in GB/s: by one core, and by all after a comma. Without it:
    /// cautious figures, and their origin.
    #[arg(long, value_name = "ONE[,ALL]", value_parser = bandwidth)]
    pub(crate) bandwidth: Option<(f64, Option<f64>)>,
    /// Draws the memory map into this file; `-` is standard output, and then nothing else goes
    /// there.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Args, Debug)]
pub(crate) struct HostArgs {
    /// Boot log, /proc/iomem or TOML host file; `-` is standard input. Without it: a bundled real
    /// host with 2 TiB.
    #[arg(long, value_name = "FILE")]
    host: Option<PathBuf>,
    /// Where the memory of the next NUMA node begins (0x4080000000 or 258G), for logs that do not
    /// show nodes. May be repeated, ascending.
    #[arg(long, value_name = "ADDR", value_parser = address)]
    node_border: Vec<PhysAddr>,
}

impl HostArgs {
    pub(crate) fn read(&self, progress: &dyn Progress) -> Result<Host, InputError> {
        let options = HostOptions { node_borders: self.node_border.clone() };
        match &self.host {
            Some(path) => Host::from_path_watched(path, &options, progress),
            None => Host::bundled(&options),
        }
    }
}

/// What a bandwidth may be, in GB/s: a slow core of a virtual machine, and more than any machine
/// has. Beyond, seconds are no numbers.
const GIGABYTES: RangeInclusive<f64> = 0.001..=100_000.0;

/// `11.5` or `11.5,38`.
fn bandwidth(text: &str) -> Result<(f64, Option<f64>), String> {
    let number = |text: &str| text.parse().ok().filter(|rate| GIGABYTES.contains(rate));
    let read = match text.split_once(',') {
        None => number(text).map(|one| (one, None)),
        Some((one, all)) => number(one).zip(number(all)).map(|(one, all)| (one, Some(all))),
    };
    match read {
        Some((one, Some(all))) if all < one => Err("all cores together are at least as fast as one".to_owned()),
        Some(read) => Ok(read),
        None => Err(format!(
            "a bandwidth is written 11.5 or 11.5,38: GB/s of one core, and of all, each from {} to {}",
            GIGABYTES.start(),
            GIGABYTES.end()
        )),
    }
}

fn address(text: &str) -> Result<PhysAddr, String> {
    size::parse(text).map(PhysAddr::new).ok_or_else(|| "an address is written 0x4080000000, 258G or 4096".to_owned())
}

#[derive(Args, Debug)]
pub(crate) struct LayoutArgs {
    /// How TDMRs are laid out.
    #[arg(long, value_enum, default_value_t = LayoutName::Fit)]
    layout: LayoutName,
}

impl LayoutArgs {
    pub(crate) fn algorithm(&self) -> tdx_host::layout::Algorithm {
        match self.layout {
            LayoutName::Fit => tdx_host::layout::Algorithm::Fit,
            LayoutName::Linux => tdx_host::layout::Algorithm::Linux,
        }
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum LayoutName {
    /// Holes from the CMRs, splits and merges to stay inside the module's limits.
    Fit,
    /// Exactly what Linux does.
    Linux,
}

#[derive(Args, Debug)]
pub(crate) struct OutputArgs {
    /// For people or for programs.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    Human,
    Json,
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
