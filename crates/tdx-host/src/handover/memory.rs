//! All that a handover needs to know of the host's memory, in one value that is cheap to make and
//! to copy.

use core::iter::empty;
use tdx_abi::{Page, PageRange, TdxFeatures0, union};

use crate::gate::GateHandle;
use crate::ledger::{Ledger, MarkedRanges};
use crate::platform::TdxPlatform;
use crate::private_memory::{MAX_PAMT_RANGES, PrivateMemory};

/// What a host knows of its private memory.
///
/// Make it when you hand over and do not keep it: `ledger` is the one in use at that moment. A
/// kernel publishes its ledger (in a `static` cell) before it gives the first page, so that a CPU
/// which has closed the gate and then looks finds it.
#[derive(Clone, Copy, Debug)]
pub struct HostMemory<'h, const N: usize = MAX_PAMT_RANGES> {
    /// The platform, or `None` on a machine without TDX.
    pub platform: Option<&'h TdxPlatform>,
    /// What TDX_FEATURES0 said, or `None` before the module was asked.
    pub features: Option<TdxFeatures0>,
    /// Which PAMTs there are.
    pub record: &'h PrivateMemory<N>,
    /// Which pages of TDs there are; `None` as long as no TD can have been built.
    pub ledger: Option<&'h Ledger<'h>>,
    /// The gate of every SEAMCALL.
    pub gate: GateHandle<'h>,
    /// Memory that is never written, whatever it holds: the crash kernel's. In any order.
    pub untouched: &'h [PageRange],
}

impl<'h, const N: usize> HostMemory<'h, N> {
    /// There is something that the next kernel may stumble over.
    pub(super) fn may_have_private_memory(&self) -> bool {
        self.record.may_have_private_memory() || self.marked().next().is_some()
    }

    /// PAMTs, ascending; those that touch are one range.
    pub(super) fn pamts(&self) -> impl Iterator<Item = PageRange> + Clone + use<'h, N> {
        union(self.record.pamt_ranges(), empty())
    }

    /// Pages that are not shared, ascending.
    pub(super) fn marked(&self) -> Marked<'h> {
        Marked(self.ledger.map(Ledger::marked))
    }

    /// Pages that the module may not know, ascending.
    pub(super) fn unknown_to_module(&self) -> Marked<'h> {
        Marked(self.ledger.map(Ledger::unknown_to_module))
    }

    /// Every page that may be private: PAMTs and marked pages, ascending, maximal.
    pub fn private_ranges(&self) -> impl Iterator<Item = PageRange> + Clone + use<'h, N> {
        union(self.pamts(), self.marked())
    }

    /// `ranges` but for what must not be touched.
    pub(super) fn spare<I: Iterator<Item = PageRange>>(&self, ranges: I) -> Spare<'h, I> {
        let untouched = [self.untouched, self.ledger.map_or(&[], Ledger::untouched)];
        Spare { ranges, rest: PageRange::default(), untouched }
    }

    /// The pages of `ranges` that must not be touched.
    pub(super) fn untouched_of<I>(&self, ranges: I) -> impl Iterator<Item = PageRange> + use<'h, N, I>
    where
        I: Iterator<Item = PageRange> + Clone,
    {
        let own = self.untouched;
        let listed = self.ledger.map_or(&[][..], Ledger::untouched);
        own.iter().chain(listed).flat_map(move |untouched| {
            ranges.clone().map(|range| range.intersection(*untouched)).filter(|common| !common.is_empty())
        })
    }

    /// True if the whole range lies in memory that is never touched.
    pub(super) fn is_untouched(&self, range: PageRange) -> bool {
        self.spare(core::iter::once(range)).next().is_none()
    }
}

/// Pages of the ledger, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Marked<'h>(Option<MarkedRanges<'h>>);

impl Iterator for Marked<'_> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        self.0.as_mut()?.next()
    }
}

/// Ranges without the untouched ones. Those may come in any order: a list that somebody forgot to
/// sort must not cost the crash kernel its memory.
#[derive(Clone, Debug)]
pub(super) struct Spare<'h, I> {
    ranges: I,
    rest: PageRange,
    untouched: [&'h [PageRange]; 2],
}

impl<I: Iterator<Item = PageRange>> Iterator for Spare<'_, I> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        loop {
            if self.rest.is_empty() {
                self.rest = self.ranges.next()?;
            }
            let rest = self.rest;
            let common = self.untouched.into_iter().flatten().map(|untouched| untouched.intersection(rest));
            let first = common.filter(|common| !common.is_empty()).min_by_key(|common| common.start());
            let none = PageRange::new(rest.end(), rest.end());
            let first = first.unwrap_or(none);
            let head = PageRange::new(rest.start(), first.start());
            self.rest = PageRange::new(Page::max(first.end(), head.end()), rest.end());
            if !head.is_empty() {
                return Some(head);
            }
        }
    }
}
