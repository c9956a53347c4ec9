//! Stops the kernel at an instant, for good: what an NMI or a panic elsewhere does to a CPU. The code that ran there never
//! goes on; its stack is unwound, which changes no machine, no record and no mark. (The tokens on that stack count as leaked: nobody will bring
//! their pages back.)

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use tdx_abi::Leaf;

/// An instant of the kernel's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instant {
    /// The n-th SEAMCALL of this leaf from now on has come back; 1 is the next.
    AfterCall(Leaf, u64),
    /// The kernel is about to write the first line of the n-th reset from now on; 1 is the next.
    BeforeReset(u64),
    /// The n-th point between two operations on the platform from now on: before or after a SEAMCALL, a reset, a fence, a flush
    /// or a write-back; 1 is the next.
    Nth(u64),
}

/// The kernel's clock, and the instant it stops at.
#[derive(Debug, Default)]
pub(super) struct Freezer {
    at: Cell<Option<Instant>>,
    ticks: Cell<u64>,
}

/// What unwinds: not a panic, so no panic hook speaks.
struct Frozen;

impl Freezer {
    /// Runs the function until it returns or its kernel stops; `None` if it stopped.
    pub(super) fn run<R>(&self, at: Instant, function: impl FnOnce() -> R) -> Option<R> {
        self.at.set(Some(at));
        let result = catch_unwind(AssertUnwindSafe(function));
        self.at.set(None);
        match result {
            Ok(value) => Some(value),
            Err(payload) if payload.is::<Frozen>() => None,
            Err(payload) => resume_unwind(payload),
        }
    }

    pub(super) fn after_call(&self, leaf: Leaf) {
        if let Some(Instant::AfterCall(at, left)) = self.at.get()
            && at == leaf
        {
            self.count_down(left, |left| Instant::AfterCall(at, left));
        }
    }

    /// A point between two operations.
    pub(super) fn tick(&self) {
        self.ticks.set(self.ticks.get() + 1);
        if let Some(Instant::Nth(left)) = self.at.get() {
            self.count_down(left, Instant::Nth);
        }
    }

    /// Points so far.
    pub(super) fn ticks(&self) -> u64 {
        self.ticks.get()
    }

    pub(super) fn before_reset(&self) {
        if let Some(Instant::BeforeReset(left)) = self.at.get() {
            self.count_down(left, Instant::BeforeReset);
        }
    }

    fn count_down(&self, left: u64, later: impl FnOnce(u64) -> Instant) {
        if left <= 1 {
            self.at.set(None);
            resume_unwind(Box::new(Frozen));
        }
        self.at.set(Some(later(left - 1)));
    }
}
