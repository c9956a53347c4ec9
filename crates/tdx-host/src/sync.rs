//! The atomics of this crate, from one place, so that loom can check the very code that ships.

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// A sequentially consistent fence for code whose last access to memory was a read-modify-write
/// that succeeded. On x86 that is a locked instruction, which is a full barrier by itself (Intel
/// SDM volume 3, 9.2.2: loads and stores are not reordered with it), so nothing but the compiler
/// must be told: MFENCE would cost as much as the transition. Elsewhere, and where a model of
/// memory looks (loom, Miri), it is the fence.
#[inline]
pub(crate) fn fence_after_rmw() {
    if cfg!(all(target_arch = "x86_64", not(loom), not(miri))) {
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

#[cfg(loom)]
pub(crate) use loom::cell::UnsafeCell;

/// [`core::cell::UnsafeCell`] with the interface of loom's, which checks each access.
#[cfg(not(loom))]
pub(crate) struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

#[cfg(not(loom))]
impl<T> UnsafeCell<T> {
    /// A cell with this value.
    pub(crate) const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    /// The value, for a read.
    pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        read(self.0.get())
    }

    /// The value, for a write.
    pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        write(self.0.get())
    }
}
