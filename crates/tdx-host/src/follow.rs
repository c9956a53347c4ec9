//! Tracks TDs built by other code (e.g. KVM) from their SEAMCALL operands: which pages each call
//! takes and returns, entered into a [`Ledger`]. Stateless; makes no SEAMCALL. Refuses a leaf that
//! it does not know: it may move any page.
//!
//! ```text
//!   Moves::of(call) -> before(ledger) -> the kernel's SEAMCALL -> after(ledger, answer)      later: reset(ledger, range)
//! ```
//!
//! Why it is complete: every page goes to the module as an operand of some call, so an observer of
//! the operands of every call before it is made knows every page before it is private. What is not
//! an operand (the page that MEM.PAGE.REMOVE gives back) is in the answer, and until that is there
//! the page is still marked. A page loses its mark in [`reset`] alone.
//!
//! An observer of both ends of a call makes [`Moves::of`] at each of them, from the same operands.
//!
//! The functions that change the ledger are `unsafe`: the observer promises that the calls it
//! reports are really made. Calls may contradict each other (two CPUs give one page, a page is
//! given that was never reset): the mark stays, and the later answer counts.

use arrayvec::ArrayVec;
use tdx_abi::{Leaf, Page, PageRange, PageSize, PhysAddr, Registers, removed_page};

use crate::effect::{self, Returned, Taken};
use crate::ledger::{Ledger, MarkError, PageState};

/// Ranges that one call takes, or returns, at most: a page and a pair of dynamic PAMT.
pub const MAX_MOVED: usize = 3;

/// Pages that a call takes or returns.
pub type Moved = ArrayVec<PageRange, MAX_MOVED>;

/// Why the ledger is not complete any more: tracking is lost from here on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotFollowed {
    /// The leaf is not known here.
    #[error("unknown SEAMCALL leaf {0}: cannot track its pages")]
    Leaf(Leaf),
    /// A page was given that the ledger does not cover.
    #[error("page {0} was given to the TDX module, and lies outside the ledger")]
    Outside(Page),
    /// A page has been reset that the module has not returned.
    #[error("page {0} was reset although the TDX module has it")]
    StillGiven(Page),
}

/// What a call that succeeds returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Back {
    Nothing,
    /// The page that RCX of the answer names.
    Named(PageSize),
    /// The page that RCX of the answer names, and the pair in R12 and R13.
    NamedAndPair,
    /// This page; R8 of the answer is its size.
    Asked(Page),
    /// The pair in RDX and R8.
    Pair,
}

/// Which pages a call moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moves {
    taken: Moved,
    back: Back,
}

fn page(address: u64) -> Page {
    PhysAddr::new(address).page()
}

fn range(first: Page, size: PageSize) -> PageRange {
    PageRange::new(first, Page::new(first.index().saturating_add(size.pages())))
}

/// The level in RCX of MEM.*; a level that cannot be is refused by the module.
fn size_in(rcx: u64) -> PageSize {
    PageSize::from_level(rcx & 0b111).unwrap_or(PageSize::Size4K)
}

impl Moves {
    /// Of a call, by its operands. `dynamic_pamt`: the module has it on, so that DEMOTE takes a
    /// pair and PROMOTE returns one.
    ///
    /// # Errors
    /// [`NotFollowed::Leaf`].
    pub fn of(call: &Registers, dynamic_pamt: bool) -> Result<Self, NotFollowed> {
        if call.leaf_call().reserved() != 0 {
            // The P-SEAMLDR's: it takes no page for good.
            return Ok(Self { taken: Moved::new(), back: Back::Nothing });
        }
        let leaf = call.leaf_call().leaf();
        let row = effect::row(leaf).ok_or(NotFollowed::Leaf(leaf))?;
        let small = |address: u64| Some(range(page(address), PageSize::Size4K));
        let taken = row.takes.iter().filter_map(|taken| match taken {
            Taken::Rcx => small(call.rcx),
            Taken::Rdx => small(call.rdx),
            Taken::R8 => small(call.r8),
            Taken::R8Sized => Some(range(page(call.r8), size_in(call.rcx))),
            Taken::R12Dynamic => small(call.r12).filter(|_| dynamic_pamt),
            Taken::R13Dynamic => small(call.r13).filter(|_| dynamic_pamt),
        });
        let back = match row.returns {
            Returned::None => Back::Nothing,
            Returned::RcxSized => Back::Named(size_in(call.rcx)),
            Returned::RcxAndPair if dynamic_pamt => Back::NamedAndPair,
            Returned::Rcx | Returned::RcxAndPair => Back::Named(PageSize::Size4K),
            Returned::Asked => Back::Asked(page(call.rcx)),
            Returned::RdxAndR8 => Back::Pair,
        };
        Ok(Self { taken: taken.take(MAX_MOVED).collect(), back })
    }

    /// The pages that the call gives to the module.
    pub fn taken(&self) -> &[PageRange] {
        &self.taken
    }

