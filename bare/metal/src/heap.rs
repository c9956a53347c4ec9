//! Heap: the global allocator on one memory range.

use linked_list_allocator::LockedHeap;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Sets the heap to `[start, start + bytes)`.
///
/// # Safety
/// Called once; the range is mapped, writable, and belongs to the heap from now on.
pub unsafe fn init(start: *mut u8, bytes: usize) {
    // SAFETY: promised by the caller.
    unsafe { HEAP.lock().init(start, bytes) }
}

/// Used and total bytes.
pub fn usage() -> (usize, usize) {
    let heap = HEAP.lock();
    (heap.used(), heap.size())
}
