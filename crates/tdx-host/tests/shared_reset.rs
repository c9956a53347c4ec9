//! A reset that many CPUs share: cut by bytes, each page once, whatever the ranges and the number
//! of CPUs.

// UNSAFETY: implements the traits that answer for memory.
#![allow(unsafe_code)]

mod promise;

use proptest::prelude::*;
use std::cell::RefCell;
use tdx_abi::{LineRange, Page, PageRange};
use tdx_host::platform::{LineReset, NodeId, NodeRange};
use tdx_host::reset::ResetCount;

/// What one CPU wrote, and how much of it before each fence.
#[derive(Default)]
struct Log {
    pages: RefCell<Vec<PageRange>>,
    since_fence: RefCell<u64>,
    largest: RefCell<u64>,
    /// Lines in no mapping.
    unmapped: LineRange,
    /// After so many writes this CPU stops for good, in the middle of a chunk.
    stop_after: Option<usize>,
}

// SAFETY: a model: no memory of this program is behind it.
unsafe impl LineReset for Log {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        assert!(!lines.is_empty());
        let is_last = self.stop_after == Some(self.pages.borrow().len());
        if is_last {
            std::panic::resume_unwind(Box::new("this CPU stops"));
        }
        self.pages.borrow_mut().push(lines.pages());
        *self.since_fence.borrow_mut() += lines.pages().pages();
        self.unmapped.intersection(lines).len()
    }

    fn fence(&self) {
        let done = self.since_fence.replace(0);
        let mut largest = self.largest.borrow_mut();
        *largest = largest.max(done);
    }
}

fn known(start: u64, end: u64, node: u32) -> NodeRange {
    NodeRange { range: PageRange::new(Page::new(start), Page::new(end)), node: NodeId(node) }
}

fn ranges(steps: &[(u64, u64)]) -> Vec<PageRange> {
    let mut at = 0;
    let step = |&(gap, pages): &(u64, u64)| {
        let start = at + gap;
        at = start + pages;
        PageRange::new(Page::new(start), Page::new(at))
    };
    steps.iter().map(step).collect()
}

fn total(ranges: &[PageRange]) -> u64 {
    ranges.iter().map(|range| range.pages()).sum()
}

proptest! {
    #[test]
    fn one_cpu_writes_each_page_once(steps in prop::collection::vec((1u64..100, 1u64..5000), 0..40)) {
        let ranges = ranges(&steps);
        let (work, log) = (promise::parallel(ranges.iter().copied(), &[]), Log::default());
        work.run_alone(&log);
        let written = log.pages.into_inner();
        prop_assert!(written.windows(2).all(|pair| pair[0].end() <= pair[1].start()), "ascending, nothing twice");
        prop_assert_eq!(total(&written), total(&ranges));
        prop_assert_eq!(tdx_abi::union(written, []).collect::<Vec<_>>(), tdx_abi::union(ranges.clone(), []).collect::<Vec<_>>());
        prop_assert_eq!(work.count(), ResetCount { lines: total(&ranges) * 64, ranges: ranges.len() as u64, left: 0 });
        prop_assert_eq!(log.since_fence.into_inner(), 0, "a fence after the last line");
    }

    /// Whatever the map says, also if it is not in order or overlaps: each page once, no matter
    /// where a CPU begins, and how many have begun.
    #[test]
    fn any_map_of_nodes_resets_each_page_once(
        steps in prop::collection::vec((1u64..100, 1u64..5000), 0..40),
        map in prop::collection::vec((0u64..50_000, 0u64..50_000, 0u32..40), 0..50),
        begin in prop::option::of(0u32..40),
        first in 0usize..30,
    ) {
        let ranges = ranges(&steps);
        let map: Vec<_> = map.iter().map(|&(start, pages, node)| known(start, start + pages, node)).collect();
        let work = promise::parallel(ranges.iter().copied(), &map);
        let (other, log) = (Log { stop_after: Some(first), ..Log::default() }, Log::default());
        let _stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.run_from(&other, None)));
        work.run_from(&log, begin.map(NodeId));
        let mut written = log.pages.into_inner();
        written.extend(other.pages.into_inner());
        written.sort_unstable_by_key(|range| range.start());
        prop_assert!(written.windows(2).all(|pair| pair[0].end() <= pair[1].start()), "nothing twice");
        let lost = total(&ranges) - total(&written);
        prop_assert!(lost <= 8192, "all but the chunk in which the other CPU stopped");
    }

    /// A CPU writes all memory of its node before any other, and memory of no node last but for
    /// that of nodes before its own.
    #[test]
    fn a_cpu_begins_with_its_own_node(
        steps in prop::collection::vec((1u64..100, 1u64..5000), 1..40),
        borders in prop::collection::vec(1u64..40_000, 1..6),
        own in 0usize..6,
    ) {
        let ranges = ranges(&steps);
        let mut start = 0;
        let mut map = vec![];
        for (node, pages) in (0..).zip(&borders) {
            map.push(known(start, start + pages, 10 + node));
            start += pages;
        }
        let own = own.min(map.len() - 1);
        let (work, log) = (promise::parallel(ranges.iter().copied(), &map), Log::default());
        work.run_from(&log, Some(map[own].node));
        let written = log.pages.into_inner();
        let turn = |range: &PageRange| {
            let node = map.iter().position(|known| known.range.contains(range.start())).unwrap_or(map.len());
            (node + map.len() + 1 - own) % (map.len() + 1)
        };
        prop_assert!(written.is_sorted_by_key(|range| (turn(range), range.start())));
        for range in &written {
            let inside = map.iter().find(|known| known.range.contains(range.start()));
            prop_assert!(inside.is_none_or(|known| known.range.end() >= range.end()), "pieces of one node");
        }
        prop_assert_eq!(total(&written), total(&ranges));
    }
}

