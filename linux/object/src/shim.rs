//! Functions of the C files that this object calls: `linux/object.h`.

use core::ffi::{CStr, c_char, c_void};
use tdx_abi::{Page, PageRange, PhysAddr};
use tdx_host::{
    layout::FrameRequest,
    platform::{NodeId, OwnedPages},
};

use crate::pool;

/// A function for [`on_all`].
pub type Work = unsafe extern "C" fn(*mut c_void);

/// No preference for a node.
pub const CLEANSLATE_ANY_NODE: u32 = u32::MAX;

mod raw {
    use super::{Work, c_char, c_void};

    unsafe extern "C" {
        pub fn cleanslate_rdmsr(msr: u32, value: *mut u64) -> bool;
        pub safe fn cleanslate_panic() -> !;
        pub fn cleanslate_log(text: *const c_char, length: usize);
        pub fn cleanslate_lost(why: *const c_char);
        pub safe fn cleanslate_stay_loaded();
        pub fn cleanslate_map(address: u64) -> *mut c_void;
        pub fn cleanslate_map_page(cpu: u32, page: u64) -> *mut c_void;
        pub fn cleanslate_unmap_page(cpu: u32);
        pub fn cleanslate_on_all(run: Work, task: *mut c_void);
        pub fn cleanslate_on_each_package(run: Work, task: *mut c_void);
        pub safe fn cleanslate_pin() -> u32;
        pub safe fn cleanslate_unpin();
        pub safe fn cleanslate_this_cpu() -> u32;
        pub fn cleanslate_package(cpu: u32) -> u32;
        pub fn cleanslate_node(cpu: u32) -> u32;
        pub safe fn cleanslate_cond_resched();
        pub safe fn cleanslate_progress();
        pub fn cleanslate_allocate(pages: u64, node: u32, first: u64, end: u64) -> u64;
        pub fn cleanslate_free(address: u64, pages: u64);
        pub fn cleanslate_hold(page: u64) -> bool;
        pub fn cleanslate_release(page: u64);
        pub safe fn cleanslate_only_held(page: u64) -> bool;
        pub safe fn cleanslate_has_page(page: u64) -> bool;
        pub safe fn cleanslate_look_was_disturbed() -> bool;
        pub fn cleanslate_old_word(address: u64, word: *mut u64) -> bool;
        pub safe fn cleanslate_tsc() -> u64;
    }
}

pub use raw::{
    cleanslate_cond_resched as cond_resched, cleanslate_panic as panic, cleanslate_progress as progress,
    cleanslate_stay_loaded as stay_loaded, cleanslate_this_cpu as this_cpu, cleanslate_tsc as tsc,
};

/// The NUMA node of a CPU, if the kernel knows it. From any context.
///
/// # Safety
/// The kernel has a CPU of this number.
pub unsafe fn node(cpu: u32) -> Option<NodeId> {
    // SAFETY: the caller's.
    Some(unsafe { raw::cleanslate_node(cpu) }).filter(|node| *node != CLEANSLATE_ANY_NODE).map(NodeId)
}

/// The physical package of a CPU.
///
/// # Safety
/// The kernel has a CPU of this number.
pub unsafe fn package(cpu: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { raw::cleanslate_package(cpu) }
}

/// RDMSR; `None` if the register does not exist.
pub fn rdmsr(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: the function writes one value, or nothing.
    unsafe { raw::cleanslate_rdmsr(msr, &raw mut value) }.then_some(value)
}

/// Prints a line to the kernel log.
pub fn log(text: &str) {
    // SAFETY: the function reads so many bytes.
    unsafe { raw::cleanslate_log(text.as_ptr().cast(), text.len()) };
}

/// Private memory is not tracked completely from now on.
pub fn lost(why: &'static CStr) {
    // SAFETY: a string constant: it lives as long as the module.
    unsafe { raw::cleanslate_lost(why.as_ptr()) };
}

/// Where physical memory is mapped, writable: in the direct map, or in the mapping of the pool.
/// Lock-free.
///
/// # Safety
/// The address is in memory that the direct map or the pool covers. What is read or written there
/// is for the caller to answer.
pub unsafe fn map(address: PhysAddr) -> *mut u8 {
    // SAFETY: the caller's.
    unsafe { raw::cleanslate_map(address.get()) }.cast()
}

