//! The promises about memory that `tdx-host` asks its embedder for, made for tests: behind their
//! pages is no memory, or that of the software machine, where no object of the test lies.

// UNSAFETY: each block rests on the paragraph above.
#![allow(unsafe_code)]
#![allow(dead_code)] // each test binary uses its own part

use std::collections::BTreeMap;
use std::sync::Mutex;

use tdx_abi::{Page, PageRange, PageSize, Registers};
use tdx_host::Host;
use tdx_host::follow::{Moved, Moves, NotFollowed, PageRefs};
use tdx_host::gate::{CpuGate, CpuSlot, GateHandle};
use tdx_host::handover::{HandoverReport, HostMemory, Kexec, StopCpus, WrittenBack};
use tdx_host::host::HostError;
use tdx_host::ledger::{Ledger, MarkError};
use tdx_host::page::{CleanPage, InFlightPage, PrivatePage, ReturnedPage, SharedPage, TakeError, TokenError};
use tdx_host::platform::{Cpu, CpuId, LineReset, NodeRange, OwnedPages, TdxPlatform};
use tdx_host::reset::{NodeMap, ParallelReset, ResetCount};
use tdx_host::seamcall::SeamcallError;

pub(crate) fn owned(range: PageRange) -> OwnedPages {
    // SAFETY: no memory of the test.
    unsafe { OwnedPages::new(range) }
}

pub(crate) fn take<'l>(ledger: &'l Ledger<'l>, page: Page, size: PageSize) -> Result<SharedPage<'l>, TakeError> {
    SharedPage::take(ledger, owned(PageRange::new(page, Page::new(page.index() + size.pages()))))
}

/// A host of `cpus` CPUs, leaked slots and all.
#[cfg(not(loom))]
pub(crate) fn host(cpus: usize) -> Box<Host<'static>> {
    let slots: Vec<CpuSlot> = (0..cpus).map(|_| CpuSlot::new()).collect();
    Box::new(Host::new(slots.leak()))
}

/// The same. Larger than the stack of a loom thread, so it is made on a larger one.
#[cfg(loom)]
pub(crate) fn host(cpus: usize) -> Box<Host<'static>> {
    let made = loom::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let slots: Vec<CpuSlot> = (0..cpus).map(|_| CpuSlot::new()).collect();
        Box::new(Host::new(slots.leak()))
    });
    made.unwrap().join().unwrap()
}

pub(crate) fn set_platform(host: &Host<'_>, platform: TdxPlatform) {
    // SAFETY: no memory of the test.
    unsafe { host.set_platform(platform) }.unwrap();
}

pub(crate) fn observe_pamts(
    host: &Host<'_>,
    pamts: impl IntoIterator<Item = PageRange, IntoIter: Clone>,
) -> Result<(), HostError> {
    // SAFETY: no memory of the test.
    unsafe { host.observe_pamts(pamts.into_iter()) }
}

pub(crate) fn with_ledger<'h>(memory: HostMemory<'h>, ledger: Option<&'h Ledger<'h>>) -> HostMemory<'h> {
    // SAFETY: no memory of the test.
    unsafe { memory.with_ledger(ledger) }
}

pub(crate) fn with_gate<'h>(memory: HostMemory<'h>, gate: GateHandle<'h>) -> HostMemory<'h> {
    // SAFETY: no memory of the test.
    unsafe { memory.with_gate(gate) }
}

pub(crate) fn reset_ranges<R: LineReset + ?Sized>(cpu: &R, ranges: impl IntoIterator<Item = PageRange>) -> ResetCount {
    // SAFETY: no memory of the test.
    unsafe { tdx_host::reset::reset_ranges(cpu, ranges) }
}

pub(crate) fn parallel<I: Iterator<Item = PageRange> + Clone>(
    ranges: impl IntoIterator<IntoIter = I>,
    nodes: &[NodeRange],
) -> ParallelReset<'_, I> {
    // SAFETY: no memory of the test.
    unsafe { ParallelReset::new(ranges, NodeMap::new(nodes)) }
}

pub(crate) fn reset<P: StopCpus>(
    kexec: Kexec<'_, WrittenBack<'_, P>>,
    all_memory: impl IntoIterator<Item = PageRange, IntoIter: Clone + Sync>,
) -> HandoverReport {
    // SAFETY: no memory of the test.
    unsafe { kexec.reset_everything(all_memory) }
}

