//! What has happened, as one line of JSON on the debug console, before the machine ends.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use metal::{clock, exit, heap, println};
use spin::Mutex;

use crate::tdx::{self, LIMITS, Tdx};
use crate::{kick, vcpu};

/// Accesses of the guest to memory of this program, each answered with ones or dropped.
pub static HIDDEN_ACCESSES: AtomicU64 = AtomicU64::new(0);

static TOLD: AtomicBool = AtomicBool::new(false);

/// When the guest started, in microseconds.
pub static STARTED: AtomicU64 = AtomicU64::new(0);

/// Bytes of emulated instructions, and how often each was executed (a loop in one exit counts
/// once).
static INSTRUCTIONS: Mutex<BTreeMap<[u8; 15], (usize, u64)>> = Mutex::new(BTreeMap::new());

/// Encodings that are told apart.
const MAX_INSTRUCTIONS: usize = 256;

/// An instruction was emulated.
pub fn instruction(bytes: &[u8]) {
    let mut key = [0; 15];
    key[..bytes.len()].copy_from_slice(bytes);
    let mut known = INSTRUCTIONS.lock();
    // A guest can make as many encodings as it likes. Those that come too late count as one without
    // bytes.
    if known.len() >= MAX_INSTRUCTIONS && !known.contains_key(&key) {
        known.entry([0; 15]).or_insert((0, 0)).1 += 1;
        return;
    }
    known.entry(key).or_insert((bytes.len(), 0)).1 += 1;
}

/// The end of a run in which the guest's state was lost at a VM exit: `cargo xtask boot` makes it
/// again.
pub const EMULATOR_FAULT: &str = "emulator-fault";

/// Tells, and ends the machine.
pub fn end(why: &str, code: u32) -> ! {
    tell(why);
    exit::exit(code)
}

/// The same for one who holds the machine.
pub fn end_locked(tdx: &Tdx, why: &str, code: u32) -> ! {
    tell_of(tdx, why);
    exit::exit(code)
}

/// Tells once.
pub fn tell(why: &str) {
    tell_of(&tdx::lock(), why);
}

fn tell_of(tdx: &Tdx, why: &str) {
    if !TOLD.swap(true, Ordering::SeqCst) {
        println!("@ {}", json(tdx, why));
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

/// Text without what JSON would have to escape.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c == '"' || c == '\\' || c.is_control() { '\'' } else { c }).collect()
}

fn json(tdx: &Tdx, why: &str) -> String {
    let counters = tdx.machine.counters();
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    // Writing to a string never fails.
    let seamcalls = list(&counters.seamcalls, |text, ((leaf, status), count)| {
        let _ = write!(text, r#"{{"leaf":"{leaf}","status":"{}","count":{count}}}"#, status.with(0));
    });
    let checks = list(&tdx.checks, |text, told| {
        let _ = write!(
            text,
            r#"{{"cpu":{},"address":"{}","kind":"{}","reason":"{}","rip":"{:#x}","instruction":"{}","bank":{},"status":"{:#x}","private_then":{}}}"#,
            told.check.cpu.0,
            told.check.address,
            told.kind,
            plain(&format!("{:?}", told.check.reason)),
            told.rip,
            plain(&told.instruction),
            told.check.bank,
            told.check.status,
            told.private_then
        );
    });
    let instructions = list(INSTRUCTIONS.lock().iter(), |text, (bytes, (length, count))| {
        text.push_str(r#"{"bytes":""#);
        for byte in &bytes[..*length] {
            let _ = write!(text, "{byte:02x}");
        }
        let _ = write!(text, r#"","count":{count}}}"#);
    });
    let exits = list(vcpu::EXITS.iter().enumerate().filter(|(_, count)| load(count) > 0), |text, (code, count)| {
        let _ = write!(text, r#"{{"code":"{code:#x}","count":{}}}"#, load(count));
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
        r#"{{"schema":"cleanslate/seamvisor","version":1,"end":"{why}","cpus":{},"microseconds":{},"seamcalls":{seamcalls},"seamcalls_refused":{},"pages":{pages},"lines":{{"private":{},"dirty_private":{},"poisoned":{poisoned},"poisoned_ever":{},"direct_stored":{},"partially_written":{},"late_private":{},"late_shared":{}}},"machine_checks":{checks},"instructions":{instructions},"exits":{exits},"hidden_accesses":{},"kicks":{},"kicks_unanswered":{},"heap":{{"used":{heap_used},"size":{heap_size}}},"limits":{limits}}}"#,
        crate::cpu_count(),
        clock::micros() - load(&STARTED),
        tdx.refused,
        tdx.machine.private_lines(),
        tdx.machine.dirty_private_lines(),
        counters.lines_poisoned,
        counters.lines_direct_stored,
        counters.lines_partially_written,
        counters.lines_late_private,
        counters.lines_late_shared,
        load(&HIDDEN_ACCESSES),
        load(&kick::KICKS),
        load(&kick::UNANSWERED),
    )
}
