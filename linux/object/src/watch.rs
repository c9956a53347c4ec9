//! TDX that the kernel brings up by itself: PAMTs as SYS.CONFIG names them. Makes no SEAMCALL; it only listens.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use tdx_abi::{Leaf, PageRange, PhysAddr};
use tdx_host::{platform::CpuId, private_memory::MAX_PAMT_RANGES};

use crate::cpu::GATE;
use crate::{EINVAL, RECORD};

/// PAMTs that the kernel is about to give to the module, before they are published.
static PENDING: [(AtomicU64, AtomicU64); MAX_PAMT_RANGES] =
    [const { (AtomicU64::new(0), AtomicU64::new(0)) }; MAX_PAMT_RANGES];
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A PAMT `[base, base + bytes)` that SYS.CONFIG names. False if there are too many, or it is none.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_pamt(base: u64, bytes: u64) -> bool {
    if PageRange::from_base_size(PhysAddr::new(base), bytes).is_err() || bytes == 0 {
        return false;
    }
    // The kernel makes this call under a lock of its own, once.
    let index = COUNT.load(Ordering::Relaxed);
    let Some((start, end)) = PENDING.get(index as usize) else { return false };
    start.store(base, Ordering::Relaxed);
    end.store(base + bytes, Ordering::Relaxed);
    COUNT.store(index + 1, Ordering::Release);
    true
}

/// The pending PAMTs in ascending order: the least above the one before, again and again. There are at most 192.
#[derive(Clone)]
struct Ascending {
    above: u64,
}

impl Iterator for Ascending {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        let pending = PENDING.iter().take(COUNT.load(Ordering::Acquire) as usize);
        let ranges = pending.map(|(start, end)| (start.load(Ordering::Relaxed), end.load(Ordering::Relaxed)));
        let (start, end) = ranges.filter(|(start, _)| *start >= self.above).min()?;
        self.above = end;
        Some(PageRange::inside(PhysAddr::new(start), PhysAddr::new(end)))
    }
}

/// All PAMTs were named: from now on they may be private. 0, or a negative errno; then the handover cannot know what is private.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_publish() -> i32 {
    let named = Ascending { above: 0 };
    // Two that overlap would make one vanish from the list: as many must come out as went in.
    if named.clone().count() != COUNT.load(Ordering::Acquire) as usize {
        return -EINVAL;
    }
    RECORD.publish(named).map_or(-EINVAL, |()| 0)
}

/// The kernel is about to make this SEAMCALL on this CPU: from now on its caches may hold private lines.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_seamcall(cpu: u32, leaf: u64) {
    // The kernel makes the call whatever the gate says; what matters is the mark that stays in the slot.
    drop(GATE.admission(CpuId(cpu)).enter(Leaf(leaf as u16)));
}
