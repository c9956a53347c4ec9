//! Memory with its NUMA nodes, as it was when the module began to track it: for the order of a
//! reset alone, in which memory that came later is of no node.

use arrayvec::ArrayVec;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU32, Ordering};
use tdx_abi::{PageRange, PhysAddr};
use tdx_host::platform::{NodeId, NodeRange};

/// Ranges at most.
pub const MAX_MEMORY: usize = 128;

const EMPTY: u32 = 0;
const BEING_WRITTEN: u32 = 1;
const WRITTEN: u32 = 2;

/// A range of physical memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// First byte.
    pub base: u64,
    /// Size.
    pub bytes: u64,
    /// NUMA node.
    pub node: u32,
}

/// The same, as `tdx_host` has it.
pub fn node_range(memory: &Memory) -> NodeRange {
    let (start, end) = (PhysAddr::new(memory.base), PhysAddr::new(memory.base.saturating_add(memory.bytes)));
    NodeRange { range: PageRange::inside(start, end), node: NodeId(memory.node) }
}

/// Written once.
struct Nodes {
    state: AtomicU32,
    ranges: UnsafeCell<ArrayVec<NodeRange, MAX_MEMORY>>,
}

// SAFETY: one caller of `note` moves the state from EMPTY and writes; others read once it is
// WRITTEN (acquire, of the release after the last write), and nothing writes from then on.
unsafe impl Sync for Nodes {}

static NODES: Nodes = Nodes { state: AtomicU32::new(EMPTY), ranges: UnsafeCell::new(ArrayVec::new_const()) };

/// Notes ranges, ascending; the first time alone. Those that find no room are of no node.
pub fn note(ranges: impl Iterator<Item = NodeRange>) {
    let mine = NODES.state.compare_exchange(EMPTY, BEING_WRITTEN, Ordering::Relaxed, Ordering::Relaxed);
    if mine.is_err() {
        return;
    }
    // SAFETY: only here, once.
    let known = unsafe { &mut *NODES.ranges.get() };
    known.extend(ranges.filter(|range| !range.range.is_empty()).take(MAX_MEMORY));
    NODES.state.store(WRITTEN, Ordering::Release);
}

/// What was noted. From any context.
pub fn all() -> &'static [NodeRange] {
    if NODES.state.load(Ordering::Acquire) != WRITTEN {
        return &[];
    }
    // SAFETY: nothing writes any more.
    unsafe { &*NODES.ranges.get() }
}
