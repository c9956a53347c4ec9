//! Physical memory: usable ranges of the loader's map, and page allocation.

use arrayvec::ArrayVec;
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic::AtomicU64;
use metal::boot::{self, Boot};
use tdx_abi::{PAGE_SIZE, PageRange, PhysAddr};
use tdx_host::{
    layout::{FrameRequest, FrameSource, MapFrames, Places},
    platform::{CpuTask, Cpus, NodeId, NodeRange, OwnedPages, SharedMemory},
};

use crate::cpu::HardwareCpu;
use crate::cpus::AllCpus;

/// Maximum number of usable ranges.
const MAX_RANGES: usize = 32;

/// Maximum number of allocations of this kernel.
const MAX_OWN: usize = 32;

/// Usable ranges above 1 MiB, ascending. Below are the BIOS and the trampoline; Linux reserves that
/// memory, too.
pub type Ranges = ArrayVec<NodeRange, MAX_RANGES>;

/// Memory reserved for this kernel and for the next one, which replaces it.
pub const KERNEL_PLACE: PageRange = PageRange::inside(PhysAddr::new(16 << 20), PhysAddr::new(128 << 20));

/// Reads the memory map.
pub fn usable(boot: &Boot) -> Ranges {
    let mut ranges = Ranges::new();
    for entry in boot.map().iter().filter(|entry| entry.kind == boot::USABLE) {
        let end = entry.address.saturating_add(entry.size);
        let range = PageRange::inside(PhysAddr::new(entry.address.max(1 << 20)), PhysAddr::new(end.max(1 << 20)));
        if !range.is_empty() {
            ranges.push(NodeRange { range, node: NodeId(0) });
        }
    }
    ranges.sort_unstable_by_key(|range| range.range.start());
    ranges
}

/// The traits of `tdx-host` that the initialization of TDX needs.
pub struct Kernel<'m> {
    cpus: AllCpus,
    frames: MapFrames<'m>,
    own: ArrayVec<PageRange, MAX_OWN>,
}

impl<'m> Kernel<'m> {
    /// All of `memory` is free except [`KERNEL_PLACE`].
    pub fn new(memory: &'m [NodeRange]) -> Self {
        let mut frames = MapFrames::new(memory);
        // The list of taken ranges is empty, so there is room and no overlap.
        let _ = frames.reserve(KERNEL_PLACE);
        Self { cpus: AllCpus, frames, own: ArrayVec::new() }
    }

    /// Keeps a range out of the allocator. False if a page of it is taken, or there are too many.
    #[must_use]
    pub fn reserve(&mut self, range: PageRange) -> bool {
        self.frames.reserve(range)
    }

    /// Allocates contiguous zeroed pages for the kernel itself. `None` if there are none.
    pub fn pages(&mut self, bytes: u64) -> Option<PageRange> {
        let range = self.frames.allocate(FrameRequest::anywhere(bytes.div_ceil(PAGE_SIZE).max(1), None))?;
        self.own.try_push(range).ok()?;
        // SAFETY: the pages are free memory, mapped one to one, and now the caller's.
        unsafe {
            with_exposed_provenance_mut::<u8>(range.base().get() as usize).write_bytes(0, range.bytes() as usize);
        };
        Some(range)
    }

    /// Allocates zeroed words that are never freed.
    pub fn words(&mut self, count: u64) -> Option<&'static mut [AtomicU64]> {
        let range = self.pages(count * 8)?;
        let first = with_exposed_provenance_mut::<AtomicU64>(range.base().get() as usize);
        // SAFETY: `count` zeroed, aligned words that were just allocated and are never freed.
        Some(unsafe { core::slice::from_raw_parts_mut(first, count as usize) })
    }

    /// Memory that [`Self::pages`] and [`Self::words`] have allocated.
    pub fn own(&self) -> &[PageRange] {
        &self.own
    }
}

// SAFETY: those of `AllCpus`.
unsafe impl Cpus for Kernel<'_> {
    type Cpu = HardwareCpu;

    fn run_on_all<T: CpuTask<HardwareCpu>>(&self, task: &T) {
        self.cpus.run_on_all(task);
    }

    fn run_on_each_package<T: CpuTask<HardwareCpu>>(&self, task: &T) {
        self.cpus.run_on_each_package(task);
    }

    fn run_here<R>(&self, function: impl FnOnce(&HardwareCpu) -> R) -> R {
        self.cpus.run_here(function)
    }
}

// SAFETY: the loader's map names RAM that nothing uses but this kernel, whose own place is taken
// first; `MapFrames` hands out each page once, and `Kernel::pages` takes from the same.
unsafe impl FrameSource for Kernel<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<OwnedPages> {
        // SAFETY: as above.
        self.frames.allocate(request).map(|range| unsafe { OwnedPages::new(range) })
    }

    fn free(&mut self, pages: OwnedPages) {
        self.frames.free(pages.into_range());
    }
}

// SAFETY: copies the bytes.
unsafe impl SharedMemory for Kernel<'_> {
    unsafe fn write(&mut self, address: PhysAddr, bytes: &[u8]) {
        let to = with_exposed_provenance_mut::<u8>(address.get() as usize);
        // SAFETY: the caller owns the range, which is mapped one to one.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
}
