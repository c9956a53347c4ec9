//! The reserved areas of one TDMR: every hole and every PAMT in it, in as few areas as allowed, giving up as little as
//! possible. Knows nothing of other TDMRs.

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

/// Joins holes and PAMTs (`taken`, ascending) of a TDMR into at most `limit` areas; `None` if not even one is allowed and
/// one is needed.
///
/// Each time there is one area too many, two neighbours become one, those with the fewest usable pages between them
/// (memory that only the firmware uses counts nothing). Gaps are independent of each other, so the pages given up are the
/// fewest possible for this TDMR.
pub(super) fn areas(
    host: &Host<'_>,
    tdmr: PageRange,
    taken: impl Iterator<Item = PageRange>,
    limit: usize,
) -> Option<Areas> {
    let mut areas = Areas { list: ArrayVec::new(), natural: 0, given_up: 0 };
    let taken = taken.map(|range| range.intersection(tdmr));
    for range in union(host.holes(tdmr), taken) {
        areas.natural += 1;
        if areas.list.len() < limit {
            areas.list.try_push(range).ok()?;
        } else {
            areas.given_up += areas.add_to_full(host, range)?;
        }
    }
    Some(areas)
}

impl Areas {
    /// Adds an area after the last one by closing the cheapest gap, and says how many usable pages that gap held.
    fn add_to_full(&mut self, host: &Host<'_>, new: PageRange) -> Option<u64> {
        let starts = self.list.iter().skip(1).chain([&new]).map(|area| area.start());
        let gaps = self.list.iter().zip(starts).map(|(area, next)| PageRange::new(area.end(), next));
        let (given_up, _, index) =
            gaps.enumerate().map(|(index, gap)| (host.usable_pages(gap), gap.pages(), index)).min()?;
        let next = if index + 1 < self.list.len() { self.list.pop_at(index + 1)? } else { new };
        let area = self.list.get_mut(index)?;
        *area = PageRange::new(area.start(), next.end());
        if next != new {
            self.list.try_push(new).ok()?;
        }
        Some(given_up)
    }
}
