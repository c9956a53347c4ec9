//! The ledger against its peers, in the same run: mark + unmark of 4 KiB pages on one and two
//! threads, and finding 1,000 private pages in 8 TiB.
//!
//! Peers: `roaring`, `rangemap`, a mutexed `BTreeSet`, and a flat atomic bitmap of one bit a page.
//! The first three allocate and need a lock, so none of them could be used on a crash path; they
//! are here for the figures. A bare table of two bits a page is the floor of the ledger: the same
//! four transitions, each checked by a compare-exchange, and nothing else. Rounds interleave the
//! peers.
//!
//! Output: a table, and JSON in `target/bench/ledger.json`.

#[path = "../tests/promise/mod.rs"]
mod promise;

use promise::Mark as _;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tdx_abi::{Page, PageRange};
use tdx_host::ledger::Ledger;

const TIB_PAGES: u64 = 1 << 28;
const ROUNDS: usize = 31;

fn page_range(page: u64, count: u64) -> PageRange {
    PageRange::new(Page::new(page), Page::new(page + count))
}

/// Pages in the order they are touched: a permutation of the first `TIB_PAGES`, so no two rounds
/// are alike to a prefetcher.
fn scattered(index: u64) -> u64 {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15) % TIB_PAGES
}

/// The page of the n-th operation.
type Place = fn(u64) -> u64;

/// Something that can mark a page and take the mark away.
trait Marks: Sync {
    fn mark(&self, page: u64);
    fn unmark(&self, page: u64);
}

impl Marks for Ledger<'_> {
    fn mark(&self, page: u64) {
        let _ = black_box(self.mark_in_flight(page_range(page, 1)));
        let _ = black_box(self.mark_private(page_range(page, 1)));
    }

    /// Both steps of a release: the module returns the page, the reset clears it.
    fn unmark(&self, page: u64) {
        let _ = black_box(self.mark_returned(page_range(page, 1)));
        let _ = black_box(self.mark_shared(page_range(page, 1)));
    }
}

struct Flat(Vec<AtomicU64>);

impl Marks for Flat {
    fn mark(&self, page: u64) {
        self.0[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::SeqCst);
    }

    fn unmark(&self, page: u64) {
        self.0[(page / 64) as usize].fetch_and(!(1 << (page % 64)), Ordering::SeqCst);
    }
}

/// Two bits for each page, as the ledger has them, without a summary, ranges or errors.
struct Bare(Vec<AtomicU64>);

impl Bare {
    fn transition(&self, page: u64, from: u64, to: u64) {
        let (word, shift) = (&self.0[(page / 32) as usize], 2 * (page % 32));
        let mut seen = word.load(Ordering::Relaxed);
        loop {
            assert_eq!(seen >> shift & 0b11, from);
            let next = seen & !(0b11 << shift) | to << shift;
            match word.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

impl Marks for Bare {
    fn mark(&self, page: u64) {
        self.transition(page, 0b00, 0b11);
        self.transition(page, 0b11, 0b01);
    }

    fn unmark(&self, page: u64) {
        self.transition(page, 0b01, 0b10);
        self.transition(page, 0b10, 0b00);
    }
}

impl Marks for Mutex<BTreeSet<u64>> {
    fn mark(&self, page: u64) {
        self.lock().unwrap().insert(page);
    }

    fn unmark(&self, page: u64) {
        self.lock().unwrap().remove(&page);
    }
}

impl Marks for Mutex<roaring::RoaringBitmap> {
    fn mark(&self, page: u64) {
        self.lock().unwrap().insert(page as u32);
    }

    fn unmark(&self, page: u64) {
        self.lock().unwrap().remove(page as u32);
    }
}

impl Marks for Mutex<rangemap::RangeSet<u64>> {
    fn mark(&self, page: u64) {
        self.lock().unwrap().insert(page..page + 1);
    }

    fn unmark(&self, page: u64) {
        self.lock().unwrap().remove(page..page + 1);
    }
}

/// Nanoseconds of one mark and one unmark. Each thread keeps a window of marked pages, as a running
/// host does.
fn mark_and_unmark(marks: &dyn Marks, threads: u64, operations: u64, place: Place) -> f64 {
    const WINDOW: u64 = 1000;
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let page = |index: u64| place(index * threads + thread);
                for index in 0..operations + WINDOW {
                    if index < operations {
                        marks.mark(page(index));
                    }
                    if index >= WINDOW {
                        marks.unmark(page(index - WINDOW));
                    }
                }
            });
        }
    });
    begin.elapsed().as_secs_f64() * 1e9 / operations as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Report(Vec<String>);

