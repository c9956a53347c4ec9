//! loom: a CPU on its way into a SEAMCALL against the CPU that closes the gate, over the real
//! gate of a `Host` and over twins that are too weak.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_gate`
//! (`cargo xtask test` does).

#![cfg(loom)]

mod promise;

use loom::sync::Arc;
use loom::sync::atomic::{
    AtomicBool,
    Ordering::{Acquire, Release, SeqCst},
    fence,
};
use loom::thread;
use std::sync::atomic::{AtomicBool as Truth, Ordering};
use tdx_abi::Leaf;
use tdx_host::{CpuId, Host};

const CPU: CpuId = CpuId(0);

/// What the two CPUs need from a gate, so that a twin can stand in for it.
trait Door: Send + Sync + 'static {
    fn new() -> Self;
    /// Runs `seamcall` if the gate lets it.
    fn pass(&self, seamcall: impl FnOnce());
    /// Closes the gate; true if the slot then says that the other CPU has made no SEAMCALL and is
    /// in none.
    fn close_and_find_idle(&self) -> bool;
}

struct Product(Box<Host<'static>>);

impl Door for Product {
    fn new() -> Self {
        Self(promise::host(1))
    }

    fn pass(&self, seamcall: impl FnOnce()) {
        if let Ok(_inside) = promise::cpu_gate(self.0.gate(), CPU).enter(Leaf::MEM_PAGE_AUG) {
            seamcall();
        }
    }

    fn close_and_find_idle(&self) -> bool {
        assert!(self.0.gate().close());
        self.0.gate().activity().all(|activity| activity.may_hold_private_lines.is_none())
    }
}

/// A slot and the gate. Without `FENCED`: no fence between the two. With `LOOKS_FIRST`: looks
/// before it shows itself.
struct Twin<const FENCED: bool, const LOOKS_FIRST: bool> {
    closed: AtomicBool,
    slot: AtomicBool,
}

impl<const FENCED: bool, const LOOKS_FIRST: bool> Door for Twin<FENCED, LOOKS_FIRST> {
    fn new() -> Self {
        Self { closed: AtomicBool::new(false), slot: AtomicBool::new(false) }
    }

    fn pass(&self, seamcall: impl FnOnce()) {
        let early = LOOKS_FIRST && self.closed.load(Acquire);
        self.slot.store(true, Release);
        if FENCED {
            fence(SeqCst);
        }
        let closed = if LOOKS_FIRST { early } else { self.closed.load(Acquire) };
        if !closed {
            seamcall();
        }
    }

    fn close_and_find_idle(&self) -> bool {
        self.closed.store(true, Release);
        if FENCED {
            fence(SeqCst);
        }
        !self.slot.load(Acquire)
    }
}

/// A CPU that was found idle behind a closed gate makes no SEAMCALL.
fn no_seamcall_after_close<D: Door>() {
    loom::model(|| {
        let shared = Arc::new((D::new(), Truth::new(false)));
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.0.pass(|| shared.1.store(true, Ordering::SeqCst)))
        };
        let idle = shared.0.close_and_find_idle();
        other.join().unwrap();
        assert!(!(idle && shared.1.load(Ordering::SeqCst)), "a SEAMCALL behind a closed gate");
    });
}

#[test]
fn product_no_seamcall_after_close() {
    no_seamcall_after_close::<Product>();
}

#[test]
fn full_twin_no_seamcall_after_close() {
    no_seamcall_after_close::<Twin<true, false>>();
}

#[test]
#[should_panic(expected = "behind a closed gate")]
fn loom_rejects_a_gate_without_fences() {
    no_seamcall_after_close::<Twin<false, false>>();
}

#[test]
#[should_panic(expected = "behind a closed gate")]
fn loom_rejects_a_look_before_the_slot_is_written() {
    no_seamcall_after_close::<Twin<true, true>>();
}

/// Of two CPUs that hand over at once one is the first.
#[test]
fn a_gate_is_closed_once() {
    loom::model(|| {
        let host = Arc::new(promise::host(1));
        let other = {
            let host = Arc::clone(&host);
            thread::spawn(move || host.gate().close())
        };
        let mine = host.gate().close();
        assert!(mine ^ other.join().unwrap());
    });
}