pub(crate) fn cpu_gate(gate: GateHandle<'_>, cpu: CpuId) -> CpuGate<'_> {
    // SAFETY: the test is on one CPU at a time, or says so by one thread for each.
    unsafe { gate.cpu_gate(cpu) }
}

pub(crate) fn cpu_is_clean(gate: GateHandle<'_>, cpu: CpuId) {
    // SAFETY: a model: no CPU is behind it.
    unsafe { gate.cpu_is_clean(cpu) }
}

pub(crate) fn open(gate: GateHandle<'_>) {
    // SAFETY: no memory of the test.
    unsafe { gate.open() };
}

pub(crate) fn call_any<C: Cpu>(cpu: &C, input: Registers) -> Result<Registers, SeamcallError> {
    // SAFETY: no memory of the test.
    unsafe { tdx_host::seamcall::call_unchecked(cpu, input) }
}

/// The transitions of a ledger, by the state that they lead to.
pub(crate) trait Mark {
    fn mark_in_flight(&self, range: PageRange) -> Result<(), MarkError>;
    fn mark_private(&self, range: PageRange) -> Result<(), MarkError>;
    fn mark_aborted(&self, range: PageRange) -> Result<(), MarkError>;
    fn mark_returned(&self, range: PageRange) -> Result<(), MarkError>;
    fn mark_shared(&self, range: PageRange) -> Result<(), MarkError>;
}

impl Mark for Ledger<'_> {
    fn mark_in_flight(&self, range: PageRange) -> Result<(), MarkError> {
        // SAFETY: no memory of the test.
        unsafe { self.give(range) }
    }

    fn mark_private(&self, range: PageRange) -> Result<(), MarkError> {
        // SAFETY: no memory of the test.
        unsafe { self.commit(range) }
    }

    fn mark_aborted(&self, range: PageRange) -> Result<(), MarkError> {
        // SAFETY: no memory of the test.
        unsafe { self.abort(range) }
    }

    fn mark_returned(&self, range: PageRange) -> Result<(), MarkError> {
        // SAFETY: no memory of the test.
        unsafe { self.reclaim(range) }
    }

    fn mark_shared(&self, range: PageRange) -> Result<(), MarkError> {
        // SAFETY: no memory of the test.
        unsafe { self.unmark(range) }
    }
}

pub(crate) fn commit(page: InFlightPage<'_>) -> Result<PrivatePage<'_>, MarkError> {
    // SAFETY: no memory of the test.
    unsafe { page.commit() }
}

pub(crate) fn abort(page: InFlightPage<'_>) -> Result<ReturnedPage<'_>, MarkError> {
    // SAFETY: no memory of the test.
    unsafe { page.abort() }
}

/// As if PHYMEM.PAGE.WBINVD had succeeded.
pub(crate) fn written_back(page: ReturnedPage<'_>) -> CleanPage<'_> {
    // SAFETY: a model: no memory of this program is behind it.
    unsafe { page.written_back() }
}

pub(crate) fn find<'l>(ledger: &'l Ledger<'l>, page: Page, size: PageSize) -> Result<PrivatePage<'l>, TokenError> {
    // SAFETY: no memory of the test.
    unsafe { PrivatePage::find(ledger, page, size) }
}

pub(crate) fn reclaim(page: PrivatePage<'_>) -> Result<ReturnedPage<'_>, MarkError> {
    // SAFETY: no memory of the test.
    unsafe { page.reclaim() }
}

/// A page allocator's references, as an observer takes and drops them.
#[derive(Default, Debug)]
pub(crate) struct Refs {
    /// By page number. A page that was held twice and dropped once has 1.
    pub(crate) held: Mutex<BTreeMap<u64, u32>>,
    /// Pages that nobody has allocated.
    pub(crate) free: Vec<Page>,
}

// SAFETY: no allocator hands out the pages of the test.
unsafe impl PageRefs for Refs {
    fn hold(&self, page: Page) -> bool {
        let allocated = !self.free.contains(&page);
        if allocated {
            *self.held.lock().unwrap().entry(page.index()).or_default() += 1;
        }
        allocated
    }

    unsafe fn release(&self, page: Page) {
        let mut held = self.held.lock().unwrap();
        let left = held.get_mut(&page.index()).map(|count| {
            *count -= 1;
            *count
        });
        match left {
            None => panic!("a reference to {page} is dropped that was not taken"),
            Some(0) => drop(held.remove(&page.index())),
            Some(_) => {}
        }
    }
}

impl Refs {
    /// Panics unless each marked page has one reference, and no other page has any.
    pub(crate) fn assert_those_of(&self, ledger: &Ledger<'_>) {
        let marked = ledger.marked().flat_map(|range| range.start().index()..range.end().index());
        let wanted: BTreeMap<u64, u32> = marked.map(|page| (page, 1)).collect();
        assert_eq!(*self.held.lock().unwrap(), wanted, "references and marks");
    }
}

pub(crate) fn learn(
    ledger: &Ledger<'_>,
    range: PageRange,
    settled: bool,
    refs: &Refs,
) -> (u64, Result<(), NotFollowed>) {
    // SAFETY: no memory of the test.
    unsafe { tdx_host::follow::learn(ledger, range, settled, refs) }
}

/// The calls of another driver, as an observer sees them.
pub(crate) trait Observe {
    fn seen_before(&self, ledger: &Ledger<'_>, refs: &Refs) -> Result<(), NotFollowed>;
    fn seen_after(&self, ledger: &Ledger<'_>, answer: &Registers) -> Result<Moved, NotFollowed>;
}

impl Observe for Moves<'_> {
    fn seen_before(&self, ledger: &Ledger<'_>, refs: &Refs) -> Result<(), NotFollowed> {
        // SAFETY: no memory of the test.
        unsafe { self.before(ledger, refs) }
    }

    fn seen_after(&self, ledger: &Ledger<'_>, answer: &Registers) -> Result<Moved, NotFollowed> {
        // SAFETY: no memory of the test.
        unsafe { self.after(ledger, answer) }
    }
}

pub(crate) fn seen_reset(ledger: &Ledger<'_>, range: PageRange, refs: &Refs) -> Result<(), NotFollowed> {
    // SAFETY: no memory of the test.
    unsafe { tdx_host::follow::reset(ledger, range, refs) }
}

pub(crate) fn seen_forgotten(ledger: &Ledger<'_>) {
    // SAFETY: no memory of the test.
    unsafe { tdx_host::follow::forgotten(ledger) };
}
