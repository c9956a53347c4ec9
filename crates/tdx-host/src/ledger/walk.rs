//! Marked pages as maximal ranges: summary words first, leaf words only under a set bit.

use tdx_abi::{Page, PageRange};

use super::segment::{PAGES_PER_BLOCK, PAGES_PER_WORD, Segment, WORDS_PER_BLOCK};
use crate::sync::Ordering;

/// Iterator over marked pages, ascending. Holds a position and one range: safe on the crash path.
#[derive(Clone, Debug)]
pub struct MarkedRanges<'l> {
    segments: &'l [Segment<'l>],
    /// Page offset in the first of `segments` from which to look on.
    offset: u64,
    wanted: Wanted,
    /// Blocks of the first segment below this one are on their way from memory; 0: none yet.
    ahead: u64,
    /// The block in which the last range was found.
    block: u64,
}

/// Marked blocks whose leaf words are on their way while one is read: what hides the latency of
/// memory.
const LOOK_AHEAD: u64 = 8;

/// Which pages a walk looks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    /// All but shared ones.
    Marked,
    /// Those with the high bit.
    UnknownToModule,
}

impl Wanted {
    /// One bit for each wanted page of a leaf word, in the lower position of its two.
    const fn pages(self, word: u64) -> u64 {
        let high = word >> 1;
        let pages = match self {
            Self::Marked => word | high,
            Self::UnknownToModule => high,
        };
        pages & 0x5555_5555_5555_5555
    }
}

impl<'l> MarkedRanges<'l> {
    pub(super) fn new(segments: &'l [Segment<'l>], wanted: Wanted) -> Self {
        Self { segments, offset: 0, wanted, ahead: 0, block: 0 }
    }

    /// Goes on with these segments.
    fn enter(&mut self, segments: &'l [Segment<'l>]) {
        (self.segments, self.offset, self.ahead) = (segments, 0, 0);
    }

    /// Puts `count` more marked blocks of the first segment on their way.
    fn look_ahead(&mut self, segment: &Segment<'_>, count: u64) {
        for _ in 0..count {
            let Some(block) = segment.next_block(self.ahead) else { return };
            segment.prefetch(block);
            self.ahead = block + 1;
        }
    }
}

impl Segment<'_> {
    /// First page offset at or after `offset` that is wanted (or not wanted, if not `present`), or
    /// the end.
    fn find(&self, mut offset: u64, wanted: Wanted, present: bool) -> u64 {
        let end = self.range().pages();
        while offset < end {
            if present && offset.is_multiple_of(PAGES_PER_BLOCK) {
                match self.next_block(offset / PAGES_PER_BLOCK) {
                    Some(block) => offset = offset.max(block * PAGES_PER_BLOCK),
                    None => return end,
                }
            }
            let word =
                self.leaf().get((offset / PAGES_PER_WORD) as usize).map_or(0, |word| word.load(Ordering::Acquire));
            let pages = wanted.pages(word);
            let sought = if present { pages } else { !pages & 0x5555_5555_5555_5555 };
            let ahead = sought >> (2 * (offset % PAGES_PER_WORD));
            if ahead != 0 {
                return (offset + u64::from(ahead.trailing_zeros()) / 2).min(end);
            }
            offset = (offset / PAGES_PER_WORD + 1) * PAGES_PER_WORD;
        }
        end
    }
}

const _: () = assert!(WORDS_PER_BLOCK as u64 * PAGES_PER_WORD == PAGES_PER_BLOCK);

impl Iterator for MarkedRanges<'_> {
    type Item = PageRange;

    fn next(&mut self) -> Option<PageRange> {
        loop {
            let (segment, rest) = self.segments.split_first()?;
            let base = segment.range().start().index();
            if self.ahead == 0 {
                self.look_ahead(segment, LOOK_AHEAD);
            }
            let start = segment.find(self.offset, self.wanted, true);
            if start == segment.range().pages() {
                self.enter(rest);
                continue;
            }
            if self.block != start / PAGES_PER_BLOCK {
                self.block = start / PAGES_PER_BLOCK;
                self.look_ahead(segment, 1);
            }
            let mut end = segment.find(start, self.wanted, false);
            if end == start {
                // Another CPU has unmarked the page between the two looks.
                self.offset = start + 1;
                continue;
            }
            self.offset = end;
            let mut limit = base + end;
            // A range that runs into the next segment goes on there.
            while end == self.segments.first()?.range().pages() {
                let (done, rest) = self.segments.split_first()?;
                self.enter(rest);
                match rest.first() {
                    Some(next) if next.range().start() == done.range().end() => {
                        end = next.find(0, self.wanted, false);
                        limit = next.range().start().index() + end;
                        self.offset = end;
                    }
                    _ => break,
                }
            }
            return Some(PageRange::new(Page::new(base + start), Page::new(limit)));
        }
    }
}
