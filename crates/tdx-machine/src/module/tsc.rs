//! The TSC as a TD sees it: how its frequency and its start are chosen at MNG.INIT.
//!
//! Source: `fixtures/vectors/metadata.jsonl.gz`, whose CPU counts at 2 GHz. Its TSC stands at 2^32
//! and goes on by 1000 from one reading to the next; this one is read by MNG.INIT alone.

/// Frequency of the CPU's TSC in Hz.
const NATIVE: u64 = 2_000_000_000;
/// Unit of TSC_FREQUENCY in Hz.
const UNIT: u64 = 25_000_000;
/// Fraction bits of the multiplier.
const FRACTION: u32 = 48;
/// Microseconds in a second.
const SECOND: u64 = 1_000_000;

/// A counter that moves when it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tsc(u64);

impl Tsc {
    pub(super) const fn new() -> Self {
        Self(1 << 32)
    }

    pub(super) const fn read(&mut self) -> u64 {
        self.0 += 1000;
        self.0
    }
}

/// TSC_MULTIPLIER of a TD whose TSC has this frequency, in units of 25 MHz.
pub(super) const fn multiplier(frequency: u16) -> u64 {
    (((frequency as u64 * UNIT) as u128) * (1 << FRACTION) / NATIVE as u128) as u64
}

/// TSC_OFFSET: the TD's TSC is 0 now.
pub(super) const fn offset(frequency: u16, now: u64) -> u64 {
    let elapsed = (now as u128 * multiplier(frequency) as u128) >> FRACTION;
    (elapsed as u64).wrapping_neg()
}

/// TSC ticks in this many microseconds; the module keeps 32 bits of them.
pub(super) const fn ticks(microseconds: u64) -> u64 {
    (microseconds.wrapping_mul(NATIVE) / SECOND) & 0xffff_ffff
}

/// Microseconds in this many TSC ticks.
pub(super) const fn microseconds(ticks: u64) -> u64 {
    ticks * SECOND / NATIVE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_td_starts_at_zero() {
        let mut tsc = Tsc::new();
        let now = tsc.read();
        let seen = ((u128::from(now) * u128::from(multiplier(40))) >> FRACTION) as u64;
        assert_eq!(seen.wrapping_add(offset(40, now)), 0);
        assert_eq!(multiplier(40), 1 << 47, "1 GHz on a CPU of 2 GHz");
    }

    #[test]
    fn timeouts_beyond_32_bits_of_ticks_are_cut() {
        assert_eq!(microseconds(ticks(1_000_000)), 1_000_000);
        assert!(microseconds(ticks(100_000_000)) < 100_000_000);
    }
}
