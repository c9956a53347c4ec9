//! The pages of a pair on their way to the module and back. Written back under the global KeyID and
//! reset, both, always: the module's source writes nothing in a PAMT.ADD that fails, but no
//! document promises that, and its walks leave dirty lines of a removed pair in the caches, which
//! it does not flush.

use arrayvec::ArrayVec;
use tdx_abi::{Leaf, PAMT_PAIR_PAGES, Page, PageSize, Registers, Status};

use super::DynamicPamt;
use super::error::PamtCause;
use crate::ledger::{Ledger, Returning};
use crate::page::{CleanPage, InFlightPage, PrivatePage, ResetPass, ReturnedPage, SharedPage};
use crate::platform::{Cpu, OwnedPages};
use crate::seamcall::{SeamcallError, call_unchecked};

/// Pages of 4 KiB for a pair, or of one that is gone. Two make a pair.
pub type Pair<'h> = ArrayVec<SharedPage<'h>, PAMT_PAIR_PAGES>;

/// What came of pages that the module does not have any more.
#[derive(Debug, Default)]
pub struct Recovered<'h> {
    /// The clean ones.
    pub pages: Pair<'h>,
    /// Why the last one of the others is not: it stays marked until the next handover, and is
    /// counted as leaked.
    pub lost: Option<PamtCause>,
    /// How many others there are.
    pub lost_pages: u32,
}

impl<'h> Recovered<'h> {
    fn add(&mut self, page: Result<SharedPage<'h>, PamtCause>) {
        match page {
            Ok(page) => put_back(&mut self.pages, page),
            Err(cause) => {
                self.lost = Some(cause);
                self.lost_pages += 1;
            }
        }
    }
}

/// A pair between its marks and the answer of the module.
pub(super) struct InFlightPair<'h>([InFlightPage<'h>; PAMT_PAIR_PAGES]);

impl<'h> InFlightPair<'h> {
    /// Writes back the host's own lines of both pages and marks them. If one cannot be marked, both
    /// are in `spare` again.
    pub(super) fn new<C: Cpu>(ledger: &'h Ledger<'h>, cpu: &C, spare: &mut Pair<'h>) -> Result<Self, PamtCause> {
        if spare.iter().any(|page| page.size() != PageSize::Size4K) {
            return Err(PamtCause::NoSpare);
        }
        if let Some(page) = spare.iter().find(|page| !core::ptr::eq(page.ledger(), ledger)) {
            return Err(PamtCause::Foreign { page: page.page() });
        }
        let [first, second] = core::mem::take(spare).into_inner().map_err(|few| {
            *spare = few;
            PamtCause::NoSpare
        })?;
        let first = match first.give(cpu) {
            Ok(first) => first,
            Err(error) => {
                retake(ledger, spare, error.page);
                put_back(spare, second);
                return Err(error.cause.into());
            }
        };
        match second.give(cpu) {
            Ok(second) => Ok(Self([first, second])),
            Err(error) => {
                // The module was never asked about the first page, but a mark goes only with a
                // reset.
                // SAFETY: no call was made, so the module does not have it and no line is private.
                let first = unsafe { first.abort().map(|page| page.written_back()) };
                if let Ok(page) = first.map_err(PamtCause::from).and_then(|page| reset(cpu, page)) {
                    put_back(spare, page);
                }
                retake(ledger, spare, error.page);
                Err(error.cause.into())
            }
        }
    }

    pub(super) fn pages(&self) -> [Page; PAMT_PAIR_PAGES] {
        let Self([first, second]) = self;
        [first.page(), second.page()]
    }

    /// The module has the pair. It names the pages when it returns them; until then the ledger is
    /// their record.
    ///
    /// # Safety
    /// The call that takes the pair has succeeded.
    pub(super) unsafe fn commit(self) {
        for page in self.0 {
            // Other code changed the mark: dropping the token counts the page as leaked, and the
            // pair is in use.
            // SAFETY: the caller's promise.
            if let Ok(page) = unsafe { page.commit() } {
                page.into_tracked();
            }
        }
    }

    /// The call has failed; without an error, it was not even tried.
    ///
    /// # Safety
    /// The call that was given these pages has failed with `error`, or was not made: the module
    /// does not have them.
    pub(super) unsafe fn abort<C: Cpu>(
        self,
        pamt: &DynamicPamt<'h>,
        cpu: &C,
        error: Option<&SeamcallError>,
    ) -> Recovered<'h> {
        // Not tried, or the gate refused the first attempt already: no instruction, no private
        // line.
        let never_made = error.is_none_or(|error| error.attempts == 1 && error.status() == Status::GATE_CLOSED);
        let mut recovered = Recovered::default();
        for page in self.0 {
            // SAFETY: the caller's promise.
            let page = unsafe { page.abort() }.map_err(PamtCause::from);
            recovered.add(page.and_then(|page| {
                if never_made {
                    // SAFETY: no instruction, no private line.
                    return reset(cpu, unsafe { page.written_back() });
                }
                clean(pamt, cpu, page)
            }));
        }
        recovered
    }
}

/// Takes back the pages that the module has named in the answer to a call that was announced by
/// `returning`. Both are entered in the ledger before either is touched.
///
/// # Safety
/// That call has succeeded.
pub(super) unsafe fn reclaim<'h, C: Cpu>(
    pamt: &DynamicPamt<'h>,
    cpu: &C,
    returning: Returning<'h>,
    pages: [Page; PAMT_PAIR_PAGES],
) -> Recovered<'h> {
    let entered = pages.map(|page| {
        // SAFETY: the caller's promise, here and below.
        let private = unsafe { PrivatePage::find(pamt.ledger(), page, PageSize::Size4K)? };
        // SAFETY: as above.
        unsafe { private.reclaim() }.map_err(PamtCause::from)
    });
    // If the ledger does not have one of them as private it is not known which page the module has
    // returned, and the call stays counted.
    if entered.iter().all(Result::is_ok) {
        returning.settled();
    }
    let mut recovered = Recovered::default();
    for page in entered {
        recovered.add(page.and_then(|page| clean(pamt, cpu, page)));
    }
    recovered
}

/// PHYMEM.PAGE.WBINVD under the global KeyID, then the reset. A module that still has the page
/// refuses the first, and then the second must not happen.
fn clean<'h, C: Cpu>(pamt: &DynamicPamt<'h>, cpu: &C, page: ReturnedPage<'h>) -> Result<SharedPage<'h>, PamtCause> {
    let address = pamt.under_global_key(page.page());
    // SAFETY: PHYMEM.PAGE.WBINVD moves no page and writes none but by lines that were its own.
    unsafe { call_unchecked(cpu, Registers::call(Leaf::PHYMEM_PAGE_WBINVD).rcx_address(address))? };
    // SAFETY: PAMT has no other key than the global one.
    reset(cpu, unsafe { page.written_back() })
}

/// There is room: no more than a pair is returned, one page at a time.
fn put_back<'h>(pages: &mut Pair<'h>, page: SharedPage<'h>) {
    let _ = pages.try_push(page);
}

/// The page of a token that was not given. It was shared, and still is.
fn retake<'h>(ledger: &'h Ledger<'h>, pages: &mut Pair<'h>, page: OwnedPages) {
    if let Ok(page) = SharedPage::take(ledger, page) {
        put_back(pages, page);
    }
}

fn reset<'h, C: Cpu>(cpu: &C, page: CleanPage<'h>) -> Result<SharedPage<'h>, PamtCause> {
    Ok(ResetPass::new(cpu).reset(page)?)
}
