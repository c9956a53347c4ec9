//! What a kernel has while a scenario plays: its record, its ledger, its pages. Everything that a
//! handover looks at, and what the judge knows besides: which pages may be overwritten at all.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tdx_abi::{Page, PageRange, PageSize, PhysAddr, subtract};
use tdx_host::{
    gate::{CpuActivity, CpuSlot, GateHandle},
    handover::Policy,
    ledger::{Ledger, PageState},
    platform::{CpuId, TdxPlatform},
};

use tdx_lab::{platform::promise, tds::Custody};
use tdx_operator::{host::Host, images};

/// A holder cannot leave it half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A kernel's memory, in pieces that come to be one after the other.
pub(super) struct Live<'s, 'm> {
    pub(super) host: &'s Host,
    pub(super) platform: TdxPlatform,
    pub(super) tdx: &'s tdx_host::Host<'m>,
    pub(super) custody: &'s OnceLock<Custody>,
    /// What the kernel's allocator has handed out for TDX.
    pub(super) allocated: Mutex<Vec<PageRange>>,
    /// PAMTs of the layout that the host gets, by page size: known from a bring-up on another copy
    /// of the machine.
    pub(super) pamts: &'s [(PageSize, PageRange)],
    pub(super) first_tdmr: PhysAddr,
}

/// Which pages are marked, and which of them the module may not know. What a reader of the ledger
/// sees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Marks {
    pub(super) marked: Vec<PageRange>,
    pub(super) unknown: Vec<PageRange>,
}

impl Live<'_, '_> {
    /// What a policy that resets all memory is told to reset: all but this kernel's and the next
    /// image.
    pub(super) fn to_reset(&self, policy: Policy) -> Vec<PageRange> {
        match policy {
            Policy::Everything => {
                let memory = self.host.memory().iter().map(|part| part.range);
                subtract(memory, [images::pages(self.host)]).collect()
            }
            _ => Vec::new(),
        }
    }

    pub(super) fn marks(&self) -> Marks {
        match self.tdx.ledger() {
            Some(ledger) => Marks { marked: ledger.marked().collect(), unknown: ledger.unknown_to_module().collect() },
            None => Marks::default(),
        }
    }

    /// A ledger that shows these marks, in memory of its own.
    pub(super) fn ledger_with<'w>(
        &self,
        marks: &[PageRange],
        words: &'w mut Vec<std::sync::atomic::AtomicU64>,
    ) -> Option<Ledger<'w>> {
        let ranges: Vec<PageRange> = self.tdx.ledger()?.ranges().collect();
        let needed = Ledger::words_needed(ranges.iter().copied());
        words.resize_with(usize::try_from(needed).ok()?, Default::default);
        let ledger = Ledger::new(ranges, words).ok()?;
        for range in marks {
            promise::mark(&ledger, *range).ok()?;
        }
        Some(ledger)
    }

    /// True for a page that PAMT or a marked page covers.
    pub(super) fn is_marked(&self, page: Page) -> bool {
        self.tdx.pamt_ranges().any(|range| range.contains(page))
            || self.tdx.ledger().and_then(|ledger| ledger.state(page)).is_some_and(|state| state != PageState::Shared)
    }

    /// The first page of the range that is in use: it is neither handed out for TDX nor in the
    /// hypervisor's custody.
    pub(super) fn first_in_use(&self, range: PageRange) -> Option<Page> {
        let custody = self.custody.get();
        let pool = custody.map_or(PageRange::default(), Custody::range);
        let allocated = lock(&self.allocated);
        let foreign = subtract([range], allocated.iter().copied()).next().map(PageRange::start);
        let pool = range.intersection(pool);
        let free = (pool.start().index()..pool.end().index())
            .map(Page::new)
            .find(|page| custody.is_some_and(|custody| !custody.holds(*page)));
        foreign.into_iter().chain(free).min()
    }

    /// Memory in use by others than TDX: where the host's own stores may go.
    pub(super) fn in_use(&self) -> Vec<PageRange> {
        let memory = self.host.memory().iter().map(|part| part.range);
        let mut free: Vec<PageRange> = subtract(memory, lock(&self.allocated).iter().copied()).collect();
        if let Some(custody) = self.custody.get() {
            let range = custody.range();
            let pages =
                (range.start().index()..range.end().index()).map(Page::new).filter(|page| !custody.holds(*page));
            free.extend(tdx_abi::union(pages.map(|page| PageRange::new(page, Page::new(page.index() + 1))), []));
        }
        free.sort_unstable_by_key(|range| range.start());
        subtract(free, [images::pages(self.host)]).collect()
    }

    /// The name of the table that a page of PAMT lies in.
    pub(super) fn pamt_of(&self, page: Page) -> Option<&'static str> {
        let (size, _) = self.pamts.iter().find(|(_, range)| range.contains(page))?;
        Some(match size {
            PageSize::Size4K => "PAMT_4K",
            PageSize::Size2M => "PAMT_2M",
            PageSize::Size1G => "PAMT_1G",
        })
    }
}

/// Slots that say what those of a gate say, but for a CPU that has not said what it does.
pub(super) fn copy_slots(gate: GateHandle<'_>, untold: Option<CpuId>) -> Box<[CpuSlot]> {
    let slot = |activity: CpuActivity| {
        if untold == Some(activity.cpu) { CpuSlot::new() } else { CpuSlot::from(activity) }
    };
    gate.activity().map(slot).collect()
}
