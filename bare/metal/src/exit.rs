//! Program exit by QEMU's `isa-debug-exit`, and the panic handler.

use core::panic::PanicInfo;

use crate::registers::{halt, out32};

/// Success.
pub const SUCCESS: u32 = 0x10;
/// The run was completed and has found an error.
pub const FAILURE: u32 = 0x11;
/// A machine check.
pub const MACHINE_CHECK: u32 = 0x12;
/// A panic or an unexpected exception.
pub const PANIC: u32 = 0x13;

/// I/O port of `-device isa-debug-exit,iobase=0xf4,iosize=4`.
pub const PORT: u16 = 0xf4;

/// Ends QEMU: its exit status is `code * 2 + 1`.
pub fn exit(code: u32) -> ! {
    // SAFETY: the device ends the machine.
    unsafe { out32(PORT, code) };
    halt()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    crate::console::print_unlocked(format_args!("{info}\n"));
    exit(PANIC)
}
