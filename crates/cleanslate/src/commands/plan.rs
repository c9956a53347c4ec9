//! `cleanslate plan`: TDMRs, PAMTs, reserved areas, and the time of a reset.

use std::{io::Write, ops::RangeInclusive, path::PathBuf};

use clap::Args;
use tdx_operator::{cost::Rates, plan::plan, report::svg};

use crate::options::{Format, HostArgs, LayoutArgs, OutputArgs};
use crate::output::{json, unless_closed};
use crate::stop::Stop;
use crate::{files, human, progress};

/// Shows TDMRs, PAMTs and reserved areas for a host, and the layout Linux computes.
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
    host: HostArgs,
    #[command(flatten)]
    layout: LayoutArgs,
    /// Reset bandwidth in GB/s: of one core and, after a comma, of all cores. Default: conservative
    /// figures, shown with their origin.
    #[arg(long, value_name = "ONE[,ALL]", value_parser = bandwidth)]
    bandwidth: Option<(f64, Option<f64>)>,
    /// Draws the memory map as SVG into this file; `-` is standard output, which then gets nothing
    /// else.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Valid bandwidths in GB/s: from a slow core of a virtual machine to more than any machine has.
const GIGABYTES: RangeInclusive<f64> = 0.001..=100_000.0;

/// `11.5` or `11.5,38`.
fn bandwidth(text: &str) -> Result<(f64, Option<f64>), String> {
    let number = |text: &str| text.parse().ok().filter(|rate| GIGABYTES.contains(rate));
    let read = match text.split_once(',') {
        None => number(text).map(|one| (one, None)),
        Some((one, all)) => number(one).zip(number(all)).map(|(one, all)| (one, Some(all))),
    };
    match read {
        Some((one, Some(all))) if all < one => Err("all cores together must be at least as fast as one".to_owned()),
        Some(read) => Ok(read),
        None => Err(format!(
            "expected a bandwidth such as 11.5 or 11.5,38: GB/s of one core and of all cores, each from {} to {}",
            GIGABYTES.start(),
            GIGABYTES.end()
        )),
    }
}

/// True if there is a layout.
pub(crate) fn run(args: &PlanArgs, out: &mut impl Write) -> Result<bool, Stop> {
    if let Some(path) = args.svg.as_ref().filter(|path| path.as_os_str() != "-") {
        files::probe(path)?;
    }
    let host = args.host.read(&progress::Line::new())?;
    let assumed = Rates::assumed(&host);
    let rates = args.bandwidth.map_or(assumed, |(one, all)| Rates {
        one_core: one * 1e9,
        all_cores: all.map_or(assumed.all_cores.max(one * 1e9), |all| all * 1e9),
        origin: "given with --bandwidth",
        assumed_cpus: assumed.assumed_cpus.filter(|_| all.is_none()),
    });
    let report = plan(&host, args.layout.name(), rates);
    let good = report.layout.error.is_none();
    if let Some(path) = &args.svg {
        let picture = svg::memory_map(&report);
        if path.as_os_str() == "-" {
            unless_closed(out.write_all(picture.as_bytes()))?;
            return Ok(good);
        }
        files::write(path, picture.as_bytes())?;
    }
    unless_closed(match args.output.format {
        Format::Json => json(out, &report),
        Format::Human => human::plan::print(out, &report),
    })?;
    Ok(good)
}
