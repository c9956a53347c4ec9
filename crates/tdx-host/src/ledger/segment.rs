//! The bits of one contiguous range: 32 pages in a leaf word, 64 blocks of 2 MiB in a summary word,
//! 64 summary words in a top word.

use tdx_abi::{Page, PageRange, PageSize};

use super::{MarkError, PageState};
use crate::arch;
use crate::sync::{AtomicU64, Ordering};

/// Pages in a leaf word, two bits each.
pub(super) const PAGES_PER_WORD: u64 = 32;
/// Pages under a summary bit.
pub(super) const PAGES_PER_BLOCK: u64 = PageSize::Size2M.pages();
/// Leaf words under a summary bit.
pub(super) const WORDS_PER_BLOCK: usize = (PAGES_PER_BLOCK / PAGES_PER_WORD) as usize;

/// The two bits of every page in a word set to `state`.
const fn all(state: PageState) -> u64 {
    0x5555_5555_5555_5555 * state as u64
}

pub(super) const fn leaf_words(range: PageRange) -> u64 {
    range.pages().div_ceil(PAGES_PER_WORD)
}

pub(super) const fn summary_words(range: PageRange) -> u64 {
    range.pages().div_ceil(PAGES_PER_BLOCK * 64)
}

pub(super) const fn top_words(range: PageRange) -> u64 {
    summary_words(range).div_ceil(64)
}

/// Words for all three levels.
pub(super) const fn words(range: PageRange) -> u64 {
    leaf_words(range) + summary_words(range) + top_words(range)
}

pub(super) const fn is_valid(range: PageRange) -> bool {
    !range.is_empty()
        && range.start().index().is_multiple_of(PAGES_PER_BLOCK)
        && range.end().index().is_multiple_of(PAGES_PER_BLOCK)
}

#[derive(Debug)]
pub(super) struct Segment<'m> {
    range: PageRange,
    leaf: &'m [AtomicU64],
    summary: &'m [AtomicU64],
    top: &'m [AtomicU64],
}

/// The part of a range that lies in one leaf word.
pub(super) struct Piece<'s> {
    word: &'s AtomicU64,
    /// Both bits of each page of the piece.
    mask: u64,
    /// First page of the word.
    first: Page,
    /// The block of the word, in the segment.
    block: u64,
}

impl Piece<'_> {
    /// The first page of the piece that `seen` does not show in this state.
    fn first_not(&self, seen: u64, expected: PageState) -> Option<(Page, PageState)> {
        let wrong = (seen ^ all(expected)) & self.mask;
        let index = u64::from(wrong.trailing_zeros()) / 2;
        (wrong != 0).then(|| (Page::new(self.first.index() + index), decode(seen >> (2 * index))))
    }
}

impl<'m> Segment<'m> {
    /// Cuts the words for `range` off `memory` and zeroes them; gives back the segment and the
    /// rest.
    pub(super) fn take(range: PageRange, memory: &'m [AtomicU64]) -> Option<(Self, &'m [AtomicU64])> {
        let (leaf, rest) = memory.split_at_checked(leaf_words(range) as usize)?;
        let (summary, rest) = rest.split_at_checked(summary_words(range) as usize)?;
        let (top, rest) = rest.split_at_checked(top_words(range) as usize)?;
        for word in leaf.iter().chain(summary).chain(top) {
            word.store(0, Ordering::Relaxed);
        }
        Some((Self { range, leaf, summary, top }, rest))
    }

    pub(super) fn range(&self) -> PageRange {
        self.range
    }

