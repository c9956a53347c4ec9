//! Objects in memory that C provides. A pointer is checked before it is used, and an object's first
//! word says whether it may be: C code that forgets to initialize one, or initializes one twice, or
//! uses one on two CPUs that may not share it gets an answer and no undefined behavior.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use tdx_abi::PageRange;
use tdx_host::gate::CpuSlot;
use tdx_host::handover::HandoverReport;
use tdx_host::ledger::Returning;
use tdx_host::platform::{NodeRange, TdxPlatform};

use crate::result::{Outcome, TdxhResult};

/// Zeroed memory.
const EMPTY: u32 = 0;
/// A CPU is writing the object, or uses it alone.
const TAKEN: u32 = 0x7d7d_0001;
/// The object is there.
const READY: u32 = 0x7d7d_0002;

/// Not null, and aligned.
pub(crate) fn is_usable<T>(pointer: *const T) -> bool {
    !pointer.is_null() && pointer.is_aligned()
}

fn check<T>(pointer: *const T) -> Outcome<NonNull<T>> {
    match NonNull::new(pointer.cast_mut()) {
        None => Err(TdxhResult::Null),
        Some(_) if !pointer.is_aligned() => Err(TdxhResult::Misaligned),
        Some(pointer) => Ok(pointer),
    }
}

/// A value that C gives to read.
///
/// # Safety
/// If it is not null, the pointer is valid for reads of an initialized `T` that no other code
/// changes during `'a`.
pub(crate) unsafe fn input<'a, T>(pointer: *const T) -> Outcome<&'a T> {
    // SAFETY: not null and aligned by `check`; the rest is the contract of this function.
    check(pointer).map(|pointer| unsafe { pointer.as_ref() })
}

/// An array that C gives to read. It may be null if it is empty.
///
/// # Safety
/// As [`input`], for `count` elements in one piece of memory.
pub(crate) unsafe fn input_array<'a, T>(pointer: *const T, count: usize) -> Outcome<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    let fits = count.checked_mul(size_of::<T>()).is_some_and(|bytes| isize::try_from(bytes).is_ok());
    let pointer = check(pointer)?;
    if !fits {
        return Err(TdxhResult::BadValue);
    }
    // SAFETY: not null and aligned by `check`, no longer than `isize::MAX` bytes; the rest is the
    // contract of this function.
    Ok(unsafe { core::slice::from_raw_parts(pointer.as_ptr(), count) })
}

/// Words that C gives for good. They may be null if there are none.
///
/// # Safety
/// As [`input_array`]; no other code uses the words during `'a`.
pub(crate) unsafe fn input_words<'a>(pointer: *mut AtomicU64, count: usize) -> Outcome<&'a mut [AtomicU64]> {
    // SAFETY: the contract includes that of `input_array`.
    let count = unsafe { input_array(pointer.cast_const(), count) }?.len();
    if count == 0 {
        return Ok(&mut []);
    }
    // SAFETY: not null, aligned and no longer than `isize::MAX` bytes by `input_array`; used by no
    // other code by contract.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer, count) })
}

/// A buffer that C gives to write.
///
/// # Safety
/// If it is not null, the pointer is valid for reads and writes of `count` initialized bytes that
/// no other code uses during `'a`.
pub(crate) unsafe fn buffer<'a>(pointer: *mut u8, count: usize) -> Outcome<&'a mut [u8]> {
    let pointer = check(pointer)?;
    if isize::try_from(count).is_err() {
        return Err(TdxhResult::BadValue);
    }
    // SAFETY: not null (bytes are always aligned), no longer than `isize::MAX`; the rest is the
    // contract of this function.
    Ok(unsafe { core::slice::from_raw_parts_mut(pointer.as_ptr(), count) })
}

/// Writes a result to where C wants it.
///
/// # Safety
/// If it is not null, the pointer is valid for a write of `T`.
pub(crate) unsafe fn output<T: Copy>(pointer: *mut T, value: T) -> Outcome {
    let pointer = check(pointer)?;
    // SAFETY: not null and aligned by `check`; valid for a write by the contract of this function.
    unsafe { pointer.write(value) };
    Ok(())
}

/// An opaque type of the header, and what lies in it.
///
/// What every function asks of an object's storage: it was zeroed when it came into being, no code
/// but this library has written to it since, it stays in its place, and it is valid for reads and
/// writes as long as it is used. Null and misaligned are answered.
pub trait Opaque: Sized {
    /// What lies in it: [`InitOnce`] or [`OneUser`], for both of which zeroed bytes are valid.
    type Content;
}

