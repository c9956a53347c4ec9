//! The task `dump-wait`: how long the dump of a crash waits, with most of memory in TDs, if the
//! crash kernel leaves private memory out, and if everything is reset first.

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use tdx_abi::{LINES_PER_PAGE, PageSize};

use crate::args::{BootArgs, Format};
use crate::messages;
use crate::report::{Report, Verdict};
use crate::{machine, qemu};

/// Crashes Debian's 6.12 with most of its memory in TDs, under `dump=exclude` and `dump=reset` in
/// turn, and compares the times from the crash to the first byte of the dump. Both are emulated,
/// and so is MOVDIR64B: the ratio is not that of a CPU.
#[derive(Args, Clone, Debug)]
pub struct DumpWaitArgs {
    /// Memory of the machine, in MiB.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1024..))]
    memory: u32,
    /// Share of it that is given to TDs, in percent.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u32).range(1..=90))]
    share: u32,
    /// Boots of each kind.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Output format.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// MiB of a page of 2 MiB.
const LARGE_PAGE: u32 = 2;

/// The word for `--policy`.
const EXCLUDES: &str = "exclude";
const RESETS: &str = "tracked";

/// Pages of 2 MiB for TDs.
fn large_pages(args: &DumpWaitArgs) -> u32 {
    args.memory / LARGE_PAGE * args.share / 100
}

fn words(args: &DumpWaitArgs, policy: &str) -> Vec<String> {
    let pages = large_pages(args);
    // Only the root file system of a crash kernel with the module has makedumpfile.
    let next = if policy == EXCLUDES { " cleanslate.crash-next=cleanslate.makedumpfile" } else { "" };
    let kind = ["linux", "--kernel=stock-6.12", "--module", "--crash", "--tds=1", "--timeout=600"];
    let mut words = kind.map(str::to_owned).to_vec();
    words.extend([
        format!("--policy={policy}"),
        format!("--memory={}", args.memory),
        format!("--append=cleanslate.fill={pages}{next}"),
    ]);
    words
}

/// What a boot came to.
struct Wait {
    /// Cycles of the CPU's counter from the crash to the first byte of the dump.
    cycles: u64,
    /// Pages of 4 KiB that the dump leaves out, or that were reset before it.
    pages: u64,
    /// Bytes of /proc/vmcore.
    dump: u64,
    /// Bytes that makedumpfile writes of it with `-d 1`, where it was run.
    written: Option<u64>,
}

impl Wait {
    fn of(report: &Report, policy: &str, large_pages: u64) -> Result<Self> {
        let number = |name: &str, field: &str| {
            let value = report.event(name)[field].as_u64();
            value.with_context(|| format!("the boot has printed no event {name} with {field}"))
        };
        ensure!(report.verdict() == Verdict::Clean, "the boot is not clean: {}\n{}", report.why(), report.human());
        ensure!(!report.event("filled").is_null(), "the TDs did not get their memory: {}", report.event("not-filled"));
        let (crash, begins) = (number("now", "tsc")?, number("dump-begins", "tsc")?);
        // With `exclude` a reset would be its way out, and no wait of that kind.
        let pages = if policy == EXCLUDES {
            report.event("dump-excluded")["pages"].as_u64()
        } else {
            report.summary()["lines"]["direct_stored"].as_u64().map(|lines| lines / LINES_PER_PAGE)
        };
        let pages = pages.unwrap_or(0);
        let given = large_pages * PageSize::Size2M.pages();
        ensure!(pages >= given, "{given} pages were given to TDs, and {pages} were reset or left out");
        Ok(Self {
            pages,
            cycles: begins.checked_sub(crash).context("the counter does not go on in the crash kernel")?,
            dump: number("dump", "read")?,
            written: report.event("makedumpfile")["bytes"].as_u64(),
        })
    }
}

fn median(mut cycles: Vec<u64>) -> u64 {
    cycles.sort_unstable();
    cycles.get(cycles.len() / 2).copied().unwrap_or_default()
}

/// The task; true unless a boot fails, which is an error.
///
/// # Errors
/// A boot is not clean, or does not say what is to be compared.
pub fn dump_wait(args: &DumpWaitArgs) -> Result<bool> {
    let messages = messages::load()?;
    machine::build()?;
    let mut waits: [Vec<Wait>; 2] = [vec![], vec![]];
    for number in 1..=args.runs {
        for (policy, waits) in [EXCLUDES, RESETS].into_iter().zip(&mut waits) {
            let words = words(args, policy);
            let report = qemu::run(&BootArgs::from_words(words.iter().map(String::as_str))?, &messages)?;
            let wait = Wait::of(&report, policy, large_pages(args).into()).with_context(|| BootArgs::shell(&words))?;
            if args.format == Format::Human {
                let written =
                    wait.written.map(|bytes| format!(", {bytes} written by makedumpfile")).unwrap_or_default();
                println!(
                    "{number} of {}, --policy {policy}: {} million cycles from the crash to the dump; {} pages {}; {} bytes \
                     read{written}",
                    args.runs,
                    wait.cycles / 1_000_000,
                    wait.pages,
                    if policy == EXCLUDES { "left out" } else { "reset" },
                    wait.dump
                );
            }
            waits.push(wait);
        }
    }
    let [excluded, reset] = waits.each_ref().map(|all| median(all.iter().map(|wait| wait.cycles).collect()));
    let ratio = excluded as f64 / reset as f64;
    match args.format {
        Format::Human => println!(
            "{} % of {} MiB in TDs: with {EXCLUDES} the dump begins after {ratio:.2} of the time with {RESETS} (medians)",
            args.share, args.memory
        ),
        Format::Json => {
            let runs = |waits: &[Wait]| {
                let run = |wait: &Wait| json!({ "cycles": wait.cycles, "pages": wait.pages, "dump_bytes": wait.dump, "written_bytes": wait.written });
                waits.iter().map(run).collect::<Vec<_>>()
            };
            let object = json!({
                "schema": "cleanslate/dump-wait",
                "version": 1,
                "memory_mib": args.memory,
                "share_percent": args.share,
                "exclude": runs(&waits[0]),
                "tracked": runs(&waits[1]),
                "ratio": ratio,
            });
            println!("{}", serde_json::to_string_pretty(&object)?);
        }
    }
    Ok(true)
}
