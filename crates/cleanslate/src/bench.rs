//! `bench`: how fast this machine overwrites memory, for `plan --bandwidth`. Ordinary stores by safe code stand in for MOVDIR64B, which
//! a program outside the kernel has no private memory to try on; BENCHMARKS.md compares the loops.

use std::io::{self, Write};
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use clap::Args;
use serde::Serialize;

use crate::args::{Format, OutputArgs};

/// Measures how fast this machine overwrites memory: by one core and by all. Takes about two seconds and up to 8 GiB.
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
}

const METHOD: &str = "zeros by ordinary stores of safe code over memory larger than the caches, median of 5 rounds; stands in for MOVDIR64B";

const ROUNDS: usize = 5;
const MIB: usize = 1 << 20;

/// Bytes a second of `threads` threads, each with memory of its own.
fn rate(threads: usize) -> f64 {
    let bytes = (1024 * MIB / threads).clamp(32 * MIB, 512 * MIB).min(8192 * MIB / threads);
    let barrier = Barrier::new(threads + 1);
    let mut rounds = thread::scope(|scope| {
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
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            barrier.wait();
            let start = Instant::now();
            barrier.wait();
            rounds.push((bytes * threads) as f64 / start.elapsed().as_secs_f64());
        }
        rounds
    });
    rounds.sort_by(f64::total_cmp);
    rounds[ROUNDS / 2]
}

/// Measures and reports.
pub(crate) fn run(args: &BenchArgs, out: &mut impl Write) -> io::Result<()> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let one_core = rate(1);
    let report = Report {
        schema: "cleanslate/bench",
        version: 1,
        tool: tdx_lab::report::TOOL,
        cores,
        one_core,
        // Measured one after the other, on a machine that has other things to do.
        all_cores: rate(cores).max(one_core),
        method: METHOD,
    };
    match args.output.format {
        Format::Json => crate::json(out, &report),
        Format::Human => {
            let giga = |rate: f64| rate / 1e9;
            writeln!(out, "one core  {:.1} GB/s", giga(report.one_core))?;
            writeln!(out, "{cores} cores   {:.1} GB/s", giga(report.all_cores))?;
            writeln!(out, "method    {METHOD}")?;
            writeln!(
                out,
                "use       cleanslate plan --bandwidth {:.1},{:.1}",
                giga(report.one_core),
                giga(report.all_cores)
            )
        }
    }
}
