//! What a sweep makes of the module's answers: which pages an answer is about, and what it finds.
#![cfg(not(loom))]
// UNSAFETY: pages of the software machine.
#![allow(unsafe_code)]

#[allow(dead_code)]
#[path = "../examples/kernel/mod.rs"]
mod kernel;
mod promise;

use promise::{Refs, learn};
use std::sync::atomic::AtomicU64;

use tdx_abi::{Page, PageRange, PamtPageType};
use tdx_host::Host;
use tdx_host::follow::NotFollowed;
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::sweep::{Finding, Says, compare, look, next_page, pages};

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

fn ledger(ranges: &[PageRange]) -> Ledger<'static> {
    let words = Ledger::words_needed(ranges.iter().copied());
    let words: Vec<AtomicU64> = (0..words).map(|_| AtomicU64::new(0)).collect();
    Ledger::new(ranges.iter().copied(), words.leak()).unwrap()
}

const GIB: u64 = 1 << 18;

#[test]
fn every_page_that_is_covered_and_no_other() {
    let ledger = ledger(&[range(0, GIB), range(3 * GIB, 4 * GIB)]);
    assert_eq!(pages(&ledger), 2 * GIB);
    assert_eq!(next_page(&ledger, Page::new(0)), Some(Page::new(0)));
    assert_eq!(next_page(&ledger, Page::new(7)), Some(Page::new(7)));
    assert_eq!(next_page(&ledger, Page::new(GIB)), Some(Page::new(3 * GIB)));
    assert_eq!(next_page(&ledger, Page::new(4 * GIB)), None);
}

#[test]
fn only_a_page_of_the_module_without_a_mark_is_a_fault() {
    let owned = Says::Owned(PamtPageType::REG);
    assert_eq!(compare(PageState::Shared, owned), Finding::Missing);
    for marked in [PageState::Private, PageState::Returned, PageState::InFlight] {
        assert_eq!(compare(marked, owned), Finding::Agree);
        for says in [Says::Free, Says::Reserved, Says::Outside] {
            assert_eq!(compare(marked, says), Finding::Surplus(marked));
            assert_eq!(compare(PageState::Shared, says), Finding::Agree);
        }
    }
}

#[test]
fn what_is_learned_is_marked_once_and_has_one_reference() {
    let (ledger, refs) = (ledger(&[range(0, GIB)]), Refs::default());
    let learn = |range, settled| learn(&ledger, range, settled, &refs);
    assert_eq!(learn(range(5, 7), true), (2, Ok(())));
    assert_eq!(ledger.state(Page::new(6)), Some(PageState::Private));
    // Those of a call whose answer comes next.
    assert_eq!(learn(range(6, 9), false), (2, Ok(())));
    assert_eq!(ledger.state(Page::new(6)), Some(PageState::Private));
    assert_eq!(ledger.state(Page::new(8)), Some(PageState::InFlight));
    refs.assert_those_of(&ledger);
    assert_eq!(ledger.marked_pages(), 4);
}

#[test]
fn a_page_without_an_owner_is_not_marked() {
    let (ledger, refs) = (ledger(&[range(0, GIB)]), Refs { free: vec![Page::new(5)], ..Refs::default() });
    let learned = learn(&ledger, range(4, 7), true, &refs);
    assert_eq!(learned, (2, Err(NotFollowed::NotAllocated(Page::new(5)))));
    assert_eq!(ledger.state(Page::new(5)), Some(PageState::Shared));
}

/// A sweep over a host with a TD that is half built: the module has what the ledger has marked,
/// page by page, and the answers cover all pages, each once.
#[test]
fn the_module_has_what_is_marked() {
    let hardware = kernel::Hardware::new();
    let tdx = Host::new(hardware.slots());
    let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
    let tds = tdx.track(kernel::words(tdx.tracking_words())).unwrap();
    let (cpu, ledger) = (kernel.cpu(), tds.ledger());
    let tdr = kernel.take_page(ledger);
    let mut td = tds.create(&cpu, tdr).unwrap().configure_keys(&kernel).unwrap();
    td.add_control_page(&cpu, kernel.take_page(ledger)).unwrap();

    assert_eq!(look(&cpu, ledger, td.tdr()).unwrap().says, Says::Owned(PamtPageType::TDR));
    let pamt = tdx.pamt_ranges().next().unwrap().start();
    assert_eq!(look(&cpu, ledger, pamt).unwrap().says, Says::Reserved);
    let above = ledger.ranges().last().unwrap().end();
    assert_eq!(look(&cpu, ledger, above).unwrap().says, Says::Outside);

    let (mut at, mut seen, mut owned) = (Page::new(0), 0, Vec::new());
    while let Some(page) = next_page(ledger, at) {
        let answer = look(&cpu, ledger, page).unwrap();
        assert_eq!(answer.pages.start(), page);
        for index in page.index()..answer.pages.end().index() {
            assert_eq!(compare(ledger.state(Page::new(index)).unwrap(), answer.says), Finding::Agree, "{index:#x}");
        }
        if let Says::Owned(_) = answer.says {
            owned.push(answer.pages);
        }
        seen += answer.pages.pages();
        at = answer.pages.end();
    }
    assert_eq!(seen, pages(ledger));
    assert_eq!(tdx_abi::union(owned, []).collect::<Vec<_>>(), ledger.marked().collect::<Vec<_>>());
}
