//! Which TDMRs: as few whole GiB as cover all usable memory, cut where a node or the reserved areas
//! ask for it, merged where there would be too many. Places no PAMT.

use tdx_abi::{Page, PageRange, PageSize, TDMR_GRANULARITY};

use super::super::given_up::Dropped;
use super::super::host::{GIB_PAGES, Host};
use super::super::span::{MergeCost, Span, Spans};
use super::super::{Border, FrameRequest, GiveUpReason, Limits};
use super::areas::areas;
use crate::platform::NodeId;

impl Span {
    /// Counts what a span would cost, without PAMTs; `None` if it needs a reserved area and none is
    /// allowed.
    pub(super) fn new(host: &Host<'_>, limits: &Limits, range: PageRange, border: Border) -> Option<Self> {
        let areas = areas(host, range, core::iter::empty(), limits.reserved_areas())?;
        let (given_up, natural) = (areas.given_up, areas.natural);
        let (mut usable, mut largest, mut node) = (0, 0, NodeId::default());
        for (piece, piece_node) in host.usable(range) {
            usable += piece.pages();
            if piece.pages() > largest {
                (largest, node) = (piece.pages(), piece_node);
            }
        }
        Some(Self { range, node, border, usable, given_up, natural, merge_cost: None })
    }

    /// Number of GiB.
    pub(super) fn gibs(&self) -> u64 {
        self.range.pages() / GIB_PAGES
    }
}

/// Builds the list of spans.
pub(super) struct Cover<'a, 'h> {
    pub(super) host: &'a Host<'h>,
    pub(super) limits: &'a Limits,
    /// Reserved areas that are kept free in every TDMR, for PAMTs.
    pub(super) spare: usize,
    /// Pages of the largest usable range: no PAMT can be larger.
    pub(super) largest: u64,
    pub(super) spans: &'a mut Spans,
    pub(super) dropped: &'a mut Dropped,
}

impl Cover<'_, '_> {
    /// Covers all usable memory.
    pub(super) fn run(&mut self) {
        let mut open: Option<(PageRange, NodeId, Border)> = None;
        for (range, node) in self.host.usable(FrameRequest::ANYWHERE) {
            let Some(gibs) = range.align_outward(TDMR_GRANULARITY) else { continue };
            open = Some(match open {
                None => (gibs, node, Border::Memory),
                Some((last, last_node, border)) if gibs.end() <= last.end() => (last, last_node, border),
                Some((last, last_node, border)) if gibs.start() <= last.end() && last_node == node => {
                    (PageRange::new(last.start(), gibs.end()), node, border)
                }
                Some((last, _, border)) => {
                    self.add(last, border);
                    let border = if gibs.start() <= last.end() { Border::Node } else { Border::Memory };
                    (PageRange::new(gibs.start().max(last.end()), gibs.end()), node, border)
                }
            });
        }
        if let Some((last, _, border)) = open {
            self.add(last, border);
        }
    }

    /// Adds a run of GiB of one node, cut where it would need too many reserved areas.
    fn add(&mut self, range: PageRange, border: Border) {
        let limit = self.limits.reserved_areas().saturating_sub(self.spare);
        let (mut rest, mut border) = (range, border);
        while !rest.is_empty() {
            let fits = |gibs: u64| {
                let end = Page::new(rest.start().index() + gibs * GIB_PAGES);
                let part = PageRange::new(rest.start(), end);
                areas(self.host, part, core::iter::empty(), limit).is_some_and(|areas| areas.given_up == 0)
            };
            let gibs = rest.pages() / GIB_PAGES;
            // A GiB that needs too many on its own stands alone, so that nothing else has to pay
            // for it.
            let cut = if fits(gibs) { gibs } else { last_true(1, gibs, fits) };
            let end = Page::new(rest.start().index() + cut * GIB_PAGES);
            self.push(PageRange::new(rest.start(), end), border);
            rest = PageRange::new(end, rest.end());
            border = Border::ReservedAreas;
        }
    }

    /// Adds one span; if that is one too many, merges two or drops one, whichever loses least.
    fn push(&mut self, range: PageRange, border: Border) {
        let Some(span) = Span::new(self.host, self.limits, range, border) else {
            self.dropped.add(range, GiveUpReason::ReservedAreas);
            return;
        };
        if self.spans.try_push(span).is_err() {
            return;
        }
        self.weigh_merge(self.spans.len() - 1);
        if self.spans.len() > self.limits.tdmrs() {
            self.reduce();
        }
    }

    /// Makes one span less: merges neighbors, smallest gap first, as long as that loses no memory;
    /// else does what loses least, be it a merge or leaving a span out.
    fn reduce(&mut self) {
        let spans = self.spans.iter().enumerate();
        let merge = spans.clone().filter_map(|(index, span)| Some((span.merge_cost?, index))).min();
        let drop = spans.map(|(index, span)| (span.usable.saturating_sub(span.given_up), index)).min();
        let changed = match (merge, drop) {
            (Some((cost, right)), Some((loss, _))) if cost.given_up <= loss => {
                self.merge(right);
                right.saturating_sub(1)
            }
            (_, Some((_, index))) => {
                if let Some(span) = self.spans.pop_at(index) {
                    self.dropped.add(span.range, GiveUpReason::Tdmrs);
                }
                index
            }
            (_, None) => return,
        };
        self.weigh_merge(changed);
        self.weigh_merge(changed + 1);
    }

    /// Sets what it costs to merge span `index` with the one in front.
    fn weigh_merge(&mut self, index: usize) {
        let cost = self.merge_cost(index);
        if let Some(span) = self.spans.get_mut(index) {
            span.merge_cost = cost;
        }
    }

    fn merge_cost(&self, right: usize) -> Option<MergeCost> {
        let (left, right) = (self.spans.get(right.checked_sub(1)?)?, self.spans.get(right)?);
        let hull = PageRange::new(left.range.start(), right.range.end());
        if self.limits.pamt_pages(hull, PageSize::Size4K) > self.largest {
            return None;
        }
        let areas = areas(self.host, hull, core::iter::empty(), self.limits.reserved_areas())?;
        Some(MergeCost {
            given_up: areas.given_up.saturating_sub(left.given_up + right.given_up),
            gap: right.range.start().index() - left.range.end().index(),
            pages: hull.pages(),
        })
    }

    fn merge(&mut self, right: usize) {
        let Some(front) = right.checked_sub(1) else { return };
        let (Some(left), Some(right)) = (self.spans.get(front), self.spans.get(right)) else { return };
        let hull = PageRange::new(left.range.start(), right.range.end());
        if let Some(merged) = Span::new(self.host, self.limits, hull, left.border) {
            self.spans.pop_at(front + 1);
            if let Some(span) = self.spans.get_mut(front) {
                *span = merged;
            }
        }
    }
}

/// The largest number in `[low, high)` for which `test` holds, if it holds up to some point and not
/// after; `low` is not tested.
fn last_true(low: u64, high: u64, test: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (low, high);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if test(middle) { low = middle } else { high = middle }
    }
    low
}
