//! The streaming set algebra against `rangemap`, and ranges against plain counting.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use rangemap::RangeSet;
use tdx_abi::{Covered, LINES_PER_PAGE, LineRange, PAGE_SIZE, Page, PageRange, PhysAddr};
use tdx_abi::{intersect, subtract, union, walk};

/// No physical address is higher; the algebra must work up to here.
const LAST_PAGE: u64 = 1 << 40;

fn range(start: u64, end: u64) -> PageRange {
    PageRange::new(Page::new(start), Page::new(end))
}

/// Ascending ranges that do not overlap; some touch, some are empty, some lists are high up.
fn ascending() -> impl Strategy<Value = Vec<PageRange>> {
    let start = prop_oneof![4 => Just(0), 1 => Just(LAST_PAGE - 600)];
    (start, prop::collection::vec((0..9u64, 0..9u64), 0..30)).prop_map(|(start, parts)| {
        let mut at = start;
        parts
            .into_iter()
            .map(|(gap, length)| {
                let from = at + gap;
                at = from + length;
                range(from, at)
            })
            .collect()
    })
}

/// Anything, in any order.
fn disorder() -> impl Strategy<Value = Vec<PageRange>> {
    prop::collection::vec((0..60u64, 0..20u64).prop_map(|(start, pages)| range(start, start + pages)), 0..20)
}

fn oracle(ranges: &[PageRange]) -> RangeSet<u64> {
    ranges.iter().filter(|r| !r.is_empty()).map(|r| r.start().index()..r.end().index()).collect()
}

/// The set as maximal ascending ranges.
fn list(set: &RangeSet<u64>) -> Vec<PageRange> {
    set.iter().map(|r| range(r.start, r.end)).collect()
}

fn minus(left: &RangeSet<u64>, right: &RangeSet<u64>) -> RangeSet<u64> {
    let mut rest = left.clone();
    right.iter().for_each(|r| rest.remove(r.clone()));
    rest
}

