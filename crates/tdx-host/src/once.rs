//! A write-once cell: one owner fills it, publishes it, and from then on every CPU may read it.
//! Lock-free, does not allocate, never waits: a crash handler can read it at any instant.
//!
//! A reader gets the whole value or none. The value exists from the start ([`Once::new`] is
//! `const`), so a large one is built in its place and never lies on a kernel's stack.
//!
//! loom runs this file: `tests/loom_host.rs`.
//!
//! # Layout
//!
//! `repr(C)`, the state first. All-zero memory is a free cell if all-zero memory is a valid `T`.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};

use crate::sync::{AtomicU32, Ordering, UnsafeCell};

/// Unpublished, without an owner. Zero, so that zeroed memory is a free cell.
const FREE: u32 = 0;
/// Unpublished; one [`Owned`] reaches the value.
const OWNED: u32 = 1;
/// Published: shared references alone.
const PUBLISHED: u32 = 2;

/// A value that is filled by one owner and then published.
///
/// The value is never dropped: a cell lives as long as the machine.
#[repr(C)]
pub struct Once<T> {
    state: AtomicU32,
    value: UnsafeCell<ManuallyDrop<T>>,
}

// SAFETY: `&Once<T>` gives `&mut T` to one owner at a time: the one that moved `state` from FREE
// (or PUBLISHED, under the contract of `take_back`) to OWNED. The next owner or reader acquires
// what the last owner released. An owner may be on another CPU than the one that made the value,
// hence `T: Send`. After PUBLISHED every CPU gets `&T`, hence `T: Sync`.
unsafe impl<T: Send + Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// A free cell.
    #[cfg(not(loom))]
    pub const fn new(initial: T) -> Self {
        Self { state: AtomicU32::new(FREE), value: UnsafeCell::new(ManuallyDrop::new(initial)) }
    }

    /// A free cell. (loom's atomics cannot be made in a constant.)
    #[cfg(loom)]
    pub fn new(initial: T) -> Self {
        Self { state: AtomicU32::new(FREE), value: UnsafeCell::new(ManuallyDrop::new(initial)) }
    }

    /// The published value. `None` before; never waits.
    pub fn get(&self) -> Option<&T> {
        if self.state.load(Ordering::Acquire) != PUBLISHED {
            return None;
        }
        // SAFETY: PUBLISHED is stored (release) by the last owner, which is gone by then, and read
        // here (acquire): the value is whole. Nothing writes it until `take_back`, whose contract
        // is that this reference is no longer used.
        Some(self.value.with(|value| unsafe { &**value }))
    }

    /// Ownership of the unpublished value. `None` while another owner has it, and once it is
    /// published.
    pub fn own(&self) -> Option<Owned<'_, T>> {
        self.state.compare_exchange(FREE, OWNED, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Owned(self))
    }

    /// Ownership of a published value: it is unpublished again. `None` if it was not published.
    ///
    /// # Safety
    /// No reference that [`Self::get`] or [`Owned::publish`] gave is used any more, on any CPU.
    pub unsafe fn take_back(&self) -> Option<Owned<'_, T>> {
        self.state.compare_exchange(PUBLISHED, OWNED, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        Some(Owned(self))
    }
}

impl<T: fmt::Debug> fmt::Debug for Once<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Once").field(&self.get()).finish()
    }
}

/// The one way to an unpublished value. Dropped, it leaves the cell owned for good.
#[must_use = "a cell whose owner is dropped is never published"]
pub struct Owned<'o, T>(&'o Once<T>);

impl<'o, T> Owned<'o, T> {
    /// Publishes the value. Every CPU that sees it published sees it whole.
    pub fn publish(self) -> &'o T {
        self.0.state.store(PUBLISHED, Ordering::Release);
        // SAFETY: this owner was the only way to write the value and ends here; as in `Once::get`.
        self.0.value.with(|value| unsafe { &**value })
    }

    /// Gives the ownership up; the value stays unpublished and as it is.
    pub fn give_back(self) {
        self.0.state.store(FREE, Ordering::Release);
    }
}

impl<T> Deref for Owned<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as in `deref_mut`; a shared borrow of the owner excludes an exclusive one.
        self.0.value.with(|value| unsafe { &**value })
    }
}

impl<T> DerefMut for Owned<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this owner was made when `state` became OWNED, by an acquire that pairs with the
        // release of the last owner. It is the only one until it ends, `get` gives nothing
        // meanwhile, and the borrow of the owner lasts as long as the reference.
        self.0.value.with_mut(|value| unsafe { &mut **value })
    }
}

impl<T: fmt::Debug> fmt::Debug for Owned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Owned").field(&**self).finish()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn published_once_and_for_good() {
        let cell = Once::new(1);
        assert_eq!(cell.get(), None);
        let mut owned = cell.own().unwrap();
        *owned = 2;
        assert!(cell.own().is_none() && cell.get().is_none());
        assert_eq!((owned.publish(), cell.get()), (&2, Some(&2)));
        assert!(cell.own().is_none());
    }

    #[test]
    fn given_back_can_be_owned_again() {
        let cell = Once::new(1);
        let mut owned = cell.own().unwrap();
        *owned = 2;
        owned.give_back();
        assert_eq!(cell.get(), None);
        assert_eq!(*cell.own().unwrap(), 2);
    }

    #[test]
    fn an_owner_that_is_dropped_keeps_the_cell() {
        let cell = Once::new(1);
        drop(cell.own().unwrap());
        assert!(cell.own().is_none() && cell.get().is_none());
    }

    #[test]
    fn taken_back_is_unpublished() {
        let cell = Once::new(1);
        // SAFETY: no reference to the value exists.
        assert!(unsafe { cell.take_back() }.is_none());
        cell.own().unwrap().publish();
        // SAFETY: as above.
        unsafe { cell.take_back() }.unwrap().give_back();
        assert!(cell.get().is_none() && cell.own().is_some());
    }

    #[test]
    fn zeroed_memory_is_a_free_cell() {
        // SAFETY: zero is a valid `AtomicU32`, and a valid `u64`.
        let cell: Once<u64> = unsafe { core::mem::zeroed() };
        assert_eq!((cell.get(), *cell.own().unwrap()), (None, 0));
    }
}
