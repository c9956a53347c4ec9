//! How long a layout takes, on the hosts of the fixtures and on worse ones. Goal: under 1 ms.
//!
//! Method: each host's layout is built and released many times in a row after a warm-up; the figure
//! is the median of the single runs, with the slowest 1 % beside it. Output: a table, and JSON in
//! `<target>/bench/layout.json`.

#[path = "../tests/layout/hosts.rs"]
#[allow(dead_code, reason = "the tests use more of it")]
mod hosts;

use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use hosts::Host;
use tdx_host::layout::{Layout, Limits, MapFrames, build};

const RUNS: usize = 2001;

/// Microseconds of each run, sorted; `None` if there is no layout.
fn measure(host: &Host, layout: &mut Layout) -> Option<Vec<f64>> {
    let mut times = Vec::with_capacity(RUNS);
    for run in 0..RUNS + RUNS / 10 {
        let mut frames = MapFrames::new(&host.memory);
        let begin = Instant::now();
        let result = build(black_box(&host.memory), &host.cmrs, &Limits::MODULE_1_5, &mut frames, layout);
        let time = begin.elapsed().as_secs_f64() * 1e6;
        black_box(&layout);
        result.ok()?;
        layout.release(&mut frames).unwrap();
        if run >= RUNS / 10 {
            times.push(time);
        }
    }
    times.sort_by(f64::total_cmp);
    Some(times)
}

fn main() {
    let hosts = [
        ("01-canonical-385-2tib", hosts::from_cmrs(hosts::LOGGED[0].1)),
        ("02-canonical-135-emr-fail28", hosts::emr_fail28()),
        ("02-hp-superdome2-16s-12tib", hosts::superdome_12tib()),
        ("01-hpe-uv-16node-4tib", hosts::uv_16_nodes()),
        ("100 units, 64 TDMRs", hosts::many_units(100)),
        ("16 nodes, 2048 ranges", hosts::fragmented()),
    ];
    let mut layout = Box::new(Layout::new());
    let mut rows = Vec::new();
    println!("layout: microseconds, median of {RUNS} runs (slowest 1 %)");
    for (name, host) in &hosts {
        let Some(times) = measure(host, &mut layout) else {
            println!("  {name:30} no layout");
            continue;
        };
        let (median, slow) = (times[RUNS / 2], times[RUNS - RUNS / 100]);
        println!("  {name:30} {median:9.1} ({slow:.1})");
        rows.push(format!("    {{\"host\": \"{name}\", \"median_us\": {median:.2}, \"p99_us\": {slow:.2}}}"));
    }
    let json = format!(
        "{{\n  \"schema\": \"cleanslate.bench.layout\",\n  \"version\": 1,\n  \"runs\": {RUNS},\n  \"rows\": [\n{}\n  ]\n}}\n",
        rows.join(",\n")
    );
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    let folder = target.join("bench");
    if let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("layout.json"), json))
    {
        eprintln!("cannot write {}: {error}", folder.display());
    }
}
