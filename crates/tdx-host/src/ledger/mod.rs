//! Which pages may be private: two bits for each 4 KiB page, one summary bit for each 2 MiB and one
//! for each 128 MiB, atomic, on memory that the caller provides. Readers on any CPU at any instant
//! need no lock, no allocation and no waiting. Refuses a transition of a page that is not in the
//! state it starts from; the ledger is then unchanged.
//!
//! # Order, stated once
//!
//! * **Mark before give.** [`Ledger::give`] ends with a sequentially consistent fence; the SEAMCALL
//!   that may make the page private comes after it. A reader passes a fence first. If it can see
//!   any effect of the SEAMCALL it sees the mark: the argument of `private_memory.rs`, with a
//!   page in place of the flag.
//! * **Summary before leaf.** Both summary bits are set before the first leaf bit under them, and
//!   are never cleared while CPUs run: a stale 1 costs a look at 128 bytes, a missing one
//!   leaves private memory behind.
//! * **Unmark after the fence.** Only [`Ledger::unmark`] makes a page shared again, after the CPU
//!   that reset it has fenced.
//!
//! A CPU frozen between any two stores leaves pages that are marked and not private (an extra reset
//! of a page that is not in use yet) or marked and private. Never private and unmarked.
//!
//! # The bits
//!
//! Two bits for each page are its [`PageState`]; the high one says that the module may not know of
//! it, which is what TDH.SYS.DISABLE leaves behind. Above them one bit for each 2 MiB and one for
//! each 128 MiB say "something may be marked below": a walk over 8 TiB with a few marked pages
//! reads a few words.
//!
//! # Who changes it
//!
//! The tokens of [`crate::page`], in the right order. The transitions here are `unsafe`: a page
//! that is marked is overwritten by the next handover, and a page that is unmarked is not. What a
//! kernel uses is the rest:
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use tdx_abi::{Page, PageRange};
//! use tdx_host::ledger::{Ledger, MarkError, PageState};
//!
//! let tdmr = PageRange::new(Page::new(0), Page::new(512 * 512)); // 1 GiB
//! let crash_kernel = PageRange::new(Page::new(1024), Page::new(2048));
//! let mut words: Vec<AtomicU64> = (0..Ledger::words_needed([tdmr])).map(|_| AtomicU64::new(0)).collect();
//! let ledger = Ledger::new([tdmr], &mut words)?.with_reserved(crash_kernel)?;
//!
//! // A page on its way to the module and back, as a token does it.
//! let pages = PageRange::new(Page::new(600), Page::new(602));
//! // SAFETY: an example; no handover looks at this ledger.
//! unsafe {
//!     ledger.give(pages)?;
//!     assert_eq!(ledger.state(Page::new(600)), Some(PageState::InFlight));
//!     ledger.commit(pages)?;
//!     assert_eq!(ledger.marked().collect::<Vec<_>>(), [pages]);
//!
//!     // A page that is not in the state that a transition starts from is refused, and nothing has changed.
//!     assert!(matches!(ledger.give(pages), Err(MarkError::WrongState { state: PageState::Private, .. })));
//!     assert!(matches!(ledger.give(crash_kernel), Err(MarkError::Reserved { .. })));
//!
//!     // Returned is still marked: only a reset makes it shared.
//!     ledger.reclaim(pages)?;
//! }
//! assert_eq!(ledger.unknown_to_module().collect::<Vec<_>>(), [pages]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod returning;
mod segment;
mod walk;

use arrayvec::ArrayVec;
use tdx_abi::{MAX_TDMRS, Page, PageRange};

use crate::sync::{AtomicU64, Ordering, fence, fence_after_rmw};
use segment::Segment;

pub use returning::Returning;
pub use walk::MarkedRanges;
use walk::Wanted;

/// What the host knows of a page. The high bit says that the module may not know of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum PageState {
    /// Ordinary memory.
    Shared = 0b00,
    /// The module has it.
    Private = 0b01,
    /// The module has returned it, or refused it; nothing has made its lines normal yet.
    Returned = 0b10,
    /// The SEAMCALL that gives it has not returned: the module may have taken it, or only written
    /// to it.
    InFlight = 0b11,
}