    pub(super) fn leaf(&self) -> &'m [AtomicU64] {
        self.leaf
    }

    /// The first block at or after `block` that has a summary bit.
    pub(super) fn next_block(&self, block: u64) -> Option<u64> {
        let word = block / 64;
        let here = self.summary.get(word as usize)?.load(Ordering::Acquire) >> (block % 64);
        if here != 0 {
            return Some(block + u64::from(here.trailing_zeros()));
        }
        let mut at = word + 1;
        loop {
            // The words that the top word of `at` says are not empty, `at` the first.
            let above = self.top.get((at / 64) as usize)?.load(Ordering::Acquire) >> (at % 64);
            if above == 0 {
                at = (at / 64 + 1) * 64;
                continue;
            }
            at += u64::from(above.trailing_zeros());
            let bits = self.summary.get(at as usize)?.load(Ordering::Acquire);
            if bits != 0 {
                return Some(at * 64 + u64::from(bits.trailing_zeros()));
            }
            at += 1;
        }
    }

    /// Starts to load the leaf words of a block: a walk that comes there later does not wait for
    /// them.
    pub(super) fn prefetch(&self, block: u64) {
        let first = block as usize * WORDS_PER_BLOCK;
        for index in [first, first + WORDS_PER_BLOCK / 2] {
            if let Some(word) = self.leaf.get(index) {
                arch::prefetch(word);
            }
        }
    }

    pub(super) fn state(&self, page: Page) -> PageState {
        let offset = page.index() - self.range.start().index();
        let word = self.leaf.get((offset / PAGES_PER_WORD) as usize).map_or(0, |word| word.load(Ordering::Acquire));
        decode(word >> (2 * (offset % PAGES_PER_WORD)))
    }

    /// The first page of `range`, which lies inside this segment, that is not in this state, and
    /// the state it is in.
    pub(super) fn first_not(&self, range: PageRange, expected: PageState) -> Option<(Page, PageState)> {
        self.pieces(range).find_map(|piece| piece.first_not(piece.word.load(Ordering::Acquire), expected))
    }

    /// `from` -> `to` for all pages of `range`, which lies inside this segment. All or nothing.
    pub(super) fn transition(&self, range: PageRange, from: PageState, to: PageState) -> Result<(), MarkError> {
        for piece in self.pieces(range) {
            if let Err(error) = self.transition_piece(&piece, from, to) {
                self.force(PageRange::new(range.start(), piece.first.max(range.start())), from, to);
                return Err(error);
            }
        }
        Ok(())
    }

    /// The same for the pages of one word.
    #[expect(clippy::inline_always, reason = "as `Ledger::transition`")]
    #[inline(always)]
    pub(super) fn transition_piece(&self, piece: &Piece<'_>, from: PageState, to: PageState) -> Result<(), MarkError> {
        if from == PageState::Shared {
            self.summarize(piece.block);
        }
        let mut seen = piece.word.load(Ordering::Relaxed);
        loop {
            if let Some((page, state)) = piece.first_not(seen, from) {
                return Err(MarkError::WrongState { page, state, expected: from });
            }
            let next = seen & !piece.mask | all(to) & piece.mask;
            match piece.word.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    /// The range, if it lies in this segment and in one leaf word.
    #[inline]
    pub(super) fn single_piece(&self, range: PageRange) -> Option<Piece<'m>> {
        let base = self.range.start().index();
        let start = range.start().index().checked_sub(base)?;
        let end = range.end().index().checked_sub(base)?;
        let (index, low) = (start / PAGES_PER_WORD, start % PAGES_PER_WORD);
        let high = end.checked_sub(index * PAGES_PER_WORD)?;
        if range.end() > self.range.end() || high > PAGES_PER_WORD || high <= low {
            return None;
        }
        let word = self.leaf.get(index as usize)?;
        let mask = (u64::MAX >> (64 - 2 * (high - low))) << (2 * low);
        let first = index * PAGES_PER_WORD;
        Some(Piece { word, mask, first: Page::new(base + first), block: first / PAGES_PER_BLOCK })
    }

    /// Takes a transition `from` -> `to` back that this caller has just made.
    pub(super) fn force(&self, range: PageRange, from: PageState, to: PageState) {
        for piece in self.pieces(range) {
            piece.word.fetch_xor((all(from) ^ all(to)) & piece.mask, Ordering::AcqRel);
        }
    }

    /// Sets the top and the summary bit over a block, in this order and before any leaf bit under
    /// them.
    #[inline]
    fn summarize(&self, block: u64) {
        set(self.top, block / 64);
        set(self.summary, block);
    }

    fn pieces(&self, range: PageRange) -> impl Iterator<Item = Piece<'m>> + use<'m> {
        let base = self.range.start().index();
        let (start, end) = (range.start().index().saturating_sub(base), range.end().index().saturating_sub(base));
        let leaf = self.leaf;
        let words = if range.is_empty() { 0..0 } else { start / PAGES_PER_WORD..end.div_ceil(PAGES_PER_WORD) };
        words.filter_map(move |index| {
            let first = index * PAGES_PER_WORD;
            let low = start.max(first) - first;
            let high = end.min(first + PAGES_PER_WORD) - first;
            // `high - low` pages from `low` on; 32 of them are the whole word.
            let ones = if high - low == PAGES_PER_WORD { u64::MAX } else { (1 << (2 * (high - low))) - 1 };
            leaf.get(index as usize).map(|word| Piece {
                word,
                mask: ones << (2 * low),
                first: Page::new(base + first),
                block: first / PAGES_PER_BLOCK,
            })
        })
    }
}

fn set(bits: &[AtomicU64], index: u64) {
    if let Some(word) = bits.get((index / 64) as usize) {
        let bit = 1 << (index % 64);
        // A read first: a bit that is set already is the common case, and needs no locked write.
        if word.load(Ordering::Acquire) & bit == 0 {
            word.fetch_or(bit, Ordering::AcqRel);
        }
    }
}

/// The state in the two lowest bits.
fn decode(bits: u64) -> PageState {
    match bits & 0b11 {
        0b00 => PageState::Shared,
        0b01 => PageState::Private,
        0b10 => PageState::Returned,
        _ => PageState::InFlight,
    }
}
