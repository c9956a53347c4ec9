//! Tracks TDs built by other code (e.g. KVM) from their SEAMCALL operands: which pages each call
//! takes and returns, entered into a [`Ledger`]. Stateless; makes no SEAMCALL. Refuses a leaf, and
//! a version of a leaf, that it does not know: it may move any page.
//!
//! ```text
//!   Moves::of(call) -> before(ledger) -> the kernel's SEAMCALL -> after(ledger, answer)      later: reset(ledger, range)
//! ```
//!
//! Which registers name pages is in the table of [`crate::effect`].
//!
//! Why it is complete: every page goes to the module as an operand of some call, so an observer of
//! the operands of every call before it is made knows every page before it is private. What is not
//! an operand (the page that MEM.PAGE.REMOVE gives back) is in the answer, and the
//! page stays marked until then. A page loses its mark in [`reset`] alone.
//!
//! An observer of both ends of a call makes [`Moves::of`] at each of them, from the same operands.
//!
//! # Why nothing in use is overwritten
//!
//! The other code decides when it frees a page, and may free one that is still marked: KVM frees
//! the page of a call that failed, and all guest pages when the module is dead. A handover
//! overwrites marked pages, so a marked page must not be used for anything else. Each marked page
//! therefore has a reference ([`PageRefs`]), taken before the mark is set and dropped after it is
//! cleared, in the same two functions: a page that its owner frees stays out of the page allocator
//! until its reset. No table of references is needed, and each is dropped once: the ledger's bits
//! say which pages have one, and a transition of a page happens once.
//!
//! The functions that change the ledger are `unsafe`: the observer promises that the calls it
//! reports are really made. Calls may contradict each other (two CPUs give one page, a page is
//! given that was never reset): the mark stays, and the later answer counts.

mod module_event;

use arrayvec::ArrayVec;
use tdx_abi::{Leaf, LeafCall, Page, PageRange, PageSize, PhysAddr, Registers, removed_page};

use crate::effect::{self, Kept, Row, Take};
use crate::ledger::{Ledger, MarkError, PageState};
pub use module_event::{ModuleEvent, forgotten};

/// Ranges that one call takes, or returns, at most: MEM.PAGE.DEMOTE takes a Secure-EPT page for
/// each of four VMs and a pair of Dynamic PAMT, MEM.PAGE.PROMOTE returns as many.
pub const MAX_MOVED: usize = 6;

/// Pages that a call takes or returns.
pub type Moved = ArrayVec<PageRange, MAX_MOVED>;

/// Why the ledger is not complete any more: tracking is lost from here on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotFollowed {
    /// The leaf is not known here.
    #[error("unknown SEAMCALL leaf {0}: cannot track its pages")]
    Leaf(Leaf),
    /// The leaf is known, this version of it is not: it may take other pages.
    #[error("unknown version {} of SEAMCALL {}: cannot track its pages", .0.version(), .0.leaf())]
    Version(LeafCall),
    /// A page was given that the ledger does not cover.
    #[error("page {0} was given to the TDX module, and lies outside the ledger")]
    Outside(Page),
    /// A page has been reset that the module has not returned.
    #[error("page {0} was reset although the TDX module has it")]
    StillGiven(Page),
    /// A page was given that nobody has allocated. It is not marked: anyone may use it.
    #[error("page {0} was given to the TDX module, and is not allocated")]
    NotAllocated(Page),
}

/// References to pages, as the kernel's page allocator counts them.
///
/// # Safety
/// Between a [`hold`](PageRefs::hold) that returned true and its [`release`](PageRefs::release) the
/// page allocator hands the page to nobody, whoever frees it.
pub unsafe trait PageRefs {
    /// Takes a reference to a page. False if the page has none, so that it may be free.
    fn hold(&self, page: Page) -> bool;

    /// Drops a reference that [`hold`](PageRefs::hold) took. The page is freed if it was the last.
    ///
    /// # Safety
    /// One call for each successful [`hold`](PageRefs::hold). The page is ordinary memory, or
    /// another reference keeps it.
    unsafe fn release(&self, page: Page);
}

/// Which pages a call moves. Nothing is worked out before it is asked for: most calls of a running
/// host move none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Moves<'c> {
    call: &'c Registers,
    dynamic_pamt: bool,
    row: &'static Row,
}

fn range(address: u64, size: PageSize) -> PageRange {
    let first = PhysAddr::new(address).page();
    PageRange::new(first, Page::new(first.index().saturating_add(size.pages())))
}

