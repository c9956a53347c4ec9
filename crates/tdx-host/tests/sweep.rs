//! What a sweep makes of the module's answers: which pages an answer is about, and what it finds.

mod promise;

use promise::{Refs, learn};
use std::sync::atomic::AtomicU64;

use tdx_abi::{Page, PageRange, PamtPageType};
use tdx_host::follow::NotFollowed;
use tdx_host::ledger::{Ledger, PageState};
use tdx_host::sweep::{Finding, Says, compare, next_page, pages};

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
