//! The main job on big hosts, and the rate of emulated SEAMCALLs.
//!
//! Method: each host runs the whole job (detection, bring-up, kexec, next kernel) several times in
//! this process; the figure is the median. Peak memory is VmHWM of a child process that runs the
//! job once. SEAMCALL rates are those of one leaf, called many times in a row, median of rounds.
//! Goals: 2 TiB under 3 s and 1 GiB, 12 TiB under 20 s.
//!
//! Output: a table, and JSON in `target/bench/main_job.json`.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use first_kernel::{AnyPolicy, Comparison};
use tdx_abi::{Leaf, PageRange, PhysAddr, Registers, TDMR_GRANULARITY};
use tdx_host::bringup::Bringup;
use tdx_host::handover::Policy;
use tdx_lab::kexec::{KexecOptions, run};
use tdx_lab::platform::{Lab, LabKernel};
use tdx_machine::{CpuId, Machine};
use tdx_operator::host::{Host, HostOptions};
use tdx_operator::layout::LayoutName;

const ROUNDS: usize = 5;
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/");

/// Name, file, goal in seconds.
const HOSTS: [(&str, &str, f64); 2] = [
    ("2 TiB (fixture 01)", "hosts/01-canonical-385-2tib.log", 3.0),
    ("12 TiB (e820 fixture 02, TDX assumed)", "e820/02-hp-superdome2-16s-12tib.log", 20.0),
];

/// The child process runs the job once and prints its own peak memory.
const CHILD: &str = "CLEANSLATE_BENCH_HOST";

fn host(file: &str) -> Host {
    Host::from_path(&Path::new(FIXTURES).join(file), &HostOptions::default()).expect("a bundled fixture")
}

fn job(host: &Host, policy: AnyPolicy) {
    let options = KexecOptions { policy, layout: LayoutName::Fit, ..KexecOptions::default() };
    black_box(run(host, options, &()).expect("a bundled fixture can be emulated"));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn timed(mut action: impl FnMut()) -> f64 {
    let begin = Instant::now();
    action();
    begin.elapsed().as_secs_f64()
}

/// Peak resident memory of this process in MiB; Linux only.
fn peak_mib() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

fn peak_of_child(file: &str) -> Option<f64> {
    let output = Command::new(std::env::current_exe().ok()?).env(CHILD, file).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// Median nanoseconds of one call, made `calls` times in a row in each round.
fn rate(mut calls_per_round: impl FnMut() -> u64) -> f64 {
    median(
        (0..ROUNDS)
            .map(|_| {
                let begin = Instant::now();
                let calls = calls_per_round();
                begin.elapsed().as_secs_f64() * 1e9 / calls as f64
            })
            .collect(),
    )
}

/// SYS.TDMR.INIT of a whole TDMR, from a fresh SYS_READY each round, and PHYMEM.PAGE.RDMD over its
/// pages.
fn seamcall_rates() -> [(&'static str, f64); 2] {
    let host = host(HOSTS[0].1);
    let lab = Lab::new(&host, &()).expect("fixture 01 can be emulated");
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).expect("fixture 01 has TDX");
    let mut kernel = LabKernel::new(&lab, &tdx, &host);
    let planned = tdx
        .start_bring_up(&mut kernel)
        .and_then(|b| b.sys_init()?.init_cpus()?.read_module_info()?.plan(host.memory()))
        .expect("fixture 01 has a layout");
    let tdmr: PageRange = planned.layout().tdmrs()[1].range();
    let _keyed = planned.configure().and_then(Bringup::configure_keys).expect("fixture 01 comes up");
    let ready_for_tdmrs: Machine = lab.ask(Machine::clone);
    let init = Registers::call(Leaf::SYS_TDMR_INIT).rcx_address(tdmr.base());
    let mut machine = ready_for_tdmrs.clone();
    let tdmr_init = rate(|| {
        machine = ready_for_tdmrs.clone();
        let calls = 256 * (tdmr.bytes() / TDMR_GRANULARITY);
        for _ in 0..calls {
            black_box(machine.seamcall(CpuId(0), init)).expect("modeled");
        }
        calls
    });
    let rdmd = rate(|| {
        const CALLS: u64 = 200_000;
        for index in 0..CALLS {
            let page = tdmr.start().index() + index * 977 % tdmr.pages();
            let call = Registers::call(Leaf::PHYMEM_PAGE_RDMD).rcx_address(PhysAddr::new(page * 4096));
            black_box(machine.seamcall(CpuId(0), call)).expect("modeled");
        }
        CALLS
    });
    [("SYS.TDMR.INIT", tdmr_init), ("PHYMEM.PAGE.RDMD", rdmd)]
}

fn main() {
    if let Ok(file) = std::env::var(CHILD) {
        job(&host(&file), Policy::Tracked.into());
        println!("{:.1}", peak_mib().unwrap_or(f64::NAN));
        return;
    }
    let mut rows = Vec::new();
    println!("main job: seconds, median of {ROUNDS}; peak memory of a process that runs it once");
    for (name, file, goal) in HOSTS {
        let host = host(file);
        let peak = peak_of_child(file).unwrap_or(f64::NAN);
        for (policy, word) in [
            (Policy::Tracked.into(), "tracked"),
            (Comparison::None.into(), "none"),
            (Policy::Everything.into(), "everything"),
        ] {
            let seconds = median((0..ROUNDS).map(|_| timed(|| job(&host, policy))).collect());
            println!("  {name:40} {word:11} {seconds:7.3} s (goal {goal} s)  {peak:7.1} MiB");
            rows.push(format!(
                "    {{\"host\": \"{name}\", \"policy\": \"{word}\", \"seconds\": {seconds:.4}, \
                     \"goal_seconds\": {goal}, \
                 \"peak_mib\": {peak:.1}}}"
            ));
        }
    }
    println!("emulated SEAMCALLs: median of {ROUNDS} rounds");
    let mut rates = Vec::new();
    for (leaf, nanoseconds) in seamcall_rates() {
        println!("  {leaf:40} {nanoseconds:8.1} ns a call, {:6.2} million a second", 1e3 / nanoseconds);
        rates.push(format!("    {{\"leaf\": \"{leaf}\", \"ns\": {nanoseconds:.1}}}"));
    }
    let text = format!(
        "{{\n  \"schema\": \"cleanslate.bench.main_job\",\n  \"version\": 1,\n  \"jobs\": [\n{}\n  ],\n  \
             \"seamcalls\": \
         [\n{}\n  ]\n}}\n",
        rows.join(",\n"),
        rates.join(",\n")
    );
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    if let Err(error) =
        std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("main_job.json"), text))
    {
        eprintln!("cannot write {}: {error}", folder.display());
    }
}