fn both(left: &RangeSet<u64>, right: &RangeSet<u64>) -> RangeSet<u64> {
    left.intersection(right).collect()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn algebra_is_the_oracles(left in ascending(), right in ascending()) {
        let (l, r) = (oracle(&left), oracle(&right));
        let mut either = l.clone();
        either.extend(r.iter().cloned());
        let (a, b) = (|| left.iter().copied(), || right.iter().copied());
        prop_assert_eq!(union(a(), b()).collect::<Vec<_>>(), list(&either));
        prop_assert_eq!(subtract(a(), b()).collect::<Vec<_>>(), list(&minus(&l, &r)));
        prop_assert_eq!(intersect(a(), b()).collect::<Vec<_>>(), list(&both(&l, &r)));
    }

    #[test]
    fn walk_gives_each_page_once_and_says_who_covers_it(left in ascending(), right in ascending()) {
        let pieces: Vec<_> = walk(left.iter().copied(), right.iter().copied()).collect();
        for (piece, _) in &pieces {
            prop_assert!(!piece.is_empty());
        }
        for pair in pieces.windows(2) {
            prop_assert!(pair[0].0.end() <= pair[1].0.start());
        }
        let of = |covered| {
            let pieces: Vec<_> = pieces.iter().filter(|(_, c)| *c == covered).map(|(piece, _)| *piece).collect();
            oracle(&pieces)
        };
        let (l, r) = (oracle(&left), oracle(&right));
        prop_assert_eq!(of(Covered::Left), minus(&l, &r));
        prop_assert_eq!(of(Covered::Right), minus(&r, &l));
        prop_assert_eq!(of(Covered::Both), both(&l, &r));
    }

    /// Lists that break the rules: no panic, no endless loop, no page twice, none that is in
    /// neither list.
    #[test]
    fn unordered_lists_neither_panic_nor_invent_pages(left in disorder(), right in disorder()) {
        let mut either = oracle(&left);
        either.extend(oracle(&right).iter().cloned());
        let pieces: Vec<_> = walk(left.iter().copied(), right.iter().copied()).map(|(piece, _)| piece).collect();
        for pair in pieces.windows(2) {
            prop_assert!(pair[0].end() <= pair[1].start());
        }
        prop_assert_eq!(minus(&oracle(&pieces), &either), RangeSet::new());
        let subtracted: Vec<_> = subtract(left.iter().copied(), right.iter().copied()).collect();
        prop_assert_eq!(minus(&oracle(&subtracted), &oracle(&left)), RangeSet::new());
    }

    /// Results are good inputs again: they can be chained without storage.
    #[test]
    fn chains(a in ascending(), b in ascending(), c in ascending()) {
        let chained: Vec<_> =
            subtract(union(a.iter().copied(), b.iter().copied()), c.iter().copied()).collect();
        let mut expected = oracle(&a);
        expected.extend(oracle(&b).iter().cloned());
        prop_assert_eq!(chained, list(&minus(&expected, &oracle(&c))));
    }

    #[test]
    fn two_ranges(a in (0..40u64, 0..40u64), b in (0..40u64, 0..40u64), page in 0..40u64) {
        // Reversed borders make an empty range.
        let (x, y) = (range(a.0, a.1), range(b.0, b.1));
        let pages = |r: PageRange| (0..40).filter(|p| r.start().index() <= *p && *p < r.end().index()).collect::<Vec<_>>();
        let shared: Vec<_> = pages(x).into_iter().filter(|p| pages(y).contains(p)).collect();
        prop_assert_eq!(x.pages(), pages(x).len() as u64);
        prop_assert_eq!(x.bytes(), x.pages() * PAGE_SIZE);
        prop_assert_eq!(pages(x.intersection(y)), shared.clone());
        prop_assert_eq!(x.overlaps(y), !shared.is_empty());
        prop_assert_eq!(x.contains(Page::new(page)), pages(x).contains(&page));
        prop_assert_eq!(x.contains_range(y), shared.len() == pages(y).len());
        prop_assert_eq!(x.lines().len(), x.pages() * LINES_PER_PAGE);
        prop_assert_eq!(x.lines().pages().pages(), x.pages());
    }

    #[test]
    fn aligned_outward(start in 0..LAST_PAGE, pages in 1..1u64 << 30, shift in 0..20u32) {
        let inner = range(start, start + pages);
        let align = PAGE_SIZE << shift;
        let outer = inner.align_outward(align).expect("far below 2^64");
        prop_assert!(outer.contains_range(inner));
        prop_assert!(outer.base().is_aligned(align) && outer.limit().is_aligned(align));
        prop_assert!(inner.start().index() - outer.start().index() < 1 << shift);
        prop_assert!(outer.end().index() - inner.end().index() < 1 << shift);
    }

    #[test]
    fn lines_that_touch_bytes(start in 0..1u64 << 52, bytes in 0..1000u64) {
        let lines = LineRange::touching(PhysAddr::new(start), bytes);
        let last = start + bytes.max(1) - 1;
        if bytes == 0 {
            prop_assert!(lines.len() <= 1);
        } else {
            prop_assert_eq!(lines.start(), PhysAddr::new(start).line());
            prop_assert_eq!(lines.end().index(), PhysAddr::new(last).line().index() + 1);
            let pages = lines.pages();
            prop_assert_eq!(pages.start(), PhysAddr::new(start).page());
            prop_assert_eq!(pages.end().index(), PhysAddr::new(last).page().index() + 1);
        }
    }

    #[test]
    fn from_any_two_numbers(a in any::<u64>(), b in any::<u64>()) {
        let (start, end) = (PhysAddr::new(a), PhysAddr::new(b));
        let good = a % PAGE_SIZE == 0 && b % PAGE_SIZE == 0 && a <= b;
        prop_assert_eq!(PageRange::from_addresses(start, end).is_ok(), good);
        if let Some(sum) = a.checked_add(b) {
            let good = a % PAGE_SIZE == 0 && sum % PAGE_SIZE == 0;
            prop_assert_eq!(PageRange::from_base_size(start, b).is_ok(), good);
        } else {
            prop_assert!(PageRange::from_base_size(start, b).is_err());
        }
        let inside = PageRange::inside(start, end);
        prop_assert!(inside.is_empty() || (inside.base() >= start && inside.limit() <= end));
        prop_assert!(inside.bytes() + 2 * PAGE_SIZE > b.saturating_sub(a), "at most a page lost at each border");
    }
}

/// The sizes stand at the very ends of 64 bits, too: numbers from logs are not always addresses.
#[test]
fn ranges_that_no_machine_has() {
    let all = range(0, u64::MAX);
    assert_eq!(all.bytes(), u64::MAX, "as much as fits");
    assert_eq!(all.align_outward(1 << 30), None);
    assert!(all.contains_range(range(5, u64::MAX)));
    assert_eq!(subtract([all], [range(1, 2)]).collect::<Vec<_>>(), [range(0, 1), range(2, u64::MAX)]);
    let top = LineRange::touching(PhysAddr::new(u64::MAX), u64::MAX);
    assert_eq!(top.len(), 1);
    let last = tdx_abi::Line::new(u64::MAX);
    assert!(LineRange::single(last).is_empty(), "the line after it has no number");
}