/// Every range is written once and fenced by itself; one that is empty costs nothing.
#[test]
fn ranges_are_counted_and_fenced_one_by_one() {
    let all =
        [(0, 3), (3, 3), (10, 12), (100, 107)].map(|(start, end)| PageRange::new(Page::new(start), Page::new(end)));
    let log = Log::default();
    assert_eq!(promise::reset_ranges(&log, all), ResetCount { lines: 12 * 64, ranges: 3, left: 0 });
    assert_eq!((log.largest.into_inner(), log.since_fence.into_inner()), (7, 0));
    assert_eq!(log.pages.into_inner(), [all[0], all[2], all[3]]);
}

/// 1 TiB of memory in one range and 100,000 single pages after it: no chunk is longer than 32 MiB,
/// and a chunk takes many pages.
#[test]
fn chunks_are_cut_by_bytes_and_not_by_ranges() {
    let huge = PageRange::new(Page::new(0), Page::new(1 << 28));
    let singles = (0..100_000u64)
        .map(|index| PageRange::new(Page::new((1 << 29) + 2 * index), Page::new((1 << 29) + 2 * index + 1)));
    let (work, log) = (promise::parallel(std::iter::once(huge).chain(singles), &[]), Log::default());
    work.run_alone(&log);
    assert_eq!(log.largest.into_inner(), (32 << 20) / 4096);
    assert_eq!(work.count(), ResetCount { lines: ((1 << 28) + 100_000) * 64, ranges: 100_001, left: 0 });
    assert_eq!(log.since_fence.into_inner(), 0);
}

/// Lines that no mapping has are counted, whichever CPU comes to them.
#[test]
fn lines_that_are_not_mapped_are_counted() {
    let all = [(0, 3), (10, 12)].map(|(start, end)| PageRange::new(Page::new(start), Page::new(end)));
    let unmapped = PageRange::new(Page::new(2), Page::new(11)).lines();
    let log = Log { unmapped, ..Log::default() };
    let count = ResetCount { lines: 3 * 64, ranges: 2, left: 2 * 64 };
    assert_eq!(promise::reset_ranges(&log, all), count);
    let (work, log) = (promise::parallel(all, &[]), Log { unmapped, ..Log::default() });
    work.run_alone(&log);
    assert_eq!(work.count(), count);
}
