//! Clock and timeouts: the time-stamp counter, calibrated once against the PIT.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::registers::{in8, out8, tsc};

static TICKS_PER_MS: AtomicU64 = AtomicU64::new(1_000_000);

/// PIT ticks in 10 ms, at 1.193182 MHz.
const TEN_MS: u16 = 11932;

/// Calibrates the time-stamp counter. Takes 10 ms.
pub fn init() {
    // SAFETY: PIT channel 2 and its gate touch no memory. Its output is not wired to an interrupt.
    unsafe {
        out8(0x61, in8(0x61) & !0b10 | 0b01);
        out8(0x43, 0b1011_0000);
        out8(0x42, TEN_MS as u8);
        out8(0x42, (TEN_MS >> 8) as u8);
        let start = tsc();
        while in8(0x61) & 0x20 == 0 {
            core::hint::spin_loop();
        }
        TICKS_PER_MS.store(((tsc() - start) / 10).max(1), Ordering::Relaxed);
    }
}

/// Microseconds since an arbitrary time.
pub fn micros() -> u64 {
    micros_of(tsc())
}

/// Microseconds of so many ticks of the time-stamp counter.
pub fn micros_of(ticks: u64) -> u64 {
    ticks / (TICKS_PER_MS.load(Ordering::Relaxed).div_ceil(1000))
}

/// Waits until the condition holds. False if it did not within `timeout` microseconds.
pub fn wait_for(timeout: u64, mut condition: impl FnMut() -> bool) -> bool {
    let start = micros();
    while !condition() {
        if micros().wrapping_sub(start) > timeout {
            return condition();
        }
        core::hint::spin_loop();
    }
    true
}
