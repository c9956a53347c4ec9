//! SEAMCALLs that somebody else makes: which pages each one takes and returns, entered into a
//! [`Ledger`]. For a module beside a kernel that builds TDs by code of its own. It makes no
//! SEAMCALL and refuses to guess: a leaf it does not know may move any page, and is an error.
//!
//! ```text
//!   Moves::of(call) -> before(ledger) -> the kernel's SEAMCALL -> after(ledger, answer)      later: reset(ledger, range)
//! ```
//!
//! What makes it complete: every page goes to the module as an operand of some call, so who sees
//! the operands of every call before it is made knows every page before it is private. What is not
//! known by operands (the page that MEM.PAGE.REMOVE gives back) is in the answer, and until that is
//! there the page is still marked. A page loses its mark in [`reset`] alone.
//!
//! The functions keep nothing: who listens to two ends of a call says [`Moves::of`] at each of
//! them, of the same operands.
//!
//! The ledger may find calls that contradict each other (two CPUs give one page, a page is given
//! that was never reset): it keeps the mark, and believes the later answer.

use arrayvec::ArrayVec;
use tdx_abi::{Leaf, Page, PageRange, PageSize, PhysAddr, Registers, removed_page};

use crate::ledger::{Ledger, PageState};

/// Ranges that one call takes, or returns, at most: a page and a pair of dynamic PAMT.
pub const MAX_MOVED: usize = 3;

/// Pages that a call takes or returns.
pub type Moved = ArrayVec<PageRange, MAX_MOVED>;

