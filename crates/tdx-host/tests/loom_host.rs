//! loom: a host publishes its ledger, a page is given, and a handover on another CPU looks at any
//! instant; the write-once cell behind it; and twins of both that are too weak.
//!
//! What is private is kept beside the model as relaxed atomics, which order nothing: a private line
//! is seen by its effect alone. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_host` (`cargo xtask test`
//! does). The twins are here to test the test: loom must reject each of them.

#![cfg(loom)]
// UNSAFETY: the twin of the cell is wrong on purpose; and the ledger's transitions are called
// without a SEAMCALL.
#![allow(unsafe_code)]

mod promise;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, Ordering::Relaxed, fence};
use loom::thread;
use tdx_abi::{Page, PageRange};
use tdx_host::gate::CpuSlot;
use tdx_host::ledger::Ledger;
use tdx_host::{Host, HostError};

#[allow(dead_code, unused_imports)] // the parts that the cell does not use
#[path = "../src/sync.rs"]
mod sync;

/// The file that ships: it is private to the crate.
#[allow(dead_code)]
#[path = "../src/once.rs"]
mod once;

use once::Once;

const SEGMENT: PageRange = PageRange::new(Page::new(512), Page::new(1024));
const PAGE: PageRange = PageRange::new(Page::new(700), Page::new(701));

/// loom's atomics live for one run; the few words of each run are leaked.
fn words() -> &'static mut [AtomicU64] {
    (0..Ledger::words_needed([SEGMENT])).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak()
}

/// What a kernel and a handover need of a host, so that a twin can stand in for it.
trait Front: Send + Sync + 'static {
    fn new() -> Self;
    /// Publishes the ledger; `give` is called with it when pages may be given.
    fn publish(&self, give: impl FnOnce(&Ledger<'static>));
    /// The ledger, for a CPU that gives pages.
    fn ledger(&self) -> Option<&Ledger<'static>>;
    /// What a handover takes for private.
    fn private(&self) -> Vec<PageRange>;
}

struct Product(Box<Host<'static>>);

impl Front for Product {
    fn new() -> Self {
        Self(promise::host(0))
    }

    fn publish(&self, give: impl FnOnce(&Ledger<'static>)) {
        give(self.0.follow([SEGMENT], words()).unwrap());
    }

    fn ledger(&self) -> Option<&Ledger<'static>> {
        self.0.ledger()
    }

    fn private(&self) -> Vec<PageRange> {
        self.0.memory().private_ranges().collect()
    }
}

/// A kernel's own cell beside the ledger.
struct Twin<const PUBLISHED_FIRST: bool, const FENCED: bool> {
    ledger: Ledger<'static>,
    published: AtomicBool,
}

/// Gives the first page, and publishes the ledger when there is something to see.
type PublishedLate = Twin<false, true>;
/// Published first, but the handover looks without a fence.
type NoFence = Twin<true, false>;

impl<const PUBLISHED_FIRST: bool, const FENCED: bool> Front for Twin<PUBLISHED_FIRST, FENCED> {
    fn new() -> Self {
        Self { ledger: Ledger::new([SEGMENT], words()).unwrap(), published: AtomicBool::new(false) }
    }

    fn publish(&self, give: impl FnOnce(&Ledger<'static>)) {
        if PUBLISHED_FIRST {
            self.published.store(true, Ordering::Release);
        }
        give(&self.ledger);
        if !PUBLISHED_FIRST {
            self.published.store(true, Ordering::Release);
        }
    }

    fn ledger(&self) -> Option<&Ledger<'static>> {
        self.published.load(Ordering::Acquire).then_some(&self.ledger)
    }

    fn private(&self) -> Vec<PageRange> {
        if FENCED {
            fence(Ordering::SeqCst);
        }
        self.ledger().map_or(Vec::new(), |ledger| ledger.marked().collect())
    }
}

/// The mark, and the SEAMCALL, whose effect anyone may see.
fn give(ledger: &Ledger<'static>, private: &AtomicBool) {
    // SAFETY: no memory stands behind these pages.
    unsafe { ledger.give(PAGE) }.unwrap();
    private.store(true, Relaxed);
}

/// One CPU publishes and gives at once.
fn a_private_page_is_seen<F: Front>() {
    loom::model(|| {
        let shared = Arc::new((F::new(), AtomicBool::new(false)));
        let kernel = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.0.publish(|ledger| give(ledger, &shared.1)))
        };
        if shared.1.load(Relaxed) {
            assert_eq!(shared.0.private(), [PAGE], "a page is private and the handover does not know");
        }
        kernel.join().unwrap();
    });
}

/// One CPU publishes, another one finds the ledger and gives.
fn a_page_of_another_cpu_is_seen<F: Front>() {
    loom::model(|| {
        let shared = Arc::new((F::new(), AtomicBool::new(false)));
        let publisher = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.0.publish(|_| ()))
        };
        let giver = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                if let Some(ledger) = shared.0.ledger() {
                    give(ledger, &shared.1);
                }
            })
        };
        if shared.1.load(Relaxed) {
            assert_eq!(shared.0.private(), [PAGE], "a page is private and the handover does not know");
        }
        publisher.join().unwrap();
        giver.join().unwrap();
    });
}

#[test]
fn product_a_private_page_is_seen() {
    a_private_page_is_seen::<Product>();
}

