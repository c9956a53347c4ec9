//! loom: two CPUs share a reset; each page is written once, and the count is complete. And a twin
//! that takes its chunks without an atomic addition, which loom must reject.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p tdx-host --release --test loom_reset`
//! (`cargo xtask test` does).

#![cfg(loom)]
// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

mod promise;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use tdx_abi::{LineRange, Page, PageRange};
use tdx_host::platform::{LineReset, NodeId, NodeRange};
use tdx_host::reset::{ParallelReset, ResetCount};

/// Three chunks of 16 pages and one of 2; one chunk spans three ranges.
const RANGES: [PageRange; 4] = [range(0, 40), range(50, 51), range(60, 61), range(70, 78)];

const fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

/// How often each page was written; beside the model, so that it synchronizes nothing.
#[derive(Clone)]
struct Counts(std::sync::Arc<[AtomicU32; 78]>);

// SAFETY: a model: no memory of this program is behind it.
unsafe impl LineReset for Counts {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        let pages = lines.pages();
        for page in pages.start().index()..pages.end().index() {
            self.0[page as usize].fetch_add(1, SeqCst);
        }
        0
    }

    fn fence(&self) {
        loom::sync::atomic::fence(loom::sync::atomic::Ordering::SeqCst);
    }
}

/// What each CPU runs, so that a twin can stand in for it.
trait Shared: Send + Sync + 'static {
    fn new() -> Self;
    fn run(&self, cpu: &Counts, node: NodeId);
    fn count(&self) -> ResetCount;
}

struct Product(ParallelReset<'static, std::array::IntoIter<PageRange, 4>>);

impl Shared for Product {
    fn new() -> Self {
        Self(promise::parallel(RANGES, &[]))
    }

    fn run(&self, cpu: &Counts, _: NodeId) {
        self.0.run_alone(cpu);
    }

    fn count(&self) -> ResetCount {
        self.0.count()
    }
}

/// With a border between two nodes in the first range: each CPU begins with its own, and then takes
/// what the other has left.
struct OfNodes(ParallelReset<'static, std::array::IntoIter<PageRange, 4>>);

impl Shared for OfNodes {
    fn new() -> Self {
        static NODES: [NodeRange; 2] =
            [NodeRange { range: range(0, 20), node: NodeId(0) }, NodeRange { range: range(20, 78), node: NodeId(1) }];
        Self(promise::parallel(RANGES, &NODES))
    }

    fn run(&self, cpu: &Counts, node: NodeId) {
        self.0.run_from(cpu, Some(node));
    }

    fn count(&self) -> ResetCount {
        self.0.count()
    }
}

/// Takes the next range by load and store.
struct LoadAndStore {
    next: AtomicU64,
}

impl Shared for LoadAndStore {
    fn new() -> Self {
        Self { next: AtomicU64::new(0) }
    }

    fn run(&self, cpu: &Counts, _: NodeId) {
        loop {
            let next = self.next.load(Ordering::Relaxed);
            self.next.store(next + 1, Ordering::Relaxed);
            let Some(range) = RANGES.get(next as usize) else { return };
            // SAFETY: a model.
            let left = unsafe { cpu.reset_lines(range.lines()) };
            assert_eq!(left, 0, "all is mapped");
        }
    }

    fn count(&self) -> ResetCount {
        ResetCount { lines: 50 * 64, ranges: 4, left: 0 }
    }
}

fn each_page_is_written_once<S: Shared>() {
    loom::model(|| {
        let work = Arc::new(S::new());
        let counts = Counts(std::sync::Arc::new(std::array::from_fn(|_| AtomicU32::new(0))));
        let other = {
            let (work, counts) = (Arc::clone(&work), counts.clone());
            thread::spawn(move || work.run(&counts, NodeId(1)))
        };
        work.run(&counts, NodeId(0));
        other.join().unwrap();
        for (page, count) in counts.0.iter().enumerate() {
            let wanted = RANGES.iter().any(|range| range.contains(Page::new(page as u64)));
            assert_eq!(count.load(SeqCst), u32::from(wanted), "page {page}");
        }
        assert_eq!(work.count(), ResetCount { lines: 50 * 64, ranges: 4, left: 0 });
    });
}

#[test]
fn product_each_page_is_written_once() {
    each_page_is_written_once::<Product>();
}

#[test]
fn product_each_page_of_two_nodes_is_written_once() {
    each_page_is_written_once::<OfNodes>();
}

#[test]
#[should_panic(expected = "page 0")]
fn loom_rejects_chunks_taken_by_load_and_store() {
    each_page_is_written_once::<LoadAndStore>();
}
