//! Allocator of private KeyIDs for TDs, on memory that the caller provides. A KeyID is handed out
//! again only after the module has freed it.
//!
//! ```
//! use core::sync::atomic::AtomicU64;
//! use tdx_abi::{KeyId, KeyIdPartition};
//! use tdx_host::key_ids::KeyIds;
//!
//! // KeyIDs [32, 64) are private; 32 is the module's own.
//! let partition = KeyIdPartition::new(31, 32);
//! let mut words: Vec<AtomicU64> = (0..KeyIds::words_needed(partition)).map(|_| AtomicU64::new(0)).collect();
//! let key_ids = KeyIds::new(partition, &mut words)?;
//! let lease = key_ids.lease()?;
//! assert_eq!(lease.key(), KeyId::new(33));
//!
//! // Dropped before the module has freed it: never handed out again.
//! drop(lease);
//! assert_eq!((key_ids.lost(), key_ids.lease()?.key()), (1, KeyId::new(34)));
//! # Ok::<(), tdx_host::key_ids::KeyIdsError>(())
//! ```

use tdx_abi::{KeyId, KeyIdPartition};

use crate::sync::{AtomicU64, Ordering};

/// The private KeyIDs of a machine but the global one. Any CPU may lease and free at any time,
/// without lock.
#[derive(Debug)]
pub struct KeyIds<'m> {
    first: u16,
    count: u16,
    /// One bit for each KeyID; set: leased.
    leased: &'m [AtomicU64],
    /// The same; set: leased to a TD of an earlier kernel that nobody has adopted.
    inherited: &'m [AtomicU64],
    lost: AtomicU64,
    /// Leases handed out, each with the number of those before it.
    leases: AtomicU64,
}

/// Why there is no KeyID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyIdsError {
    /// All are leased.
    #[error("all {count} private KeyIDs are in use, {lost} of them lost in failed teardowns")]
    Exhausted {
        /// KeyIDs of this machine that TDs can have.
        count: u16,
        /// Of these, leased for good.
        lost: u64,
    },
    /// The caller's memory is too small.
    #[error("{needed} words of 8 bytes are needed for the KeyIDs, {given} were given")]
    TooSmall {
        /// 64-bit words needed.
        needed: usize,
        /// 64-bit words given.
        given: usize,
    },
}

impl<'m> KeyIds<'m> {
    /// 64-bit words that the KeyIDs of a machine need.
    pub const fn words_needed(partition: KeyIdPartition) -> usize {
        2 * Self::words_of_one(partition)
    }

    /// Words of one bit for each KeyID.
    const fn words_of_one(partition: KeyIdPartition) -> usize {
        (partition.private() as usize).div_ceil(64)
    }

    /// All private KeyIDs but the first, which is the global one; none is leased. Takes the words
    /// for itself: no other code can change them.
    ///
    /// # Errors
    /// [`KeyIdsError::TooSmall`].
    pub fn new(partition: KeyIdPartition, memory: &'m mut [AtomicU64]) -> Result<Self, KeyIdsError> {
        let needed = Self::words_needed(partition);
        let memory: &'m [AtomicU64] = memory;
        let all = memory.get(..needed).ok_or(KeyIdsError::TooSmall { needed, given: memory.len() })?;
        for word in all {
            word.store(0, Ordering::Relaxed);
        }
        let (leased, inherited) = all.split_at_checked(Self::words_of_one(partition)).unwrap_or_default();
        let first = partition.first_private().map_or(0, KeyId::get).saturating_add(1);
        // A KeyID has 16 bits, so what does not fit cannot be named.
        let count = (partition.private().saturating_sub(1)).min(u32::from(u16::MAX - first)) as u16;
        Ok(Self { first, count, leased, inherited, lost: AtomicU64::new(0), leases: AtomicU64::new(0) })
    }