/// The content of an opaque object.
///
/// # Safety
/// If it is not null, the pointer is valid, during `'a`, for reads and writes of an `O` that was
/// zeroed when it came into being and that no code but this library has written to since.
pub(crate) unsafe fn content<'a, O: Opaque>(object: *mut O) -> Outcome<&'a O::Content> {
    // SAFETY: not null and aligned by `check`, which the content is too (`opaque!` compares sizes
    // and alignments). The bytes are zero, which is a valid value of both kinds of content, or were
    // written as one by this library.
    check(object.cast_const()).map(|object| unsafe { object.cast().as_ref() })
}

/// Written once, and shared by all CPUs from then on.
#[derive(Debug)]
#[repr(C)]
pub struct InitOnce<T> {
    state: AtomicU32,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: the value is written by the one caller that moved the state from EMPTY to TAKEN; others
// get a shared reference once the state is READY, by an acquire that pairs with the release of that
// writer. So sharing it needs `T: Sync`, and dropping never happens. `T: Send`, because the writer
// may be on another CPU than the readers.
unsafe impl<T: Send + Sync> Sync for InitOnce<T> {}

impl<T> InitOnce<T> {
    /// Writes the value: `write` fills the place, or fails and the object stays as if it had not
    /// been touched.
    pub(crate) fn init(&self, write: impl FnOnce(&mut MaybeUninit<T>) -> Outcome) -> Outcome {
        if let Err(state) = self.state.compare_exchange(EMPTY, TAKEN, Ordering::Acquire, Ordering::Relaxed) {
            return Err(match state {
                READY => TdxhResult::AlreadyInitialized,
                TAKEN => TdxhResult::Busy,
                _ => TdxhResult::NotInitialized,
            });
        }
        // SAFETY: this caller alone has moved the state from EMPTY to TAKEN, and no other CPU reads
        // before it is READY.
        let result = write(unsafe { &mut *self.value.get() });
        self.state.store(if result.is_ok() { READY } else { EMPTY }, Ordering::Release);
        result
    }

    /// The value.
    pub(crate) fn get(&self) -> Outcome<&T> {
        match self.state.load(Ordering::Acquire) {
            // SAFETY: READY is stored after the value was written, and the value is never written
            // again.
            READY => Ok(unsafe { (*self.value.get()).assume_init_ref() }),
            TAKEN => Err(TdxhResult::Busy),
            _ => Err(TdxhResult::NotInitialized),
        }
    }
}

/// Used by one CPU at a time: a second one is turned away, it does not wait.
#[derive(Debug)]
#[repr(C)]
pub struct OneUser<T> {
    state: AtomicU32,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY: only the caller that moved the state to TAKEN reaches the value, until it gives it back
// with a release that pairs with the acquire of the next one. So the value moves from CPU to CPU,
// which needs `T: Send`.
unsafe impl<T: Send> Sync for OneUser<T> {}

impl<T> OneUser<T> {
    /// Makes room for a value, for this caller alone; one that was there before is dropped.
    pub(crate) fn reserve(&self) -> Outcome<Reserved<'_, T>> {
        match self.remove() {
            Ok(_) | Err(TdxhResult::NotInitialized) => {}
            Err(other) => return Err(other),
        }
        self.vacant()
    }

    fn vacant(&self) -> Outcome<Reserved<'_, T>> {
        match self.state.compare_exchange(EMPTY, TAKEN, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(Reserved(self)),
            Err(TAKEN | READY) => Err(TdxhResult::Busy),
            Err(_) => Err(TdxhResult::NotInitialized),
        }
    }

    /// Puts a value there; one that was there before is dropped.
    pub(crate) fn put(&self, value: T) -> Outcome {
        self.reserve()?.fill(value);
        Ok(())
    }

    /// Puts a value there if nothing is; `make` is called only then.
    pub(crate) fn init(&self, make: impl FnOnce() -> T) -> Outcome {
        let room = self.vacant()?;
        room.fill(make());
        Ok(())
    }

    /// As [`Self::init`], without a word if something is there: the value is copied from a static,
    /// and never stands on a stack.
    pub(crate) fn ensure(&self, fresh: &'static Fresh<T>) {
        if self.state.compare_exchange(EMPTY, TAKEN, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return;
        }
        // SAFETY: this caller alone has moved the state from EMPTY to TAKEN. The source is a whole
        // value that is never used itself, never changed and never dropped, so its bytes may be
        // moved out as often as one likes.
        unsafe { core::ptr::copy_nonoverlapping(&raw const fresh.0, (*self.value.get()).as_mut_ptr(), 1) };
        self.state.store(READY, Ordering::Release);
    }