impl<'c> Moves<'c> {
    /// Of a call, by its operands. `dynamic_pamt`: the module has it on, so that DEMOTE takes a
    /// pair and PROMOTE returns one.
    ///
    /// # Errors
    /// [`NotFollowed::Leaf`], [`NotFollowed::Version`].
    pub fn of(call: &'c Registers, dynamic_pamt: bool) -> Result<Self, NotFollowed> {
        // With reserved bits it is the P-SEAMLDR's: it takes no page for good.
        let row = if call.leaf_call().reserved() == 0 { known(call.leaf_call())? } else { &effect::NOT_OF_THE_MODULE };
        Ok(Self { call, dynamic_pamt, row })
    }

    /// Does a call like this take or return pages at all?
    pub fn is_any(&self) -> bool {
        !self.row.takes.is_empty() || !self.row.returns.is_empty()
    }

    /// The pages that the call gives to the module.
    pub fn taken(&self) -> Moved {
        self.takes().map(|(range, _)| range).take(MAX_MOVED).collect()
    }

    fn takes(&self) -> impl Iterator<Item = (PageRange, &'static Take)> + use<'c> {
        let (call, dynamic_pamt) = (self.call, self.dynamic_pamt);
        self.row.takes.iter().filter_map(move |take| {
            let address = take.there.address(take.register.of(call), call, dynamic_pamt)?;
            Some((range(address, take.size.in_call(call)), take))
        })
    }

    /// The pages that the call gave, each with whether the module has it after this answer. Lines
    /// of a page that it does not have may still be private.
    pub fn kept<'m>(&'m self, answer: &'m Registers) -> impl Iterator<Item = (PageRange, bool)> + 'm {
        let failed = answer.status().is_error();
        let kept = move |take: &Take| match take.kept {
            Kept::OnSuccess => !failed,
            Kept::UnlessOneMayExist => !failed && self.call.rdx & MAY_EXIST == 0,
            Kept::AsAnswered if failed => take.register.says_used(answer),
            Kept::AsAnswered => !take.register.says_not_used(answer),
        };
        self.takes().map(move |(range, take)| (range, kept(take)))
    }

    /// To be called right before the call is made: its pages are held and marked when this returns.
    ///
    /// # Errors
    /// [`NotFollowed::Outside`], [`NotFollowed::NotAllocated`]: the first such page. The other
    /// pages are marked.
    ///
    /// # Safety
    /// The call is really made after this, so that no page is marked that is in use: a handover
    /// overwrites marked pages. [`Moves::after`] follows with its answer. Whoever makes the call
    /// has its pages, and no other reference of `refs` is for pages of this ledger.
    pub unsafe fn before(&self, ledger: &Ledger<'_>, refs: &impl PageRefs) -> Result<(), NotFollowed> {
        if !self.row.returns.is_empty() {
            // Settled by `after`; a `Returning` that is dropped settles nothing.
            let _ = ledger.returning();
        }
        let mut result = Ok(());
        for (range, _) in self.takes() {
            // SAFETY: the caller's promise: the call that is made takes these pages.
            result = result.and(unsafe { mark(ledger, range, refs) });
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
        let mut result = Ok(());
        for (range, kept) in self.kept(answer) {
            for page in pages(range) {
                // In either case the mark stays. A page that another call gives at the same time
                // may be in any state.
                // SAFETY: the caller's promise: this is what became of the call.
                let moved = unsafe { if kept { settle_private(ledger, page) } else { ledger.abort(page) } };
                if moved.is_err() && ledger.state(page.start()).is_none() {
                    result = Err(NotFollowed::Outside(page.start()));
                }
            }
        }
        let back = if answer.status().is_error() { Moved::new() } else { self.returned(answer) };
        for range in &back {
            for page in pages(*range) {
                let state = ledger.state(page.start());
                // SAFETY: the caller's promise: the module has returned the page.
                if unsafe { ledger.reclaim(page) }.is_err() && !matches!(state, Some(PageState::Returned)) {
                    result = Err(NotFollowed::Outside(page.start()));
                }
            }
        }
        if !self.row.returns.is_empty() {
            ledger.settle_returning();
        }
        result.map(|()| back)
    }

    /// The pages that a call which has succeeded has returned.
    pub fn returned(&self, answer: &Registers) -> Moved {
        let back = self.row.returns.iter().filter_map(|back| {
            let named = if back.by_call { self.call } else { answer };
            let address = back.there.address(back.register.of(named), self.call, self.dynamic_pamt)?;
            Some(range(removed_page(address).0.get(), back.size.in_answer(self.call, answer)))
        });
        back.take(MAX_MOVED).collect()
    }
}

/// RDX of MEM.SEPT.ADD: success if the entry is mapped already.
const MAY_EXIST: u64 = 1;

/// The row of a leaf and version.
fn known(call: LeafCall) -> Result<&'static Row, NotFollowed> {
    effect::row(call).ok_or_else(|| match effect::leaf_effect(call.leaf()) {
        Some(_) => NotFollowed::Version(call),
        None => NotFollowed::Leaf(call.leaf()),
    })
}

fn pages(range: PageRange) -> impl Iterator<Item = PageRange> {
    (range.start().index()..range.end().index()).map(|index| PageRange::new(Page::new(index), Page::new(index + 1)))
}

/// Shared or Returned -> InFlight. A page that was shared gets a reference first.
///
/// # Safety
/// As [`Ledger::give`] and [`Ledger::give_again`].
unsafe fn mark(ledger: &Ledger<'_>, range: PageRange, refs: &impl PageRefs) -> Result<(), NotFollowed> {
    let mut result = Ok(());
    for page in pages(range) {
        if !refs.hold(page.start()) {
            result = result.and(Err(NotFollowed::NotAllocated(page.start())));
            continue;
        }
        // SAFETY: the caller's promise.
        if unsafe { ledger.give(page) }.is_ok() {
            continue;
        }
        // Marked already, so it has its reference; or nothing that can be marked.
        // SAFETY: the one taken above; whoever makes the call has the page.
        unsafe { refs.release(page.start()) };
        // InFlight or Private already: another call has it, and one of the two will be refused.
        // SAFETY: the caller's promise.
        let marked = unsafe { ledger.give_again(page) };
        if marked.is_err() && ledger.state(page.start()).is_none() {
            result = result.and(Err(NotFollowed::Outside(page.start())));
        }
    }
    result
}

/// The module has the page, whatever the answer of another call was meanwhile.
///
/// # Safety
/// As [`Ledger::commit`].
unsafe fn settle_private(ledger: &Ledger<'_>, page: PageRange) -> Result<(), MarkError> {
    // SAFETY: the caller's promise.
    unsafe { ledger.commit(page).or_else(|_| ledger.give_again(page).and_then(|()| ledger.commit(page))) }
}

/// Marks pages that the module was given before there was an observer, each with a reference: those
/// that are shared become `InFlight`, or `Private` if `settled`. Gives the number of these. For
/// pages that a sweep finds ([`crate::sweep`]) and, while it runs, for those of calls whose answer
/// is seen: a call that was under way when the observer came has given its pages unseen, and one
/// that returns a page may come before the sweep has found it.
///
/// # Errors
/// [`NotFollowed::Outside`], [`NotFollowed::NotAllocated`]: the first such page. The other pages
/// are marked.
///
/// # Safety
/// The module has the pages, a call has given them whose answer is reported next, or it has
/// returned them and [`Moves::after`] follows. No call moves them meanwhile. `refs` is that of
/// [`Moves::before`].
pub unsafe fn learn(
    ledger: &Ledger<'_>,
    range: PageRange,
    settled: bool,
    refs: &impl PageRefs,
) -> (u64, Result<(), NotFollowed>) {
    let (mut learned, mut result) = (0, Ok(()));
    for page in pages(range) {
        if ledger.state(page.start()) != Some(PageState::Shared) {
            continue;
        }
        // SAFETY: the caller's promise.
        let marked = unsafe { mark(ledger, page, refs) };
        if marked.is_ok() {
            learned += 1;
            if settled {
                // Nobody else changes it; if somebody does, it is still marked.
                // SAFETY: the caller's promise: a call has given it.
                let _ = unsafe { ledger.commit(page) };
            }
        }
        result = result.and(marked);
    }
    (learned, result)
}

/// The range has been reset, line by line, and fenced: its pages are shared from here on, and their
/// references are dropped. Pages that were shared already, and memory that the ledger does not
/// cover, are skipped.
///
/// # Errors
/// [`NotFollowed::StillGiven`]: the first page that keeps its mark, because no call has returned
/// it.
///
/// # Safety
/// As [`Ledger::unmark`]. `refs` is that of [`Moves::before`].
pub unsafe fn reset(ledger: &Ledger<'_>, range: PageRange, refs: &impl PageRefs) -> Result<(), NotFollowed> {
    let mut result = Ok(());
    for page in pages(range) {
        let given = matches!(ledger.state(page.start()), Some(PageState::Private | PageState::InFlight));
        // SAFETY: the caller's promise.
        if unsafe { ledger.unmark(page) }.is_ok() {
            // SAFETY: taken when the page was marked; it was reset.
            unsafe { refs.release(page.start()) };
        } else if given {
            result = result.and(Err(NotFollowed::StillGiven(page.start())));
        }
    }
    result
}
