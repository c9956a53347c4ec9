//! Where the PAMTs go: inside usable memory and CMRs, on the node of their TDMR, and where they
//! cost no reserved area, next to a hole or to another PAMT. Changes no TDMR.

use core::iter::once;

use tdx_abi::{Page, PageRange, PageSize, subtract, union};

use super::super::span::Span;
use super::super::table::cut_chunk;
use super::super::{FrameRequest, Layout, Limits, Places, frames as source, host::Host, map_frames::FOUR_GIB};
use super::areas::areas;
use crate::platform::NodeId;

/// Exact places to ask for before the frame source may choose.
const EXACT_TRIES: u32 = 16;

/// How bad a place is; the smallest is taken first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Cost {
    /// Usable pages that reserved areas would swallow because of it, less those they no longer
    /// would.
    given_up: i64,
    /// On another node.
    remote: bool,
    /// Reserved areas more than before.
    areas: i64,
    /// Below 4 GiB, which 32-bit devices need.
    low: bool,
}

/// A place to ask the frame source for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Place {
    cost: Cost,
    /// Exactly as long as the pages asked for.
    window: PageRange,
}

/// Places PAMTs one after another; each may stand next to the earlier ones.
pub(super) struct Placer<'a, 'h, F: ?Sized> {
    pub(super) host: &'a Host<'h>,
    pub(super) limits: &'a Limits,
    pub(super) frames: &'a mut F,
    pub(super) out: &'a mut Layout,
    /// So many contiguous pages cannot be had, whatever else is given back.
    pub(super) hopeless: &'a mut u64,
}

impl<F: Places + ?Sized> Placer<'_, '_, F> {
    /// Places the PAMT of every TDMR in the table that has none, the largest first: it is the
    /// hardest to place.
    ///
    /// # Errors
    /// The index of the TDMR whose PAMT finds no place. The table then owns what was placed so far.
    pub(super) fn run(&mut self) -> Result<(), usize> {
        loop {
            let open = self.out.tdmrs.iter().enumerate().filter(|(_, tdmr)| tdmr.pamt_bytes() == 0).rev();
            let Some((index, tdmr)) = open.max_by_key(|(_, tdmr)| tdmr.range.pages()) else { return Ok(()) };
            let (range, node) = (tdmr.range, tdmr.node);
            let pages = PageSize::ALL.map(|level| self.limits.pamt_pages(range, level));
            let (pamt, one_chunk) = match self.place(pages.iter().sum(), node) {
                Some(chunk) => (cut_chunk(chunk, pages), true),
                None => (self.place_levels(pages, node).ok_or(index)?, false),
            };
            let Some(tdmr) = self.out.tdmrs.get_mut(index) else { return Ok(()) };
            (tdmr.pamt, tdmr.one_chunk) = (pamt, one_chunk);
        }
    }

    /// The three levels apart, where there is no room for all in one piece.
    fn place_levels(&mut self, pages: [u64; 3], node: NodeId) -> Option<[PageRange; 3]> {
        let mut pamt = [PageRange::default(); 3];
        for (range, pages) in pamt.iter_mut().zip(pages) {
            if let Some(place) = self.place(pages, node) {
                *range = place;
                continue;
            }
            pamt.into_iter().filter(|range| !range.is_empty()).for_each(|range| self.take_back(range));
            return None;
        }
        Some(pamt)
    }

    /// Takes pages at the best place the frame source agrees to, and records them as PAMT.
    fn place(&mut self, pages: u64, node: NodeId) -> Option<PageRange> {
        if pages >= *self.hopeless {
            return None;
        }
        let place = self.place_best(pages, node).or_else(|| self.sweep(pages, node));
        // A refusal with nothing of ours in the way is final, unless it is for want of a reserved
        // area.
        if place.is_none() && self.out.pamts.is_empty() && self.limits.reserved_areas() > 0 {
            *self.hopeless = pages;
        }
        place
    }

    /// Asks for the best exact places, one after another, up to a limit: each may cost the
    /// source a lot of work.
    fn place_best(&mut self, pages: u64, node: NodeId) -> Option<PageRange> {
        let mut refused = None;
        for _ in 0..EXACT_TRIES {
            let place = self.best(pages, node, refused)?;
            if let Some(range) = self.take(pages, node, place.window, None) {
                return Some(range);
            }
            refused = Some(place);
        }
        None
    }

    /// Lets the source choose inside each free range, at home first; what makes TDMRs give up
    /// memory comes last.
    fn sweep(&mut self, pages: u64, node: NodeId) -> Option<PageRange> {
        for (local, most) in [(true, Some(0)), (false, Some(0)), (true, None), (false, None)] {
            let mut at = Page::new(0);
            while let Some(space) = self.next_space(at, pages, node, local) {
                if let Some(range) = self.take(pages, node, space, most) {
                    return Some(range);
                }
                at = space.end();
            }
        }
        None
    }

    /// The first free range from `at` on that is long enough and on the wanted node, or on another.
    fn next_space(&self, at: Page, pages: u64, node: NodeId, local: bool) -> Option<PageRange> {
        let rest = PageRange::new(at, FrameRequest::ANYWHERE.end());
        let pieces = self.host.usable(rest).filter(move |(_, owner)| (*owner == node) == local);
        pieces.flat_map(|(piece, _)| subtract([piece], self.pamts(piece))).find(|space| space.pages() >= pages)
    }

