//! How fast the explorer is, and what it saves by branching from a snapshot instead of running
//! every prefix again.
//!
//! Method: a scenario is explored whole (every instant, kexec and a panic on each CPU). Then it is
//! run without a branch, under the same watcher. Running a prefix again for each crash point would
//! cost half such a run on average, because instants are spread evenly over it, and the same branch
//! after it. Both in one process, in turns; medians.
//!
//! Output: a table, and JSON in `target/bench/explore.json`.

use std::path::Path;
use std::time::Instant;

use tdx_explorer::{Options, Scenario, explore, find};
use tdx_operator::host::{Host, HostOptions};

const ROUNDS: usize = 5;
/// A real host with 2 TiB, on which one of so many instants is taken.
const REAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/hosts/01-canonical-385-2tib.log");
const EVERY: u64 = 1009;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The same scenario on a host with so many GiB.
fn on(scenario: &Scenario, gib: u64) -> Scenario {
    let text = format!(
        "schema = \"cleanslate-host\"\nversion = 1\n[cpu]\nmodel = \"spr\"\npackages = 1\ncpus = 2\n[tdx]\nkey_ids = \"[32, 64)\"\n\
         [[memory]]\nrange = \"[1G, {}G)\"\n",
        1 + gib
    );
    let host = Host::from_reader("bench", text.as_bytes(), &HostOptions::default()).unwrap();
    Scenario { host, ..scenario.clone() }
}

fn seconds(scenario: &Scenario, options: &Options) -> (f64, u64) {
    let begin = Instant::now();
    let report = explore(std::slice::from_ref(scenario), None, options, &()).unwrap();
    (begin.elapsed().as_secs_f64(), report.crash_points)
}

fn main() {
    let life = find("td-life").unwrap().unwrap();
    let none = Options { instant: Some(u64::MAX), ..Options::default() };
    println!(
        "{:<10}{:>14}{:>12}{:>14}{:>14}{:>8}",
        "host", "crash points", "seconds", "per second", "run again, s", "ratio"
    );
    let mut rows = Vec::new();
    let real = Host::from_path(Path::new(REAL), &HostOptions::default()).unwrap();
    let hosts = [
        ("1 GiB", on(&life, 1), 1, ROUNDS),
        ("4 GiB", on(&life, 4), 1, ROUNDS),
        ("16 GiB", on(&life, 16), 1, 1),
        ("2 TiB", Scenario { host: real, ..life.clone() }, EVERY, 1),
    ];
    for (name, scenario, every, rounds) in hosts {
        let (mut whole, mut runs, mut points) = (Vec::new(), Vec::new(), 0);
        for _ in 0..rounds {
            let (time, crash_points) = seconds(&scenario, &Options { every, ..Options::default() });
            points = crash_points;
            whole.push(time);
            runs.push(seconds(&scenario, &none).0);
        }
        let (whole, run) = (median(whole), median(runs));
        let again = whole + points as f64 * run / 2.0;
        println!(
            "{name:<10}{points:>14}{whole:>12.3}{:>14.0}{again:>14.1}{:>8.1}",
            points as f64 / whole,
            again / whole
        );
        rows.push(
            serde_json::json!({ "host": name, "crash_points": points, "seconds": whole, "run_again_seconds": again }),
        );
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench");
    std::fs::create_dir_all(path).unwrap();
    std::fs::write(format!("{path}/explore.json"), serde_json::to_string_pretty(&rows).unwrap()).unwrap();
}
