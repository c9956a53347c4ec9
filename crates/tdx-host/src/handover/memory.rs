//! What a handover needs to know of the host's memory, in one value that is cheap to make and to
//! copy.

use core::fmt;
use core::iter::empty;
use tdx_abi::{Page, PageRange, TdxFeatures0, union};

use crate::gate::GateHandle;
use crate::ledger::{Ledger, MarkedRanges};
use crate::platform::TdxPlatform;
use crate::private_memory::PrivateMemory;

/// Where the ledger in use is published: looked up when a handover has closed the gate. A trait,
/// because a host has two lifetimes and a [`HostMemory`] one.
pub(crate) trait LiveLedger: Sync {
    /// The ledger in use; `None` as long as no TD can have been built. Called from any context: it
    /// takes no lock and does not wait.
    fn ledger(&self) -> Option<&Ledger<'_>>;
}

/// The ledger of a host.
#[derive(Clone, Copy)]
enum LedgerRef<'h> {
    /// This one, or none.
    Fixed(Option<&'h Ledger<'h>>),
    /// The one that is published when it is looked up.
    Live(&'h dyn LiveLedger),
}

/// What a host knows of its private memory: the proof that a handover looks at the right records.
/// Made by [`Host::memory`](crate::Host::memory).
#[derive(Clone, Copy)]
pub struct HostMemory<'h> {
    platform: Option<&'h TdxPlatform>,
    features: Option<TdxFeatures0>,
    record: Option<&'h PrivateMemory>,
    ledger: LedgerRef<'h>,
    gate: GateHandle<'h>,
    reserved: &'h [PageRange],
}

impl fmt::Debug for HostMemory<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMemory")
            .field("platform", &self.platform)
            .field("features", &self.features)
            .field("record", &self.record)
            .field("ledger", &self.ledger())
            .field("gate", &self.gate)
            .field("reserved", &self.reserved)
            .finish()
    }
}

impl<'h> HostMemory<'h> {
    /// The memory of a host: its platform, its record of PAMTs, where it publishes its ledger, its
    /// gate, and what it never gives to TDX.
    pub(crate) fn of_host(
        platform: Option<&'h TdxPlatform>,
        features: Option<TdxFeatures0>,
        record: &'h PrivateMemory,
        ledger: &'h dyn LiveLedger,
        gate: GateHandle<'h>,
        reserved: &'h [PageRange],
    ) -> Self {
        Self { platform, features, record: Some(record), ledger: LedgerRef::Live(ledger), gate, reserved }
    }

    /// As if the module had said this of itself: whether a kexec asks it for SYS.DISABLE. What it
    /// does not clear is reset, whatever it answers.
    #[must_use]
    pub const fn with_features(self, features: TdxFeatures0) -> Self {
        Self { features: Some(features), ..self }
    }

    /// With this ledger, or none, in place of the host's: for a copy of a machine, or to compare
    /// with a kernel that keeps no ledger.
    ///
    /// # Safety
    /// A handover resets the pages that this ledger marks: they hold nothing that anyone needs. It
    /// resets no others, and its report says nothing of them: the caller answers for those of the
    /// host's own ledger.
    /// No report of such a handover is given to
    /// [`came_back`](super::HandoverReport::came_back).
    #[must_use]
    pub const unsafe fn with_ledger(self, ledger: Option<&'h Ledger<'h>>) -> Self {
        Self { ledger: LedgerRef::Fixed(ledger), ..self }
    }

    /// As if no PAMT had been handed to the module: to compare with a kernel that keeps no record.
    ///
    /// # Safety
    /// A handover leaves the PAMTs private, and its report says nothing of them: the caller answers
    /// for them.
    /// No report of such a handover is given to
    /// [`came_back`](super::HandoverReport::came_back).
    #[must_use]
    pub const unsafe fn without_pamts(self) -> Self {
        Self { record: None, ..self }
    }

    /// With this gate in place of the host's: for a copy of a machine, whose CPUs pass a gate of
    /// their own.
    ///
    /// # Safety
    /// `gate` is that of the CPUs of the machine that is handed over ([`Cpu::cpu_gate`]), and no
    /// SEAMCALL there passes another one.
    ///
    /// [`Cpu::cpu_gate`]: crate::platform::Cpu::cpu_gate
    #[must_use]
    pub const unsafe fn with_gate(self, gate: GateHandle<'h>) -> Self {
        Self { gate, ..self }
    }

    /// The platform, or `None` on a machine without TDX.
    pub const fn platform(&self) -> Option<&'h TdxPlatform> {
        self.platform
    }

    /// TDX_FEATURES0, or `None` before it was read.
    pub const fn features(&self) -> Option<TdxFeatures0> {
        self.features
    }

    /// Forgets the PAMTs: the host can bring TDX up again.
    ///
    /// # Safety
    /// As [`PrivateMemory::withdraw`].
    pub(super) unsafe fn withdraw_pamts(&self) {
        if let Some(record) = self.record {
            // SAFETY: by the contract of this function.
            unsafe { record.withdraw() };
            record.release_claim();
        }
    }

    /// Which pages of TDs there are; `None` as long as no TD can have been built.
    pub fn ledger(&self) -> Option<&'h Ledger<'h>> {
        match self.ledger {
            LedgerRef::Fixed(ledger) => ledger,
            LedgerRef::Live(live) => live.ledger(),
        }
    }

    /// The gate of every SEAMCALL.
    pub const fn gate(&self) -> GateHandle<'h> {
        self.gate
    }

    /// Reserved memory, which is never written.
    pub const fn reserved(&self) -> &'h [PageRange] {
        self.reserved
    }

    /// There is memory that may be private: from before the first line can be until after the last
    /// reset of a failed bring-up, and as long as a page is marked.
    pub fn may_have_private_memory(&self) -> bool {
        self.record.is_some_and(PrivateMemory::may_have_private_memory) || self.marked().next().is_some()
    }

    /// PAMTs, ascending; those that touch are one range.
    pub(crate) fn pamts(&self) -> impl Iterator<Item = PageRange> + Clone + use<'h> {
        union(self.record.into_iter().flat_map(PrivateMemory::pamt_ranges), empty())
    }

    /// Pages that are not shared, ascending.
    pub(super) fn marked(&self) -> Marked<'h> {
        Marked(self.ledger().map(Ledger::marked))
    }

    /// Pages that the module may not know, ascending.
    pub(super) fn unknown_to_module(&self) -> Marked<'h> {
        Marked(self.ledger().map(Ledger::unknown_to_module))
    }

    /// Pages that no TD needs, once the module has been asked of those in flight; ascending.
    pub(super) fn not_of_module(&self) -> Marked<'h> {
        Marked(self.ledger().map(Ledger::not_of_module))
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
        // A ledger of this host has the same ones.
        let listed = self.ledger().map_or(&[][..], Ledger::reserved).iter().filter(|range| !own.contains(range));
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