    /// To be called right before the call is made: its pages are marked when this returns.
    ///
    /// # Errors
    /// [`NotFollowed::Outside`]; the other pages are marked.
    ///
    /// # Safety
    /// The call is really made after this, so that no page is marked that is in use: a handover
    /// overwrites marked pages. [`Moves::after`] follows with its answer.
    pub unsafe fn before(&self, ledger: &Ledger<'_>) -> Result<(), NotFollowed> {
        if self.back != Back::Nothing {
            // Settled by `after`; a `Returning` that is dropped settles nothing.
            let _ = ledger.returning();
        }
        let mut result = Ok(());
        for range in &self.taken {
            // SAFETY: the caller's promise: the call that is made takes these pages.
            result = result.and(unsafe { mark(ledger, *range) });
        }
        result
    }

    /// To be called with the registers that the call has left. Gives the pages that it returned.
    ///
    /// # Errors
    /// [`NotFollowed::Outside`]: the module names a page that was never given, as far as the ledger
    /// knows.
    ///
    /// # Safety
    /// `answer` is what the call of [`Moves::before`] has left in the registers, and this is the
    /// first time it is reported.
    pub unsafe fn after(&self, ledger: &Ledger<'_>, answer: &Registers) -> Result<Moved, NotFollowed> {
        let failed = answer.status().is_error();
        let mut result = Ok(());
        for range in &self.taken {
            for page in pages(*range) {
                // In either case the mark stays. A page that another call gives at the same time
                // may be in any state.
                // SAFETY: the caller's promise: this is what became of the call.
                let moved = unsafe { if failed { ledger.abort(page) } else { settle_private(ledger, page) } };
                if moved.is_err() && ledger.state(page.start()).is_none() {
                    result = Err(NotFollowed::Outside(page.start()));
                }
            }
        }
        let back = if failed { Moved::new() } else { self.returned(answer) };
        for range in &back {
            for page in pages(*range) {
                let state = ledger.state(page.start());
                // SAFETY: the caller's promise: the module has returned the page.
                if unsafe { ledger.reclaim(page) }.is_err() && !matches!(state, Some(PageState::Returned)) {
                    result = Err(NotFollowed::Outside(page.start()));
                }
            }
        }
        if self.back != Back::Nothing {
            ledger.settle_returning();
        }
        result.map(|()| back)
    }

    fn returned(&self, answer: &Registers) -> Moved {
        let small = |address: u64| range(page(address), PageSize::Size4K);
        let named = |size| range(removed_page(answer.rcx).0.page(), size);
        let mut moved = Moved::new();
        match self.back {
            Back::Nothing => {}
            Back::Named(size) => moved.push(named(size)),
            Back::NamedAndPair => {
                moved.extend([named(PageSize::Size4K), small(answer.r12), small(answer.r13)]);
            }
            Back::Asked(page) => moved.push(range(page, PageSize::from_level(answer.r8).unwrap_or(PageSize::Size4K))),
            Back::Pair => moved.extend([small(answer.rdx), small(answer.r8)]),
        }
        moved
    }
}

fn pages(range: PageRange) -> impl Iterator<Item = PageRange> {
    (range.start().index()..range.end().index()).map(|index| PageRange::new(Page::new(index), Page::new(index + 1)))
}

/// Shared or Returned -> InFlight, page by page where they differ.
///
/// # Safety
/// As [`Ledger::give`] and [`Ledger::give_again`].
unsafe fn mark(ledger: &Ledger<'_>, range: PageRange) -> Result<(), NotFollowed> {
    // SAFETY: the caller's promise, here and below.
    if unsafe { ledger.give(range) }.is_ok() {
        return Ok(());
    }
    for page in pages(range) {
        // InFlight or Private already: another call has it, and one of the two will be refused.
        // SAFETY: as above.
        let marked = unsafe { ledger.give(page).or_else(|_| ledger.give_again(page)) };
        if marked.is_err() && ledger.state(page.start()).is_none() {
            return Err(NotFollowed::Outside(page.start()));
        }
    }
    Ok(())
}

/// The module has the page, whatever the answer of another call was meanwhile.
///
/// # Safety
/// As [`Ledger::commit`].
unsafe fn settle_private(ledger: &Ledger<'_>, page: PageRange) -> Result<(), MarkError> {
    // SAFETY: the caller's promise.
    unsafe { ledger.commit(page).or_else(|_| ledger.give_again(page).and_then(|()| ledger.commit(page))) }
}

/// The range has been reset, line by line, and fenced: its pages are shared from here on. Pages
/// that were shared already, and memory that the ledger does not cover, are skipped.
///
/// # Errors
/// [`NotFollowed::StillGiven`]: the first page that keeps its mark, because no call has returned
/// it.
///
/// # Safety
/// As [`Ledger::unmark`].
pub unsafe fn reset(ledger: &Ledger<'_>, range: PageRange) -> Result<(), NotFollowed> {
    // SAFETY: the caller's promise, here and below.
    if unsafe { ledger.unmark(range) }.is_ok() {
        return Ok(());
    }
    let mut result = Ok(());
    for page in pages(range) {
        let given = matches!(ledger.state(page.start()), Some(PageState::Private | PageState::InFlight));
        // SAFETY: as above.
        if unsafe { ledger.unmark(page) }.is_err() && given {
            result = result.and(Err(NotFollowed::StillGiven(page.start())));
        }
    }
    result
}