/// Why the ledger is not complete any more. What is private is not known from here on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotFollowed {
    /// The leaf is not known here.
    #[error("nobody here knows which pages {0} takes")]
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
    /// This page; R8 of the answer says how large it is.
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
        let small = |address: u64| range(page(address), PageSize::Size4K);
        let takes = |taken: &[PageRange], back| {
            let taken = taken.iter().copied().take(MAX_MOVED).collect();
            Ok(Self { taken, back })
        };
        if call.leaf_call().reserved() != 0 {
            // The P-SEAMLDR's: it takes no page for good.
            return takes(&[], Back::Nothing);
        }
        let leaf = call.leaf_call().leaf();
        match leaf {
            Leaf::MNG_CREATE | Leaf::MNG_ADDCX | Leaf::VP_CREATE | Leaf::VP_ADDCX => {
                takes(&[small(call.rcx)], Back::Nothing)
            }
            Leaf::MEM_PAGE_AUG => takes(&[range(page(call.r8), size_in(call.rcx))], Back::Nothing),
            Leaf::MEM_PAGE_RELOCATE => takes(&[small(call.r8)], Back::Named(PageSize::Size4K)),
            Leaf::MEM_PAGE_DEMOTE if dynamic_pamt => {
                takes(&[small(call.r8), small(call.r12), small(call.r13)], Back::Nothing)
            }
            Leaf::MEM_PAGE_ADD | Leaf::MEM_SEPT_ADD | Leaf::MEM_PAGE_DEMOTE => takes(&[small(call.r8)], Back::Nothing),
            Leaf::PHYMEM_PAMT_ADD => takes(&[small(call.rdx), small(call.r8)], Back::Nothing),
            Leaf::MEM_PAGE_REMOVE => takes(&[], Back::Named(size_in(call.rcx))),
            Leaf::MEM_PAGE_PROMOTE if dynamic_pamt => takes(&[], Back::NamedAndPair),
            Leaf::MEM_SEPT_REMOVE | Leaf::MEM_PAGE_PROMOTE => takes(&[], Back::Named(PageSize::Size4K)),
            Leaf::PHYMEM_PAGE_RECLAIM => takes(&[], Back::Asked(page(call.rcx))),
            Leaf::PHYMEM_PAMT_REMOVE => takes(&[], Back::Pair),
            leaf if moves_nothing(leaf) => takes(&[], Back::Nothing),
            leaf => Err(NotFollowed::Leaf(leaf)),
        }
    }

    /// The pages that the call gives to the module.
    pub fn taken(&self) -> &[PageRange] {
        &self.taken
    }

    /// To be called right before the call is made: its pages are marked when this returns.
    ///
    /// # Errors
    /// [`NotFollowed::Outside`]; the other pages are marked.
    pub fn before(&self, ledger: &Ledger<'_>) -> Result<(), NotFollowed> {
        if self.back != Back::Nothing {
            // Settled by `after`; a `Returning` that is let go settles nothing.
            let _ = ledger.returning();
        }
        let mut result = Ok(());
        for range in &self.taken {
            result = result.and(mark(ledger, *range));
        }
        result
    }

    /// To be called with the registers that the call has left. Gives the pages that it returned.
    ///
    /// # Errors
    /// [`NotFollowed::Outside`]: the module names a page that was never given, as far as the ledger knows.
    pub fn after(&self, ledger: &Ledger<'_>, answer: &Registers) -> Result<Moved, NotFollowed> {
        let failed = answer.status().is_error();
        let mut result = Ok(());
        for range in &self.taken {
            for page in pages(*range) {
                // In either case the mark stays. A page that somebody else gives at the same time
                // may be in any state.
                let moved = if failed { ledger.refused(page) } else { settle_given(ledger, page) };
                if moved.is_err() && ledger.state(page.start()).is_none() {
                    result = Err(NotFollowed::Outside(page.start()));
                }
            }
        }
        let back = if failed { Moved::new() } else { self.returned(answer) };
        for range in &back {
            for page in pages(*range) {
                let state = ledger.state(page.start());
                if ledger.take_back(page).is_err() && !matches!(state, Some(PageState::Returned)) {
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

/// Leaves of which it is known that they leave every page with who has it.
const fn moves_nothing(leaf: Leaf) -> bool {
    matches!(
        leaf,
        Leaf::VP_ENTER
            | Leaf::MEM_RANGE_BLOCK
            | Leaf::MNG_KEY_CONFIG
            | Leaf::MNG_RD
            | Leaf::MEM_RD
            | Leaf::MNG_WR
            | Leaf::MEM_WR
            | Leaf::MR_EXTEND
            | Leaf::MR_FINALIZE
            | Leaf::VP_FLUSH
            | Leaf::MNG_VPFLUSHDONE
            | Leaf::MNG_KEY_FREEID
            | Leaf::MNG_INIT
            | Leaf::VP_INIT
            | Leaf::PHYMEM_PAGE_RDMD
            | Leaf::MEM_SEPT_RD
            | Leaf::VP_RD
            | Leaf::MNG_KEY_RECLAIMID
            | Leaf::SYS_INFO
            | Leaf::SYS_INIT
            | Leaf::SYS_RD
            | Leaf::SYS_LP_INIT
            | Leaf::SYS_RDALL
            | Leaf::MEM_TRACK
            | Leaf::MEM_RANGE_UNBLOCK
            | Leaf::PHYMEM_CACHE_WB
            | Leaf::PHYMEM_PAGE_WBINVD
            | Leaf::MEM_SEPT_WR
            | Leaf::VP_WR
            | Leaf::SYS_LP_SHUTDOWN
            | Leaf::SYS_SHUTDOWN
            | Leaf::SYS_UPDATE
            // PAMTs are in the record of PAMTs, and what SYS.DISABLE clears may stay marked.
            | Leaf::SYS_CONFIG
            | Leaf::SYS_KEY_CONFIG
            | Leaf::SYS_TDMR_INIT
            | Leaf::SYS_DISABLE
    )
}

fn pages(range: PageRange) -> impl Iterator<Item = PageRange> {
    (range.start().index()..range.end().index()).map(|index| PageRange::new(Page::new(index), Page::new(index + 1)))
}

/// Shared or Returned -> Giving, page by page where they differ.
fn mark(ledger: &Ledger<'_>, range: PageRange) -> Result<(), NotFollowed> {
    if ledger.give(range).is_ok() {
        return Ok(());
    }
    for page in pages(range) {
        // Giving or Given already: another call has it, and one of the two will be refused.
        if ledger.give(page).or_else(|_| ledger.give_again(page)).is_err() && ledger.state(page.start()).is_none() {
            return Err(NotFollowed::Outside(page.start()));
        }
    }
    Ok(())
}

/// The module has it, whatever another call said of it meanwhile.
fn settle_given(ledger: &Ledger<'_>, page: PageRange) -> Result<(), crate::ledger::MarkError> {
    ledger.given(page).or_else(|_| ledger.give_again(page).and_then(|()| ledger.given(page)))
}

/// The range has been reset, line by line, and fenced: its pages are shared from here on. Pages
/// that were shared already, and memory that the ledger does not cover, are nobody's concern.
///
/// # Errors
/// [`NotFollowed::StillGiven`]: the first page that keeps its mark, because no call has returned it.
pub fn reset(ledger: &Ledger<'_>, range: PageRange) -> Result<(), NotFollowed> {
    if ledger.clear(range).is_ok() {
        return Ok(());
    }
    let mut result = Ok(());
    for page in pages(range) {
        let given = matches!(ledger.state(page.start()), Some(PageState::Given | PageState::Giving));
        if ledger.clear(page).is_err() && given {
            result = result.and(Err(NotFollowed::StillGiven(page.start())));
        }
    }
    result
}
