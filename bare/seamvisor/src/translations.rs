//! When translations of TDs change: whoever enters a TD compares the generation with that of its
//! nested page tables, and fills them anew if they differ.

use core::sync::atomic::{AtomicU64, Ordering};

static GENERATION: AtomicU64 = AtomicU64::new(1);

/// Some TD has lost a translation. A CPU that is inside a TD keeps its old ones until its next VM
/// exit, as a TLB does: the caller kicks it where it must not.
pub fn invalidate() {
    GENERATION.fetch_add(1, Ordering::SeqCst);
}

/// The present generation; 0 is never one.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::SeqCst)
}
