//! What the ledger costs on a whole TD: build, 4 KiB and 2 MiB pages, teardown, all by the
//! product's own code in the emulator.
//!
//! Method: the TD's life is timed, and then the ledger's share of it alone, in turns: the same
//! checks and transitions on the same pages in the same order, on a ledger of the same size. Median
//! of rounds. The share is set against the emulator's time and against 4.5 us for each page that
//! came back, which is what a kernel was measured to take for a RECLAIM with its flush and reset on
//! real hardware (`reliability_performance.md` section 3.4: 4.5 to 5.1 us a page).
//!
//! Output: a table, and JSON in `target/bench/td_life.json`.

#[path = "../../tdx-host/tests/promise/mod.rs"]
mod promise;

use promise::Mark as _;

use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use first_kernel::TdPhase;
use tdx_abi::{Page, PageRange, PageSize};
use tdx_host::ledger::{Ledger, PageState};
use tdx_lab::platform::{Lab, LabKernel};
use tdx_lab::tds::{Hypervisor, pool, track};
use tdx_operator::host::{Host, HostOptions};

const ROUNDS: usize = 15;
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/hosts/01-canonical-385-2tib.log");
/// Microseconds that a page takes on its way back on real hardware.
const RECLAIM_US: f64 = 4.5;

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Pages of a TD of this laboratory by size: as many as its report says came back.
struct Pages {
    small: u64,
    large: u64,
}

/// The ledger's part in the life of these pages, from the token to the reset.
fn ledger_alone(ledger: &Ledger<'_>, first: Page, pages: &Pages) -> f64 {
    let small = (0..pages.small).map(|n| (first.index() + n, PageSize::Size4K));
    let large_base = (first.index() + pages.small).next_multiple_of(512);
    let large = (0..pages.large).map(|n| (large_base + 512 * n, PageSize::Size2M));
    let all: Vec<PageRange> = small
        .chain(large)
        .map(|(page, size)| PageRange::new(Page::new(page), Page::new(page + size.pages())))
        .collect();
    let begin = Instant::now();
    for range in &all {
        let _ = black_box(ledger.check(*range, PageState::Shared));
        let _ = black_box(ledger.mark_in_flight(*range));
        let _ = black_box(ledger.mark_private(*range));
    }
    for range in &all {
        let returning = ledger.returning();
        let _ = black_box(ledger.check(*range, PageState::Private));
        let _ = black_box(ledger.mark_returned(*range));
        returning.settled();
        let _ = black_box(ledger.mark_shared(*range));
    }
    begin.elapsed().as_secs_f64() * 1e6
}

fn main() {
    let host = Host::from_path(Path::new(FIXTURE), &HostOptions::default()).expect("a bundled fixture");
    let lab = Lab::new(&host, &()).expect("it can be emulated");
    let (mut words, mut words_alone) = (Vec::new(), Vec::new());
    let tdx = tdx_host::Host::new(lab.slots());
    tdx.detect(&lab).expect("it has TDX");
    let mut kernel = LabKernel::new(&lab, &tdx, &host);
    tdx.bring_up(&mut kernel, host.memory()).expect("it comes up");
    let tds = track(&tdx, &mut words).expect("the memory is enough");
    let ledger = tds.ledger();
    let ranges: Vec<PageRange> = ledger.ranges().collect();
    words_alone.resize_with(Ledger::words_needed(ranges.iter().copied()) as usize, AtomicU64::default);
    let alone = Ledger::new(ranges, &mut words_alone).expect("the memory is enough");
    let pool = pool(ledger, &mut kernel, 4).expect("there is room");
    let first = pool.range().start();
    let hypervisor = Hypervisor::new(&lab, &kernel, tds, pool);
    // TDR, TDCS, TDVPS, SEPT, measured and augmented pages, and those that calls refused or gave
    // back on the way.
    let pages = Pages { small: 1 + 6 + 6 + 3 + 16 + 16 + 5, large: 4 };
    // The worst case for the ledger: nothing but small pages.
    let only_small = Pages { small: 4096, large: 0 };
    let (mut life, mut share, mut small) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let td = hypervisor.live(0, TdPhase::Gone).expect("nothing is in its way");
        life.push(begin.elapsed().as_secs_f64() * 1e6);
        drop(td);
        share.push(ledger_alone(&alone, first, &pages));
        small.push(ledger_alone(&alone, first, &only_small) / only_small.small as f64);
    }
    assert_eq!((ledger.marked_pages(), alone.marked_pages()), (0, 0));
    let (life, share, small) = (median(life), median(share), median(small));
    let all = pages.small + 512 * pages.large;
    let (of_emulator, of_reclaim) = (share / life * 100.0, share / (all as f64 * RECLAIM_US) * 100.0);
    println!(
        "a TD of {} pages of 4 KiB and {} of 2 MiB, from MNG.CREATE to the reset of its TDR",
        pages.small, pages.large
    );
    println!("  life in the emulator     {life:10.1} us");
    println!("  the ledger's part of it  {share:10.1} us  {of_emulator:6.2} % of the emulator");
    println!(
        "                                          {of_reclaim:6.3} % of {RECLAIM_US} us for each of {all} pages of 4 KiB"
    );
    let of_small = small / RECLAIM_US * 100.0;
    println!("  a page of 4 KiB alone    {small:10.3} us  {of_small:6.2} % of {RECLAIM_US} us");
    let text = format!(
        "{{\n  \"schema\": \"cleanslate.bench.td_life\",\n  \"version\": 1,\n  \"life_us\": {life:.1},\n \
              \"ledger_us\": {share:.1},\n  \
         \"ledger_us_per_4k_page\": {small:.4},\n  \"percent_of_reclaim_4k_only\": {of_small:.3},\n  \
              \"percent_of_emulator\": {of_emulator:.3},\n  \"percent_of_reclaim\": {of_reclaim:.4}\n}}\n"
    );
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench");
    if let Err(error) =
        std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(folder.join("td_life.json"), text))
    {
        eprintln!("cannot write {}: {error}", folder.display());
    }
}
