//! What a handover needs to know of the host's memory, in one value that is cheap to make and to
//! copy.

use core::fmt;
use core::iter::empty;
use tdx_abi::{Page, PageRange, TdxFeatures0, union};

use crate::gate::GateHandle;
use crate::ledger::{Ledger, MarkedRanges};
use crate::platform::TdxPlatform;
use crate::private_memory::PrivateMemory;

/// Where the ledger in use is published: looked up when a handover has closed the gate.
pub trait LiveLedger: Sync {
    /// The ledger in use; `None` as long as no TD can have been built. Called from any context: it
    /// takes no lock and does not wait.
    fn ledger(&self) -> Option<&Ledger<'_>>;
}

/// The ledger of a host.
#[derive(Clone, Copy)]
pub enum LedgerRef<'h> {
    /// This one, or none: no other ledger comes into use as long as the value exists.
    Fixed(Option<&'h Ledger<'h>>),
    /// The one that is published when it is looked up.
    Live(&'h dyn LiveLedger),
}

impl<'h> LedgerRef<'h> {
    fn get(self) -> Option<&'h Ledger<'h>> {
        match self {
            Self::Fixed(ledger) => ledger,
            Self::Live(live) => live.ledger(),
        }
    }
}

impl<'h> From<Option<&'h Ledger<'h>>> for LedgerRef<'h> {
    fn from(ledger: Option<&'h Ledger<'h>>) -> Self {
        Self::Fixed(ledger)
    }
}

impl<'h> From<&'h Ledger<'h>> for LedgerRef<'h> {
    fn from(ledger: &'h Ledger<'h>) -> Self {
        Self::Fixed(Some(ledger))
    }
}

impl fmt::Debug for LedgerRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// The parts of a [`HostMemory`].
#[derive(Clone, Copy, Debug)]
pub struct HostParts<'h> {
    /// The platform, or `None` on a machine without TDX.
    pub platform: Option<&'h TdxPlatform>,
    /// TDX_FEATURES0, or `None` before it was read.
    pub features: Option<TdxFeatures0>,
    /// Which PAMTs there are.
    pub record: &'h PrivateMemory,
    /// Which pages of TDs there are.
    pub ledger: LedgerRef<'h>,
    /// The gate of every SEAMCALL.
    pub gate: GateHandle<'h>,
    /// Reserved memory, which is never written, whatever it holds: the crash kernel's. In any
    /// order.
    pub reserved: &'h [PageRange],
}

/// What a host knows of its private memory: the proof that a handover looks at the right records.
#[derive(Clone, Copy, Debug)]
pub struct HostMemory<'h>(HostParts<'h>);

impl<'h> HostMemory<'h> {
    /// The host's memory.
    ///
    /// # Safety
    /// The parts are those of this machine, and there are no others: `platform` was detected on it,
    /// `record` is that of its bring-up, `ledger` is or finds the one by which its pages are given
    /// (published before the first page is given), and `gate` is the one of [`Cpu::cpu_gate`].
    /// `reserved` is the memory that is kept for the crash kernel.
    ///
    /// [`Cpu::cpu_gate`]: crate::platform::Cpu::cpu_gate
    pub const unsafe fn new(parts: HostParts<'h>) -> Self {
        Self(parts)
    }

    /// The parts, e.g. to make another value of most of them.
    pub const fn parts(&self) -> HostParts<'h> {
        self.0
    }

    /// The platform, or `None` on a machine without TDX.
    pub const fn platform(&self) -> Option<&'h TdxPlatform> {
        self.0.platform
    }

    /// TDX_FEATURES0, or `None` before it was read.
    pub const fn features(&self) -> Option<TdxFeatures0> {
        self.0.features
    }

    /// Which PAMTs there are.
    pub const fn record(&self) -> &'h PrivateMemory {
        self.0.record
    }

    /// Which pages of TDs there are; `None` as long as no TD can have been built.
    pub fn ledger(&self) -> Option<&'h Ledger<'h>> {
        self.0.ledger.get()
    }

    /// The gate of every SEAMCALL.
    pub const fn gate(&self) -> GateHandle<'h> {
        self.0.gate
    }

    /// Reserved memory, which is never written.
    pub const fn reserved(&self) -> &'h [PageRange] {
        self.0.reserved
    }

    /// There is memory that may be private: from before the first line can be until after the last
    /// reset of a failed bring-up, and as long as a page is marked.
    pub fn may_have_private_memory(&self) -> bool {
        self.record().may_have_private_memory() || self.marked().next().is_some()
    }

    /// PAMTs, ascending; those that touch are one range.
    pub(super) fn pamts(&self) -> impl Iterator<Item = PageRange> + Clone + use<'h> {
        union(self.record().pamt_ranges(), empty())
    }

    /// Pages that are not shared, ascending.
    pub(super) fn marked(&self) -> Marked<'h> {
        Marked(self.ledger().map(Ledger::marked))
    }

    /// Pages that the module may not know, ascending.
    pub(super) fn unknown_to_module(&self) -> Marked<'h> {
        Marked(self.ledger().map(Ledger::unknown_to_module))
    }

    /// Every page that may be private: PAMTs and marked pages, ascending, maximal.
    pub fn private_ranges(&self) -> impl Iterator<Item = PageRange> + Clone + use<'h> {
        union(self.pamts(), self.marked())
    }

    /// `ranges` but for what must not be touched.
    pub(super) fn without_reserved<I: Iterator<Item = PageRange>>(&self, ranges: I) -> WithoutReserved<'h, I> {
        let reserved = [self.reserved(), self.ledger().map_or(&[], Ledger::reserved)];
        WithoutReserved { ranges, rest: PageRange::default(), reserved }
    }

    /// The pages of `ranges` that must not be touched.
    pub(super) fn reserved_of<I>(&self, ranges: I) -> impl Iterator<Item = PageRange> + use<'h, I>
    where
        I: Iterator<Item = PageRange> + Clone,
    {
        let own = self.reserved();
        let listed = self.ledger().map_or(&[][..], Ledger::reserved);
        own.iter().chain(listed).flat_map(move |reserved| {
            ranges.clone().map(|range| range.intersection(*reserved)).filter(|common| !common.is_empty())
        })
    }

    /// True if the whole range lies in memory that is never touched.
    pub(super) fn is_reserved(&self, range: PageRange) -> bool {
        self.without_reserved(core::iter::once(range)).next().is_none()
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

/// Ranges without the reserved ones. Those may be in any order: an unsorted list must not cost the
/// crash kernel its memory.
#[derive(Clone, Debug)]
pub(super) struct WithoutReserved<'h, I> {
    ranges: I,
    rest: PageRange,
    reserved: [&'h [PageRange]; 2],
}

impl<I: Iterator<Item = PageRange>> Iterator for WithoutReserved<'_, I> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        loop {
            if self.rest.is_empty() {
                self.rest = self.ranges.next()?;
            }
            let rest = self.rest;
            let common = self.reserved.into_iter().flatten().map(|reserved| reserved.intersection(rest));
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
