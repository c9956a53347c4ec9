//! The ledger against an independent map, and its memory and error rules.

mod promise;

use promise::Mark as _;
use proptest::prelude::*;
use rangemap::RangeSet;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use tdx_abi::{Page, PageRange};
use tdx_host::ledger::{Ledger, LedgerError, MarkError, PageState};

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

fn memory(words: u64) -> Vec<AtomicU64> {
    // Not zero: the ledger must not trust the memory it is given.
    (0..words).map(|_| AtomicU64::new(u64::MAX)).collect()
}

/// Two segments that touch, and one apart.
const SEGMENTS: [(u64, u64); 3] = [(1024, 2048), (2048, 2560), (4096, 8192)];

#[derive(Clone, Copy, Debug)]
enum Op {
    Give,
    Given,
    Refused,
    TakeBack,
    Clear,
}

impl Op {
    fn states(self) -> (PageState, PageState) {
        match self {
            Self::Give => (PageState::Shared, PageState::InFlight),
            Self::Given => (PageState::InFlight, PageState::Private),
            Self::Refused => (PageState::InFlight, PageState::Returned),
            Self::TakeBack => (PageState::Private, PageState::Returned),
            Self::Clear => (PageState::Returned, PageState::Shared),
        }
    }
}

fn op() -> impl Strategy<Value = (Op, u64, u64)> {
    let kind = prop_oneof![4 => Just(Op::Give), 3 => Just(Op::Given), 1 => Just(Op::Refused), 2 => Just(Op::TakeBack), 2 => Just(Op::Clear)];
    let length = prop_oneof![4 => Just(1u64), 2 => 1u64..70, 2 => Just(512u64), 1 => 1u64..3000];
    let start = prop_oneof![3 => 1000u64..8300, 2 => (1u64..17).prop_map(|n| n * 512)];
    (kind, start, length)
}

proptest! {
    #[test]
    fn agrees_with_a_map(ops in proptest::collection::vec(op(), 1..60)) {
        let ranges = SEGMENTS.map(|(start, end)| range(start, end));
        let mut words = memory(Ledger::words_needed(ranges));
        let ledger = Ledger::new(ranges, &mut words).unwrap();
        let mut map: BTreeMap<u64, PageState> =
            SEGMENTS.iter().flat_map(|&(start, end)| start..end).map(|page| (page, PageState::Shared)).collect();
        for (op, start, length) in ops {
            let pages = start..start + length;
            let (from, to) = op.states();
            let wrong = pages.clone().find(|page| map.get(page) != Some(&from));
            let checked = ledger.check(range(start, start + length), from);
            let result = match op {
                Op::Give => ledger.mark_in_flight(range(start, start + length)),
                Op::Given => ledger.mark_private(range(start, start + length)),
                Op::Refused => ledger.mark_aborted(range(start, start + length)),
                Op::TakeBack => ledger.mark_returned(range(start, start + length)),
                Op::Clear => ledger.mark_shared(range(start, start + length)),
            };
            // The first wrong page is named by both; a range that leaves the TDMRs may be refused
            // for that first.
            prop_assert_eq!(checked, result);
            match wrong {
                None => {
                    prop_assert_eq!(result, Ok(()));
                    map.extend(pages.map(|page| (page, to)));
                }
                Some(page) => match (result, map.get(&page)) {
                    (Err(MarkError::WrongState { page: p, state, expected }), Some(&there)) => {
                        prop_assert_eq!((p, state, expected), (Page::new(page), there, from));
                    }
                    (Err(MarkError::Outside { page: p }), None) => prop_assert_eq!(p, Page::new(page)),
                    other => prop_assert!(false, "{:?}", other),
                },
            }
            let seen: Vec<u64> = ledger.marked().flat_map(|r| r.start().index()..r.end().index()).collect();
            let expected: Vec<u64> =
                map.iter().filter(|(_, state)| **state != PageState::Shared).map(|(page, _)| *page).collect();
            prop_assert_eq!(seen, expected);
            let unknown: Vec<u64> =
                ledger.unknown_to_module().flat_map(|r| r.start().index()..r.end().index()).collect();
            let expected: Vec<u64> = map
                .iter()
                .filter(|(_, state)| matches!(state, PageState::InFlight | PageState::Returned))
                .map(|(page, _)| *page)
                .collect();
            prop_assert_eq!(unknown, expected);
            for pair in ledger.marked().collect::<Vec<_>>().windows(2) {
                prop_assert!(pair[0].end() < pair[1].start(), "not maximal: {:?}", pair);
            }
        }
        for (page, state) in map {
            prop_assert_eq!(ledger.state(Page::new(page)), Some(state));
        }
    }
}

