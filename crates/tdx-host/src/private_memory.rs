//! What the host has handed to the module: the flag "there may be private memory" and the list of
//! PAMT ranges, readable on any CPU at any instant without lock, allocation or waiting. It refuses
//! to shrink while the flag is up.
//!
//! # Why the reader sees the flag
//!
//! 1. The bring-up CPU writes the list, raises the flag, passes a sequentially consistent fence,
//!    and only then makes the first SEAMCALL that can turn a line private.
//! 2. The kexec CPU passes a fence, and only then reads the flag and the list.
//! 3. If that CPU can see any effect of the SEAMCALL (a private line, a stopped CPU's
//!    acknowledgement), the two fences pair up through that effect, so it sees the flag and the
//!    whole list: release before, acquire after.
//! 4. WBINVD is no part of this argument. It serializes the CPU that runs it and promises another
//!    CPU nothing; it comes between 1 and the SEAMCALL for a different reason, the host's own dirty
//!    lines of PAMT.
//! 5. Lowering goes the other way: the resets are fenced first, then the flag falls, then the list
//!    empties, then the memory is freed. A CPU frozen anywhere in between leaves "flag up" over
//!    lines that are private or already reset.
//!
//! loom runs this file against its weakened twin: `tests/loom_publication.rs`.

use tdx_abi::{Page, PageRange};

use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// PAMT ranges of the largest module: 64 TDMRs with three levels each.
pub const MAX_PAMT_RANGES: usize = 3 * tdx_abi::MAX_TDMRS;

/// Ranges that fit. A model of loom has a few.
const SLOTS: usize = if cfg!(loom) { 4 } else { MAX_PAMT_RANGES };

/// One published range, as page numbers.
#[derive(Debug)]
struct Slot {
    start: AtomicU64,
    end: AtomicU64,
}

/// The host's record of private memory. One per host; it outlives every bring-up.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "the flag has the name it has in Linux")]
pub(crate) struct PrivateMemory {
    claimed: AtomicBool,
    may_have_private_memory: AtomicBool,
    count: AtomicU32,
    slots: [Slot; SLOTS],
}

/// Why a layout cannot be published. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// More ranges than the record can hold.
    #[error("the record of private memory has room for {room} PAMT ranges, the layout has {count}")]
    Full {
        /// Ranges that fit.
        room: usize,
        /// Ranges of the layout.
        count: usize,
    },
    /// A range is empty, or not above the one before it.
    #[error("PAMT range {range} is empty or not above the range before it")]
    Unordered {
        /// The range.
        range: PageRange,
    },
    /// The flag is up: the ranges in the record may be private, and must not be forgotten.
    #[error("the record of private memory is in use")]
    FlagUp,
}