    /// Takes a free KeyID.
    ///
    /// # Errors
    /// [`KeyIdsError::Exhausted`].
    pub fn lease(&self) -> Result<KeyLease<'_>, KeyIdsError> {
        for index in 0..self.count {
            let Some((word, bit)) = self.bit(index) else { break };
            if word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::AcqRel) & bit == 0 {
                let number = self.leases.fetch_add(1, Ordering::Relaxed);
                return Ok(KeyLease { key: KeyId::new(self.first + index), index, number, of: self });
            }
        }
        Err(KeyIdsError::Exhausted { count: self.count, lost: self.lost() })
    }

    /// A KeyID that a TD of an earlier kernel has. False if no TD can have it, or another has it.
    pub(crate) fn inherit(&self, key: KeyId) -> bool {
        let Some(index) = self.index_of(key) else { return false };
        let (Some((leased, bit)), Some((inherited, _))) = (self.bit(index), self.inherited_bit(index)) else {
            return false;
        };
        let is_new = leased.fetch_or(bit, Ordering::AcqRel) & bit == 0;
        if is_new {
            inherited.fetch_or(bit, Ordering::AcqRel);
        }
        is_new
    }

    /// The lease of an inherited KeyID, whose TD is adopted. Once: `None` for any other KeyID, and
    /// for one that was adopted.
    pub(crate) fn adopt(&self, key: KeyId) -> Option<KeyLease<'_>> {
        let index = self.index_of(key)?;
        self.is_inherited_no_more(index).then(|| {
            let number = self.leases.fetch_add(1, Ordering::Relaxed);
            KeyLease { key, index, number, of: self }
        })
    }

    /// The module has freed an inherited KeyID.
    pub(crate) fn free_inherited(&self, key: KeyId) {
        if let Some(index) = self.index_of(key)
            && self.is_inherited_no_more(index)
            && let Some((word, bit)) = self.bit(index)
        {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
    }

    /// True for the one caller that takes an inherited KeyID.
    fn is_inherited_no_more(&self, index: u16) -> bool {
        let bit = self.inherited_bit(index);
        bit.is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    /// KeyIDs in use now, lost ones among them, ascending: for the table of the next kernel.
    pub fn in_use(&self) -> impl Iterator<Item = KeyId> + '_ {
        let is_leased =
            |index: &u16| self.bit(*index).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0);
        (0..self.count).filter(is_leased).map(|index| KeyId::new(self.first + index))
    }

    /// KeyIDs that TDs can have.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// KeyIDs whose TD was dropped before the module freed them.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn index_of(&self, key: KeyId) -> Option<u16> {
        key.get().checked_sub(self.first).filter(|index| *index < self.count)
    }

    fn bit(&self, index: u16) -> Option<(&'m AtomicU64, u64)> {
        Some((self.leased.get(usize::from(index) / 64)?, 1 << (index % 64)))
    }

    fn inherited_bit(&self, index: u16) -> Option<(&'m AtomicU64, u64)> {
        Some((self.inherited.get(usize::from(index) / 64)?, 1 << (index % 64)))
    }
}

/// A KeyID in use. Dropping it loses the KeyID on purpose: the module may still have it assigned.
#[derive(Debug)]
#[must_use = "dropping a lease loses its KeyID"]
pub struct KeyLease<'k> {
    key: KeyId,
    index: u16,
    number: u64,
    of: &'k KeyIds<'k>,
}

impl KeyLease<'_> {
    /// The KeyID.
    pub fn key(&self) -> KeyId {
        self.key
    }

    /// No other lease of these KeyIDs has this number, not even a later one of the same KeyID.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Nobody has adopted its TD after all.
    pub(crate) fn inherit_again(self) {
        if let Some((word, bit)) = self.of.inherited_bit(self.index) {
            word.fetch_or(bit, Ordering::AcqRel);
        }
        core::mem::forget(self);
    }

    /// The module has freed the KeyID, or never assigned it.
    pub(crate) fn free(self) {
        if let Some((word, bit)) = self.of.bit(self.index) {
            word.fetch_and(!bit, Ordering::AcqRel);
        }
        core::mem::forget(self);
    }
}

impl Drop for KeyLease<'_> {
    fn drop(&mut self) {
        self.of.lost.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn each_key_is_leased_once_and_again_only_after_it_was_freed() {
        let partition = KeyIdPartition::new(31, 4);
        let mut words = [const { AtomicU64::new(u64::MAX) }; 2];
        assert!(matches!(KeyIds::new(partition, &mut []), Err(KeyIdsError::TooSmall { needed: 2, given: 0 })));
        let keys = KeyIds::new(partition, &mut words).unwrap();
        let mut leases: Vec<KeyLease<'_>> = (0..3).map(|_| keys.lease().unwrap()).collect();
        let numbers: Vec<u16> = leases.iter().map(|lease| lease.key().get()).collect();
        assert_eq!(numbers, [33, 34, 35], "32 is the global KeyID");
        assert_eq!(keys.lease().unwrap_err(), KeyIdsError::Exhausted { count: 3, lost: 0 });
        leases.remove(1).free();
        assert_eq!(keys.lease().unwrap().key().get(), 34);
        // That lease was dropped: its KeyID is lost, not free.
        assert_eq!(keys.lease().unwrap_err(), KeyIdsError::Exhausted { count: 3, lost: 1 });
    }

    #[test]
    fn an_inherited_key_is_adopted_or_freed_once() {
        let partition = KeyIdPartition::new(31, 4);
        let mut words = [const { AtomicU64::new(u64::MAX) }; 2];
        let keys = KeyIds::new(partition, &mut words).unwrap();
        let own = keys.lease().unwrap();
        assert!(!keys.inherit(own.key()) && !keys.inherit(KeyId::new(32)) && !keys.inherit(KeyId::new(36)));
        assert!(keys.inherit(KeyId::new(34)) && keys.inherit(KeyId::new(35)) && !keys.inherit(KeyId::new(35)));
        assert!(keys.in_use().map(KeyId::get).eq(33..36));
        assert!(keys.adopt(own.key()).is_none(), "it is this kernel's own");
        let adopted = keys.adopt(KeyId::new(34)).unwrap();
        assert!(keys.adopt(KeyId::new(34)).is_none(), "it has a TD");
        assert_ne!(adopted.number(), own.number());
        // A vacuum frees what nobody has adopted, and nothing else.
        for key in [33, 34, 35, 35, 99] {
            keys.free_inherited(KeyId::new(key));
        }
        assert!(keys.in_use().map(KeyId::get).eq([33, 34]));
        adopted.free();
        assert!(keys.in_use().map(KeyId::get).eq([33]));
        assert_eq!(keys.lost(), 0);
    }
}
