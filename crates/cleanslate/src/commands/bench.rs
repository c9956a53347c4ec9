//! `cleanslate bench`: memory write bandwidth of this machine, for `plan --bandwidth`.
//!
//! Uses ordinary stores in safe code as a stand-in for MOVDIR64B; BENCHMARKS.md compares the loops.

use std::io::{self, Write};
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use tdx_operator::words;

use crate::human;
use crate::options::{Format, OutputArgs};
use crate::output::json;

/// Measures the memory write bandwidth of this machine: of one core and of all. Takes about two
/// seconds and up to 8 GiB.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cleanslate bench                                 two figures, and what to do with them
  cleanslate plan --bandwidth 11.5,38              seconds of a kexec, by figures of your own
  cleanslate bench --format json | jq .all_cores")]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// What was measured.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    version: u32,
    tool: &'static str,
    /// Threads of the second figure.
    cores: usize,
    /// Bytes a second by one core, the median of some rounds.
    one_core: f64,
    /// Bytes a second by all cores together.
    all_cores: f64,
    method: &'static str,
    /// Why the figures are not to be relied on, if they are not.
    warnings: Vec<String>,
}

const METHOD: &str = "zeros by ordinary stores of safe code over memory larger than the caches, median of 5 \
    rounds; stands in for MOVDIR64B, which \
                      may be slower";

const ROUNDS: usize = 5;
const MIB: usize = 1 << 20;

/// Bytes a second in each round, ascending.
struct Rounds([f64; ROUNDS]);

impl Rounds {
    fn median(&self) -> f64 {
        self.0[ROUNDS / 2]
    }

    /// `the rounds of one core`, if they are far from each other.
    fn scatter(&self, whose: &str) -> Option<String> {
        let [slowest, .., fastest] = self.0;
        let text = || format!("the rounds of {whose} range from {:.1} to {:.1} GB/s", giga(slowest), giga(fastest));
        (fastest > slowest * SCATTER).then(text)
    }
}

/// On an idle machine the fastest round is 1.1 times as fast as the slowest.
const SCATTER: f64 = 1.5;
/// Cores share memory: together they are at most as fast as each by itself, but for what a
/// measurement is off.
const TOGETHER: f64 = 1.15;

fn giga(rate: f64) -> f64 {
    rate / 1e9
}

/// Why two measurements are not to be relied on.
fn warnings(one: &Rounds, all: &Rounds, cores: usize) -> Vec<String> {
    let times = all.median() / one.median();
    let faster = (times > cores as f64 * TOGETHER).then(|| {
        format!(
            "{} together are {times:.1} times as fast as one, which is impossible",
            words::count(cores as u64, "core")
        )
    });
    let whose = if cores == 1 { None } else { all.scatter("all cores") };
    let found: Vec<String> = [faster, one.scatter("one core"), whose].into_iter().flatten().collect();
    let why = "the machine was not idle during the measurement: repeat it when it is idle";
    found.into_iter().map(|what| format!("{what}; {why}")).collect()
}

/// The rounds of `threads` threads, each with memory of its own.
fn rate(threads: usize) -> Rounds {
    let bytes = (1024 * MIB / threads).clamp(32 * MIB, 512 * MIB).min(8192 * MIB / threads);
    let barrier = Barrier::new(threads + 1);
    let rounds = thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                // Touched once, so that no page fault is measured.
                let mut memory = vec![1u8; bytes];
                for round in 0..ROUNDS {
                    barrier.wait();
                    memory.fill(round as u8);
                    std::hint::black_box(&mut memory);
                    barrier.wait();
                }
            });
        }
        let mut rounds = [(); ROUNDS].map(|()| {
            barrier.wait();
            let start = Instant::now();
            barrier.wait();
            (bytes * threads) as f64 / start.elapsed().as_secs_f64()
        });
        rounds.sort_by(f64::total_cmp);
        rounds
    });
    Rounds(rounds)
}

/// Measures and reports.
pub(crate) fn run(args: &BenchArgs, out: &mut impl Write) -> io::Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (one, all) = (rate(1), rate(cores));
    let report = Report {
        schema: "cleanslate/bench",
        version: 1,
        tool: tdx_operator::report::TOOL,
        cores,
        one_core: one.median(),
        // Measured one after the other, on a machine that has other things to do.
        all_cores: all.median().max(one.median()),
        method: METHOD,
        warnings: warnings(&one, &all, cores),
    };
    match args.output.format {
        Format::Json => json(out, &report),
        Format::Human => {
            let (one, all) = (giga(report.one_core), giga(report.all_cores));
            human::line(out, "one core", &format!("{one:.1} GB/s"))?;
            human::line(out, &words::count(cores as u64, "core"), &format!("{all:.1} GB/s"))?;
            human::line(out, "method", METHOD)?;
            for warning in &report.warnings {
                human::line(out, "warning", warning)?;
            }
            human::line(out, "use", &format!("cleanslate plan --bandwidth {one:.1},{all:.1}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_noticed() {
        let steady = |rate: f64| Rounds([0.98, 0.99, 1.0, 1.01, 1.02].map(|part| part * rate * 1e9));
        assert_eq!(warnings(&steady(10.0), &steady(19.0), 2), [""; 0]);
        let [impossible] = &warnings(&steady(31.7), &steady(83.2), 2)[..] else { panic!("one warning") };
        assert!(
            impossible.starts_with("2 cores together are 2.6 times as fast as one, which is impossible"),
            "{impossible}"
        );
        let busy = Rounds([5.0e9, 9.0e9, 10.0e9, 10.0e9, 10.0e9]);
        let [scatter] = &warnings(&busy, &steady(19.0), 2)[..] else { panic!("one warning") };
        assert!(scatter.starts_with("the rounds of one core range from 5.0 to 10.0 GB/s"), "{scatter}");
        assert!(
            scatter.contains("repeat the measurement when it is idle") || scatter.contains("repeat it when it is idle"),
            "{scatter}"
        );
        assert_eq!(warnings(&busy, &busy, 1).len(), 1);
    }
}
