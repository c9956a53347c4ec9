//! Dynamic PAMT: reference counts for each 2 MiB page, on memory that the caller provides, and the
//! pair of pages that the module needs for its entries while a page of 4 KiB in it is the module's.
//! Takes no lock, does not allocate and does not wait.
//!
//! A kernel calls [`DynamicPamt::get`] before it hands a 4 KiB page over, and [`DynamicPamt::put`]
//! when the page is back. The first `get` in a 2 MiB page gives two spare pages away
//! (PHYMEM.PAMT.ADD), the last `put` brings two back (PHYMEM.PAMT.REMOVE). Pages of 2 MiB and more
//! need neither: the module refuses to take a 2 MiB page that has a pair.
//!
//! Each page of a pair goes through its token and thereby through the ledger, so a handover finds
//! it like any other private page. A CPU that meets another one in the middle of an ADD or REMOVE
//! of the same 2 MiB gets [`CountError::Busy`] and tries again.
//!
//! # Example
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! # use core::sync::atomic::AtomicU32;
//! # let hardware = kernel::Hardware::with(|config| config.module = Some(tdx_machine::ModuleProfile::V1_5_25));
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::boot(&hardware, &tdx);
//! # tdx.detect(&hardware)?;
//! # let mut known = tdx.start_bring_up(&mut kernel)?.sys_init()?.init_cpus()?.read_module_info()?;
//! # known.use_dynamic_pamt()?;
//! # known.plan(&kernel::MEMORY)?.configure()?.configure_keys()?.init_tdmrs()?;
//! # let tds = tdx.track(kernel::words(tdx.tracking_words()))?;
//! # let ledger = tds.ledger();
//! use tdx_host::dynamic_pamt::{DynamicPamt, Pair};
//!
//! let mut words: Vec<AtomicU32> = (0..DynamicPamt::words_needed(ledger)).map(|_| AtomicU32::new(0)).collect();
//! let pamt = DynamicPamt::new(tds, &mut words)?;
//! let cpu = kernel.cpu();
//!
//! // Two spare pages, for the case that this is the first page in its 2 MiB. It is.
//! let mut spare: Pair<'_> = [kernel.take_page(ledger), kernel.take_page(ledger)].into();
//! let page = kernel.take_page(ledger);
//! pamt.get(&cpu, page.page(), &mut spare)?;
//! assert!(spare.is_empty());
//! assert_eq!((pamt.counted(page.page()), ledger.marked_pages()), (Some(1), 2));
//!
//! // ... the page goes to a TD and comes back; it was the last one there ...
//! let pair = pamt.put(&cpu, page.page())?;
//! assert_eq!((pair.pages.len(), ledger.marked_pages()), (2, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod count;
mod error;
mod large;
mod pair;

use arrayvec::ArrayVec;
use tdx_abi::{Leaf, MAX_TDMRS, PAMT_PAIR_PAGES, Page, PageRange, PageSize, PhysAddr, Registers, page_and_level};

use crate::ledger::Ledger;
use crate::platform::Cpu;
use crate::seamcall::call_unchecked;
use crate::sync::AtomicU32;
use crate::td_host::TdHost;
use count::{Change, Count};
use pair::InFlightPair;

pub use count::CountError;
pub use error::{PamtCause, PamtError, TooSmall};
pub use pair::{Pair, Recovered};

/// The counts of a TDMR.
#[derive(Debug)]
struct Segment<'m> {
    range: PageRange,
    counts: &'m [AtomicU32],
}

/// Pairs and their counts. One per machine, over the TDMRs of its ledger.
#[derive(Debug)]
pub struct DynamicPamt<'h> {
    host: TdHost<'h>,
    segments: ArrayVec<Segment<'h>, MAX_TDMRS>,
}

impl<'h> DynamicPamt<'h> {
    /// 32-bit words that the counts need: one for each 2 MiB, 2 MiB for each TiB.
    pub fn words_needed(ledger: &Ledger<'_>) -> u64 {
        ledger.ranges().map(words).sum()
    }