#[test]
fn product_a_page_of_another_cpu_is_seen() {
    a_page_of_another_cpu_is_seen::<Product>();
}

#[test]
#[should_panic(expected = "the handover does not know")]
fn loom_rejects_a_ledger_published_after_the_first_give() {
    a_private_page_is_seen::<PublishedLate>();
}

#[test]
#[should_panic(expected = "the handover does not know")]
fn loom_rejects_a_handover_without_fence() {
    a_private_page_is_seen::<NoFence>();
}

#[test]
#[should_panic(expected = "the handover does not know")]
fn loom_rejects_a_handover_without_fence_for_another_cpu() {
    a_page_of_another_cpu_is_seen::<NoFence>();
}

/// Of two CPUs that publish a ledger one succeeds, and both see that one.
#[test]
fn one_of_two_ledgers_is_published() {
    loom::model(|| {
        let host = Arc::new(Product::new());
        let other = {
            let host = Arc::clone(&host);
            thread::spawn(move || host.0.follow([SEGMENT], words()).map(std::ptr::from_ref).map_err(drop))
        };
        let mine = host.0.follow([SEGMENT], words()).map(std::ptr::from_ref);
        assert!(matches!(mine, Ok(_) | Err(HostError::AlreadySet)));
        let other = other.join().unwrap();
        // Both fail only if each met the other in the middle, which a cell with one owner excludes.
        assert_eq!(mine.is_ok(), other.is_err(), "one ledger");
        assert!(host.0.ledger().is_some());
    });
}

/// Memory that is reserved while the ledger is made is in the ledger, or the reservation fails.
#[test]
fn a_reservation_that_succeeds_is_in_the_ledger() {
    loom::model(|| {
        let host = Arc::new(Product::new());
        let reserving = {
            let host = Arc::clone(&host);
            thread::spawn(move || host.0.reserve(&[PAGE]).is_ok())
        };
        let ledger = host.0.follow([SEGMENT], words()).map(Ledger::reserved).map(<[PageRange]>::to_vec);
        let reserved = reserving.join().unwrap();
        match ledger {
            Ok(ranges) => assert_eq!(ranges == [PAGE], reserved, "{ranges:?}"),
            Err(error) => assert_eq!((error, reserved), (HostError::AlreadySet, true)),
        }
    });
}

/// What a cell must do, so that a twin can stand in for it.
trait Cell: Send + Sync + 'static {
    fn new() -> Self;
    /// Writes (7, 7) and publishes. False if another owner has it.
    fn fill(&self) -> bool;
    fn get(&self) -> Option<(u64, u64)>;
}

struct ProductCell(Once<(u64, u64)>);

impl Cell for ProductCell {
    fn new() -> Self {
        Self(Once::new((0, 0)))
    }

    fn fill(&self) -> bool {
        let Some(mut owned) = self.0.own() else { return false };
        owned.0 = 7;
        owned.1 = 7;
        owned.publish();
        true
    }

    fn get(&self) -> Option<(u64, u64)> {
        self.0.get().copied()
    }
}

/// Published without release and acquire.
struct RelaxedCell {
    published: AtomicBool,
    value: UnsafeCell<(u64, u64)>,
}

// SAFETY: wrong on purpose; loom checks each access to the value.
unsafe impl Sync for RelaxedCell {}

impl Cell for RelaxedCell {
    fn new() -> Self {
        Self { published: AtomicBool::new(false), value: UnsafeCell::new((0, 0)) }
    }

    fn fill(&self) -> bool {
        // SAFETY: loom stops the model at a race.
        self.value.with_mut(|value| unsafe { *value = (7, 7) });
        self.published.store(true, Relaxed);
        true
    }

    fn get(&self) -> Option<(u64, u64)> {
        // SAFETY: loom stops the model at a race.
        self.published.load(Relaxed).then(|| self.value.with(|value| unsafe { *value }))
    }
}

fn a_value_is_seen_whole<C: Cell>() {
    loom::model(|| {
        let cell = Arc::new(C::new());
        let writer = {
            let cell = Arc::clone(&cell);
            thread::spawn(move || assert!(cell.fill()))
        };
        assert!(cell.get().is_none_or(|value| value == (7, 7)));
        writer.join().unwrap();
    });
}

#[test]
fn product_a_value_is_seen_whole() {
    a_value_is_seen_whole::<ProductCell>();
}

#[test]
#[should_panic(expected = "Causality violation")]
fn loom_rejects_a_cell_without_release() {
    a_value_is_seen_whole::<RelaxedCell>();
}

/// An owner that gives up leaves the cell to the next one, who sees what it wrote.
#[test]
fn the_next_owner_sees_the_last_one_s_value() {
    loom::model(|| {
        let cell = Arc::new(Once::new(0u64));
        let turns: Vec<_> = (0..2)
            .map(|_| {
                let cell = Arc::clone(&cell);
                thread::spawn(move || {
                    let Some(mut owned) = cell.own() else { return 0 };
                    *owned += 1;
                    owned.give_back();
                    1
                })
            })
            .collect();
        let count: u64 = turns.into_iter().map(|turn| turn.join().unwrap()).sum();
        assert_eq!(*cell.own().unwrap(), count);
        assert!(count > 0);
    });
}

const _: fn() = || {
    fn shared<T: Sync>() {}
    shared::<Host<'static>>();
    shared::<CpuSlot>();
};
