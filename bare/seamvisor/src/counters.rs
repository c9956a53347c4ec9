//! Counters for the summary: VM exits by code, accesses to hidden memory, emulated instructions.

use alloc::collections::BTreeMap;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::Mutex;

const EXIT_CODES: usize = 0x410;

/// VM exits by code, up to 0x40f; the last element counts all others.
pub static EXITS: [AtomicU64; EXIT_CODES + 1] = [const { AtomicU64::new(0) }; EXIT_CODES + 1];

/// VM exits of TDs.
pub static TD_EXITS: AtomicU64 = AtomicU64::new(0);

/// Notifications of posted interrupts that came to a CPU in a TD.
pub static NOTIFICATIONS: AtomicU64 = AtomicU64::new(0);

/// Guest accesses to hypervisor memory: reads returned ones, writes were dropped.
pub static HIDDEN_ACCESSES: AtomicU64 = AtomicU64::new(0);

/// Lines of memory in use that a MOVDIR64B has overwritten: they held a [`CANARY`].
pub static OVERWRITTEN: AtomicU64 = AtomicU64::new(0);

/// Lines that MOVDIR64B has stored, by CPU.
pub static DIRECT_STORED: [AtomicU64; metal::MAX_CPUS] = [const { AtomicU64::new(0) }; metal::MAX_CPUS];

/// Each of the eight words of a line in use is this plus its physical address, as
/// `bare/linux/cleanslate_canary.c` stores it. No other line is.
const CANARY: u64 = 0x6b65_6570_2074_6800;

/// Counts a line that is about to be overwritten and says that it is in use. Returns whether it
/// was the first.
pub fn count_overwritten(address: u64, line: &[u8; 64]) -> bool {
    let canary = CANARY.wrapping_add(address).to_le_bytes();
    line.chunks(8).all(|word| word == canary) && OVERWRITTEN.fetch_add(1, Ordering::Relaxed) == 0
}

/// Counts lines that MOVDIR64B has stored on this CPU.
pub fn count_direct_stored(cpu: usize, lines: u64) {
    if let Some(count) = DIRECT_STORED.get(cpu) {
        count.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Time at which the guest started, in microseconds.
pub static STARTED: AtomicU64 = AtomicU64::new(0);

/// Length in bytes and execution count of each emulated instruction, by its zero-padded encoding.
/// A loop that is emulated in one exit counts once.
pub static INSTRUCTIONS: Mutex<BTreeMap<[u8; 15], (usize, u64)>> = Mutex::new(BTreeMap::new());

/// Distinct encodings that are kept.
const MAX_INSTRUCTIONS: usize = 256;

/// Counts a VM exit.
pub fn count_exit(code: u64) {
    EXITS[(code as usize).min(EXIT_CODES)].fetch_add(1, Ordering::Relaxed);
}

/// Counts a VM exit of a TD.
pub fn count_td_exit() {
    TD_EXITS.fetch_add(1, Ordering::Relaxed);
}

/// Counts a notification of posted interrupts.
pub fn count_notification() {
    NOTIFICATIONS.fetch_add(1, Ordering::Relaxed);
}

/// Counts a guest access to hypervisor memory.
pub fn count_hidden_access() {
    HIDDEN_ACCESSES.fetch_add(1, Ordering::Relaxed);
}

/// Counts an emulated instruction of at most 15 bytes.
pub fn count_instruction(bytes: &[u8]) {
    let mut key = [0; 15];
    key[..bytes.len()].copy_from_slice(bytes);
    let mut known = INSTRUCTIONS.lock();
    // The guest chooses the encodings, so the table is bounded. Further encodings are counted
    // together, as one entry of length 0.
    if known.len() >= MAX_INSTRUCTIONS && !known.contains_key(&key) {
        known.entry([0; 15]).or_insert((0, 0)).1 += 1;
        return;
    }
    known.entry(key).or_insert((bytes.len(), 0)).1 += 1;
}
