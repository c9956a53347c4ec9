//! Reference count of the pair of a 2 MiB page, in one word, and the right to add or remove the
//! pair. Lock-free; never waits: a CPU that meets another one in the middle of a turn gets
//! [`CountError::Busy`].
//!
//! ```text
//!          get            finish(1)        get              put
//!   0 ----------> adding ----------> 1 <----------> 2 .. 512
//!   ^                |  finish(0)    |
//!   |<---------------/               | put
//!   |                                v
//!   \---------- finish(0) ------- removing --- finish(1): the module refused ---> 1
//!
//!   0 --split--> adding --finish(512)--> 512 --merge--> removing --finish(0)--> 0
//! ```
//!
//! # Why a counted page has its pair
//!
//! 1. The CPU whose turn it is has the answer of PAMT.ADD before it ends its turn with a release
//!    store.
//! 2. A count that is not 0 is only seen by an acquire, so a page that is counted comes after the
//!    ADD.
//! 3. Each `put` is a release, and the last one acquires all of them: PAMT.REMOVE comes after the
//!    last use of any page.
//! 4. Between 0 and 1 there is always a turn, of one CPU. loom runs this file against its weakened
//!    twins: `tests/loom_dynamic_pamt.rs`.

use tdx_abi::PageSize;

use crate::sync::{AtomicU32, Ordering};

/// A CPU is in the middle of PAMT.ADD or PAMT.REMOVE.
const TURN: u32 = 1 << 31;
/// As many pages as there are in 2 MiB.
pub(super) const MOST: u32 = PageSize::Size2M.pages() as u32;

/// The count of one 2 MiB page.
#[derive(Clone, Copy, Debug)]
pub struct Count<'m>(&'m AtomicU32);

/// Why a count did not change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CountError {
    /// Another CPU adds or removes the pair right now. Try again.
    #[error("another CPU is adding or removing the pair of this 2 MiB page: try again")]
    Busy,
    /// All 512 pages are counted already.
    #[error("all 512 pages of this 2 MiB page are counted already")]
    Full,
    /// No page is counted.
    #[error("no page of this 2 MiB page is counted")]
    Empty,
    /// The operation is about the 2 MiB page as a whole, and so many of its pages are counted: 0 or
    /// 512 are expected.
    #[error("{counted} pages of this 2 MiB page are counted: it is not one page, nor 512 of one TD")]
    Parts {
        /// Pages counted.
        counted: u32,
    },
}

/// What a change of the count asks of the caller.
#[derive(Debug)]
#[must_use = "a turn that is not finished keeps all other CPUs out"]
pub enum Change<'m> {
    /// Nothing: the pair is there, and stays.
    Counted,
    /// The first page has come, or the last one goes: it is the caller's turn to add or to remove
    /// the pair.
    Turn(Turn<'m>),
}

/// The right to add or remove the pair.
#[derive(Debug)]
#[must_use = "a turn that is not finished keeps all other CPUs out"]
pub struct Turn<'m>(&'m AtomicU32);

impl<'m> Count<'m> {
    /// The count that this word holds; 0 is a fresh one.
    pub fn new(word: &'m AtomicU32) -> Self {
        Self(word)
    }

    /// Counts one page more.
    ///
    /// # Errors
    /// [`CountError::Busy`], [`CountError::Full`].
    pub fn get(self) -> Result<Change<'m>, CountError> {
        self.change(|count| match count {
            0 => Ok(TURN),
            MOST => Err(CountError::Full),
            count => Ok(count + 1),
        })
    }

    /// Counts one page less.
    ///
    /// # Errors
    /// [`CountError::Busy`], [`CountError::Empty`].
    pub fn put(self) -> Result<Change<'m>, CountError> {
        self.change(|count| match count {
            0 => Err(CountError::Empty),
            1 => Ok(TURN),
            count => Ok(count - 1),
        })
    }

    /// A page of 2 MiB, which needs no pair, is about to become 512 pages.
    ///
    /// # Errors
    /// [`CountError::Busy`]; [`CountError::Parts`] if a page is counted.
    pub fn split(self) -> Result<Turn<'m>, CountError> {
        self.whole(0)
    }

    /// 512 pages are about to become one of 2 MiB.
    ///
    /// # Errors
    /// [`CountError::Busy`]; [`CountError::Parts`] if not all pages are counted.
    pub fn merge(self) -> Result<Turn<'m>, CountError> {
        self.whole(MOST)
    }

    fn whole(self, expected: u32) -> Result<Turn<'m>, CountError> {
        match self.0.compare_exchange(expected, TURN, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Ok(Turn(self.0)),
            Err(word) if word & TURN != 0 => Err(CountError::Busy),
            Err(counted) => Err(CountError::Parts { counted }),
        }
    }

    /// Pages counted; `None` in the middle of a turn.
    pub fn read(self) -> Option<u32> {
        let word = self.0.load(Ordering::Acquire);
        (word & TURN == 0).then_some(word)
    }

    fn change(self, next: impl Fn(u32) -> Result<u32, CountError>) -> Result<Change<'m>, CountError> {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            if seen & TURN != 0 {
                return Err(CountError::Busy);
            }
            let word = next(seen)?;
            match self.0.compare_exchange_weak(seen, word, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if word == TURN => return Ok(Change::Turn(Turn(self.0))),
                Ok(_) => return Ok(Change::Counted),
                Err(now) => seen = now,
            }
        }
    }
}

impl Turn<'_> {
    /// Ends the turn: so many pages are counted, and the pair is there if they are not 0.
    pub fn finish(self, count: u32) {
        self.0.store(count.min(MOST), Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A page of 2 MiB is split only if no part of it is counted, and merged only if all parts are.
    #[test]
    fn split_and_merge_are_about_the_whole_page() {
        let word = AtomicU32::new(0);
        let count = Count::new(&word);
        let turn = count.split().unwrap();
        assert_eq!(count.split().unwrap_err(), CountError::Busy);
        assert_eq!(count.merge().unwrap_err(), CountError::Busy);
        turn.finish(512);
        assert_eq!(count.split().unwrap_err(), CountError::Parts { counted: 512 });
        assert!(matches!(count.put(), Ok(Change::Counted)));
        assert_eq!(count.merge().unwrap_err(), CountError::Parts { counted: 511 });
        assert!(matches!(count.get(), Ok(Change::Counted)));
        count.merge().unwrap().finish(0);
        assert_eq!(count.read(), Some(0));
    }
}
