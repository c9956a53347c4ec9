//! The boots that are tests: each with the outcome it must have. TAP, so that `cargo xtask test`
//! counts them.

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;

use anyhow::{Error, Result};
use clap::Args;
use skip::Missing;

use crate::args::{BootArgs, Kernel, NextKernel};
use crate::boot_file::{self, Boot};
use crate::messages::{self, Messages};
use crate::report::Report;
use crate::{compare, kernels, machine, place, pool, qemu, sweep};

/// Runs all boots that are tests. Prints the Test Anything Protocol.
#[derive(Args, Clone, Debug)]
pub struct BootsArgs {
    /// Only those whose name contains this.
    #[arg(default_value = "")]
    only: String,
    /// Boots of this file and not those of bare/boots. May be given more than once.
    #[arg(long, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Only boots of `tdx` and `tdx-7.3`, with the kernels of `linux --source` or `--patch` in
    /// their place.
    #[arg(long)]
    own: bool,
    /// Cores to run on; a boot takes one for two CPUs of its guest. Default: all of the machine.
    #[arg(long, value_name = "N")]
    jobs: Option<NonZero<u32>>,
    /// Also those that take minutes each.
    #[arg(long)]
    long: bool,
    /// Lists the boots and the options of each, and runs none.
    #[arg(long)]
    list: bool,
}

/// What is missing on this machine for a boot of these options.
fn missing(args: &BootArgs) -> Option<Missing> {
    let needs_linux = args.linux_is_first() || args.next != NextKernel::Own;
    if !needs_linux || args.image.is_some() {
        return None;
    }
    let next = match args.next {
        NextKernel::Stock => Some(Kernel::Stock),
        NextKernel::Tdx73 => Some(Kernel::Tdx73),
        _ => None,
    };
    let kernels = [Some(args.kernel()), next];
    if let Some(kernel) = kernels.into_iter().flatten().find(|kernel| !place::is_there(*kernel)) {
        return Some(skip::missing_kernel(kernel.name(), kernel.name(), &kernel.how()));
    }
    let with_module = kernels.into_iter().flatten().filter(|kernel| args.module && *kernel != Kernel::Stock);
    let name = with_module.into_iter().find(|kernel| place::initrd_with_module(*kernel).is_err())?.name();
    Some(skip::missing_kernel(name, &format!("cleanslate.ko for {name}"), "run `cargo xtask linux-module` once"))
}

/// Why a boot that is `long` is skipped.
const TOO_LONG: &str = "minutes each: run `cargo xtask boots --long`";

/// Policies that the story is told with twice: with the real instructions and in the software
/// machine.
const COMPARED: [&str; 3] = ["tracked", "none", "pamt"];

/// Counts the lines of the Test Anything Protocol.
#[derive(Default)]
struct Tap {
    number: u32,
    failed: u32,
    discarded: usize,
    /// Seconds of each boot.
    took: Vec<(f64, String)>,
}

impl Tap {
    fn tell(&mut self, name: &str, outcome: Outcome) {
        self.number += 1;
        let number = self.number;
        match outcome {
            Outcome::Passed => println!("ok {number} - boot: {name}"),
            Outcome::Skipped(why) => println!("ok {number} - boot: {name} # SKIP {why}"),
            Outcome::Failed(why) => {
                self.failed += 1;
                println!("not ok {number} - boot: {name}: {why}");
            }
        }
    }

    fn tell_boot(&mut self, boot: &Boot, report: &Report, messages: &Messages) {
        let problem = boot.expect.problem(report, messages);
        self.took.push((report.elapsed().as_secs_f64(), boot.name.clone()));
        let again = BootArgs::shell(&boot.words);
        let problem = problem.map(|problem| format!("{problem}\n{}{again}\nwhy: {}", report.human(), boot.why));
        self.tell(&boot.name, problem.into());
        for why in report.discarded() {
            self.discarded += 1;
            println!("# run again: {}: {why}", boot.name);
        }
    }

    fn tell_longest(&mut self) {
        self.took.sort_by(|a, b| b.0.total_cmp(&a.0));
        let all: f64 = self.took.iter().map(|(seconds, _)| seconds).sum();
        println!("# {all:.0} s of QEMU in {} boots, the longest:", self.took.len());
        for (seconds, name) in self.took.iter().take(LONGEST) {
            println!("# {seconds:6.1} s  {name}");
        }
    }
}

/// How many of the longest boots are told.
const LONGEST: usize = 12;

/// Cores of this machine; one where that cannot be found out.
fn cores_here() -> u32 {
    thread::available_parallelism().ok().and_then(|cores| u32::try_from(cores.get()).ok()).unwrap_or(1)
}

/// Cores that a boot takes: a guest's second CPU mostly halts.
fn cores(boot: &Boot) -> u32 {
    boot.args.cpus.div_ceil(2)
}

/// Packs the initrds that a boot needs, where sources have changed.
fn prepare(boot: &Boot) -> Result<()> {
    if boot.args.linux_is_first() {
        kernels::first(&boot.args)?;
    } else if let NextKernel::Linux | NextKernel::Stock = boot.args.next {
        kernels::current(boot.args.kernel())?;
    }
    Ok(())
}

