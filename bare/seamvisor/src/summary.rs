//! Summary of a run: one line of JSON on the debug console, before the machine ends.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use metal::{clock, exit, heap, println, smp};

use crate::tdx::{self, LIMITS, MachineCheckRecord, Tdx};
use crate::vcpu::Vcpu;
use crate::{counters, kick};

static REPORTED: AtomicBool = AtomicBool::new(false);

/// `end` of a run in which QEMU lost the guest state at a VM exit. `cargo xtask boot` repeats it.
pub const EMULATOR_FAULT: &str = "emulator-fault";

/// Prints the summary, unless it was printed before, and ends the machine.
pub fn report_and_exit(end: &str, code: u32) -> ! {
    report(end);
    exit::exit(code)
}

/// A triple fault of the guest, or what the processor would make one of. The caller does not hold
/// the lock of the machine.
pub fn shut_down(vcpu: &Vcpu) -> ! {
    println!("cpu={} shutdown: {:#x?}", vcpu.number, vcpu.state());
    report_and_exit("shutdown", exit::PANIC)
}

/// [`report_and_exit`] for a caller that holds the lock of the machine.
pub fn report_and_exit_locked(tdx: &Tdx, end: &str, code: u32) -> ! {
    report_locked(tdx, end);
    exit::exit(code)
}

/// Prints the summary, unless it was printed before.
pub fn report(end: &str) {
    report_locked(&tdx::lock(), end);
}

fn report_locked(tdx: &Tdx, end: &str) {
    if !REPORTED.swap(true, Ordering::SeqCst) {
        println!("@ {}", json(tdx, end));
    }
}

fn list<T>(items: impl IntoIterator<Item = T>, mut one: impl FnMut(&mut String, T)) -> String {
    let mut text = String::from("[");
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        one(&mut text, item);
    }
    text.push(']');
    text
}

/// Replaces the characters that JSON would have to escape.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c == '"' || c == '\\' || c.is_control() { '\'' } else { c }).collect()
}

fn json(tdx: &Tdx, end: &str) -> String {
    let counters = tdx.machine.counters();
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    // Writing to a string never fails.
    let seamcalls = list(&counters.seamcalls, |text, ((leaf, status), count)| {
        let _ = write!(text, r#"{{"leaf":"{leaf}","status":"{}","count":{count}}}"#, status.with(0));
    });
    let check = |text: &mut String, record: &MachineCheckRecord| {
        let _ = write!(
            text,
            r#"{{"cpu":{},"address":"{}","kind":"{}","reason":"{}","rip":"{:#x}","instruction":"{}","bank":{},"status":"{:#x}","private_then":{}}}"#,
            record.check.cpu.0,
            record.check.address,
            record.kind,
            plain(&format!("{:?}", record.check.reason)),
            record.rip,
            plain(&record.instruction),
            record.check.bank,
            record.check.status,
            record.private_then
        );
    };
    let (checks, td_checks) = (list(&tdx.checks, check), list(&tdx.td_checks, check));
    let instructions = list(counters::INSTRUCTIONS.lock().iter(), |text, (bytes, (length, count))| {
        text.push_str(r#"{"bytes":""#);
        for byte in &bytes[..*length] {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = write!(text, r#"","count":{count}}}"#);
    });
    let exits = list(counters::EXITS.iter().enumerate().filter(|(_, count)| load(count) > 0), |text, (code, count)| {
        let _ = write!(text, r#"{{"code":"{code:#x}","count":{}}}"#, load(count));
    });
    let direct_stored_by = list(counters::DIRECT_STORED.iter().take(smp::cpu_count()), |text, count| {
        let _ = write!(text, "{}", load(count));
    });
    let mut kinds = BTreeMap::<&str, u64>::new();
    for run in tdx.machine.assigned_pages() {
        *kinds.entry(run.kind.name()).or_default() += run.pages.pages();
    }
    let pages = list(kinds, |text, (kind, count)| {
        let _ = write!(text, r#"{{"kind":"{kind}","count":{count}}}"#);
    });
    let limits = list(LIMITS, |text, limit| {
        let _ = write!(text, r#""{}""#, plain(limit));
    });
    let poisoned: u64 = tdx.machine.all_poisoned_runs().iter().map(|run| run.lines.len()).sum();
    let (heap_used, heap_size) = heap::usage();
    format!(
        r#"{{"schema":"cleanslate/seamvisor","version":1,"end":"{end}","cpus":{},"microseconds":{},"seamcalls":{seamcalls},"seamcalls_refused":{},"pages":{pages},"lines":{{"private":{},"dirty_private":{},"poisoned":{poisoned},"poisoned_ever":{},"direct_stored":{},"direct_stored_by":{direct_stored_by},"overwritten":{},"partially_written":{},"late_private":{},"late_shared":{}}},"machine_checks":{checks},"td_machine_checks":{td_checks},"td_exits":{},"td_notifications":{},"instructions":{instructions},"exits":{exits},"hidden_accesses":{},"kicks":{},"kicks_unanswered":{},"heap":{{"used":{heap_used},"size":{heap_size}}},"limits":{limits}}}"#,
        smp::cpu_count(),
        clock::micros() - load(&counters::STARTED),
        tdx.refused,
        tdx.machine.private_lines(),
        tdx.machine.dirty_private_lines(),
        counters.lines_poisoned,
        counters.lines_direct_stored,
        load(&counters::OVERWRITTEN),
        counters.lines_partially_written,
        counters.lines_late_private,
        counters.lines_late_shared,
        load(&counters::TD_EXITS),
        load(&counters::NOTIFICATIONS),
        load(&counters::HIDDEN_ACCESSES),
        load(&kick::KICKS),
        load(&kick::UNANSWERED),
    )
}
