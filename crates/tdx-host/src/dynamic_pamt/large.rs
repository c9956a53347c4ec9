//! The pair of a page of 2 MiB that becomes 512 pages (MEM.PAGE.DEMOTE) or was 512
//! (MEM.PAGE.PROMOTE). The module takes and returns the pair in the very call, so there is no ADD
//! and no REMOVE here; counts, marks and resets are the same.

use tdx_abi::{PAMT_PAIR_PAGES, Page};

use super::DynamicPamt;
use super::count::{MOST, Turn};
use super::error::PamtCause;
use super::pair::{InFlightPair, Pair, Recovered, reclaim};
use crate::ledger::Returning;
use crate::platform::Cpu;
use crate::seamcall::SeamcallError;

/// Everything is ready for MEM.PAGE.DEMOTE.
#[must_use = "to be ended by `done` or `failed`"]
pub(crate) struct Split<'p, 'h> {
    pamt: &'p DynamicPamt<'h>,
    turn: Turn<'h>,
    pair: InFlightPair<'h>,
}

/// Everything is ready for MEM.PAGE.PROMOTE.
#[must_use = "to be ended by `done` or `failed`"]
pub(crate) struct Merge<'p, 'h> {
    pamt: &'p DynamicPamt<'h>,
    turn: Turn<'h>,
    returning: Returning<'h>,
}

impl<'h> DynamicPamt<'h> {
    /// Marks the pair in `spare` for the 512 pages of `large`. On an error it is in `spare` again.
    pub(crate) fn split<C: Cpu>(&self, cpu: &C, large: Page, spare: &mut Pair<'h>) -> Result<Split<'_, 'h>, PamtCause> {
        let turn = self.count(large)?.split()?;
        match InFlightPair::new(self.ledger(), cpu, spare) {
            Ok(pair) => Ok(Split { pamt: self, turn, pair }),
            Err(cause) => {
                turn.finish(0);
                Err(cause)
            }
        }
    }

    /// Keeps other CPUs away from the 512 pages of `large`, which are all counted.
    pub(crate) fn merge(&self, large: Page) -> Result<Merge<'_, 'h>, PamtCause> {
        let turn = self.count(large)?.merge()?;
        Ok(Merge { pamt: self, turn, returning: self.ledger().returning() })
    }
}

impl<'h> Split<'_, 'h> {
    /// R12 and R13 of the call.
    pub(crate) fn pair(&self) -> [Page; PAMT_PAIR_PAGES] {
        self.pair.pages()
    }

    /// The call has succeeded: 512 pages are counted.
    ///
    /// # Safety
    /// The MEM.PAGE.DEMOTE that was given [`Split::pair`] has succeeded.
    pub(crate) unsafe fn done(self) {
        // SAFETY: the caller's promise.
        unsafe { self.pair.commit() };
        self.turn.finish(MOST);
    }

    /// The call has failed, or was not even made. Gives back what could be cleaned of the pair.
    ///
    /// # Safety
    /// The MEM.PAGE.DEMOTE that was given [`Split::pair`] has failed with `error`, or was not made.
    pub(crate) unsafe fn failed<C: Cpu>(self, cpu: &C, error: Option<&SeamcallError>) -> Pair<'h> {
        self.turn.finish(0);
        // SAFETY: the caller's promise.
        unsafe { self.pair.abort(self.pamt, cpu, error) }.pages
    }
}

impl<'h> Merge<'_, 'h> {
    /// The call has succeeded and returned this pair; no page is counted any more.
    ///
    /// # Safety
    /// The MEM.PAGE.PROMOTE of the page of this value has succeeded, and R12 and R13 of its answer
    /// are `pair`: its two pages are marked, and the module has them no more.
    pub(crate) unsafe fn done<C: Cpu>(self, cpu: &C, pair: [Page; PAMT_PAIR_PAGES]) -> Recovered<'h> {
        self.turn.finish(0);
        // SAFETY: the caller's promise.
        unsafe { reclaim(self.pamt, cpu, self.returning, pair) }
    }

    /// The call has failed.
    pub(crate) fn failed(self) {
        self.returning.settled();
        self.turn.finish(MOST);
    }
}
