//! A reset that several CPUs share.

use tdx_abi::{PAGE_SIZE, Page, PageRange};

use super::ResetCount;
use super::nodes::{MAX_PARTS, NodeMap};
use crate::platform::{Cpu, CpuTask, LineReset, NodeId, Step};
use crate::sync::{AtomicU64, Ordering};

/// A chunk is at most 32 MiB, some ten milliseconds of MOVDIR64B, so that no CPU is far behind the
/// others at the end.
const MAX_CHUNK: u64 = (32 << 20) / PAGE_SIZE;
/// And at least 64 KiB, so that taking it costs nothing beside resetting it.
const MIN_CHUNK: u64 = (64 << 10) / PAGE_SIZE;
/// In between: enough chunks for the CPUs of the largest hosts to share.
const CHUNKS: u64 = 1024;

/// Ranges that several CPUs reset together.
///
/// The ranges, laid end to end, are cut into chunks of equal size, the memory of each NUMA node by
/// itself. Every CPU walks the same ranges and takes the next chunk from one counter for each node,
/// so there is no list of chunks and each page is written once. It begins with its own node, and
/// then helps the others: bandwidth between packages is a fraction of that to local memory. A CPU
/// fences after each chunk.
///
/// The ranges must not change meanwhile: all CPUs that could change them have stopped. One CPU
/// alone resets whatever its own walk finds.
#[derive(Debug)]
pub struct ParallelReset<'n, I> {
    ranges: I,
    count: u64,
    /// Pages in a chunk.
    chunk: u64,
    nodes: NodeMap<'n>,
    /// The next chunk of each part of the node map.
    next: [AtomicU64; MAX_PARTS],
    lines: AtomicU64,
    left: AtomicU64,
}

/// How far one CPU has walked.
#[derive(Debug)]
pub struct Place<I> {
    /// The part of the node map in which it takes chunks.
    part: usize,
    /// Parts that it has been through.
    passed: usize,
    ranges: I,
    /// What is left of the range that it is in, of all nodes.
    uncut: PageRange,
    /// What is left of the piece that it is in.
    rest: PageRange,
    /// Pages of this part before `rest`, from the first range on.
    before: u64,
}

impl<I: Iterator<Item = PageRange>> Place<I> {
    fn at(part: usize, passed: usize, ranges: I) -> Self {
        Self { part, passed, ranges, uncut: PageRange::default(), rest: PageRange::default(), before: 0 }
    }

    /// Goes to the next piece of this part. False if there is none.
    fn find_piece(&mut self, nodes: &NodeMap<'_>) -> bool {
        while self.rest.is_empty() {
            if self.uncut.is_empty() {
                match self.ranges.next() {
                    Some(range) => self.uncut = range,
                    None => return false,
                }
            } else {
                let (part, piece) = nodes.first_piece(self.uncut);
                self.uncut = PageRange::new(piece.end(), self.uncut.end());
                if part == self.part {
                    self.rest = piece;
                }
            }
        }
        true
    }

    /// Goes on by so many pages, within the piece it is in, and gives them.
    fn advance(&mut self, pages: u64) -> PageRange {
        let pages = pages.min(self.rest.pages());
        let middle = Page::new(self.rest.start().index() + pages);
        let passed = PageRange::new(self.rest.start(), middle);
        self.rest = PageRange::new(middle, self.rest.end());
        self.before += pages;
        passed
    }
}

impl<'n, I: Iterator<Item = PageRange> + Clone> ParallelReset<'n, I> {
    /// The work; no CPU has begun. No two of the ranges share a page.
    ///
    /// # Safety
    /// As [`reset_ranges`](super::reset_ranges), for as long as the value exists: any CPU that runs
    /// it overwrites the ranges.
    pub unsafe fn new(ranges: impl IntoIterator<IntoIter = I>, nodes: NodeMap<'n>) -> Self {
        let ranges = ranges.into_iter();
        let (count, pages) =
            ranges.clone().fold((0, 0u64), |(count, pages), range| (count + 1, pages.saturating_add(range.pages())));
        Self {
            ranges,
            count,
            chunk: (pages / CHUNKS).clamp(MIN_CHUNK, MAX_CHUNK),
            nodes,
            next: core::array::from_fn(|_| AtomicU64::new(0)),
            lines: AtomicU64::new(0),
            left: AtomicU64::new(0),
        }
    }

    /// Resets the next chunk that no CPU has taken. `node` is the CPU's own.
    fn take_chunk<R: LineReset + ?Sized>(&self, cpu: &R, node: Option<NodeId>, place: &mut Option<Place<I>>) -> Step {
        let place = place.get_or_insert_with(|| Place::at(self.nodes.part_of(node), 0, self.ranges.clone()));
        let parts = self.nodes.parts();
        while place.passed < parts {
            if self.take_chunk_here(cpu, place) == Step::Again {
                return Step::Again;
            }
            // The other parts in turn, so that CPUs of different nodes help different ones.
            *place = Place::at((place.part + 1) % parts, place.passed + 1, self.ranges.clone());
        }
        Step::Done
    }

    /// As [`Self::take_chunk`], of the part at `place`; done if it has none left.
    fn take_chunk_here<R: LineReset + ?Sized>(&self, cpu: &R, place: &mut Place<I>) -> Step {
        let Some(next) = self.next.get(place.part) else { return Step::Done };
        let start = next.fetch_add(1, Ordering::Relaxed).saturating_mul(self.chunk);
        let end = start.saturating_add(self.chunk);
        let (mut lines, mut left) = (0, 0);
        while place.find_piece(&self.nodes) {
            place.advance(start.saturating_sub(place.before));
            if place.before >= end {
                break;
            }
            // Empty as long as the chunk lies further on.
            let piece = place.advance(end - place.before);
            if !piece.is_empty() {
                // SAFETY: a part of the ranges that `ParallelReset::new` was promised.
                left += unsafe { cpu.reset_lines(piece.lines()) };
                lines += piece.lines().len();
            }
        }
        if lines == 0 {
            return Step::Done;
        }
        cpu.fence();
        self.lines.fetch_add(lines - left, Ordering::Relaxed);
        self.left.fetch_add(left, Ordering::Relaxed);
        Step::Again
    }

    /// Does all of it on this CPU, in the order of the map.
    pub fn run_alone<R: LineReset + ?Sized>(&self, cpu: &R) {
        self.run_from(cpu, None);
    }

    /// Does all of it that no other CPU does, beginning with the memory of `node`.
    pub fn run_from<R: LineReset + ?Sized>(&self, cpu: &R, node: Option<NodeId>) {
        let mut place = None;
        while self.take_chunk(cpu, node, &mut place) == Step::Again {}
    }

    /// What was done. Complete once every CPU that has begun is done.
    pub fn count(&self) -> ResetCount {
        ResetCount {
            lines: self.lines.load(Ordering::Relaxed),
            ranges: self.count,
            left: self.left.load(Ordering::Relaxed),
        }
    }
}

impl<C: Cpu, I: Iterator<Item = PageRange> + Clone + Sync> CpuTask<C> for ParallelReset<'_, I> {
    type Local = Option<Place<I>>;

    fn step(&self, cpu: &C, place: &mut Self::Local) -> Step {
        self.take_chunk(cpu, cpu.node(), place)
    }
}
