//! The bits of one contiguous range: 32 pages in a leaf word, 64 blocks of 2 MiB in a summary word.

use tdx_abi::{Page, PageRange, PageSize};

use super::{MarkError, PageState};
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
}

/// The part of a range that lies in one leaf word.
struct Piece<'s> {
    word: &'s AtomicU64,
    /// Both bits of each page of the piece.
    mask: u64,
    /// First page of the word.
    first: Page,
}

impl<'m> Segment<'m> {
    /// Cuts the words for `range` off `memory` and zeroes them; gives back the segment and the rest.
    pub(super) fn take(range: PageRange, memory: &'m [AtomicU64]) -> Option<(Self, &'m [AtomicU64])> {
        let (leaf, rest) = memory.split_at_checked(leaf_words(range) as usize)?;
        let (summary, rest) = rest.split_at_checked(summary_words(range) as usize)?;
        for word in leaf.iter().chain(summary) {
            word.store(0, Ordering::Relaxed);
        }
        Some((Self { range, leaf, summary }, rest))
    }

    pub(super) fn range(&self) -> PageRange {
        self.range
    }

    pub(super) fn leaf(&self) -> &'m [AtomicU64] {
        self.leaf
    }

    pub(super) fn summary(&self) -> &'m [AtomicU64] {
        self.summary
    }

    pub(super) fn state(&self, page: Page) -> PageState {
        let offset = page.index() - self.range.start().index();
        let word = self.leaf.get((offset / PAGES_PER_WORD) as usize).map_or(0, |word| word.load(Ordering::Acquire));
        decode(word >> (2 * (offset % PAGES_PER_WORD)))
    }

    /// `from` -> `to` for all pages of `range`, which lies inside this segment. All or nothing.
    pub(super) fn transition(&self, range: PageRange, from: PageState, to: PageState) -> Result<(), MarkError> {
        if from == PageState::Shared {
            self.summarise(range);
        }
        for piece in self.pieces(range) {
            let mut seen = piece.word.load(Ordering::Relaxed);
            loop {
                let wrong = (seen ^ all(from)) & piece.mask;
                if wrong != 0 {
                    let index = u64::from(wrong.trailing_zeros()) / 2;
                    let page = Page::new(piece.first.index() + index);
                    self.force(PageRange::new(range.start(), piece.first.max(range.start())), from, to);
                    return Err(MarkError::WrongState { page, state: decode(seen >> (2 * index)), expected: from });
                }
                let next = seen & !piece.mask | all(to) & piece.mask;
                match piece.word.compare_exchange_weak(seen, next, Ordering::AcqRel, Ordering::Relaxed) {
                    Ok(_) => break,
                    Err(now) => seen = now,
                }
            }
        }
        Ok(())
    }

    /// Takes a transition `from` -> `to` back that this caller has just made.
    pub(super) fn force(&self, range: PageRange, from: PageState, to: PageState) {
        for piece in self.pieces(range) {
            piece.word.fetch_xor((all(from) ^ all(to)) & piece.mask, Ordering::AcqRel);
        }
    }

    /// Sets the summary bits over a range, before any leaf bit under them.
    fn summarise(&self, range: PageRange) {
        let start = range.start().index() - self.range.start().index();
        let end = range.end().index() - self.range.start().index();
        for block in start / PAGES_PER_BLOCK..end.div_ceil(PAGES_PER_BLOCK) {
            if let Some(word) = self.summary.get((block / 64) as usize) {
                let bit = 1 << (block % 64);
                // A read first: marks in a block that is marked already are the common case, and need no locked write.
                if word.load(Ordering::Acquire) & bit == 0 {
                    word.fetch_or(bit, Ordering::AcqRel);
                }
            }
        }
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
            leaf.get(index as usize).map(|word| Piece { word, mask: ones << (2 * low), first: Page::new(base + first) })
        })
    }
}

/// The state in the two lowest bits.
fn decode(bits: u64) -> PageState {
    match bits & 0b11 {
        0b00 => PageState::Shared,
        0b01 => PageState::Given,
        0b10 => PageState::Returned,
        _ => PageState::Giving,
    }
}
