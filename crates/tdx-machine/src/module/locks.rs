//! The module's locks. A call takes what it needs, never waits, and gives everything back when it ends; what it finds taken
//! was held on purpose by [`crate::Machine::hold`], or by itself.

use alloc::{collections::BTreeMap, vec::Vec};
use tdx_abi::{Page, PageSize};

use crate::{LockMode, PackageId};

/// A lock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum LockId {
    /// PAMT entry: level and number of the page at that level.
    Pamt(PageSize, u64),
    Kot,
    Sys,
    CacheWriteBack(PackageId),
    /// Index of the TDMR.
    Tdmr(usize),
    /// By the TDR page, as the next two.
    OpState(Page),
    SeptTree(Page),
    Epoch(Page),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Word {
    exclusive: bool,
    readers: u32,
}

/// All locks. One that is not here is free.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    words: BTreeMap<LockId, Word>,
    /// Taken by the call that is running.
    taken: Vec<(LockId, LockMode)>,
}

/// The lock is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Busy;

impl Locks {
    /// Takes the lock until the call ends.
    pub(super) fn acquire(&mut self, id: LockId, mode: LockMode) -> Result<(), Busy> {
        let word = self.words.entry(id).or_default();
        match mode {
            LockMode::Exclusive if !word.exclusive && word.readers == 0 => word.exclusive = true,
            LockMode::Shared if !word.exclusive => word.readers += 1,
            LockMode::Exclusive | LockMode::Shared => return Err(Busy),
        }
        self.taken.push((id, mode));
        Ok(())
    }

    /// Gives back everything the call took.
    pub(super) fn release_all(&mut self) {
        while let Some((id, mode)) = self.taken.pop() {
            self.release(id, mode);
        }
    }

    /// Taken from outside.
    pub(super) fn hold(&mut self, id: LockId, mode: LockMode) {
        let word = self.words.entry(id).or_default();
        match mode {
            LockMode::Exclusive => word.exclusive = true,
            LockMode::Shared => word.readers += 1,
        }
    }

    /// Given back.
    pub(super) fn release(&mut self, id: LockId, mode: LockMode) {
        if let Some(word) = self.words.get_mut(&id) {
            match mode {
                LockMode::Exclusive => word.exclusive = false,
                LockMode::Shared => word.readers = word.readers.saturating_sub(1),
            }
            if *word == Word::default() {
                self.words.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_and_writers() {
        let mut locks = Locks::default();
        locks.hold(LockId::Kot, LockMode::Shared);
        assert_eq!(locks.acquire(LockId::Kot, LockMode::Shared), Ok(()));
        assert_eq!(locks.acquire(LockId::Kot, LockMode::Exclusive), Err(Busy));
        locks.release_all();
        locks.release(LockId::Kot, LockMode::Shared);
        assert_eq!(locks.acquire(LockId::Kot, LockMode::Exclusive), Ok(()));
        assert_eq!(locks.acquire(LockId::Kot, LockMode::Exclusive), Err(Busy), "not even by the same call");
        locks.release_all();
        assert!(locks.words.is_empty());
    }
}