/// Why the ledger cannot be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The caller's memory is too small.
    #[error("the ledger needs {needed} words of 8 bytes, {given} were given")]
    TooSmall {
        /// 64-bit words needed.
        needed: u64,
        /// 64-bit words given.
        given: u64,
    },
    /// More ranges than a module has TDMRs.
    #[error("{count} ranges, at most {MAX_TDMRS} can be")]
    TooManyRanges {
        /// Ranges.
        count: usize,
    },
    /// More reserved ranges than there is room for.
    #[error("{range} is one reserved range too many, at most {MAX_RESERVED} can be")]
    TooManyReserved {
        /// The range that found no room.
        range: PageRange,
    },
    /// A range does not lie above the one before it, or is not made of whole 2 MiB pages.
    #[error("{range} is empty, not 2 MiB aligned, or not above the range before it")]
    BadRange {
        /// The range.
        range: PageRange,
    },
}

/// Why a mark was refused. The ledger is unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MarkError {
    /// The module can never own this page.
    #[error("page {page} lies outside every TDMR")]
    Outside {
        /// The page.
        page: Page,
    },
    /// The page is reserved: it belongs to the crash kernel.
    #[error("page {page} is reserved for the crash kernel: it is never given to the module")]
    Reserved {
        /// The first such page.
        page: Page,
    },
    /// The page is not in the state that the operation starts from.
    #[error("page {page} is {state:?}, {expected:?} was expected")]
    WrongState {
        /// The first page that is wrong.
        page: Page,
        /// Its state.
        state: PageState,
        /// The state it should have.
        expected: PageState,
    },
    /// The page is in no mapping of the kernel: it could not be reset and stays marked. See
    /// [`crate::platform::LineReset::reset_lines`].
    #[error("page {page} is not mapped: it is not reset and stays private")]
    NotReset {
        /// The first such page.
        page: Page,
    },
}

/// Reserved ranges at most: the crash kernel's memory, high and low, and two more.
pub const MAX_RESERVED: usize = 4;

/// The ledger of private pages. It covers whole TDMRs.
#[derive(Debug)]
pub struct Ledger<'m> {
    segments: ArrayVec<Segment<'m>, MAX_TDMRS>,
    reserved: ArrayVec<PageRange, MAX_RESERVED>,
    leaked: AtomicU64,
    /// SEAMCALLs under way that return pages, see [`Returning`].
    returning: AtomicU64,
}

impl<'m> Ledger<'m> {
    /// 64-bit words that a ledger over these ranges needs: 0.0062 % of the memory they cover.
    pub fn words_needed(ranges: impl IntoIterator<Item = PageRange>) -> u64 {
        ranges.into_iter().map(segment::words).sum()
    }

