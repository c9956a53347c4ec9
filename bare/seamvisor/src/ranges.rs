//! Sorted lists of half-open ranges of numbers: pages or lines.

use alloc::vec::Vec;
use core::ops::Range;

/// A normalized list: ascending, disjoint, not adjacent.
pub type Ranges = Vec<Range<u64>>;

/// Normalizes a list.
pub fn normalize(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut joined: Ranges = Vec::with_capacity(ranges.len());
    for range in ranges.into_iter().filter(|range| range.start < range.end) {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// `left` without `right`. Both are normalized.
pub fn difference(left: &[Range<u64>], right: &[Range<u64>]) -> Ranges {
    let mut rest = Vec::new();
    for range in left {
        let mut start = range.start;
        let first = right.partition_point(|other| other.end <= start);
        for other in right[first..].iter().take_while(|other| other.start < range.end) {
            if start < other.start {
                rest.push(start..other.start);
            }
            start = start.max(other.end);
        }
        if start < range.end {
            rest.push(start..range.end);
        }
    }
    rest
}

/// True if a range of a normalized list contains the number.
pub fn contains(ranges: &[Range<u64>], number: u64) -> bool {
    let index = ranges.partition_point(|range| range.end <= number);
    ranges.get(index).is_some_and(|range| range.contains(&number))
}
