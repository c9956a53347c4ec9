//! Taking over a TDX module that an earlier kernel has left as it was, from its takeover table.

use tdx_abi::KeyId;

use super::{Host, HostError};
use crate::key_ids::KeyIds;
use crate::ledger::Ledger;
use crate::sync::AtomicU64;
use crate::takeover::{Entry, TakeoverError, TakeoverTable, TakeoverWriter};
use crate::td::TdHost;

impl<'m> Host<'m> {
    /// Adds to a takeover table what this host knows: TDMRs, PAMTs and the marks of its ledger, as
    /// they are at this instant. First of all entries. Does not allocate, lock or wait.
    ///
    /// # Errors
    /// [`TakeoverError::TooSmall`].
    pub fn write_takeover(&self, table: &mut TakeoverWriter<'_>) -> Result<(), TakeoverError> {
        let ledger = self.ledger();
        if let Some(layout) = self.layout().filter(|layout| !layout.is_empty()) {
            super::tdmrs(layout).try_for_each(|range| table.entry(Entry::Tdmr(range)))?;
        } else {
            // A kernel with TDX code of its own: its ledger covers the TDMRs.
            let mut ranges = ledger.into_iter().flat_map(Ledger::ranges);
            ranges.try_for_each(|range| table.entry(Entry::Tdmr(range)))?;
        }
        self.pamt_ranges().try_for_each(|range| table.entry(Entry::Pamt(range)))?;
        let Some(ledger) = ledger else { return Ok(()) };
        ledger.marked().try_for_each(|range| table.entry(Entry::Marked(range)))?;
        ledger.unknown_to_module().try_for_each(|range| table.entry(Entry::UnknownToModule(range)))
    }

    /// Makes this the host of a module that an earlier kernel has brought up: records the PAMTs,
    /// publishes a ledger with the table's marks, and the KeyIDs with those in use. Makes no
    /// SEAMCALL, and no bring-up of this host follows. Then [`TdHost::adopt`] takes TDs over that
    /// can run, [`TdHost::vacuum`] tears down what else the earlier kernel has left, and TDs can be
    /// built. [`Host::layout`] and [`Host::module`] stay `None`.
    ///
    /// Before it changes what a TD has, the kernel copies what it still needs of the table and
    /// wipes it ([`TakeoverWriter::new`](crate::takeover::TakeoverWriter::new) on its memory does):
    /// a crash of this kernel must not leave it to a third one, for which it is out of date.
    ///
    /// After [`Host::detect`] and [`Host::reserve`]. `words` are [`TakeoverTable::claim_words`]
    /// words that nothing else uses; they need not be zero.
    ///
    /// # Errors
    /// [`HostError`]. [`HostError::Takeover`], if a page or a KeyID has two owners or the machine
    /// has another global KeyID: nothing was published. After other errors the PAMTs may be
    /// recorded. Until it returns, a handover of this kernel neither resets nor reports the TDs.
    ///
    /// # Safety
    /// The table is that of the kernel that ran on this machine before, which has made no SEAMCALL
    /// since and has written back the caches of every CPU. This kernel uses no page that the table
    /// names as PAMT or as marked, and its memory map has the TDMRs.
    pub unsafe fn take_over(
        &self,
        table: &TakeoverTable<'_>,
        words: &'m mut [AtomicU64],
    ) -> Result<TdHost<'_>, HostError> {
        let platform = self.platform().ok_or(HostError::NotUp)?;
        if table.facts.global_key_id != platform.global_key_id() {
            return Err(TakeoverError::OtherMachine {
                given: table.facts.global_key_id,
                has: platform.global_key_id(),
            }
            .into());
        }
        drop(table.claim(words)?);
        let given = words.len();
        let too_small = HostError::TooSmall { needed: given, given };
        let (keys, rest) = words.split_at_mut_checked(KeyIds::words_needed(platform.key_ids())).ok_or(too_small)?;
        let mut place = self.key_ids.own().ok_or(HostError::AlreadySet)?;
        let made = KeyIds::new(platform.key_ids(), keys).map_err(HostError::from).and_then(|key_ids| {
            for (index, key) in (0..).zip(table.entries()).filter_map(|(index, entry)| Some((index, key_of(&entry)?))) {
                if !key_ids.inherit(key) {
                    return Err(TakeoverError::KeyId { index, key }.into());
                }
            }
            *place = Some(key_ids);
            // SAFETY: PAMTs of this machine's module, which nobody uses, by the contract.
            unsafe { self.observe_pamts(table.pamts()) }?;
            self.publish_ledger(table.tdmrs(), rest, |ledger| mark(ledger, table))
        });
        if let Err(error) = made {
            *place = None;
            place.give_back();
            return Err(error);
        }
        place.publish();
        self.tds().ok_or(HostError::NotUp)
    }
}

/// The KeyID of an entry, if it has one.
fn key_of(entry: &Entry) -> Option<KeyId> {
    match entry {
        Entry::LostKeyId(key) => Some(*key),
        Entry::Td { key_id, .. } => *key_id,
        _ => None,
    }
}

/// What the module may not know stays in flight, all else is private.
fn mark(ledger: &Ledger<'_>, table: &TakeoverTable<'_>) -> Result<(), HostError> {
    for range in table.marked() {
        // SAFETY: nobody uses the page, by the contract of `take_over`.
        unsafe { ledger.give(range) }?;
    }
    for range in tdx_abi::subtract(table.marked(), table.unknown_to_module()) {
        // SAFETY: a SEAMCALL of the earlier kernel has given it.
        unsafe { ledger.commit(range) }?;
    }
    Ok(())
}
