//! Page tokens and what they refuse: nothing is lost, and the ledger is as it was.

mod promise;

mod support;

use std::sync::atomic::AtomicU64;
use support::{Event, Recorder};
use tdx_abi::{KeyIdPartition, Page, PageRange, PageSize};
use tdx_host::key_ids::{KeyIds, KeyIdsError};
use tdx_host::ledger::{Ledger, LedgerError, MarkError, PageState};
use tdx_host::page::{ResetPass, SharedPage, TokenError};

/// Two TDMRs, the crash kernel in the first.
const TDMRS: [PageRange; 2] = [range(0, 1024), range(2048, 4096)];
const CRASH: PageRange = range(512, 600);

const fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

fn words() -> Vec<AtomicU64> {
    (0..Ledger::words_needed(TDMRS)).map(|_| AtomicU64::new(0)).collect()
}

fn ledger(words: &mut [AtomicU64]) -> Ledger<'_> {
    Ledger::new(TDMRS, words).unwrap().with_reserved(CRASH).unwrap()
}

/// All that a reader of the ledger sees.
fn contents(ledger: &Ledger<'_>) -> [Vec<PageRange>; 2] {
    [ledger.marked().collect(), ledger.unknown_to_module().collect()]
}

fn take<'l>(ledger: &'l Ledger<'l>, page: u64) -> SharedPage<'l> {
    promise::take(ledger, Page::new(page), PageSize::Size4K).unwrap()
}

#[test]
fn a_page_is_flushed_before_it_is_marked() {
    let (mut words, cpu) = (words(), Recorder::default());
    let ledger = ledger(&mut words);
    let giving = take(&ledger, 7).give(&cpu).unwrap();
    assert_eq!(cpu.take(), [Event::Flush(range(7, 8).lines()), Event::Fence]);
    assert_eq!(ledger.state(Page::new(7)), Some(PageState::InFlight));
    let private = promise::commit(giving).unwrap();
    assert_eq!(ledger.state(Page::new(7)), Some(PageState::Private));
    let returned = promise::reclaim(private).unwrap();
    assert_eq!((returned.page(), returned.size()), (Page::new(7), PageSize::Size4K));
    assert_eq!(ledger.state(Page::new(7)), Some(PageState::Returned));
    assert_eq!(ledger.leaked_pages(), 0);
    drop(returned);
    assert_eq!((ledger.leaked_pages(), ledger.marked_pages()), (1, 1), "it stays marked, and is counted");
}

#[test]
fn dropping_is_counted_in_every_marked_state_and_only_there() {
    let (mut words, cpu) = (words(), Recorder::default());
    let ledger = ledger(&mut words);
    drop(take(&ledger, 0));
    assert_eq!(ledger.leaked_pages(), 0, "a shared page is the caller's to lose");
    drop(take(&ledger, 1).give(&cpu).unwrap());
    drop(promise::commit(take(&ledger, 2).give(&cpu).unwrap()).unwrap());
    drop(promise::abort(take(&ledger, 3).give(&cpu).unwrap()).unwrap());
    assert_eq!(ledger.leaked_pages(), 3);
    drop(promise::take(&ledger, Page::new(2048), PageSize::Size2M).unwrap().give(&cpu).unwrap());
    assert_eq!((ledger.leaked_pages(), ledger.marked_pages()), (515, 515));
    let _ = promise::commit(take(&ledger, 4).give(&cpu).unwrap()).unwrap().into_tracked();
    assert_eq!(ledger.leaked_pages(), 515, "a TD has it");
}

#[test]
fn what_may_not_be_given_is_refused_and_nothing_changes() {
    let (mut words, cpu) = (words(), Recorder::default());
    let ledger = ledger(&mut words);
    let _ = promise::commit(take(&ledger, 9).give(&cpu).unwrap()).unwrap().into_tracked();
    let before = contents(&ledger);
    let refused = |page, size| promise::take(&ledger, Page::new(page), size).unwrap_err().cause;
    let outside = |page| TokenError::Ledger(MarkError::Outside { page: Page::new(page) });
    assert_eq!(refused(1500, PageSize::Size4K), outside(1500));
    assert_eq!(refused(1024, PageSize::Size2M), outside(1024));
    for (page, size) in [(1, PageSize::Size2M), (512, PageSize::Size1G)] {
        assert_eq!(refused(page, size), TokenError::Misaligned { page: Page::new(page), size });
    }
    let crash = TokenError::Ledger(MarkError::Reserved { page: Page::new(512) });
    assert_eq!((refused(512, PageSize::Size4K), refused(512, PageSize::Size2M)), (crash, crash));
    let given = MarkError::WrongState { page: Page::new(9), state: PageState::Private, expected: PageState::Shared };
    assert_eq!(refused(9, PageSize::Size4K), TokenError::Ledger(given));
    assert_eq!(refused(0, PageSize::Size2M), TokenError::Ledger(given), "the first wrong page is named");
    assert_eq!(contents(&ledger), before);
}

/// A broken promise makes two tokens for one page. Of two that are given the ledger refuses the
/// second, and its error holds the page.
#[test]
fn a_page_given_twice() {
    let (mut words, cpu) = (words(), Recorder::default());
    let ledger = ledger(&mut words);
    let (first, second) = (take(&ledger, 20), take(&ledger, 20));
    let _ = promise::commit(first.give(&cpu).unwrap()).unwrap().into_tracked();
    let before = contents(&ledger);
    let error = second.give(&cpu).unwrap_err();
    let cause = MarkError::WrongState { page: Page::new(20), state: PageState::Private, expected: PageState::Shared };
    assert_eq!((error.cause, error.page.range().start()), (cause, Page::new(20)));
    assert_eq!((contents(&ledger), ledger.leaked_pages()), (before, 0));
}

#[test]
fn too_little_memory_and_too_few_key_ids() {
    let mut words = words();
    let short = &mut words[1..];
    let needed = Ledger::words_needed(TDMRS);
    assert_eq!(Ledger::new(TDMRS, short).unwrap_err(), LedgerError::TooSmall { needed, given: needed - 1 });
    let partition = KeyIdPartition::new(31, 2);
    let mut bits = [const { AtomicU64::new(0) }; 2];
    let keys = KeyIds::new(partition, &mut bits).unwrap();
    let lease = keys.lease().unwrap();
    assert_eq!(keys.lease().unwrap_err(), KeyIdsError::Exhausted { count: 1, lost: 0 });
    drop(lease);
    assert_eq!(keys.lease().unwrap_err(), KeyIdsError::Exhausted { count: 1, lost: 1 });
}

/// A page that the reset does not reach stays marked, and goes to no one.
#[test]
fn a_page_that_is_not_mapped_is_not_unmarked() {
    let mut words = words();
    let ledger = ledger(&mut words);
    let cpu = Recorder { unmapped: range(8, 9).lines(), ..Recorder::default() };
    let returned = |page| promise::written_back(promise::abort(take(&ledger, page).give(&cpu).unwrap()).unwrap());
    let error = ResetPass::new(&cpu).reset(returned(8)).unwrap_err();
    assert_eq!(error, MarkError::NotReset { page: Page::new(8) });
    assert_eq!(ledger.state(Page::new(8)), Some(PageState::Returned));
    let pages = [returned(7), returned(9)];
    let mut pass = ResetPass::new(&cpu);
    pass.reset_all(pages, |_| ()).unwrap();
    assert_eq!((pass.count().lines, pass.count().left), (2 * 64, 0));
    assert_eq!(ledger.state(Page::new(7)), Some(PageState::Shared));
}
