//! Half-open ranges of pages and lines, and streaming set algebra over sorted lists of them.
//!
//! The algebra takes and gives iterators, so it needs no memory: inputs are ascending and do not
//! overlap (touching is fine), and so are outputs. [`walk`] is the one mechanism; union,
//! subtraction and intersection read it.

use crate::{LINE_SIZE, LINES_PER_PAGE, Line, PAGE_SIZE, Page, PhysAddr};
use core::{fmt, iter::Peekable};

/// Why two numbers are not a range of pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum RangeError {
    /// A border is not a multiple of 4 KiB.
    Unaligned {
        /// The border.
        address: PhysAddr,
    },
    /// The end lies before the start.
    Reversed {
        /// First byte.
        start: PhysAddr,
        /// First byte after.
        end: PhysAddr,
    },
    /// Base + size does not fit 64 bits.
    Wraps {
        /// First byte.
        base: PhysAddr,
        /// Bytes.
        size: u64,
    },
}

impl fmt::Display for RangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unaligned { address } => write!(f, "{address} is not a multiple of 4 KiB"),
            Self::Reversed { start, end } => write!(f, "[{start}, {end}) ends before it starts"),
            Self::Wraps { base, size } => write!(f, "{base} + {size:#x} does not fit 64 bits"),
        }
    }
}

impl core::error::Error for RangeError {}

/// A half-open range of 4 KiB pages, `[start, end)`. May be empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PageRange {
    start: Page,
    end: Page,
}

impl PageRange {
    /// Pages `[start, end)`; empty if `end <= start`.
    pub const fn new(start: Page, end: Page) -> Self {
        if end.index() < start.index() { Self { start, end: start } } else { Self { start, end } }
    }

    /// From two addresses, `[start, end)`.
    ///
    /// # Errors
    /// A border that is not 4 KiB aligned, or an end before the start.
    pub const fn from_addresses(start: PhysAddr, end: PhysAddr) -> Result<Self, RangeError> {
        if !start.is_aligned(PAGE_SIZE) {
            return Err(RangeError::Unaligned { address: start });
        }
        if !end.is_aligned(PAGE_SIZE) {
            return Err(RangeError::Unaligned { address: end });
        }
        if end.get() < start.get() {
            return Err(RangeError::Reversed { start, end });
        }
        Ok(Self { start: start.page(), end: end.page() })
    }

    /// From base and size in bytes.
    ///
    /// # Errors
    /// As [`Self::from_addresses`]; also if the sum does not fit 64 bits.
    pub const fn from_base_size(base: PhysAddr, size: u64) -> Result<Self, RangeError> {
        match base.checked_add(size) {
            Some(end) => Self::from_addresses(base, end),
            None => Err(RangeError::Wraps { base, size }),
        }
    }

    /// The whole pages inside `[start, end)`: start rounded up, end rounded down. Empty if there is
    /// none.
    pub const fn inside(start: PhysAddr, end: PhysAddr) -> Self {
        Self::new(Page::new(start.get().div_ceil(PAGE_SIZE)), end.page())
    }

    /// First page.
    pub const fn start(self) -> Page {
        self.start
    }

    /// First page after the range.
    pub const fn end(self) -> Page {
        self.end
    }

    /// First byte.
    pub const fn base(self) -> PhysAddr {
        self.start.start()
    }

    /// First byte after the range.
    pub const fn limit(self) -> PhysAddr {
        self.end.start()
    }

    /// Number of 4 KiB pages.
    pub const fn pages(self) -> u64 {
        self.end.index() - self.start.index()
    }

    /// Bytes; `u64::MAX` if there are more, which no machine has.
    pub const fn bytes(self) -> u64 {
        self.pages().saturating_mul(PAGE_SIZE)
    }

    /// Holds no page.
    pub const fn is_empty(self) -> bool {
        self.start.index() == self.end.index()
    }

    /// True if the page lies inside.
    pub const fn contains(self, page: Page) -> bool {
        self.start.index() <= page.index() && page.index() < self.end.index()
    }

    /// True if every page of `other` lies inside; an empty range lies inside everything.
    pub const fn contains_range(self, other: Self) -> bool {
        other.is_empty() || (self.start.index() <= other.start.index() && other.end.index() <= self.end.index())
    }

    /// True if the two share a page.
    pub const fn overlaps(self, other: Self) -> bool {
        !self.intersection(other).is_empty()
    }

    /// The pages in both.
    pub const fn intersection(self, other: Self) -> Self {
        let start = if self.start.index() > other.start.index() { self.start } else { other.start };
        let end = if self.end.index() < other.end.index() { self.end } else { other.end };
        Self::new(start, end)
    }

