//! Boots one of the programs of `bare/`, or Linux, in a virtual machine under QEMU and reports the
//! outcome. A verdict comes from events and from seamvisor's summary; a run without them has
//! failed.

mod apt;
mod args;
mod boot_file;
mod compare;
mod cpus;
mod dump_wait;
mod events;
mod expect;
mod fetch;
mod initrd;
mod kernels;
mod machine;
mod matrix;
mod messages;
pub mod module;
mod pack;
mod place;
mod pool;
mod provide;
mod qemu;
mod release;
mod report;
mod set;
mod snapshot;
mod source;
mod sweep;
mod symbols;
mod toml_file;

use std::path::{Path, PathBuf};

use anyhow::Result;
use messages::Messages;

use args::Format;

pub use args::BootArgs;
pub use dump_wait::{DumpWaitArgs, dump_wait};
pub use fetch::run;
pub use matrix::{KernelsArgs, kernels};
pub use module::{ModuleArgs, build_module};
pub use pack::make_modules;
pub use place::some_headers;
pub use provide::{LinuxArgs, provide};
pub use set::{BootsArgs, run_all};
pub use sweep::{SweepArgs, sweep};

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// Boots; true if every verdict is "clean".
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn boot(args: &BootArgs) -> Result<bool> {
    let messages = messages::load()?;
    machine::build()?;
    if args.runs > 1 {
        return boot_often(args, &messages);
    }
    let report = qemu::run(args, &messages)?;
    match args.format {
        Format::Human => print!("{}", report.human()),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report.json())?),
    }
    Ok(report.verdict() == report::Verdict::Clean)
}

/// Minimum, median and maximum, in seconds.
fn spread(mut seconds: Vec<f64>) -> (f64, f64, f64) {
    seconds.sort_by(f64::total_cmp);
    let at = |index: usize| seconds.get(index).copied().unwrap_or_default();
    let middle = f64::midpoint(at(seconds.len().saturating_sub(1) / 2), at(seconds.len() / 2));
    (at(0), middle, at(seconds.len().saturating_sub(1)))
}

/// Boots several times in a row. The logs of a run that is not clean are kept.
fn boot_often(args: &BootArgs, messages: &Messages) -> Result<bool> {
    let mut reports = Vec::new();
    for number in 1..=args.runs {
        let mut report = qemu::run(args, messages)?;
        let kept = if report.verdict() == report::Verdict::Clean { None } else { Some(report.keep(number)?) };
        if args.format == Format::Human {
            println!(
                "run {number}: {} ({}), {:.1} s{}",
                report.verdict().name(),
                report.why(),
                report.elapsed().as_secs_f64(),
                kept.map(|folder| format!("; logs: {}", folder.display())).unwrap_or_default()
            );
        }
        reports.push(report);
    }
    let discarded: usize = reports.iter().map(|report| report.discarded().len()).sum();
    let clean = reports.iter().filter(|report| report.verdict() == report::Verdict::Clean).count();
    let (min, median, max) = spread(reports.iter().map(|report| report.elapsed().as_secs_f64()).collect());
    match args.format {
        Format::Human => {
            println!("{clean} of {} clean; min {min:.1} s, median {median:.1} s, max {max:.1} s", reports.len());
            println!("runs discarded: {discarded}");
        }
        Format::Json => {
            let object = serde_json::json!({
                "schema": "cleanslate/boot-runs",
                "version": 1,
                "clean": clean,
                "discarded_runs": discarded,
                "seconds": { "min": min, "median": median, "max": max },
                "runs": reports.iter().map(report::Report::json).collect::<Vec<_>>(),
            });
            println!("{}", serde_json::to_string_pretty(&object)?);
        }
    }
    Ok(clean == reports.len())
}

#[cfg(test)]
mod tests {
    use crate::spread;

    #[test]
    fn median_of_an_even_and_an_odd_number() {
        assert_eq!(spread(vec![3.0, 1.0, 8.0]), (1.0, 3.0, 8.0));
        assert_eq!(spread(vec![4.0, 1.0, 2.0, 9.0]), (1.0, 3.0, 9.0));
    }
}