/// Maps a page for this CPU alone, writable and write-back, while `function` runs; it gets the
/// address. `None`: there is no room for the mapping. Lock-free.
///
/// # Safety
/// `cpu` is this CPU, and the caller stays on it. What `function` reads or writes there is for the
/// caller to answer.
pub unsafe fn mapped_page<R>(cpu: u32, page: Page, function: impl FnOnce(*mut u8) -> R) -> Option<R> {
    // SAFETY: the caller's: the mapping is this CPU's.
    let address = unsafe { raw::cleanslate_map_page(cpu, page.index()) };
    if address.is_null() {
        return None;
    }
    let result = function(address.cast());
    // SAFETY: the mapping of above, which nobody uses any more.
    unsafe { raw::cleanslate_unmap_page(cpu) };
    Some(result)
}

/// Runs `run` on every online CPU, in a kthread bound to it, and waits for all. CPU hotplug is
/// excluded.
///
/// # Safety
/// `run` takes `task`, which several CPUs may use at once.
pub unsafe fn on_all(run: Work, task: *mut c_void) {
    // SAFETY: the caller's.
    unsafe { raw::cleanslate_on_all(run, task) };
}

/// As [`on_all`], on one CPU of each package, one after another.
///
/// # Safety
/// As [`on_all`].
pub unsafe fn on_each_package(run: Work, task: *mut c_void) {
    // SAFETY: the caller's.
    unsafe { raw::cleanslate_on_each_package(run, task) };
}

/// Runs `function` with migration disabled; it gets the number of the CPU.
pub fn pinned<R>(function: impl FnOnce(u32) -> R) -> R {
    let result = function(raw::cleanslate_pin());
    raw::cleanslate_unpin();
    result
}

/// Pages of 52-bit physical addresses.
const ADDRESSABLE_PAGES: u64 = 1 << 40;

/// Allocates contiguous pages, on a node or anywhere, inside `within`. Aligned to their number if
/// that is a power of two and they may lie anywhere. `None` for no page, and for more than there
/// are addresses.
pub fn allocate(pages: u64, node: Option<u32>, within: PageRange) -> Option<OwnedPages> {
    if !(1..=ADDRESSABLE_PAGES).contains(&pages) {
        return None;
    }
    let anywhere = within == FrameRequest::ANYWHERE;
    let (first, end) = if anywhere { (0, u64::MAX) } else { (within.start().index(), within.end().index()) };
    // SAFETY: an allocation.
    let address = unsafe { raw::cleanslate_allocate(pages, node.unwrap_or(CLEANSLATE_ANY_NODE), first, end) };
    let first = Some(address).filter(|address| *address != 0).map(PhysAddr::new)?.page();
    let range = PageRange::new(first, Page::new(first.index() + pages));
    // SAFETY: the page allocator has handed these pages to this module alone. Each has a reference
    // of its own (`alloc_contig_range`, `split_page`).
    Some(unsafe { OwnedPages::new(range) })
}

/// Frees pages of [`allocate`], or a part of them. Pages of the pool are leaked: they are not the
/// page allocator's.
pub fn free(pages: OwnedPages) {
    let range = pages.into_range();
    if range.is_empty() || pool::holds(range) {
        return;
    }
    // SAFETY: owned pages of this object are from the pool or from `allocate`, or parts of those.
    // These are not of the pool. Each page of `allocate` can be freed by itself, and only its owner
    // frees it.
    unsafe { raw::cleanslate_free(range.base().get(), range.pages()) };
}

/// Takes a reference to a page. False if it has none: it may be free. Lock-free.
pub fn hold(page: Page) -> bool {
    // SAFETY: any number will do; a reference more keeps a page longer and changes no memory.
    unsafe { raw::cleanslate_hold(page.index()) }
}

/// Drops the reference of [`hold`].
///
/// # Safety
/// One call for each successful [`hold`]. If it is the last reference the page is freed: it must be
/// ordinary memory then.
pub unsafe fn release(page: Page) {
    // SAFETY: the caller's.
    unsafe { raw::cleanslate_release(page.index()) };
}

/// Is the reference of [`hold`] the only one?
pub fn is_only_held(page: Page) -> bool {
    raw::cleanslate_only_held(page.index())
}

/// Has the kernel a `struct page` for this page, and for all 2 MiB around it?
pub fn has_page(page: Page) -> bool {
    raw::cleanslate_has_page(page.index())
}

/// Within a look of a sweep: does a SEAMCALL run beside it that has not waited for it?
pub fn look_was_disturbed() -> bool {
    raw::cleanslate_look_was_disturbed()
}

/// A word of the memory of the kernel that crashed, in its crash kernel. `None` if it cannot be
/// mapped.
///
/// # Safety
/// The address is that of ordinary memory, a multiple of 8. The caller excludes others.
pub unsafe fn old_word(address: PhysAddr) -> Option<u64> {
    let mut word = 0;
    // SAFETY: the caller's; the function writes one word, or nothing.
    unsafe { raw::cleanslate_old_word(address.get(), &raw mut word) }.then_some(word)
}
