//! `libtdxhost.a`: everything that `tdx-host-c` exports, and the panic handler that a program without std must have.

#![no_std]

extern crate tdx_host_c as _;

/// An invalid instruction: the kernel's #UD handler says where. The product does not come here (`checks/no-panic`); only the
/// formatting of messages might.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        // SAFETY: UD2 has no operands and no effect but the exception.
        unsafe { core::arch::asm!("ud2", options(nomem, nostack)) };
    }
}
