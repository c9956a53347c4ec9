//! The heap: one range, given once.

use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Makes `[start, start + bytes)` the heap.
///
/// # Safety
/// Called once; the range is mapped, writable and belongs to nobody else from now on.
pub unsafe fn init(start: *mut u8, bytes: usize) {
    // SAFETY: the caller's.
    unsafe { HEAP.lock().init(start, bytes) }
}

/// Bytes in use and bytes in all.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.lock();
    (heap.used(), heap.size())
}
