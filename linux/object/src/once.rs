//! Values that are written once and then read from anywhere, a crash included: no lock, no waiting.
//! Refuses a second value.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicU8, Ordering};

const EMPTY: u8 = 0;
const WRITING: u8 = 1;
const FULL: u8 = 2;

/// A cell that is filled once.
pub struct Once<T> {
    state: AtomicU8,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written by the one who moved `state` from EMPTY to WRITING, and only shared
// after it became FULL, by a release that readers acquire.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self { state: AtomicU8::new(EMPTY), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// The value, if there is one.
    pub fn get(&'static self) -> Option<&'static T> {
        // SAFETY: FULL is stored after the value, which nobody writes any more.
        (self.state.load(Ordering::Acquire) == FULL).then(|| unsafe { (*self.value.get()).assume_init_ref() })
    }

    /// Fills it in place: `fill` gets the empty room and says whether it has written the value.
    /// False if it was filled before, or is being filled, or `fill` has failed.
    fn fill_with(&'static self, fill: impl FnOnce(&mut MaybeUninit<T>) -> bool) -> bool {
        if self.state.compare_exchange(EMPTY, WRITING, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        // SAFETY: whoever has set WRITING is alone with the value.
        let filled = fill(unsafe { &mut *self.value.get() });
        self.state.store(if filled { FULL } else { EMPTY }, Ordering::Release);
        filled
    }

    /// Puts the value there. False if there was one.
    pub fn set(&'static self, value: T) -> bool {
        self.fill_with(|room| {
            room.write(value);
            true
        })
    }
}

/// A value too large for the kernel's stack: it begins its life in a static, one caller works on it
/// there, and then it is published.
pub struct Workplace<T> {
    published: AtomicU8,
    value: UnsafeCell<T>,
}

// SAFETY: `exclusive` is for one caller at a time and not after `publish`, by its contract; `get`
// shares it only after that.
unsafe impl<T: Send + Sync> Sync for Workplace<T> {}

impl<T> Workplace<T> {
    /// Not yet published.
    pub const fn new(value: T) -> Self {
        Self { published: AtomicU8::new(EMPTY), value: UnsafeCell::new(value) }
    }

    /// To work on it. `None` once it is published.
    ///
    /// # Safety
    /// No other reference that this function gave is alive.
    #[expect(clippy::mut_from_ref, reason = "the contract makes it the only one")]
    pub unsafe fn exclusive(&'static self) -> Option<&'static mut T> {
        // SAFETY: the caller's, and nothing is shared before FULL.
        (self.published.load(Ordering::Acquire) == EMPTY).then(|| unsafe { &mut *self.value.get() })
    }

    /// Nobody changes it from now on.
    ///
    /// # Safety
    /// No reference that [`Self::exclusive`] gave is alive.
    pub unsafe fn publish(&'static self) {
        self.published.store(FULL, Ordering::Release);
    }

    /// The value, once it is published.
    pub fn get(&'static self) -> Option<&'static T> {
        // SAFETY: nobody changes it after FULL.
        (self.published.load(Ordering::Acquire) == FULL).then(|| unsafe { &*self.value.get() })
    }
}
