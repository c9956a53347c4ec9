//! The module's locks. A call takes what it needs, never waits, and gives everything back when it
//! ends; what it finds taken is held by a call in flight on another CPU, by a VCPU that is inside,
//! by [`crate::Machine::hold`], or by itself.

use alloc::vec::Vec;
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
    /// An entry of Secure EPT: TDR, level, number.
    SeptEntry(Page, u64, u64),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Word {
    exclusive: bool,
    readers: u32,
}

/// All locks. One that is not here is free. A call takes a handful, so a list is faster than a map.
#[derive(Clone, Debug, Default)]
pub(super) struct Locks {
    words: Vec<(LockId, Word)>,
    /// Taken by the call that is running.
    taken: Vec<(LockId, LockMode)>,
}

/// The lock is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Busy;

impl Locks {
    /// Takes the lock until the call ends.
    pub(super) fn acquire(&mut self, id: LockId, mode: LockMode) -> Result<(), Busy> {
        let word = self.word(id);
        if word.exclusive || (mode == LockMode::Exclusive && word.readers != 0) {
            return Err(Busy);
        }
        match mode {
            LockMode::Exclusive => word.exclusive = true,
            LockMode::Shared => word.readers += 1,
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

    pub(super) fn is_free(&self, id: LockId) -> bool {
        self.words.iter().all(|(held, _)| *held != id)
    }

    /// What the call took stays taken: the list, to be released later.
    pub(super) fn detach(&mut self) -> Vec<(LockId, LockMode)> {
        core::mem::take(&mut self.taken)
    }

    /// Taken from outside.
    pub(super) fn hold(&mut self, id: LockId, mode: LockMode) {
        let word = self.word(id);
        match mode {
            LockMode::Exclusive => word.exclusive = true,
            LockMode::Shared => word.readers += 1,
        }
    }

    /// Given back.
    pub(super) fn release(&mut self, id: LockId, mode: LockMode) {
        let word = self.word(id);
        match mode {
            LockMode::Exclusive => word.exclusive = false,
            LockMode::Shared => word.readers = word.readers.saturating_sub(1),
        }
        self.words.retain(|(_, word)| *word != Word::default());
    }

    /// The word of a lock, free if nobody has touched it.
    fn word(&mut self, id: LockId) -> &mut Word {
        let at = self.words.iter().position(|(held, _)| *held == id).unwrap_or_else(|| {
            self.words.push((id, Word::default()));
            self.words.len() - 1
        });
        &mut self.words[at].1
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
