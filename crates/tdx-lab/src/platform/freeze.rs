//! Stops the kernel at an instant, for good: what an NMI or a panic elsewhere does to a CPU. The
//! code that ran there never goes on; its stack is unwound, which changes no machine, no record and
//! no mark. (The tokens on that stack count as leaked: their pages do not come back.)

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use tdx_abi::Leaf;

use super::lock;

/// An instant of the kernel's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instant {
    /// The n-th SEAMCALL of this leaf from now on has come back; 1 is the next.
    AfterCall(Leaf, u64),
    /// The kernel is about to write the first line of the n-th reset from now on; 1 is the next.
    BeforeReset(u64),
    /// The n-th point between two operations on the platform from now on: before or after a
    /// SEAMCALL, a reset, a fence, a flush or a write-back; 1 is the next.
    Nth(u64),
}

/// The kernel's clock, and the instant it stops at.
#[derive(Debug, Default)]
pub(super) struct Freezer {
    at: Mutex<Option<Instant>>,
    ticks: AtomicU64,
}

/// What unwinds: not a panic, so no panic hook speaks.
struct Frozen;

impl Freezer {
    /// Runs the function until it returns or its kernel stops; `None` if it stopped.
    pub(super) fn run<R>(&self, at: Instant, function: impl FnOnce() -> R) -> Option<R> {
        self.set(Some(at));
        let result = catch_unwind(AssertUnwindSafe(function));
        self.set(None);
        match result {
            Ok(value) => Some(value),
            Err(payload) if payload.is::<Frozen>() => None,
            Err(payload) => resume_unwind(payload),
        }
    }

    fn at(&self) -> Option<Instant> {
        *lock(&self.at)
    }

    fn set(&self, at: Option<Instant>) {
        *lock(&self.at) = at;
    }

    pub(super) fn after_call(&self, leaf: Leaf) {
        if let Some(Instant::AfterCall(at, left)) = self.at()
            && at == leaf
        {
            self.count_down(left, |left| Instant::AfterCall(at, left));
        }
    }

    /// A point between two operations.
    pub(super) fn tick(&self) {
        self.ticks.fetch_add(1, Ordering::Relaxed);
        if let Some(Instant::Nth(left)) = self.at() {
            self.count_down(left, Instant::Nth);
        }
    }

    /// Points so far.
    pub(super) fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }

    pub(super) fn before_reset(&self) {
        if let Some(Instant::BeforeReset(left)) = self.at() {
            self.count_down(left, Instant::BeforeReset);
        }
    }

    fn count_down(&self, left: u64, later: impl FnOnce(u64) -> Instant) {
        if left <= 1 {
            self.set(None);
            resume_unwind(Box::new(Frozen));
        }
        self.set(Some(later(left - 1)));
    }
}