    /// The lines of these pages.
    pub const fn lines(self) -> LineRange {
        LineRange::new(self.start.first_line(), self.end.first_line())
    }

    /// The smallest range with borders at multiples of `bytes` (a power of two, at least 4096) that
    /// holds this one.
    ///
    /// `None` if the end would pass 2^64.
    pub const fn align_outward(self, bytes: u64) -> Option<Self> {
        let pages = bytes / PAGE_SIZE;
        let start = self.start.index() / pages * pages;
        match self.end.index().checked_next_multiple_of(pages) {
            Some(end) if end <= 1 << 52 => Some(Self { start: Page::new(start), end: Page::new(end) }),
            _ => None,
        }
    }
}

impl fmt::Display for PageRange {
    /// `[0x1000, 0x2000)`, as the kernel prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.base(), self.limit())
    }
}

impl fmt::Debug for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A half-open range of 64-byte lines, `[start, end)`. May be empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LineRange {
    start: Line,
    end: Line,
}

impl LineRange {
    /// Lines `[start, end)`; empty if `end <= start`.
    pub const fn new(start: Line, end: Line) -> Self {
        if end.index() < start.index() { Self { start, end: start } } else { Self { start, end } }
    }

    /// One line. Empty for line 2^64 - 1, which no machine has.
    pub const fn single(line: Line) -> Self {
        Self { start: line, end: Line::new(line.index().saturating_add(1)) }
    }

    /// Every line that has at least one byte of `[start, start + bytes)`.
    pub const fn touching(start: PhysAddr, bytes: u64) -> Self {
        let end = start.get().saturating_add(bytes);
        Self::new(start.line(), Line::new(end.div_ceil(LINE_SIZE)))
    }

    /// First line.
    pub const fn start(self) -> Line {
        self.start
    }

    /// First line after the range.
    pub const fn end(self) -> Line {
        self.end
    }

    /// Number of lines.
    pub const fn len(self) -> u64 {
        self.end.index() - self.start.index()
    }

    /// Holds no line.
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// True if the line lies inside.
    pub const fn contains(self, line: Line) -> bool {
        self.start.index() <= line.index() && line.index() < self.end.index()
    }

    /// The lines in both.
    pub const fn intersection(self, other: Self) -> Self {
        let start = if self.start.index() > other.start.index() { self.start } else { other.start };
        let end = if self.end.index() < other.end.index() { self.end } else { other.end };
        Self::new(start, end)
    }

    /// The smallest range of pages that holds these lines.
    pub const fn pages(self) -> PageRange {
        PageRange::new(self.start.page(), Page::new(self.end.index().div_ceil(LINES_PER_PAGE)))
    }
}

impl fmt::Display for LineRange {
    /// `[0x1000, 0x1040)`: addresses of the first byte and the first byte after.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

impl fmt::Debug for LineRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Which of the two lists of a [`walk`] cover a piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Covered {
    /// Only the left list.
    Left,
    /// Only the right list.
    Right,
    /// Both.
    Both,
}

/// Merges two sorted lists into pieces, each with which list covers it. Pieces that neither covers
/// are not given.
///
/// Input ranges must ascend without overlap within their own list. Where they do not (bad input),
/// no page is given twice and nothing panics; pages that were passed already are dropped.
pub fn walk<L, R>(left: L, right: R) -> Walk<L::IntoIter, R::IntoIter>
where
    L: IntoIterator<Item = PageRange>,
    R: IntoIterator<Item = PageRange>,
{
    Walk { left: left.into_iter().peekable(), right: right.into_iter().peekable(), at: Page::new(0) }
}

/// Iterator of [`walk`].
#[derive(Debug, Clone)]
pub struct Walk<L: Iterator<Item = PageRange>, R: Iterator<Item = PageRange>> {
    left: Peekable<L>,
    right: Peekable<R>,
    at: Page,
}

/// What is left of the list's head from `at` on, skipping what lies before.
fn head<I: Iterator<Item = PageRange>>(list: &mut Peekable<I>, at: Page) -> Option<PageRange> {
    while let Some(range) = list.peek() {
        if range.end() > at && !range.is_empty() {
            return Some(PageRange::new(range.start().max(at), range.end()));
        }
        list.next();
    }
    None
}

impl<L: Iterator<Item = PageRange>, R: Iterator<Item = PageRange>> Iterator for Walk<L, R> {
    type Item = (PageRange, Covered);

