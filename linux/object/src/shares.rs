//! Lines that each CPU has written: in a handover, and before the first in pages that come back.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tdx_abi::LineRange;
use tdx_host::platform::{CpuId, NodeId};

use crate::{CPUS, nodes};

/// On a cache line of its own: CPUs also reset pages that come back while the kernel runs.
#[repr(align(64))]
struct Count(AtomicU64);

/// Lines that each CPU has written since [`start_count`].
static LINES: [Count; CPUS] = [const { Count(AtomicU64::new(0)) }; CPUS];

/// Lines of another node that CPUs have written since [`start_count`].
static FAR: Count = Count(AtomicU64::new(0));

/// A handover has begun. Before, pages that come back are not looked up.
static COUNTS_FAR: AtomicBool = AtomicBool::new(false);

/// A handover begins.
pub fn start_count() {
    for lines in &LINES {
        lines.0.store(0, Ordering::Relaxed);
    }
    FAR.0.store(0, Ordering::Relaxed);
    COUNTS_FAR.store(true, Ordering::Relaxed);
}

/// Counts lines that a CPU of the node `own` has written, but for `left` of them. A reset by
/// several CPUs is cut where the node changes.
pub fn count_lines(cpu: CpuId, own: Option<NodeId>, lines: LineRange, left: u64) {
    let written = lines.len() - left;
    if let Some(count) = LINES.get(cpu.0 as usize) {
        count.0.fetch_add(written, Ordering::Relaxed);
    }
    if !COUNTS_FAR.load(Ordering::Relaxed) {
        return;
    }
    let page = lines.start().page();
    let of = nodes::all();
    let at = of.partition_point(|known| known.range.end() <= page);
    let node = of.get(at).filter(|known| known.range.contains(page)).map(|known| known.node);
    if node.is_some_and(|node| own.is_some_and(|own| own != node)) {
        FAR.0.fetch_add(written, Ordering::Relaxed);
    }
}

/// Lines that were written in this handover by a CPU of another node than the memory's.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_lines_far() -> u64 {
    FAR.0.load(Ordering::Relaxed)
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
