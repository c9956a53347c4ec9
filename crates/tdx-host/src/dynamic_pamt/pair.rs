//! The pages of a pair on their way to the module and back. Written back under the global KeyID and
//! reset, both, always: the module's source writes nothing in a PAMT.ADD that fails, but nobody
//! promises that, and its walks leave dirty lines of a removed pair in the caches, which it does
//! not flush.

use arrayvec::ArrayVec;
use tdx_abi::{Leaf, PAMT_PAIR_PAGES, Page, PageSize, Registers, Status};

use super::DynamicPamt;
use super::error::PamtCause;
use crate::ledger::Returning;
use crate::page::{CleanPage, GivingPage, PrivatePage, ResetPass, ReturnedPage, SharedPage};
use crate::platform::Cpu;
use crate::seamcall::{SeamcallError, call};

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
pub(super) struct Giving<'h>([GivingPage<'h>; PAMT_PAIR_PAGES]);

impl<'h> Giving<'h> {
    /// Writes back the host's own lines of both pages and marks them. If one cannot be marked, both
    /// are in `spare` again.
    pub(super) fn new<C: Cpu>(cpu: &C, spare: &mut Pair<'h>) -> Result<Self, PamtCause> {
        if spare.iter().any(|page| page.size() != PageSize::Size4K) {
            return Err(PamtCause::NoSpare);
        }
        let [first, second] = core::mem::take(spare).into_inner().map_err(|few| {
            *spare = few;
            PamtCause::NoSpare
        })?;
        let first = match first.give(cpu) {
            Ok(first) => first,
            Err(error) => {
                put_back(spare, error.page);
                put_back(spare, second);
                return Err(error.cause.into());
            }
        };
        match second.give(cpu) {
            Ok(second) => Ok(Self([first, second])),
            Err(error) => {
                put_back(spare, error.page);
                // The module has never heard of the first page, but a mark goes only with a reset.
                if let Ok(page) =
                    first.refused().map_err(PamtCause::from).and_then(|page| reset(cpu, page.written_back()))
                {
                    put_back(spare, page);
                }
                Err(error.cause.into())
            }
        }
    }

    pub(super) fn pages(&self) -> [Page; PAMT_PAIR_PAGES] {
        let Self([first, second]) = self;
        [first.page(), second.page()]
    }

    /// The module has the pair. It names the pages when they come back; until then the ledger is
    /// their record.
    pub(super) fn taken(self) {
        for page in self.0 {
            // Somebody else changed the mark: dropping the token counts the page as leaked, and the
            // pair is in use all the same.
            if let Ok(page) = page.taken() {
                page.entrust();
            }
        }
    }

    /// The call has failed; without an error, it was not even tried.
    pub(super) fn refused<C: Cpu>(
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
            recovered.add(
                page.refused()
                    .map_err(PamtCause::from)
                    .and_then(|page| if never_made { reset(cpu, page.written_back()) } else { clean(pamt, cpu, page) }),
            );
        }
        recovered
    }
}

/// Takes back the pages that the module has named in the answer to a call that was announced by
/// `returning`. Both are entered in the ledger before either is touched.
pub(super) fn take_back<'h, C: Cpu>(
    pamt: &DynamicPamt<'h>,
    cpu: &C,
    returning: Returning<'h>,
    pages: [Page; PAMT_PAIR_PAGES],
) -> Recovered<'h> {
    let entered = pages.map(|page| {
        let private = PrivatePage::find(pamt.ledger(), page, PageSize::Size4K)?;
        private.returned().map_err(PamtCause::from)
    });
    // A page that the ledger does not have as given: nobody knows which one the module has let go
    // of, and this stays said.
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
    call(cpu, Registers::call(Leaf::PHYMEM_PAGE_WBINVD).rcx_address(address))?;
    reset(cpu, page.written_back())
}

/// There is room: no more than a pair comes back, one page at a time.
fn put_back<'h>(pages: &mut Pair<'h>, page: SharedPage<'h>) {
    let _ = pages.try_push(page);
}

fn reset<'h, C: Cpu>(cpu: &C, page: CleanPage<'h>) -> Result<SharedPage<'h>, PamtCause> {
    Ok(ResetPass::new(cpu).reset(page)?)
}
