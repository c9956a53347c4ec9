//! Ranges of physical memory as C writes them: addresses, half-open. Checked on the way in.

use tdx_abi::{MAX_PHYS_BITS, PageRange, PhysAddr};
use tdx_host::platform::{NodeId, NodeRange};

use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{TdxhNodeRange, input_array, is_usable};

/// `struct tdxh_range`: `[start, end)`, physical addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TdxhRange {
    /// First byte.
    pub start: u64,
    /// First byte after it.
    pub end: u64,
}

impl From<PageRange> for TdxhRange {
    fn from(range: PageRange) -> Self {
        Self { start: range.base().get(), end: range.limit().get() }
    }
}

impl TdxhRange {
    /// The pages; may be empty.
    pub(crate) fn pages(self) -> Outcome<PageRange> {
        let range = PageRange::from_addresses(PhysAddr::new(self.start), PhysAddr::new(self.end));
        range.ok().filter(|range| range.limit().get() <= 1 << MAX_PHYS_BITS).ok_or(TdxhResult::BadRange)
    }

    /// The pages; at least one.
    pub(crate) fn some_pages(self) -> Outcome<PageRange> {
        self.pages().and_then(|range| if range.is_empty() { Err(TdxhResult::BadRange) } else { Ok(range) })
    }
}

/// Ranges of C, all of them checked.
#[derive(Clone, Copy)]
pub(crate) struct Ranges<'c>(&'c [TdxhRange]);

impl<'c> Ranges<'c> {
    /// # Safety
    /// As [`input_array`].
    pub(crate) unsafe fn new(ranges: *const TdxhRange, count: usize) -> Outcome<Self> {
        // SAFETY: as the caller has promised, arrays are as long as their counts say.
        let ranges = unsafe { input_array(ranges, count) }?;
        match ranges.iter().find_map(|range| range.pages().err()) {
            Some(error) => Err(error),
            None => Ok(Self(ranges)),
        }
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = PageRange> + Clone + use<'c> {
        // Checked by `new`: none is left out.
        self.0.iter().filter_map(|range| range.pages().ok())
    }

    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }
}

/// A memory map of C, all of it checked.
///
/// # Safety
/// As [`input_array`]; each element was written by [`tdxh_node_range_set`] or is zeroed.
pub(crate) unsafe fn memory_map<'c>(memory: *const TdxhNodeRange, count: usize) -> Outcome<&'c [NodeRange]> {
    // SAFETY: `TdxhNodeRange` has the size and alignment of `NodeRange` (asserted in `storage`). A
    // `NodeRange` is made of integers alone, so zeroed bytes are one, and `tdxh_node_range_set`
    // writes one.
    let memory = unsafe { input_array(memory.cast::<NodeRange>(), count) }?;
    let whole = |part: &NodeRange| part.range.start() <= part.range.end();
    if memory.iter().all(whole) { Ok(memory) } else { Err(TdxhResult::BadRange) }
}

/// Writes one element of a memory map. See the header.
///
/// # Safety
/// `element` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_node_range_set(
    element: *mut TdxhNodeRange,
    start: u64,
    end: u64,
    node: u32,
) -> TdxhResult {
    flat(TdxhRange { start, end }.pages().and_then(|range| {
        let element = element.cast::<NodeRange>();
        if element.is_null() {
            return Err(TdxhResult::Null);
        }
        if !is_usable(element) {
            return Err(TdxhResult::Misaligned);
        }
        // SAFETY: not null, aligned, of the same size and alignment (asserted in `storage`); valid
        // for a write by contract.
        unsafe { element.write(NodeRange { range, node: NodeId(node) }) };
        Ok(())
    }))
}
