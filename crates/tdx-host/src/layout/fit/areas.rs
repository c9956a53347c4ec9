//! The reserved areas of one TDMR: every hole and every PAMT in it, in as few areas as allowed,
//! giving up as little as possible. Knows nothing of other TDMRs.

use arrayvec::ArrayVec;
use tdx_abi::{MAX_RESERVED_AREAS, PageRange, union};

use super::super::host::Host;

/// What to reserve in a TDMR, and what it costs.
pub(super) struct Areas {
    /// The areas, ascending; no two touch.
    pub(super) list: ArrayVec<PageRange, MAX_RESERVED_AREAS>,
    /// How many there would be without the limit.
    pub(super) natural: u64,
    /// Usable pages that the areas had to swallow.
    pub(super) given_up: u64,
}

/// What it costs to close the gap between two areas; the smallest is closed first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Gap {
    /// Usable pages in it.
    usable: u64,
    /// All pages in it.
    pages: u64,
}

/// Joins holes and PAMTs (`taken`, ascending) of a TDMR into at most `limit` areas; `None` if not
/// even one is allowed and one is needed.
///
/// Each time there is one area too many, two neighbors become one, those with the fewest usable
/// pages between them (memory that only the firmware uses counts nothing). Gaps are independent of
/// each other, so the pages given up are the fewest possible for this TDMR.
pub(super) fn areas(
    host: &Host<'_>,
    tdmr: PageRange,
    taken: impl Iterator<Item = PageRange>,
    limit: usize,
) -> Option<Areas> {
    let mut areas = Areas { list: ArrayVec::new(), natural: 0, given_up: 0 };
    let taken = taken.map(|range| range.intersection(tdmr));
    let mut all = union(host.holes(tdmr), taken);
    for range in all.by_ref().take(limit) {
        areas.natural += 1;
        areas.list.try_push(range).ok()?;
    }
    let mut rest = all.peekable();
    if rest.peek().is_none() {
        return Some(areas);
    }
    // Only now do the gaps matter: one of each area, up to the area in front.
    let weigh = |left: PageRange, right: PageRange| {
        let gap = PageRange::new(left.end(), right.start());
        Gap { usable: host.usable_pages(gap), pages: gap.pages() }
    };
    let mut gaps = ArrayVec::<Gap, MAX_RESERVED_AREAS>::new();
    for (left, right) in areas.list.iter().zip(areas.list.iter().skip(1)) {
        gaps.try_push(weigh(*left, *right)).ok()?;
    }
    for range in rest {
        areas.natural += 1;
        let last = *areas.list.last()?;
        gaps.try_push(weigh(last, range)).ok()?;
        let (closed, gap) = gaps.iter().copied().enumerate().min_by_key(|(_, gap)| *gap)?;
        areas.given_up += gap.usable;
        gaps.pop_at(closed)?;
        let next = areas.list.pop_at(closed + 1).unwrap_or(range);
        let area = areas.list.get_mut(closed)?;
        *area = PageRange::new(area.start(), next.end());
        if next != range {
            areas.list.try_push(range).ok()?;
        }
    }
    Some(areas)
}