    /// A ledger over `ranges` (ascending, 2 MiB aligned, e.g. the TDMRs) in `memory`, which it
    /// zeroes and has for itself: no other code can change a mark. Every page is shared.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn new(
        ranges: impl IntoIterator<Item = PageRange, IntoIter: Clone>,
        memory: &'m mut [AtomicU64],
    ) -> Result<Self, LedgerError> {
        let mut ledger = Self::empty();
        ledger.set_up(ranges.into_iter(), memory)?;
        Ok(ledger)
    }

    /// Over nothing.
    pub(crate) fn empty() -> Self {
        Self {
            segments: ArrayVec::new(),
            reserved: ArrayVec::new(),
            leaked: AtomicU64::new(0),
            returning: AtomicU64::new(0),
        }
    }

    /// [`Ledger::new`] in place: a ledger has 4 KiB, too much for copies on a kernel's stack.
    pub(crate) fn set_up(
        &mut self,
        ranges: impl Iterator<Item = PageRange> + Clone,
        memory: &'m mut [AtomicU64],
    ) -> Result<(), LedgerError> {
        let memory: &'m [AtomicU64] = memory;
        let needed = Self::words_needed(ranges.clone());
        let mut rest = memory;
        let count = ranges.clone().count();
        for range in ranges {
            let above = self.segments.last().is_none_or(|last| last.range().end() <= range.start());
            if !above || !segment::is_valid(range) {
                return Err(LedgerError::BadRange { range });
            }
            let Some((segment, left)) = Segment::take(range, rest) else {
                return Err(LedgerError::TooSmall { needed, given: memory.len() as u64 });
            };
            rest = left;
            self.segments.try_push(segment).map_err(|_| LedgerError::TooManyRanges { count })?;
        }
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// The same ledger with `range` reserved: no page of it can ever be given, and no reset writes
    /// it. For the crash kernel's memory.
    ///
    /// # Errors
    /// [`LedgerError::TooManyReserved`].
    pub fn with_reserved(mut self, range: PageRange) -> Result<Self, LedgerError> {
        self.reserve(range)?;
        Ok(self)
    }

    /// [`Ledger::with_reserved`] in place.
    pub(crate) fn reserve(&mut self, range: PageRange) -> Result<(), LedgerError> {
        self.reserved.try_push(range).map_err(|_| LedgerError::TooManyReserved { range })
    }

    /// The ranges of [`Ledger::with_reserved`].
    pub fn reserved(&self) -> &[PageRange] {
        &self.reserved
    }

    /// Shared -> InFlight, for every page of the range. On return the SEAMCALL that takes the pages
    /// may be made.
    ///
    /// # Errors
    /// [`MarkError`]; then no page has changed.
    ///
    /// # Safety
    /// The caller owns the pages, which hold nothing that anyone needs: a handover overwrites them.
    pub unsafe fn give(&self, range: PageRange) -> Result<(), MarkError> {
        self.check_reserved(range)?;
        let result = self.transition(range, PageState::Shared, PageState::InFlight);
        fence_after_rmw();
        result
    }

    /// Returned -> InFlight, for every page of the range: it was returned or refused, and is given
    /// again before its reset. It is marked all the time.
    ///
    /// # Errors
    /// [`MarkError`]; then no page has changed.
    ///
    /// # Safety
    /// As [`Ledger::give`].
    pub unsafe fn give_again(&self, range: PageRange) -> Result<(), MarkError> {
        let result = self.transition(range, PageState::Returned, PageState::InFlight);
        fence_after_rmw();
        result
    }

    /// InFlight -> Private: the SEAMCALL has succeeded, so the module knows the pages.
    ///
    /// # Errors
    /// [`MarkError`]; then no page has changed.
    ///
    /// # Safety
    /// The SEAMCALL that took the pages has succeeded. A handover that asked the module
    /// (SYS.DISABLE) does not reset them.
    pub unsafe fn commit(&self, range: PageRange) -> Result<(), MarkError> {
        self.transition(range, PageState::InFlight, PageState::Private)
    }

    /// InFlight -> Returned: the SEAMCALL has failed. Its pages may be private.
    ///
    /// # Errors
    /// [`MarkError`]; then no page has changed.
    ///
    /// # Safety
    /// The SEAMCALL that was to take the pages has failed, so the module does not have them.
    pub unsafe fn abort(&self, range: PageRange) -> Result<(), MarkError> {
        self.transition(range, PageState::InFlight, PageState::Returned)
    }

    /// Private -> Returned: the module has returned the pages; their lines are as private as
    /// before.
    ///
    /// # Errors
    /// [`MarkError`]; then no page has changed.
    ///
    /// # Safety
    /// A SEAMCALL that succeeded has returned the pages.
    pub unsafe fn reclaim(&self, range: PageRange) -> Result<(), MarkError> {
        self.transition(range, PageState::Private, PageState::Returned)
    }

    /// Returned -> Shared.
    ///
    /// # Errors
    /// [`MarkError`]; then no page has changed.
    ///
    /// # Safety
    /// The module does not have the pages, no cache holds a line of them under a private KeyID, and
    /// every line was reset and fenced after that.
    pub unsafe fn unmark(&self, range: PageRange) -> Result<(), MarkError> {
        let result = self.transition(range, PageState::Returned, PageState::Shared);
        // A reader that can see the page in use again must not find it marked, or it would reset
        // it.
        fence_after_rmw();
        result
    }

    /// Looks whether a page can start an operation, without changing anything.
    ///
    /// # Errors
    /// The [`MarkError`] that the operation would have.
    pub fn check(&self, range: PageRange, expected: PageState) -> Result<(), MarkError> {
        if expected == PageState::Shared {
            self.check_reserved(range)?;
        }
        fence(Ordering::SeqCst);
        let mut at = range.start();
        while at < range.end() {
            let segment = self.segment_of(at).ok_or(MarkError::Outside { page: at })?;
            let part = PageRange::new(at, range.end()).intersection(segment.range());
            if let Some((page, state)) = segment.first_not(part, expected) {
                return Err(MarkError::WrongState { page, state, expected });
            }
            at = part.end();
        }
        Ok(())
    }

    fn check_reserved(&self, range: PageRange) -> Result<(), MarkError> {
        match self.reserved.iter().find(|reserved| reserved.overlaps(range)) {
            Some(there) => Err(MarkError::Reserved { page: there.intersection(range).start() }),
            None => Ok(()),
        }
    }

    /// The state of a page, or `None` outside every TDMR.
    pub fn state(&self, page: Page) -> Option<PageState> {
        fence(Ordering::SeqCst);
        self.segment_of(page).map(|segment| segment.state(page))
    }

    /// All pages that are not shared, as maximal ranges, ascending.
    pub fn marked(&self) -> MarkedRanges<'_> {
        fence(Ordering::SeqCst);
        MarkedRanges::new(&self.segments, Wanted::Marked)
    }

    /// The marked pages that the module may not know: returned, refused, or in a SEAMCALL that has
    /// not returned. As maximal ranges, ascending. What TDH.SYS.DISABLE leaves behind.
    ///
    /// While a SEAMCALL is under way that [returns](Ledger::returning) pages, any given page may be
    /// one of them: then all marked pages.
    pub fn unknown_to_module(&self) -> MarkedRanges<'_> {
        let wanted = if self.is_settled() { Wanted::UnknownToModule } else { Wanted::Marked };
        MarkedRanges::new(&self.segments, wanted)
    }

    /// The marked pages that are entered as returned, refused or in flight, whatever SEAMCALLs are
    /// under way. As maximal ranges, ascending.
    pub(crate) fn not_of_module(&self) -> MarkedRanges<'_> {
        fence(Ordering::SeqCst);
        MarkedRanges::new(&self.segments, Wanted::UnknownToModule)
    }

    /// Number of pages that are not shared.
    pub fn marked_pages(&self) -> u64 {
        self.marked().map(PageRange::pages).sum()
    }

    /// Pages whose token was dropped while they were marked: they stay marked until the next
    /// handover resets them.
    pub fn leaked_pages(&self) -> u64 {
        self.leaked.load(Ordering::Relaxed)
    }

    /// Counts pages that no token covers any more.
    pub(crate) fn leak(&self, pages: u64) {
        self.leaked.fetch_add(pages, Ordering::Relaxed);
    }

    /// The ranges the ledger covers, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = PageRange> + '_ {
        self.segments.iter().map(Segment::range)
    }

    /// The ranges the ledger covers, each with the words that have the states of its pages: two
    /// bits for a page, 32 pages in a word, the lowest first.
    pub(crate) fn leaves(&self) -> impl Iterator<Item = (PageRange, &[AtomicU64])> + '_ {
        self.segments.iter().map(|segment| (segment.range(), segment.leaf()))
    }

    /// Bytes of the caller's memory in use.
    pub fn bytes(&self) -> u64 {
        Self::words_needed(self.ranges()) * 8
    }

    fn segment_of(&self, page: Page) -> Option<&Segment<'m>> {
        let index = self.segments.partition_point(|segment| segment.range().end() <= page);
        self.segments.get(index).filter(|segment| segment.range().contains(page))
    }

    /// All or nothing. Nearly always one page, or a few in one word.
    #[expect(clippy::inline_always, reason = "with known states it is a third of the instructions: benches/ledger.rs")]
    #[inline(always)]
    fn transition(&self, range: PageRange, from: PageState, to: PageState) -> Result<(), MarkError> {
        if let Some(segment) = self.segment_of(range.start())
            && let Some(piece) = segment.single_piece(range)
        {
            return segment.transition_piece(&piece, from, to);
        }
        self.transition_parts(range, from, to)
    }

    /// Pages already changed are changed back if a later one refuses.
    #[inline(never)]
    fn transition_parts(&self, range: PageRange, from: PageState, to: PageState) -> Result<(), MarkError> {
        let mut at = range.start();
        while at < range.end() {
            let step = match self.segment_of(at) {
                Some(segment) => {
                    let part = range.intersection(segment.range()).intersection(PageRange::new(at, range.end()));
                    segment.transition(part, from, to).map(|()| part.end())
                }
                None => Err(MarkError::Outside { page: at }),
            };
            match step {
                Ok(end) => at = end,
                Err(error) => {
                    self.undo(PageRange::new(range.start(), at), from, to);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// This call has just taken these pages, so no other one changes them and the way back cannot
    /// fail.
    fn undo(&self, done: PageRange, from: PageState, to: PageState) {
        for segment in &self.segments {
            segment.force(done.intersection(segment.range()), from, to);
        }
    }
}