/// Runs these boots, several at once where the cores suffice; told in the order in which they end.
/// A command that fails is a failure of its boot alone.
fn run_boots(boots: &[&Boot], jobs: u32, tap: &mut Tap, messages: &Messages) {
    let mut prepared = Vec::new();
    // Not beside each other: they write the same files.
    for boot in boots {
        match prepare(boot) {
            Ok(()) => prepared.push(*boot),
            Err(cause) => tap.tell(&boot.name, cause.into()),
        }
    }
    let told = Mutex::new(tap);
    pool::run(
        prepared,
        jobs,
        |boot| cores(boot),
        |boot| {
            let report = qemu::run(&boot.args, messages);
            let mut tap = pool::lock(&told);
            match report {
                Ok(report) => tap.tell_boot(boot, &report, messages),
                Err(cause) => tap.tell(&boot.name, cause.into()),
            }
        },
    );
}

/// Runs them all, or those whose name contains this; true if none failed. Prints the Test Anything
/// Protocol.
///
/// # Errors
/// A boot file is not accepted, or the programs of the boots do not build.
pub fn run_all(args: &BootsArgs) -> Result<bool> {
    let messages = messages::load()?;
    let boots =
        if args.file.is_empty() { boot_file::load_all(&messages)? } else { boot_file::load(&args.file, &messages)? };
    let mut boots = boots;
    if args.own {
        boots.retain(|boot| boot.args.linux_is_first() && boot.args.kernel().own().is_some());
        boots.iter_mut().for_each(Boot::use_own_kernel);
    }
    let wanted = boots.iter().filter(|boot| boot.name.contains(&args.only));
    if args.list {
        for boot in wanted {
            println!("{}\n    {}\n    {}", boot.name, boot.why, BootArgs::shell(&boot.words));
        }
        return Ok(true);
    }
    let mut tap = Tap::default();
    if !machine::is_there() {
        tap.tell("all", skip::missing("qemu-system-x86_64", "apt-get install qemu-system-x86").into());
        return Ok(tap.failed == 0);
    }
    machine::build()?;
    let mut skipped: Vec<(Missing, u32)> = Vec::new();
    let mut possible = Vec::new();
    for boot in wanted {
        let long = (boot.long && !args.long).then(|| Missing::Skipped(TOO_LONG.to_owned()));
        match long.or_else(|| missing(&boot.args)) {
            None => possible.push(boot),
            Some(why) => match skipped.iter_mut().find(|(other, _)| *other == why) {
                Some((_, count)) => *count += 1,
                None => skipped.push((why, 1)),
            },
        }
    }
    let jobs = args.jobs.map_or_else(cores_here, NonZero::get);
    run_boots(&possible, jobs, &mut tap, &messages);
    for (why, count) in skipped {
        let boots = if count == 1 { "1 boot".to_owned() } else { format!("{count} boots") };
        tap.tell(&boots, why.into());
    }
    if args.file.is_empty() && !args.own {
        for policy in COMPARED {
            let name = format!("the same SEAMCALLs and the same end in the software machine: {policy}");
            if name.contains(&args.only) {
                let outcome = compare::differences(policy, &messages).map_or_else(Outcome::from, Outcome::from);
                tap.tell(&name, outcome);
            }
        }
        let name = "KVM: a row of the sweep from power-on and from a snapshot: the same outcome";
        if name.contains(&args.only) {
            tap.tell(name, sweep_sample(&messages));
        }
    }
    println!("1..{}\n# runs discarded: {}", tap.number, tap.discarded);
    tap.tell_longest();
    Ok(tap.failed == 0)
}

fn sweep_sample(messages: &Messages) -> Outcome {
    let run = || match missing(&sweep::sample_args()?) {
        Some(why) => Ok(why.into()),
        None => sweep::sample(messages).map(Outcome::from),
    };
    run().unwrap_or_else(Outcome::from)
}

/// The outcome of a boot.
enum Outcome {
    Passed,
    /// Why.
    Failed(String),
    /// What is missing for it.
    Skipped(String),
}

impl From<Option<String>> for Outcome {
    fn from(problem: Option<String>) -> Self {
        problem.map_or(Self::Passed, Self::Failed)
    }
}

impl From<Error> for Outcome {
    fn from(cause: Error) -> Self {
        Self::Failed(format!("{cause:#}"))
    }
}

impl From<Missing> for Outcome {
    fn from(missing: Missing) -> Self {
        match missing {
            Missing::Skipped(why) => Self::Skipped(why),
            Missing::Failed(why) => Self::Failed(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boots_that_run_beside_each_other_write_different_logs() {
        let messages = messages::load().expect("the messages of the repository are accepted");
        let boots = boot_file::load_all(&messages).expect("the boots of the repository are accepted");
        let mut names: Vec<(String, String)> =
            boots.iter().map(|boot| (machine::name(&boot.args), boot.name.clone())).collect();
        names.sort();
        for pair in names.windows(2) {
            assert_ne!(pair[0].0, pair[1].0, "{} and {}", pair[0].1, pair[1].1);
        }
    }
}
