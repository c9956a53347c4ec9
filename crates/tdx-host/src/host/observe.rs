//! A host that watches a kernel's own TDX code: pages of its TDs and PAMTs, as the operands of its
//! SEAMCALLs name them. Makes no SEAMCALL.

use tdx_abi::PageRange;

use super::{Host, HostError};
use crate::ledger::Ledger;
use crate::sync::AtomicU64;

impl<'m> Host<'m> {
    /// Publishes a ledger over `ranges`, which [`crate::follow`] then keeps: for a kernel that
    /// brings TDX up and builds TDs by code of its own. Before its first SEAMCALL that gives a
    /// page.
    ///
    /// `ranges` (ascending, whole 2 MiB) contain every TDMR the kernel may make; `words` are
    /// [`Ledger::words_needed`] words.
    ///
    /// # Errors
    /// [`HostError`]; nothing was published.
    pub fn follow(
        &self,
        ranges: impl IntoIterator<Item = PageRange, IntoIter: Clone>,
        words: &'m mut [AtomicU64],
    ) -> Result<&Ledger<'m>, HostError> {
        self.publish_ledger(ranges.into_iter(), words, |_| Ok(()))?;
        self.ledger().ok_or(HostError::NotUp)
    }

    /// Records the PAMTs that a kernel with TDX code of its own is about to give to the module, and
    /// raises the flag: before its SYS.KEY.CONFIG. From here on this host brings nothing up by
    /// itself.
    ///
    /// `pamts` are all PAMTs, ascending.
    ///
    /// # Errors
    /// [`HostError`]; nothing has changed.
    ///
    /// # Safety
    /// The ranges are memory that was taken for PAMT and holds nothing that anyone needs: from here
    /// on a handover may overwrite them.
    pub unsafe fn observe_pamts(&self, pamts: impl Iterator<Item = PageRange> + Clone) -> Result<(), HostError> {
        if !self.record.claim() {
            return Err(HostError::AlreadySet);
        }
        // SAFETY: by the contract of this function.
        unsafe { self.record.publish(pamts) }.map_err(|error| {
            self.record.release_claim();
            error.into()
        })
    }
}
