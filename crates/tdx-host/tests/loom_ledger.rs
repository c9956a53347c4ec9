//! loom: marks of the ledger as another CPU sees them, over the real `Ledger` and over twins that
//! are too weak.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_ledger`
//! (`cargo xtask test` does).

#![cfg(loom)]
mod promise;

use promise::Mark as _;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, fence};
use loom::thread;
use tdx_abi::{Page, PageRange};
use tdx_host::ledger::Ledger;

/// 2 MiB, and the page that is given.
const SEGMENT: PageRange = PageRange::new(Page::new(512), Page::new(1024));
const PAGE: Page = Page::new(700);
const GIVEN: PageRange = PageRange::new(PAGE, Page::new(701));

/// What giving and looking need from a ledger, so that a twin can stand in for it.
trait Marks: Send + Sync + 'static {
    fn new() -> Self;
    fn give(&self);
    /// As the crash path looks: through the summary.
    fn is_found(&self) -> bool;
}

struct Product(Ledger<'static>);

impl Marks for Product {
    fn new() -> Self {
        // loom's atomics live for one run; the few words of each run are leaked.
        let words = (0..Ledger::words_needed([SEGMENT])).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
        Self(Ledger::new([SEGMENT], words.leak()).unwrap())
    }

    fn give(&self) {
        self.0.mark_in_flight(GIVEN).unwrap();
    }

    fn is_found(&self) -> bool {
        self.0.marked().any(|range| range.contains(PAGE))
    }
}

/// Summary and leaf of one page. `NoFence` has no fence anywhere.
struct Twin<const FENCED: bool> {
    summary: AtomicBool,
    leaf: AtomicBool,
}

type NoFence = Twin<false>;
type Fenced = Twin<true>;

impl<const FENCED: bool> Twin<FENCED> {
    fn barrier() {
        if FENCED {
            fence(loom::sync::atomic::Ordering::SeqCst);
        }
    }
}

impl<const FENCED: bool> Marks for Twin<FENCED> {
    fn new() -> Self {
        Self { summary: AtomicBool::new(false), leaf: AtomicBool::new(false) }
    }

    fn give(&self) {
        self.summary.store(true, Relaxed);
        self.leaf.store(true, Relaxed);
        Self::barrier();
    }

    fn is_found(&self) -> bool {
        Self::barrier();
        self.summary.load(Relaxed) && self.leaf.load(Relaxed)
    }
}

/// A CPU that sees any effect of the SEAMCALL after `give` finds the page.
fn private_page_is_found<M: Marks>() {
    loom::model(|| {
        let shared = Arc::new((M::new(), AtomicBool::new(false)));
        let giver = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.give();
                shared.1.store(true, Relaxed); // the SEAMCALL: the page is private
            })
        };
        if shared.1.load(Relaxed) {
            assert!(shared.0.is_found(), "a private page is not in the ledger");
        }
        giver.join().unwrap();
    });
}

/// Two CPUs mark pages in the same word; no mark is lost.
#[test]
fn marks_in_one_word_do_not_lose_each_other() {
    loom::model(|| {
        let ledger = Arc::new(Product::new());
        let other = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || ledger.0.mark_in_flight(PageRange::new(Page::new(701), Page::new(703))).unwrap())
        };
        ledger.give();
        other.join().unwrap();
        let found: Vec<_> = ledger.0.marked().collect();
        assert_eq!(found, [PageRange::new(PAGE, Page::new(703))]);
    });
}

/// Of two CPUs that give the same page exactly one succeeds, and the page stays marked.
#[test]
fn a_page_is_given_once() {
    loom::model(|| {
        let ledger = Arc::new(Product::new());
        let other = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || ledger.0.mark_in_flight(GIVEN).is_ok())
        };
        let mine = ledger.0.mark_in_flight(GIVEN).is_ok();
        assert!(mine ^ other.join().unwrap());
        assert_eq!(ledger.0.marked_pages(), 1);
    });
}

/// A mark beside a page that is being cleared is never out of sight.
#[test]
fn a_clear_hides_no_neighbor() {
    loom::model(|| {
        let ledger = Arc::new(Product::new());
        ledger.give();
        let clearer = {
            let ledger = Arc::clone(&ledger);
            thread::spawn(move || {
                ledger.0.mark_aborted(GIVEN).unwrap();
                ledger.0.mark_shared(GIVEN).unwrap();
            })
        };
        let neighbor = PageRange::new(Page::new(701), Page::new(702));
        ledger.0.mark_in_flight(neighbor).unwrap();
        assert!(ledger.0.marked().any(|range| range.contains_range(neighbor)));
        clearer.join().unwrap();
        assert_eq!(ledger.0.marked().collect::<Vec<_>>(), [neighbor]);
    });
}

/// A CPU that sees a cleared page in use again does not find it marked: it would reset it.
#[test]
fn a_page_in_use_again_is_not_marked() {
    loom::model(|| {
        let shared = Arc::new((Product::new(), AtomicBool::new(false)));
        shared.0.give();
        shared.0.0.mark_aborted(GIVEN).unwrap();
        let clearer = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.0.mark_shared(GIVEN).unwrap();
                shared.1.store(true, Relaxed); // freed, and someone else's now
            })
        };
        if shared.1.load(Relaxed) {
            assert!(!shared.0.is_found(), "kexec would reset a page that is in use");
        }
        clearer.join().unwrap();
    });
}

#[test]
fn product_private_page_is_found() {
    private_page_is_found::<Product>();
}

#[test]
#[should_panic(expected = "not in the ledger")]
fn loom_rejects_leaf_before_summary() {
    late_summary();
}

#[test]
#[should_panic(expected = "not in the ledger")]
fn loom_rejects_a_mark_without_fence() {
    private_page_is_found::<NoFence>();
}

/// A twin that sets its summary after the SEAMCALL.
fn late_summary() {
    loom::model(|| {
        let shared = Arc::new((Fenced::new(), AtomicBool::new(false)));
        let giver = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.0.leaf.store(true, Relaxed);
                fence(loom::sync::atomic::Ordering::SeqCst);
                shared.1.store(true, Relaxed); // the SEAMCALL: the page is private
                shared.0.summary.store(true, Relaxed);
            })
        };
        if shared.1.load(Relaxed) {
            assert!(shared.0.is_found(), "a private page is not in the ledger");
        }
        giver.join().unwrap();
    });
}
