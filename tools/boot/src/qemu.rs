//! Runs of QEMU: timeout, and runs that do not count.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::args::BootArgs;
use crate::cpus;
use crate::machine::{self, Machine, Start};
use crate::messages::Messages;
use crate::report::Report;
use crate::snapshot::Snapshot;
use crate::symbols::Symbols;

/// Maximum number of runs of a boot, if runs do not count.
const ATTEMPTS: usize = 3;

/// Runs QEMU until it exits or the timeout ends it.
pub(crate) fn run(args: &BootArgs, messages: &Messages) -> Result<Report> {
    run_from(args, None, messages)
}

/// The same, from power-on or from a snapshot.
pub(crate) fn run_from(args: &BootArgs, from: Option<&Snapshot>, messages: &Messages) -> Result<Report> {
    let logs = machine::logs(args)?;
    let start = from.map_or(Start::Power, |snapshot| Start::From(snapshot.incoming()));
    let mut machine = Machine::new(args, &logs, start)?;
    let registers = [logs.join("registers.log"), logs.join("registers-later.log")];
    let mut discarded = Vec::new();
    loop {
        for file in &registers {
            let _ = fs::remove_file(file);
        }
        machine.empty_logs()?;
        if let Some(snapshot) = from {
            snapshot.begin_logs(&machine)?;
        }
        let start = Instant::now();
        let mut places = Vec::new();
        let status = wait(&mut machine, Duration::from_secs(args.timeout), |machine| {
            // For the analysis of a hang. QEMU may not answer.
            for file in &registers {
                let answer = machine.ask("info registers -a", Duration::from_secs(2)).unwrap_or_default();
                let _ = fs::write(file, &answer);
                places.push(cpus::places(&String::from_utf8_lossy(&answer)));
            }
        })?;
        machine.clean_up();
        let mut report = Report::read(args, &machine, status, start.elapsed(), messages)?;
        if let [before, now] = &places[..] {
            report.tell_where(&cpus::describe(before, now, &Symbols::of(args)));
        }
        let fault = if report.summary()["end"] == "emulator-fault" {
            "the guest's state was lost at a VM exit"
        } else if report.ran_stale_code(messages) {
            "a CPU executed an int3 that Linux had already replaced, before any module was loaded"
        } else if status.is_none() && args.linux_is_first() && report.is_before_user_space(messages) {
            "the first Linux hung before its first program ran"
        } else {
            ""
        };
        if fault.is_empty() || discarded.len() + 1 == ATTEMPTS {
            report.set_discarded(discarded);
            return Ok(report);
        }
        eprintln!(
            "{fault} (see bare/README.md): run {} of {ATTEMPTS} does not count: {}",
            discarded.len() + 1,
            report.why()
        );
        discarded.push(format!("{fault} (see bare/README.md)"));
    }
}

/// The exit status; `None` after the timeout, when `hung` runs before the process is killed.
fn wait(machine: &mut Machine, limit: Duration, hung: impl FnOnce(&Machine)) -> Result<Option<i32>> {
    let mut child = machine.spawn()?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code().unwrap_or(-1)));
        }
        if start.elapsed() > limit {
            hung(machine);
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}