impl Report {
    fn row(&mut self, what: &str, peer: &str, value: f64, unit: &str, ratio: f64) {
        println!("  {peer:28} {value:12.1} {unit}  {ratio:8.2} x the ledger");
        self.0.push(format!(
            "    {{\"what\": \"{what}\", \"peer\": \"{peer}\", \"{unit}\": {value:.2}, \"of_ledger\": {ratio:.3}}}"
        ));
    }
}

fn marks(report: &mut Report) {
    let range = page_range(0, TIB_PAGES);
    let mut words: Vec<AtomicU64> = (0..Ledger::words_needed([range])).map(|_| AtomicU64::new(0)).collect();
    let ledger = Ledger::new([range], &mut words).unwrap();
    let flat = Flat((0..TIB_PAGES / 64).map(|_| AtomicU64::new(0)).collect());
    let tree = Mutex::new(BTreeSet::new());
    let roaring = Mutex::new(roaring::RoaringBitmap::new());
    let ranges = Mutex::new(rangemap::RangeSet::new());
    let bare = Bare((0..TIB_PAGES / 32).map(|_| AtomicU64::new(0)).collect());
    let peers: [(&str, &dyn Marks); 6] = [
        ("ledger", &ledger),
        ("bare table, 4 transitions", &bare),
        ("flat atomic bitmap", &flat),
        ("mutexed BTreeSet", &tree),
        ("mutexed roaring", &roaring),
        ("mutexed rangemap", &ranges),
    ];
    let places: [(&str, Place); 2] = [("sequential", |index| index), ("scattered over 1 TiB", scattered)];
    for (place_name, place) in places {
        for threads in [1, 2] {
            let what = format!("mark + unmark of 4 KiB pages, {place_name}, {threads} thread(s)");
            println!("{what}");
            let mut samples = vec![Vec::new(); peers.len()];
            for _ in 0..ROUNDS {
                for (sample, (_, peer)) in samples.iter_mut().zip(peers) {
                    sample.push(mark_and_unmark(peer, threads, 40_000, place));
                }
            }
            let medians: Vec<f64> = samples.into_iter().map(median).collect();
            for ((name, _), value) in peers.iter().zip(&medians) {
                report.row(&what, name, *value, "ns", value / medians[0]);
            }
        }
    }
    assert_eq!(ledger.marked_pages(), 0);
}

fn find(report: &mut Report) {
    let range = page_range(0, 8 * TIB_PAGES);
    let mut words: Vec<AtomicU64> = (0..Ledger::words_needed([range])).map(|_| AtomicU64::new(0)).collect();
    let ledger = Ledger::new([range], &mut words).unwrap();
    let flat: Vec<AtomicU64> = (0..8 * TIB_PAGES / 64).map(|_| AtomicU64::new(0)).collect();
    for index in 0..1000 {
        // Odd multiples of a large step: never two in one 2 MiB page.
        let page = (index * 8 * TIB_PAGES / 1000) | 1;
        ledger.mark_in_flight(page_range(page, 1)).unwrap();
        flat[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::SeqCst);
    }
    let what = "find 1,000 private pages in 8 TiB";
    println!("{what}");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        assert_eq!(black_box(ledger.marked().count()), 1000);
        ours.push(begin.elapsed().as_secs_f64() * 1e6);
        let begin = Instant::now();
        let found: u64 = flat.iter().map(|word| u64::from(word.load(Ordering::Relaxed).count_ones())).sum();
        assert_eq!(black_box(found), 1000);
        theirs.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    let (ours, theirs) = (median(ours), median(theirs));
    report.row(what, "ledger", ours, "us", 1.0);
    report.row(what, "flat bitmap, scanned", theirs, "us", theirs / ours);
}

fn main() {
    let mut report = Report(Vec::new());
    marks(&mut report);
    find(&mut report);
    let text = format!(
        "{{\n  \"schema\": \"cleanslate.bench.ledger\",\n  \"version\": 1,\n  \"rows\": [\n{}\n  ]\n}}\n",
        report.0.join(",\n")
    );
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    if let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("ledger.json"), text))
    {
        eprintln!("cannot write {}: {error}", folder.display());
    }
}
