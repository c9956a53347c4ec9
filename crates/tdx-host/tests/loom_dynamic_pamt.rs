//! loom: a page that is counted has its pair, whatever another CPU does meanwhile, over the real
//! `Count` and over twins that are too weak.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_dynamic_pamt`
//! (`cargo xtask test` does).

#![cfg(loom)]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, Ordering::Relaxed};
use loom::thread;

#[allow(dead_code, unused_imports)] // the parts that the count does not use
#[path = "../src/sync.rs"]
mod sync;

/// The file that ships: it is private to the crate.
#[allow(dead_code)]
#[path = "../src/dynamic_pamt/count.rs"]
mod count;

use count::{Change, Count, CountError};

/// Another CPU is at it; nothing has changed.
struct Busy;

/// What the way of one page needs from a count, so that a twin can stand in for it.
trait Counting: Send + Sync + 'static {
    fn new() -> Self;
    /// Counts a page; `add` is PAMT.ADD.
    fn get(&self, add: impl FnOnce()) -> Result<(), Busy>;
    /// Counts a page less; `remove` is PAMT.REMOVE.
    fn put(&self, remove: impl FnOnce()) -> Result<(), Busy>;
}

struct Product(AtomicU32);

fn product(change: Result<Change<'_>, CountError>, count: u32, seamcall: impl FnOnce()) -> Result<(), Busy> {
    match change {
        Ok(Change::Counted) => Ok(()),
        Ok(Change::Turn(turn)) => {
            seamcall();
            turn.finish(count);
            Ok(())
        }
        Err(CountError::Busy) => Err(Busy),
        Err(error) => panic!("{error}"),
    }
}

impl Counting for Product {
    fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    fn get(&self, add: impl FnOnce()) -> Result<(), Busy> {
        product(Count::new(&self.0).get(), 1, add)
    }

    fn put(&self, remove: impl FnOnce()) -> Result<(), Busy> {
        product(Count::new(&self.0).put(), 0, remove)
    }
}

const TURN: u32 = 1 << 31;

/// The same machine. Without `ORDERED` nothing is released or acquired; without `TURNS` the count
/// moves before the call.
struct Twin<const ORDERED: bool, const TURNS: bool>(AtomicU32);

type Unordered = Twin<false, true>;
type WithoutTurns = Twin<true, false>;

impl<const ORDERED: bool, const TURNS: bool> Twin<ORDERED, TURNS> {
    fn change(&self, from: u32, step: i32, after: u32, seamcall: impl FnOnce()) -> Result<(), Busy> {
        let (success, store) = if ORDERED { (Ordering::AcqRel, Ordering::Release) } else { (Relaxed, Relaxed) };
        let seen = self.0.load(Relaxed);
        if seen & TURN != 0 {
            return Err(Busy);
        }
        let next = if seen == from && TURNS { TURN } else { seen.wrapping_add_signed(step) };
        self.0.compare_exchange(seen, next, success, Relaxed).map_err(|_| Busy)?;
        if seen == from {
            seamcall();
            if TURNS {
                self.0.store(after, store);
            }
        }
        Ok(())
    }
}

impl<const ORDERED: bool, const TURNS: bool> Counting for Twin<ORDERED, TURNS> {
    fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    fn get(&self, add: impl FnOnce()) -> Result<(), Busy> {
        self.change(0, 1, 1, add)
    }

    fn put(&self, remove: impl FnOnce()) -> Result<(), Busy> {
        self.change(1, -1, 0, remove)
    }
}

/// The module's pair of one 2 MiB page.
struct Pair(AtomicBool);

impl Pair {
    fn add(&self) {
        assert!(!self.0.load(Relaxed), "two pairs for one 2 MiB page");
        self.0.store(true, Relaxed);
    }

    fn remove(&self) {
        assert!(self.0.load(Relaxed), "no pair to remove");
        self.0.store(false, Relaxed);
    }
}

fn patiently(mut attempt: impl FnMut() -> Result<(), Busy>) {
    while attempt().is_err() {
        thread::yield_now();
    }
}

/// The way of one page: counted, the module's for a while, back.
fn one_page<C: Counting>(count: &C, pair: &Pair) {
    patiently(|| count.get(|| pair.add()));
    assert!(pair.0.load(Relaxed), "a counted page has no pair");
    patiently(|| count.put(|| pair.remove()));
}

fn every_page_has_its_pair<C: Counting>() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let shared = Arc::new((C::new(), Pair(AtomicBool::new(false))));
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || one_page(&shared.0, &shared.1))
        };
        one_page(&shared.0, &shared.1);
        other.join().unwrap();
        assert!(!shared.1.0.load(Relaxed), "a pair is left over");
    });
}

#[test]
fn product_every_page_has_its_pair() {
    every_page_has_its_pair::<Product>();
}

#[test]
#[should_panic(expected = "pair")]
fn loom_rejects_a_count_without_order() {
    every_page_has_its_pair::<Unordered>();
}

#[test]
#[should_panic(expected = "pair")]
fn loom_rejects_a_count_without_turns() {
    every_page_has_its_pair::<WithoutTurns>();
}

/// Of two CPUs that both want the first page one adds the pair; the other one waits for nobody.
#[test]
fn no_cpu_waits_for_another() {
    loom::model(|| {
        let shared = Arc::new((Product::new(), Pair(AtomicBool::new(false))));
        let other = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || shared.0.get(|| shared.1.add()).is_ok())
        };
        let mine = shared.0.get(|| shared.1.add()).is_ok();
        let others = other.join().unwrap();
        assert!(mine || others, "both were sent away");
        let counted = u32::from(mine) + u32::from(others);
        assert_eq!(Count::new(&shared.0.0).read(), Some(counted));
    });
}
