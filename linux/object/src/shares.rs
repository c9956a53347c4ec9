//! Lines that each CPU has written: in a handover, and before the first in pages that come back.

use core::sync::atomic::{AtomicU64, Ordering};
use tdx_host::platform::CpuId;

use crate::CPUS;

/// On a cache line of its own: CPUs also reset pages that come back while the kernel runs.
#[repr(align(64))]
struct Count(AtomicU64);

/// Lines that each CPU has written since [`start_count`].
static LINES: [Count; CPUS] = [const { Count(AtomicU64::new(0)) }; CPUS];

/// A handover begins.
pub fn start_count() {
    for lines in &LINES {
        lines.0.store(0, Ordering::Relaxed);
    }
}

/// Counts lines that a CPU has written.
pub fn count_lines(cpu: CpuId, lines: u64) {
    if let Some(count) = LINES.get(cpu.0 as usize) {
        count.0.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Lines that were written in this handover so far.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_lines_reset() -> u64 {
    LINES.iter().map(|lines| lines.0.load(Ordering::Relaxed)).sum()
}

/// How many CPUs have written lines; the least and the most of one of them.
///
/// # Safety
/// `least` and `most` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_shares(least: *mut u64, most: *mut u64) -> u32 {
    let (mut cpus, mut low, mut high) = (0, u64::MAX, 0);
    for lines in LINES.iter().map(|lines| lines.0.load(Ordering::Relaxed)).filter(|lines| *lines > 0) {
        cpus += 1;
        (low, high) = (low.min(lines), high.max(lines));
    }
    // SAFETY: the caller's.
    unsafe {
        *least = if cpus > 0 { low } else { 0 };
        *most = high;
    }
    cpus
}