    /// The value, for this caller alone until the guard is dropped.
    pub(crate) fn take(&self) -> Outcome<User<'_, T>> {
        match self.state.compare_exchange(READY, TAKEN, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Ok(User(self)),
            Err(TAKEN) => Err(TdxhResult::Busy),
            Err(_) => Err(TdxhResult::NotInitialized),
        }
    }

    /// Takes the value out; the object is empty again.
    pub(crate) fn remove(&self) -> Outcome<T> {
        let user = self.take()?;
        core::mem::forget(user);
        // SAFETY: `take` has moved the state from READY to TAKEN, so the value is there and no
        // other CPU reaches it. The state becomes EMPTY, so it is not read again.
        let value = unsafe { (*self.value.get()).assume_init_read() };
        self.state.store(EMPTY, Ordering::Release);
        Ok(value)
    }
}

/// The guard of [`OneUser::take`].
pub(crate) struct User<'o, T>(&'o OneUser<T>);

impl<T> Deref for User<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as in `deref_mut`.
        unsafe { (*self.0.value.get()).assume_init_ref() }
    }
}

impl<T> DerefMut for User<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard was made when the state went from READY to TAKEN, so the value is there
        // and only the guard reaches it; the borrow of the guard keeps it from being reached twice.
        unsafe { (*self.0.value.get()).assume_init_mut() }
    }
}

impl<T> Drop for User<'_, T> {
    fn drop(&mut self) {
        self.0.state.store(READY, Ordering::Release);
    }
}

/// Room for a value, of [`OneUser::reserve`]. Without one the object is empty again.
pub(crate) struct Reserved<'o, T>(&'o OneUser<T>);

impl<T> Reserved<'_, T> {
    pub(crate) fn fill(self, value: T) {
        // SAFETY: this was made when the state went from EMPTY to TAKEN: no other CPU reaches the
        // place, and no value is there.
        unsafe { (*self.0.value.get()).write(value) };
        self.0.state.store(READY, Ordering::Release);
        core::mem::forget(self);
    }
}

impl<T> Drop for Reserved<'_, T> {
    fn drop(&mut self) {
        self.0.state.store(EMPTY, Ordering::Release);
    }
}

/// A fresh value to copy from.
pub(crate) struct Fresh<T>(T);

impl<T> Fresh<T> {
    /// Of this value.
    pub(crate) const fn new(value: T) -> Self {
        Self(value)
    }
}

/// C hands objects to whichever CPU it likes.
pub(crate) const fn any_cpu<T: Sync>() {}

/// Defines an opaque type with the size and alignment that the header has: here where it is an
/// object of `tdx-host`, else beside what lies in it.
macro_rules! opaque {
    ($($(#[$doc:meta])* $name:ident: $size:literal bytes, align $align:literal, $content:ty;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        #[repr(C, align($align))]
        pub struct $name {
            opaque: [u8; $size],
        }

        impl $crate::storage::Opaque for $name {
            type Content = $content;
        }

        const _: () = assert!(size_of::<$name>() == $size);
        const _: () = assert!(size_of::<$content>() <= $size, concat!(stringify!($name), " is too small"));
        const _: () = assert!(align_of::<$content>() <= $align);
        const _: () = $crate::storage::any_cpu::<$content>();
    )*};
}
pub(crate) use opaque;

opaque! {
    /// `struct tdxh_platform`.
    TdxhPlatform: 64 bytes, align 8, OneUser<TdxPlatform>;
    /// `struct tdxh_report`.
    TdxhReport: 768 bytes, align 8, OneUser<HandoverReport>;
    /// `struct tdxh_returning`.
    TdxhReturning: 32 bytes, align 8, OneUser<Returning<'static>>;
}

/// `struct tdxh_cpu_slot`: the library makes it a [`CpuSlot`] when the host is initialized.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct TdxhCpuSlot {
    opaque: [u8; 64],
}

/// `struct tdxh_node_range`: written by `tdxh_node_range_set`.
#[derive(Debug)]
#[repr(C, align(8))]
pub struct TdxhNodeRange {
    opaque: [u8; 24],
}

// Arrays of these are read as arrays of what they hold, so that sizes are equal and not just large
// enough.
const _: () = assert!(size_of::<TdxhCpuSlot>() == size_of::<CpuSlot>());
const _: () = assert!(align_of::<TdxhCpuSlot>() == align_of::<CpuSlot>());
const _: () = assert!(size_of::<TdxhNodeRange>() == size_of::<NodeRange>());
const _: () = assert!(align_of::<TdxhNodeRange>() == align_of::<NodeRange>());
const _: () = assert!(size_of::<PageRange>() == 16);
