//! Copies of memory that guests change at the same time. One instruction each: a race with a store
//! of a guest, or with a copy by another CPU, gives bytes of either value, which all are valid, and
//! is nothing that the compiler could build on.

use core::arch::asm;

/// Copies bytes.
///
/// # Safety
/// All bytes are mapped. Those of one side are the caller's alone; those of the other one are
/// memory of a guest, to which this program has no reference.
pub unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    // SAFETY: the caller promises that the bytes are there. DF is clear by the ABI, so the copy
    // goes upwards over `count` bytes; it changes no flag and no stack.
    unsafe {
        asm!("rep movsb", inout("rcx") count => _, inout("rsi") from => _, inout("rdi") to => _, options(nostack, preserves_flags));
    }
}

/// Zeroes bytes.
///
/// # Safety
/// They are mapped, and are memory of a guest, to which this program has no reference.
pub unsafe fn clear(to: *mut u8, count: usize) {
    // SAFETY: as in `copy`.
    unsafe {
        asm!("rep stosb", inout("rcx") count => _, inout("rdi") to => _, in("al") 0u8, options(nostack, preserves_flags));
    }
}
