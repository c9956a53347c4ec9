//! What the C shim does for this object: the one place that knows its functions. Their C side is
//! `cleanslate.h`.

use core::ffi::c_void;
use core::panic::PanicInfo;
use tdx_abi::{Page, PageRange, PhysAddr};
use tdx_host::platform::OwnedPages;

/// What a CPU runs for the shim.
pub type Work = extern "C" fn(*mut c_void);

mod raw {
    use super::{Work, c_void};

    unsafe extern "C" {
        pub fn cleanslate_rdmsr(msr: u32, value: *mut u64) -> bool;
        pub fn cleanslate_panic() -> !;
        pub fn cleanslate_say(text: *const u8, length: usize);
        pub fn cleanslate_map(address: u64) -> *mut c_void;
        pub fn cleanslate_on_all(work: Work, task: *mut c_void);
        pub fn cleanslate_on_each_package(work: Work, task: *mut c_void);
        pub safe fn cleanslate_pin() -> u32;
        pub safe fn cleanslate_unpin();
        pub safe fn cleanslate_this_cpu() -> u32;
        pub safe fn cleanslate_package(cpu: u32) -> u32;
        pub safe fn cleanslate_rest();
        pub fn cleanslate_allocate(pages: u64, node: u32, first: u64, end: u64) -> u64;
        pub fn cleanslate_free(address: u64, pages: u64);
        pub fn cleanslate_hold(page: u64);
        pub fn cleanslate_release(page: u64);
    }
}

pub use raw::{cleanslate_package as package, cleanslate_rest as rest, cleanslate_this_cpu as this_cpu};

/// RDMSR; `None` if the register does not exist.
pub fn rdmsr(msr: u32) -> Option<u64> {
    let mut value = 0;
    // SAFETY: the shim writes the value, or nothing.
    unsafe { raw::cleanslate_rdmsr(msr, &raw mut value) }.then_some(value)
}

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    // SAFETY: a function of the shim without arguments.
    unsafe { raw::cleanslate_panic() }
}

/// A line for the kernel's log.
pub fn say(text: &str) {
    // SAFETY: the shim reads so many bytes.
    unsafe { raw::cleanslate_say(text.as_ptr(), text.len()) };
}

/// Where a physical address is mapped, writable: the kernel's direct map, or the mapping of the
/// pool. Takes no lock.
pub fn map(address: PhysAddr) -> *mut u8 {
    // SAFETY: the shim looks the address up; what is done with the pointer is the caller's to prove.
    unsafe { raw::cleanslate_map(address.get()) }.cast()
}

/// Runs `work` on every online CPU, on each in a thread that stays there, and waits for all.
/// Hotplug is off.
///
/// # Safety
/// `work` takes `task`, which several CPUs may use at once.
pub unsafe fn on_all(work: Work, task: *mut c_void) {
    // SAFETY: the caller's.
    unsafe { raw::cleanslate_on_all(work, task) };
}

/// As [`on_all`], on one CPU of each package, one after another.
///
/// # Safety
/// As [`on_all`].
pub unsafe fn on_each_package(work: Work, task: *mut c_void) {
    // SAFETY: the caller's.
    unsafe { raw::cleanslate_on_each_package(work, task) };
}

/// Runs `function` pinned to the CPU whose number it gets.
pub fn pinned<R>(function: impl FnOnce(u32) -> R) -> R {
    let result = function(raw::cleanslate_pin());
    raw::cleanslate_unpin();
    result
}

/// Adjacent pages of the kernel's own memory, on a node or anywhere, inside `within`; aligned to
/// their number if that is a power of two and they may lie anywhere.
pub fn allocate(pages: u64, node: Option<u32>, within: PageRange) -> Option<OwnedPages> {
    let (first, end) = (within.start().index(), within.end().index());
    // SAFETY: an allocation.
    let address = unsafe { raw::cleanslate_allocate(pages, node.unwrap_or(u32::MAX), first, end) };
    let first = Some(address).filter(|address| *address != 0).map(PhysAddr::new)?.page();
    let range = PageRange::new(first, Page::new(first.index() + pages));
    // SAFETY: the kernel's allocator has handed these pages to this module alone.
    Some(unsafe { OwnedPages::new(range) })
}

/// Gives pages back to the kernel.
pub fn free(pages: OwnedPages) {
    // SAFETY: owned pages of this object are what `allocate` has given, whole.
    unsafe { raw::cleanslate_free(pages.base().get(), pages.pages()) };
}

/// Keeps the folio of a page, which the kernel may free, out of its allocator.
///
/// # Safety
/// The page belongs to the kernel, which holds a reference to it now.
pub unsafe fn hold(page: u64) {
    // SAFETY: the caller's.
    unsafe { raw::cleanslate_hold(page) };
}

/// Lets the folio of a page go that [`hold`] keeps; does nothing to one that is not kept.
///
/// # Safety
/// The page is ordinary memory, or the module has it and its owner holds a reference.
pub unsafe fn release(page: u64) {
    // SAFETY: the caller's.
    unsafe { raw::cleanslate_release(page) };
}
