//! loom: bring-up on one CPU races with kexec on another, over the real `PrivateMemory` and over
//! twins that are too weak.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_publication`
//! (`cargo xtask test` does). The twins are here to test the test: loom must reject each of them.

#![cfg(loom)]
// UNSAFETY: the record is written without a bring-up.
#![allow(unsafe_code)]

#[allow(dead_code, unused_imports)] // the parts that the record does not use
#[path = "../src/sync.rs"]
mod sync;

/// The file that ships: it is private to the crate.
#[allow(dead_code)]
#[path = "../src/private_memory.rs"]
mod private_memory;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, fence};
use loom::thread;
use tdx_abi::{Page, PageRange};

use private_memory::PrivateMemory;

const PAMT: (u64, u64) = (7, 9);

/// What bring-up and kexec need from the record, so that a twin can stand in for it.
trait Record: Send + Sync + 'static {
    fn new() -> Self;
    fn publish(&self);
    fn withdraw(&self);
    /// Flag and list as kexec reads them: `None` if the flag is down.
    fn read(&self) -> Option<(u64, u64)>;
}

struct Product(PrivateMemory);

impl Record for Product {
    fn new() -> Self {
        Self(PrivateMemory::new())
    }

    fn publish(&self) {
        let range = PageRange::new(Page::new(PAMT.0), Page::new(PAMT.1));
        // SAFETY: no memory stands behind the range.
        unsafe { self.0.publish([range].into_iter()) }.unwrap();
    }

    fn withdraw(&self) {
        // SAFETY: as above.
        unsafe { self.0.withdraw() };
    }

    fn read(&self) -> Option<(u64, u64)> {
        // Flag up and no range is not "flag down": it is a list that is not whole.
        let first = || self.0.pamt_ranges().next().map_or((0, 0), |pamt| (pamt.start().index(), pamt.end().index()));
        self.0.may_have_private_memory().then(first)
    }
}

struct Twin<const FLAG_FIRST: bool, const FENCED: bool> {
    flag: AtomicBool,
    start: AtomicU64,
    end: AtomicU64,
}

/// Plain variables with WBINVD in between: what the 2023 patch argued from. WBINVD orders nothing
/// here, as on hardware.
type NoFence = Twin<false, false>;
/// The right fences in the wrong place: the flag is up before the list is written.
type FlagBeforeList = Twin<true, true>;

impl<const FLAG_FIRST: bool, const FENCED: bool> Twin<FLAG_FIRST, FENCED> {
    fn barrier() {
        if FENCED {
            fence(loom::sync::atomic::Ordering::SeqCst);
        }
    }
}

impl<const FLAG_FIRST: bool, const FENCED: bool> Record for Twin<FLAG_FIRST, FENCED> {
    fn new() -> Self {
        Self { flag: AtomicBool::new(false), start: AtomicU64::new(0), end: AtomicU64::new(0) }
    }

    fn publish(&self) {
        if FLAG_FIRST {
            self.flag.store(true, Relaxed);
            Self::barrier();
        }
        self.start.store(PAMT.0, Relaxed);
        self.end.store(PAMT.1, Relaxed);
        if !FLAG_FIRST {
            self.flag.store(true, Relaxed);
            Self::barrier();
        }
    }

    fn withdraw(&self) {
        self.flag.store(false, Relaxed);
        Self::barrier();
    }

    fn read(&self) -> Option<(u64, u64)> {
        Self::barrier();
        self.flag.load(Relaxed).then(|| (self.start.load(Relaxed), self.end.load(Relaxed)))
    }
}

/// A kexec that has seen a private line (in any way at all) sees the flag and the whole list.
fn private_line_implies_flag<R: Record>() {
    loom::model(|| {
        let shared = Arc::new((R::new(), AtomicBool::new(false)));
        let bringup = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.publish();
                shared.1.store(true, Relaxed); // SYS.TDMR.INIT: a line is private
            })
        };
        if shared.1.load(Relaxed) {
            assert_eq!(shared.0.read(), Some(PAMT), "a line is private and kexec does not know");
        }
        bringup.join().unwrap();
    });
}

