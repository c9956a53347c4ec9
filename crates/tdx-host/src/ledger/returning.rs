//! SEAMCALLs under way that return pages which only their answer names. One whose answer was never
//! entered stays counted.

use super::Ledger;
use crate::sync::{Ordering, fence, fence_after_rmw};

/// A SEAMCALL may have returned pages that the ledger still shows as private. Made before the call,
/// [settled](Self::settled) when its answer is in the ledger, or when it failed.
///
/// Dropping it says that the answer is lost: until the next handover [`Ledger::unknown_to_module`]
/// is then every marked page.
#[derive(Debug)]
#[must_use = "dropping it says that pages were lost"]
pub struct Returning<'l>(&'l Ledger<'l>);

impl Returning<'_> {
    /// The answer of the module is in the ledger, or the call has failed.
    pub fn settled(self) {
        self.0.settle_returning();
    }
}

impl Ledger<'_> {
    /// To be called before a SEAMCALL that returns pages: MEM.PAGE.REMOVE, MEM.SEPT.REMOVE,
    /// MEM.PAGE.RELOCATE, MEM.PAGE.PROMOTE, PHYMEM.PAGE.RECLAIM, PHYMEM.PAMT.REMOVE.
    pub fn returning(&self) -> Returning<'_> {
        self.returning.fetch_add(1, Ordering::AcqRel);
        fence_after_rmw();
        Returning(self)
    }

    /// Of a [`Returning`] that was forgotten: the answer is in the ledger.
    pub(crate) fn settle_returning(&self) {
        // After the transition that entered the answer: a CPU that sees the count fall sees the
        // page returned.
        // An observer may see the end of a call whose beginning was before it came: not below 0. It
        // then takes the place of one that is counted, until none is under way.
        let _ = self.returning.fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| count.checked_sub(1));
    }

    /// Of every [`Returning`], whose answers may be lost: the module has been asked of each marked
    /// page since, behind a closed gate that nothing opens again. One that is settled after this
    /// has its answer in the ledger, too, and the count stays 0.
    pub(crate) fn settle_all_returning(&self) {
        // After the transitions that entered the answers, as in `settle_returning`.
        self.returning.store(0, Ordering::Release);
    }

    /// True if the ledger has the answer of every SEAMCALL that returned pages.
    pub fn is_settled(&self) -> bool {
        fence(Ordering::SeqCst);
        self.returning.load(Ordering::Acquire) == 0
    }
}