    fn next(&mut self) -> Option<Self::Item> {
        let left = head(&mut self.left, self.at);
        let right = head(&mut self.right, self.at);
        let (piece, covered) = match (left, right) {
            (None, None) => return None,
            (Some(l), None) => (l, Covered::Left),
            (None, Some(r)) => (r, Covered::Right),
            (Some(l), Some(r)) if l.start() < r.start() => {
                (PageRange::new(l.start(), l.end().min(r.start())), Covered::Left)
            }
            (Some(l), Some(r)) if r.start() < l.start() => {
                (PageRange::new(r.start(), r.end().min(l.start())), Covered::Right)
            }
            (Some(l), Some(r)) => (PageRange::new(l.start(), l.end().min(r.end())), Covered::Both),
        };
        self.at = piece.end();
        Some((piece, covered))
    }
}

macro_rules! algebra {
    ($(#[$meta:meta])* $function:ident, $name:ident, $keep:pat) => {
        $(#[$meta])*
        pub fn $function<L, R>(left: L, right: R) -> $name<L::IntoIter, R::IntoIter>
        where
            L: IntoIterator<Item = PageRange>,
            R: IntoIterator<Item = PageRange>,
        {
            $name { walk: walk(left, right), pending: None }
        }

        #[doc = concat!("Iterator of [`", stringify!($function), "`].")]
        #[derive(Debug, Clone)]
        pub struct $name<L: Iterator<Item = PageRange>, R: Iterator<Item = PageRange>> {
            walk: Walk<L, R>,
            pending: Option<PageRange>,
        }

        impl<L: Iterator<Item = PageRange>, R: Iterator<Item = PageRange>> Iterator for $name<L, R> {
            type Item = PageRange;

            fn next(&mut self) -> Option<PageRange> {
                loop {
                    let piece = self.walk.find_map(|(piece, covered)| matches!(covered, $keep).then_some(piece));
                    match (self.pending, piece) {
                        (None, None) => return None,
                        (Some(_), None) => return self.pending.take(),
                        (None, Some(piece)) => self.pending = Some(piece),
                        (Some(last), Some(piece)) if last.end() == piece.start() => {
                            self.pending = Some(PageRange::new(last.start(), piece.end()));
                        }
                        (Some(_), Some(piece)) => return self.pending.replace(piece),
                    }
                }
            }
        }
    };
}

algebra! {
    /// Pages in either list, as maximal ranges.
    union, Union, Covered::Left | Covered::Right | Covered::Both
}
algebra! {
    /// Pages of the left list that are not in the right one, as maximal ranges.
    subtract, Subtract, Covered::Left
}
algebra! {
    /// Pages in both lists, as maximal ranges.
    intersect, Intersect, Covered::Both
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{vec, vec::Vec};

    fn r(start: u64, end: u64) -> PageRange {
        PageRange::new(Page::new(start), Page::new(end))
    }

    #[test]
    fn borders() {
        let a = PhysAddr::new;
        assert!(PageRange::from_addresses(a(0x1001), a(0x2000)).is_err());
        assert!(PageRange::from_addresses(a(0x3000), a(0x2000)).is_err());
        assert!(PageRange::from_base_size(a(u64::MAX - 0xfff), 0x1000).is_err());
        assert_eq!(PageRange::inside(a(0x1001), a(0x3fff)), r(2, 3));
        assert!(PageRange::inside(a(0x1001), a(0x1fff)).is_empty());
        assert_eq!(r(1, 3).lines().len(), 128);
        assert_eq!(LineRange::touching(a(0x103f), 2).len(), 2);
        assert_eq!(std::format!("{}", r(1, 3)), "[0x1000, 0x3000)");
    }

    #[test]
    fn align_outward_to_a_gib() {
        let gib = 1 << 18;
        assert_eq!(r(1, gib + 1).align_outward(1 << 30), Some(r(0, 2 * gib)));
        assert_eq!(r((1 << 52) - 1, 1 << 52).align_outward(1 << 30), Some(r((1 << 52) - gib, 1 << 52)));
    }

    #[test]
    fn walk_covers_each_piece_once() {
        let pieces: Vec<_> = walk([r(0, 4), r(6, 8)], [r(2, 7), r(9, 10)]).collect();
        use Covered::{Both, Left, Right};
        let expected = vec![
            (r(0, 2), Left),
            (r(2, 4), Both),
            (r(4, 6), Right),
            (r(6, 7), Both),
            (r(7, 8), Left),
            (r(9, 10), Right),
        ];
        assert_eq!(pieces, expected);
    }

    #[test]
    fn touching_ranges_are_joined() {
        assert_eq!(union([r(0, 1), r(1, 2)], [r(2, 3)]).collect::<Vec<_>>(), vec![r(0, 3)]);
        assert_eq!(subtract([r(0, 4)], [r(1, 2)]).collect::<Vec<_>>(), vec![r(0, 1), r(2, 4)]);
        assert_eq!(intersect([r(0, 4)], [r(1, 2), r(2, 9)]).collect::<Vec<_>>(), vec![r(1, 4)]);
    }
}
