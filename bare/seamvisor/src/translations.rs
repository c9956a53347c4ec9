//! Generation of the translations of TDs. VP.ENTER compares it with that of the virtual CPU's
//! nested page tables, and empties them if they differ.

use core::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Starts a new generation: some TD has lost a translation. A CPU that is inside a TD keeps its old
/// ones until its next VM exit, as a TLB does: the caller kicks it where it must not.
pub fn invalidate() {
    GENERATION.fetch_add(1, Ordering::SeqCst);
}

/// The present generation; 0 is never one.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::SeqCst)
}
