//! Turns private lines back into normal ones: MOVDIR64B over ranges, one fence per range. Makes no SEAMCALL and cannot.

use tdx_abi::PageRange;

use crate::platform::LineReset;

/// What a reset did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResetCount {
    /// 64-byte lines written.
    pub lines: u64,
    /// Ranges, and fences: one each.
    pub ranges: u64,
}

/// Writes every line of the ranges once and fences after each range.
///
/// The caller has seen to it that no SEAMCALL is made any more and that the dirty lines of private KeyIDs are written
/// back on every CPU; otherwise an older line may land on top of the reset.
pub fn reset_ranges<R: LineReset + ?Sized>(cpu: &R, ranges: impl IntoIterator<Item = PageRange>) -> ResetCount {
    let mut done = ResetCount::default();
    for range in ranges {
        if range.is_empty() {
            continue;
        }
        cpu.reset_lines(range.lines());
        cpu.fence();
        done.lines += range.lines().len();
        done.ranges += 1;
    }
    done
}