impl PrivateMemory {
    /// Nothing is private.
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self {
            claimed: AtomicBool::new(false),
            may_have_private_memory: AtomicBool::new(false),
            count: AtomicU32::new(0),
            slots: [const { Slot { start: AtomicU64::new(0), end: AtomicU64::new(0) } }; SLOTS],
        }
    }

    /// Nothing is private. (loom's atomics cannot be made in a constant.)
    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        let slots = core::array::from_fn(|_| Slot { start: AtomicU64::new(0), end: AtomicU64::new(0) });
        Self {
            claimed: AtomicBool::new(false),
            may_have_private_memory: AtomicBool::new(false),
            count: AtomicU32::new(0),
            slots,
        }
    }

    /// Takes the record for one bring-up. False if another bring-up has it, or has succeeded.
    pub(crate) fn claim(&self) -> bool {
        self.claimed.compare_exchange(false, true, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Gives the record back after a failed bring-up; the flag is down.
    pub(crate) fn release_claim(&self) {
        self.claimed.store(false, Ordering::Release);
    }

    /// Records the ranges and raises the flag. On return the next SEAMCALL may make lines private.
    ///
    /// Called by the one CPU that runs the bring-up; `ranges` are all pages that hold PAMT,
    /// ascending.
    ///
    /// # Errors
    /// [`PublishError`]; then nothing has changed.
    ///
    /// # Safety
    /// The ranges are memory that was taken for PAMT and holds nothing that anyone needs: from here
    /// on a handover may overwrite them.
    pub(crate) unsafe fn publish(&self, ranges: impl Iterator<Item = PageRange> + Clone) -> Result<(), PublishError> {
        let count = ranges.clone().count();
        if count > SLOTS {
            return Err(PublishError::Full { room: SLOTS, count });
        }
        if self.may_have_private_memory() {
            return Err(PublishError::FlagUp);
        }
        // Every reader walks the ranges upwards: one out of place would be one that is not reset.
        let mut end = Page::new(0);
        for range in ranges.clone() {
            if range.is_empty() || range.start() < end {
                return Err(PublishError::Unordered { range });
            }
            end = range.end();
        }
        for (slot, range) in self.slots.iter().zip(ranges) {
            slot.start.store(range.start().index(), Ordering::Relaxed);
            slot.end.store(range.end().index(), Ordering::Relaxed);
        }
        self.count.store(count as u32, Ordering::Relaxed);
        self.may_have_private_memory.store(true, Ordering::Release);
        // Store before SEAMCALL: the instruction is not part of the language's memory model, the
        // fence is.
        fence(Ordering::SeqCst);
        Ok(())
    }

    /// Lowers the flag and empties the list. The caller frees the memory after this.
    ///
    /// # Safety
    /// Every line of every range is normal memory again (reset and fenced, or never private), and
    /// no SEAMCALL makes one private before the next [`PrivateMemory::publish`].
    pub(crate) unsafe fn withdraw(&self) {
        self.may_have_private_memory.store(false, Ordering::Release);
        fence(Ordering::SeqCst);
        self.count.store(0, Ordering::Relaxed);
    }

    /// True from before the first line can be private until after the last reset of a failed
    /// bring-up.
    pub(crate) fn may_have_private_memory(&self) -> bool {
        fence(Ordering::SeqCst);
        self.may_have_private_memory.load(Ordering::Acquire)
    }

    /// The PAMT ranges, if the flag is up; none otherwise. Meant for a CPU that has stopped all
    /// others.
    pub(crate) fn pamt_ranges(&self) -> impl Iterator<Item = PageRange> + Clone + '_ {
        let count = if self.may_have_private_memory() { self.count.load(Ordering::Acquire) as usize } else { 0 };
        self.slots.iter().take(count).map(|slot| {
            PageRange::new(Page::new(slot.start.load(Ordering::Relaxed)), Page::new(slot.end.load(Ordering::Relaxed)))
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::new(Page::new(start), Page::new(end))
    }

    fn publish<const N: usize>(record: &PrivateMemory, ranges: [PageRange; N]) -> Result<(), PublishError> {
        // SAFETY: no handover looks at these records.
        unsafe { record.publish(ranges.into_iter()) }
    }

    #[test]
    fn ranges_are_there_exactly_while_the_flag_is_up() {
        let record = PrivateMemory::new();
        assert!(!record.may_have_private_memory());
        assert_eq!(record.pamt_ranges().count(), 0);
        publish(&record, [range(0, 4), range(9, 10)]).unwrap();
        assert!(record.may_have_private_memory());
        assert_eq!(record.pamt_ranges().collect::<Vec<_>>(), [range(0, 4), range(9, 10)]);
        // SAFETY: nothing was ever private.
        unsafe { record.withdraw() };
        assert!(!record.may_have_private_memory());
        assert_eq!(record.pamt_ranges().count(), 0);
    }

    #[test]
    fn a_full_record_raises_no_flag() {
        let record = PrivateMemory::new();
        let ranges: [_; SLOTS + 1] = core::array::from_fn(|index| range(index as u64, index as u64 + 1));
        assert_eq!(publish(&record, ranges), Err(PublishError::Full { room: SLOTS, count: SLOTS + 1 }));
        assert!(!record.may_have_private_memory());
    }

    #[test]
    fn ranges_out_of_order_raise_no_flag() {
        let record = PrivateMemory::new();
        for bad in [[range(4, 8), range(0, 1)], [range(0, 2), range(1, 3)], [range(0, 1), range(5, 5)]] {
            assert_eq!(publish(&record, bad), Err(PublishError::Unordered { range: bad[1] }));
            assert!(!record.may_have_private_memory());
        }
        publish(&record, [range(0, 1), range(1, 2)]).unwrap();
    }

    #[test]
    fn a_record_in_use_forgets_nothing() {
        let record = PrivateMemory::new();
        publish(&record, [range(0, 1)]).unwrap();
        assert_eq!(publish(&record, [range(5, 6)]), Err(PublishError::FlagUp));
        assert_eq!(record.pamt_ranges().collect::<Vec<_>>(), [range(0, 1)]);
    }
}
