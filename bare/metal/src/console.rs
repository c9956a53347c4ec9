//! Console: a serial port or QEMU's debug console. Lines of several CPUs do not interleave.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU16, Ordering};
use spin::Mutex;

use crate::registers::{in8, out8};

/// The output device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Console {
    /// COM1, a 16550.
    Serial,
    /// `isa-debugcon`.
    Debug,
}

const SERIAL: u16 = 0x3f8;
const DEBUG: u16 = 0xe9;

static PORT: AtomicU16 = AtomicU16::new(SERIAL);
static LOCK: Mutex<()> = Mutex::new(());

/// Selects the device. The default is COM1.
pub fn choose(console: Console) {
    PORT.store(if console == Console::Serial { SERIAL } else { DEBUG }, Ordering::Relaxed);
}

struct Port(u16);

impl Write for Port {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if self.0 == SERIAL {
                // Transmitter empty: bit 5 of the line status.
                // SAFETY: a UART touches no memory.
                while unsafe { in8(SERIAL + 5) } & 0x20 == 0 {
                    core::hint::spin_loop();
                }
            }
            // SAFETY: neither device touches memory.
            unsafe { out8(self.0, byte) };
        }
        Ok(())
    }
}

/// Prints; for [`println!`](crate::println).
pub fn print(text: fmt::Arguments<'_>) {
    let guard = LOCK.lock();
    // Writing to a port does not fail.
    let _ = Port(PORT.load(Ordering::Relaxed)).write_fmt(text);
    drop(guard);
}

/// Prints without taking the lock, which a stopped CPU may hold: for panics and machine checks.
pub fn print_unlocked(text: fmt::Arguments<'_>) {
    let _ = Port(PORT.load(Ordering::Relaxed)).write_fmt(text);
}

/// Prints a line on the console.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::console::print(format_args!("{}\n", format_args!($($text)*))) };
}