/// TDMRs so large that the upper summary has several words, and so few marked pages that most of
/// them are empty.
const LARGE: [(u64, u64); 2] = [(0, 5 << 21), ((5 << 21) + 512, 7 << 21)];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// Whatever lies between two marked pages, a walk comes from one to the other and passes over
    /// none.
    #[test]
    fn a_sparse_ledger_is_walked_whole(
        places in proptest::collection::vec((0u64..7 << 21, prop_oneof![Just(1u64), Just(512), 1u64..2000]), 0..12),
    ) {
        let ranges = LARGE.map(|(start, end)| range(start, end));
        let mut words = memory(Ledger::words_needed(ranges));
        let ledger = Ledger::new(ranges, &mut words).unwrap();
        let mut marked = RangeSet::new();
        for (start, length) in places {
            if ledger.mark_in_flight(range(start, start + length)).is_ok() {
                marked.insert(start..start + length);
            }
        }
        let seen: Vec<_> = ledger.marked().map(|range| range.start().index()..range.end().index()).collect();
        prop_assert_eq!(seen, marked.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn memory_is_at_most_a_ten_thousandth_of_ram() {
    for tib in [1u64, 8, 12] {
        let pages = tib << 28;
        let bytes = Ledger::words_needed([range(0, pages)]) * 8;
        assert!(bytes * 10_000 <= pages * 4096, "{bytes} bytes for {tib} TiB");
    }
}

/// Two TDMRs: what the ledger says it uses is what it was asked to be given.
#[test]
fn bytes_are_those_of_the_words_in_use() {
    let ranges = [range(0, 1 << 18), range(1 << 19, (1 << 19) + 512)];
    let needed = Ledger::words_needed(ranges);
    let mut words = memory(needed + 7);
    let ledger = Ledger::new(ranges, &mut words).unwrap();
    assert_eq!(ledger.bytes(), 8 * needed);
    assert!(needed > (1 << 18) / 32 + 512 / 32);
}

#[test]
fn bad_input_is_refused() {
    let mut words = memory(100);
    assert!(matches!(
        Ledger::new([range(0, 1 << 18)], &mut words),
        Err(LedgerError::TooSmall { needed: 8201, given: 100 })
    ));
    for bad in [[range(0, 512), range(0, 512)], [range(512, 1024), range(0, 512)], [range(0, 512), range(513, 1024)]] {
        assert!(matches!(Ledger::new(bad, &mut words), Err(LedgerError::BadRange { .. })), "{bad:?}");
    }
    let ledger = Ledger::new([range(512, 1024)], &mut words).unwrap();
    assert_eq!(ledger.state(Page::new(511)), None);
    assert!(matches!(ledger.mark_in_flight(range(1000, 1025)), Err(MarkError::Outside { .. })));
    assert_eq!(ledger.marked_pages(), 0, "unchanged");
    let mut ledger = ledger.with_reserved(range(600, 610)).unwrap();
    assert_eq!(ledger.mark_in_flight(range(599, 601)), Err(MarkError::Reserved { page: Page::new(600) }));
    assert_eq!(ledger.check(range(609, 611), PageState::Shared), Err(MarkError::Reserved { page: Page::new(609) }));
    assert_eq!(ledger.marked_pages(), 0, "unchanged");
    ledger.mark_in_flight(range(610, 611)).unwrap();
    for start in 0..3 {
        ledger = ledger.with_reserved(range(start, start + 1)).unwrap();
    }
    assert!(matches!(ledger.with_reserved(range(3, 4)), Err(LedgerError::TooManyReserved { .. })));
}

/// Pages that become shared while a walk stands at them are shown as marked, or not at all: never
/// as a range without a page. Without that rule this test sees hundreds of empty ranges; loom,
/// asked the same, found none.
#[test]
fn a_walk_beside_other_cpus_shows_no_empty_range() {
    const FIRST: u64 = 700;
    const CPUS: u64 = 3;
    let segment = [range(512, 1024)];
    let mut words = memory(Ledger::words_needed(segment));
    let ledger = Ledger::new(segment, &mut words).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for page in FIRST..FIRST + CPUS {
            let (ledger, stop) = (&ledger, &stop);
            scope.spawn(move || {
                let page = range(page, page + 1);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    ledger.mark_in_flight(page).unwrap();
                    ledger.mark_aborted(page).unwrap();
                    ledger.mark_shared(page).unwrap();
                }
            });
        }
        let empty = (0..400_000).flat_map(|_| ledger.marked()).filter(|range| range.is_empty()).count();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(empty, 0, "empty ranges");
    });
}