/// A kexec that has seen the memory of a failed bring-up in use again does not reset it.
fn reused_memory_implies_no_flag<R: Record>() {
    loom::model(|| {
        let shared = Arc::new((R::new(), AtomicBool::new(false)));
        shared.0.publish();
        let bringup = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.withdraw();
                shared.1.store(true, Relaxed); // freed, and someone else's now
            })
        };
        if shared.1.load(Relaxed) {
            assert_eq!(shared.0.read(), None, "kexec would reset memory that is in use");
        }
        bringup.join().unwrap();
    });
}

/// Bring-up that fails and unwinds, stopped by kexec between any two of its steps. The
/// acknowledgement itself carries no ordering, like an NMI that nobody answers in words. The list
/// is whole whenever it is seen.
fn stopped_at_any_step<R: Record>() {
    loom::model(|| {
        struct Shared<R> {
            record: R,
            stop: AtomicBool,
            stopped: AtomicBool,
        }
        let shared =
            Arc::new(Shared { record: R::new(), stop: AtomicBool::new(false), stopped: AtomicBool::new(false) });
        let bringup = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                let (mut private, mut freed) = (false, false);
                for step in 0..4 {
                    if shared.stop.load(Relaxed) {
                        break;
                    }
                    match step {
                        0 => shared.record.publish(),
                        1 => private = true, // KEY.CONFIG, TDMR.INIT
                        2 => {
                            private = false; // WBINVD, MOVDIR64B, MFENCE
                            fence(loom::sync::atomic::Ordering::SeqCst);
                            shared.record.withdraw();
                        }
                        _ => freed = true,
                    }
                }
                shared.stopped.store(true, Relaxed);
                (private, freed)
            })
        };
        shared.stop.store(true, Relaxed);
        while !shared.stopped.load(Relaxed) {
            thread::yield_now();
        }
        let seen = shared.record.read();
        let (private, freed) = bringup.join().unwrap();
        if private {
            assert_eq!(seen, Some(PAMT), "a line is private and kexec does not know");
        }
        if freed {
            assert_eq!(seen, None, "kexec would reset memory that is in use");
        }
        assert!(seen.is_none_or(|range| range == PAMT), "half a list: {seen:?}");
    });
}

#[test]
fn product_private_line_implies_flag() {
    private_line_implies_flag::<Product>();
}

#[test]
fn product_reused_memory_implies_no_flag() {
    reused_memory_implies_no_flag::<Product>();
}

#[test]
fn product_stopped_at_any_step() {
    stopped_at_any_step::<Product>();
}

#[test]
#[should_panic(expected = "kexec does not know")]
fn loom_rejects_a_flag_without_fence() {
    private_line_implies_flag::<NoFence>();
}

#[test]
#[should_panic(expected = "memory that is in use")]
fn loom_rejects_a_withdrawal_without_fence() {
    reused_memory_implies_no_flag::<NoFence>();
}

#[test]
#[should_panic(expected = "kexec")]
fn loom_rejects_a_stop_without_fence() {
    stopped_at_any_step::<NoFence>();
}

/// Read by a kexec that did not stop the bring-up at all: the flag may come before the list.
#[test]
#[should_panic(expected = "half a list")]
fn loom_rejects_a_flag_before_the_list() {
    half_lists::<FlagBeforeList>();
}

#[test]
fn product_never_shows_half_a_list() {
    half_lists::<Product>();
}

fn half_lists<R: Record>() {
    loom::model(|| {
        let record = Arc::new(R::new());
        let bringup = {
            let record = Arc::clone(&record);
            thread::spawn(move || record.publish())
        };
        let seen = record.read();
        assert!(seen.is_none_or(|range| range == PAMT), "half a list: {seen:?}");
        bringup.join().unwrap();
    });
}