    /// Takes pages in `window` and records them, unless TDMRs would then give up more than `most`
    /// pages more.
    fn take(&mut self, pages: u64, node: NodeId, window: PageRange, most: Option<i64>) -> Option<PageRange> {
        let range = source::allocate(self.frames, FrameRequest { pages, node: Some(node), within: window })?;
        let cost = self.cost(range, false);
        if cost.is_some_and(|cost| most.is_none_or(|most| cost.given_up <= most)) && self.out.add_pamt(range) {
            self.refresh(range);
            return Some(range);
        }
        self.frames.free(range);
        None
    }

    fn take_back(&mut self, range: PageRange) {
        self.out.remove_pamt(range);
        self.frames.free(range);
        self.refresh(range);
    }

    /// Counts again what the spans around `range` give up.
    fn refresh(&mut self, range: PageRange) {
        for index in 0..self.out.spans.len() {
            let Some(span) = self.out.spans.get(index) else { continue };
            if !span.range.overlaps(range) {
                continue;
            }
            let counted = areas(self.host, span.range, self.pamts(span.range), self.limits.reserved_areas());
            if let (Some(areas), Some(span)) = (counted, self.out.spans.get_mut(index)) {
                (span.given_up, span.natural) = (areas.given_up, areas.natural);
            }
        }
    }

    /// The best place that comes after `refused`, in a fixed order.
    fn best(&self, pages: u64, node: NodeId, refused: Option<Place>) -> Option<Place> {
        // While nothing is given up, no place of another node beats a local one that keeps it so.
        let settled = self.out.spans.iter().all(|span| span.given_up == 0);
        let local = if settled { self.scan(pages, node, refused, true) } else { None };
        local.filter(|place| place.cost.given_up == 0).or_else(|| self.scan(pages, node, refused, false))
    }

    fn scan(&self, pages: u64, node: NodeId, refused: Option<Place>, only_local: bool) -> Option<Place> {
        const PERFECT: Cost = Cost { given_up: 0, remote: false, areas: 0, low: false };
        let mut best: Option<Place> = None;
        for (piece, piece_node) in self.host.usable(FrameRequest::ANYWHERE) {
            let remote = piece_node != node;
            if piece.pages() < pages || (remote && only_local) {
                continue;
            }
            for window in self.windows(piece, pages) {
                let Some(cost) = self.cost(window, remote) else { continue };
                let place = Place { cost, window };
                if refused.is_some_and(|refused| place <= refused) {
                    continue;
                }
                if only_local && cost == PERFECT {
                    return Some(place);
                }
                best = Some(best.map_or(place, |best| best.min(place)));
            }
        }
        best
    }

    /// Places worth a try in a range of usable memory.
    ///
    /// What a place costs depends only on the TDMR and on whether it touches an end of the free
    /// range, where it is never worse than in between. So the ends are all there is, of the whole
    /// range and of its part in each TDMR or between TDMRs.
    fn windows(&self, piece: PageRange, pages: u64) -> impl Iterator<Item = PageRange> + '_ {
        let part = move |start: u64| PageRange::new(Page::new(start), Page::new(start + pages));
        subtract([piece], self.pamts(piece))
            .flat_map(move |free| {
                let covered = self.spans(free).map(move |span| span.range.intersection(free));
                let open = subtract([free], self.spans(free).map(|span| span.range));
                once(free).chain(covered.chain(open).filter(move |part| *part != free))
            })
            .filter(move |space| space.pages() >= pages)
            .flat_map(move |space| [part(space.start().index()), part(space.end().index() - pages)])
    }

    /// What it would cost to have a PAMT at `range`; `None` if a TDMR has no reserved area for it.
    fn cost(&self, range: PageRange, remote: bool) -> Option<Cost> {
        let mut cost = Cost { given_up: 0, remote, areas: 0, low: range.start() < FOUR_GIB };
        for span in self.spans(range) {
            let pamts = union(self.pamts(span.range), once(range));
            let areas = areas(self.host, span.range, pamts, self.limits.reserved_areas())?;
            cost.given_up += areas.given_up.cast_signed() - span.given_up.cast_signed();
            cost.areas += (areas.natural.cast_signed() - span.natural.cast_signed()).max(0);
        }
        Some(cost)
    }

    /// The spans that share a page with `range`.
    fn spans(&self, range: PageRange) -> impl Iterator<Item = &Span> {
        let spans = &self.out.spans;
        let first = spans.partition_point(|span| span.range.end() <= range.start());
        spans.iter().skip(first).take_while(move |span| span.range.start() < range.end())
    }

    /// The PAMTs that share a page with `range`.
    fn pamts(&self, range: PageRange) -> impl Iterator<Item = PageRange> + '_ {
        let pamts = &self.out.pamts;
        let first = pamts.partition_point(|pamt| pamt.end() <= range.start());
        pamts.iter().skip(first).copied().take_while(move |pamt| pamt.start() < range.end())
    }
}
