//! Turns private lines back into normal ones: MOVDIR64B over ranges, then a fence. Makes no
//! SEAMCALL and cannot.
//!
//! [`reset_ranges`] is for one CPU and fences after each range. [`ParallelReset`] lets many CPUs
//! share the work, cut by bytes.
//!
//! # Example
//!
//! What it is for, on the software machine:
//!
//! ```
//! # mod kernel { include!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kernel/mod.rs")); }
//! use tdx_abi::{KeyId, LineRange};
//! # use tdx_host::Cpu;
//! use tdx_host::reset::reset_ranges;
//! use tdx_machine::{CpuId, PartialStore};
//!
//! # let hardware = kernel::Hardware::new();
//! # let tdx = tdx_host::Host::new(hardware.slots());
//! # let mut kernel = kernel::Kernel::with_tdx(&hardware, &tdx);
//! // TDX is up. A store of less than a line to PAMT: nothing happens.
//! let layout = tdx.layout().expect("TDX is up");
//! let line = layout.pamt_ranges().next().expect("there is PAMT").lines().start();
//! hardware.machine().partial_write(CpuId(0), LineRange::single(line), KeyId::HOST, PartialStore::NonTemporal)?;
//! // But the line is poisoned, and a read would be a machine check.
//! assert!(hardware.machine().poison(line).is_some());
//!
//! // Caches first, then the reset. It clears the poison, too.
//! for number in 0..4 {
//!     kernel.cpu_number(number).write_back_caches();
//! }
//! // SAFETY: the PAMTs belong to the layout, and no SEAMCALL is made any more.
//! let done = unsafe { reset_ranges(&kernel.cpu(), layout.pamt_ranges()) };
//! assert_eq!(done.lines * 64, layout.pamt_bytes());
//! assert_eq!(hardware.machine().private_lines(), 0);
//! assert!(hardware.machine().poison(line).is_none());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use tdx_abi::{PAGE_SIZE, Page, PageRange};

use crate::platform::{Cpu, CpuTask, LineReset, Step};
use crate::sync::{AtomicU64, Ordering};

/// What a reset did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResetCount {
    /// 64-byte lines written, each once.
    pub lines: u64,
    /// Ranges they lie in.
    pub ranges: u64,
    /// 64-byte lines that no mapping has: not written, and as private as before.
    pub left: u64,
}

/// Writes every line of the ranges once and fences after each range.
///
/// # Safety
/// The ranges are RAM and hold nothing that anyone needs: they are overwritten with zeros. No
/// SEAMCALL makes a line of them private any more, and the dirty lines of private KeyIDs are
/// written back on every CPU; otherwise an older line may land on top of the reset.
pub unsafe fn reset_ranges<R: LineReset + ?Sized>(cpu: &R, ranges: impl IntoIterator<Item = PageRange>) -> ResetCount {
    let mut done = ResetCount::default();
    for range in ranges {
        if range.is_empty() {
            continue;
        }
        // SAFETY: the caller's promise.
        let left = unsafe { cpu.reset_lines(range.lines()) };
        cpu.fence();
        done.lines += range.lines().len() - left;
        done.left += left;
        done.ranges += 1;
    }
    done
}

/// A chunk is at most 32 MiB, some ten milliseconds of MOVDIR64B, so that no CPU is far behind the
/// others at the end.
const MAX_CHUNK: u64 = (32 << 20) / PAGE_SIZE;
/// And at least 64 KiB, so that taking it costs nothing beside resetting it.
const MIN_CHUNK: u64 = (64 << 10) / PAGE_SIZE;
/// In between: enough chunks for the CPUs of the largest hosts to share.
const CHUNKS: u64 = 1024;

/// Ranges that several CPUs reset together.
///
/// The ranges, laid end to end, are cut into chunks of equal size. Every CPU walks the same ranges
/// and takes the next chunk from one counter, so there is no list of chunks and each page is
/// written once. A CPU fences after each chunk.
///
/// The ranges must not change meanwhile: all CPUs that could change them have stopped. One CPU
/// alone resets whatever its own walk finds.
#[derive(Debug)]
pub struct ParallelReset<I> {
    ranges: I,
    count: u64,
    /// Pages in a chunk.
    chunk: u64,
    next: AtomicU64,
    lines: AtomicU64,
    left: AtomicU64,
}

/// How far one CPU has walked.
#[derive(Debug)]
pub struct Place<I> {
    ranges: I,
    /// What is left of the range it is in.
    rest: PageRange,
    /// Pages before `rest`, from the first range on.
    before: u64,
}

impl<I> Place<I> {
    /// Goes on by so many pages, within the range it is in, and gives them.
    fn advance(&mut self, pages: u64) -> PageRange {
        let pages = pages.min(self.rest.pages());
        let middle = Page::new(self.rest.start().index() + pages);
        let passed = PageRange::new(self.rest.start(), middle);
        self.rest = PageRange::new(middle, self.rest.end());
        self.before += pages;
        passed
    }
}

impl<I: Iterator<Item = PageRange> + Clone> ParallelReset<I> {
    /// The work; no CPU has begun. No two of the ranges share a page.
    ///
    /// # Safety
    /// As [`reset_ranges`], for as long as the value exists: any CPU that runs it overwrites the
    /// ranges.
    pub unsafe fn new(ranges: impl IntoIterator<IntoIter = I>) -> Self {
        let ranges = ranges.into_iter();
        let (count, pages) =
            ranges.clone().fold((0, 0u64), |(count, pages), range| (count + 1, pages.saturating_add(range.pages())));
        let chunk = (pages / CHUNKS).clamp(MIN_CHUNK, MAX_CHUNK);
        Self { ranges, count, chunk, next: AtomicU64::new(0), lines: AtomicU64::new(0), left: AtomicU64::new(0) }
    }

    /// Resets the next chunk that no CPU has taken.
    fn take_chunk<R: LineReset + ?Sized>(&self, cpu: &R, place: &mut Option<Place<I>>) -> Step {
        let start = self.next.fetch_add(1, Ordering::Relaxed).saturating_mul(self.chunk);
        let end = start.saturating_add(self.chunk);
        let place =
            place.get_or_insert_with(|| Place { ranges: self.ranges.clone(), rest: PageRange::default(), before: 0 });
        let (mut lines, mut left) = (0, 0);
        loop {
            if place.rest.is_empty() {
                match place.ranges.next() {
                    Some(range) => place.rest = range,
                    None => break,
                }
            }
            place.advance(start.saturating_sub(place.before));
            if place.before >= end {
                break;
            }
            // Empty as long as the chunk lies further on.
            let part = place.advance(end - place.before);
            if !part.is_empty() {
                // SAFETY: a part of the ranges that `ParallelReset::new` was promised.
                left += unsafe { cpu.reset_lines(part.lines()) };
                lines += part.lines().len();
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

    /// Does all of it on this CPU.
    pub fn run_alone<R: LineReset + ?Sized>(&self, cpu: &R) {
        let mut place = None;
        while self.take_chunk(cpu, &mut place) == Step::Again {}
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

impl<C: Cpu, I: Iterator<Item = PageRange> + Clone + Sync> CpuTask<C> for ParallelReset<I> {
    type Local = Option<Place<I>>;

    fn step(&self, cpu: &C, place: &mut Self::Local) -> Step {
        self.take_chunk(cpu, place)
    }
}