    /// No page is covered. Zeroes `memory` and has it for itself; what is too much stays unused.
    ///
    /// # Errors
    /// [`TooSmall`].
    pub fn new(host: TdHost<'h>, memory: &'h mut [AtomicU32]) -> Result<Self, TooSmall> {
        let (ledger, memory): (&'h Ledger<'h>, &'h [AtomicU32]) = (host.ledger(), memory);
        let too_small = TooSmall { needed: Self::words_needed(ledger), given: memory.len() as u64 };
        let mut segments = ArrayVec::new();
        let mut rest = memory;
        for range in ledger.ranges() {
            let (counts, left) = rest.split_at_checked(words(range) as usize).ok_or(too_small)?;
            for word in counts {
                word.store(0, crate::sync::Ordering::Relaxed);
            }
            // A ledger has no more ranges than there can be TDMRs.
            let _ = segments.try_push(Segment { range, counts });
            rest = left;
        }
        Ok(Self { host, segments })
    }

    /// Before a 4 KiB page is handed over: its 2 MiB has a pair from here on. If this is the first
    /// page there, two pages are taken out of `spare`; otherwise they stay.
    ///
    /// # Errors
    /// [`PamtError`]; the page is not counted. Spare pages that the module refused are in `spare`
    /// again, clean, but for those that the error counts as lost.
    ///
    /// # SEAMCALL
    /// PHYMEM.PAMT.ADD for the first page of a 2 MiB; PHYMEM.PAGE.WBINVD if it fails.
    pub fn get<C: Cpu>(&self, cpu: &C, page: Page, spare: &mut Pair<'h>) -> Result<(), PamtError> {
        let turn = match self.count(page)?.get().map_err(PamtCause::from)? {
            Change::Counted => return Ok(()),
            Change::Turn(turn) => turn,
        };
        let in_flight = match InFlightPair::new(self.ledger(), cpu, spare) {
            Ok(in_flight) => in_flight,
            Err(cause) => {
                turn.finish(0);
                return Err(cause.into());
            }
        };
        let [first, second] = in_flight.pages().map(|page| page.start().get());
        // SAFETY: the leaf takes the pair, which is owned and marked.
        match unsafe { call_unchecked(cpu, operation(Leaf::PHYMEM_PAMT_ADD, page).rdx(first).r8(second)) } {
            Ok(_) => {
                // SAFETY: the call has succeeded.
                unsafe { in_flight.commit() };
                turn.finish(1);
                Ok(())
            }
            Err(error) => {
                turn.finish(0);
                // SAFETY: the call has failed.
                let recovered = unsafe { in_flight.abort(self, cpu, Some(&error)) };
                *spare = recovered.pages;
                Err(PamtError { cause: error.into(), lost_pages: recovered.lost_pages })
            }
        }
    }

    /// After the module has returned a 4 KiB page. If it was the last one in its 2 MiB, the pair is
    /// taken back, clean.
    ///
    /// # Errors
    /// [`PamtError`]; the page is still counted. May be called again.
    ///
    /// # SEAMCALL
    /// PHYMEM.PAMT.REMOVE and PHYMEM.PAGE.WBINVD of both pages for the last page of a 2 MiB.
    pub fn put<C: Cpu>(&self, cpu: &C, page: Page) -> Result<Recovered<'h>, PamtError> {
        let turn = match self.count(page)?.put().map_err(PamtCause::from)? {
            Change::Counted => return Ok(Recovered::default()),
            Change::Turn(turn) => turn,
        };
        let returning = self.ledger().returning();
        // SAFETY: the pages that it returns stay marked until their reset.
        match unsafe { call_unchecked(cpu, operation(Leaf::PHYMEM_PAMT_REMOVE, page)) } {
            Ok(registers) => {
                // What is left to do is about pages that only this CPU knows.
                turn.finish(0);
                let pages = [registers.rdx, registers.r8].map(|address| PhysAddr::new(address).page());
                // SAFETY: the call has succeeded; these are the pages that it names.
                Ok(unsafe { pair::reclaim(self, cpu, returning, pages) })
            }
            Err(error) => {
                returning.settled();
                turn.finish(1);
                Err(PamtCause::from(error).into())
            }
        }
    }

    /// Pages counted in the 2 MiB around this page. `None` outside every TDMR, and while a CPU adds
    /// or removes the pair.
    pub fn counted(&self, page: Page) -> Option<u32> {
        self.count(page).ok()?.read()
    }

    /// 2 MiB pages that have a pair, or that a CPU is adding to or removing from.
    pub fn pairs(&self) -> u64 {
        let words = self.segments.iter().flat_map(|segment| segment.counts);
        words.filter(|word| Count::new(word).read() != Some(0)).count() as u64
    }

    fn count(&self, page: Page) -> Result<Count<'h>, PamtCause> {
        let outside = PamtCause::Outside { page };
        let index = self.segments.partition_point(|segment| segment.range.end() <= page);
        let segment = self.segments.get(index).filter(|segment| segment.range.contains(page)).ok_or(outside)?;
        let number = (page.index() - segment.range.start().index()) / PageSize::Size2M.pages();
        segment.counts.get(number as usize).map(Count::new).ok_or(outside)
    }

    fn ledger(&self) -> &'h Ledger<'h> {
        self.host.ledger()
    }

    /// The address of a page with the key of PAMT.
    fn under_global_key(&self, page: Page) -> PhysAddr {
        let platform = self.host.platform();
        platform.key_id_field().tag(page.start(), platform.global_key_id())
    }
}

/// A call about the pair of the 2 MiB around a page.
fn operation(leaf: Leaf, page: Page) -> Registers {
    let large = Page::new(page.index() / PageSize::Size2M.pages() * PageSize::Size2M.pages());
    Registers::call(leaf).rcx(page_and_level(large, PageSize::Size2M))
}

fn words(range: PageRange) -> u64 {
    range.pages() / PageSize::Size2M.pages()
}

const _: () = assert!(PAMT_PAIR_PAGES == 2);
