//! I/O ports: passed through. Those that can reset or power off the machine are intercepted, so
//! that the summary is printed first.

use alloc::boxed::Box;
use metal::exit;
use metal::registers::{out8, out16, out32};
use spin::Once;

use crate::summary;
use crate::vcpu::Vcpu;

/// Reset control.
const RESET: u16 = 0xcf9;
/// System control port A, whose lowest bit resets the machine.
const FAST_RESET: u16 = 0x92;
/// The debug console of this program. Writes of the guest are dropped: they could forge a summary.
const CONSOLE: u16 = 0xe9;
/// Keyboard controller; command 0xfe resets the machine.
const KEYBOARD: u16 = 0x64;
/// ACPI PM1a control of QEMU's q35 and pc.
const POWER: [u16; 2] = [0x604, 0xb004];
const SLEEP_ENABLE: u32 = 1 << 13;

#[repr(align(4096))]
struct Bitmap([u8; 3 * 4096]);

static PERMISSIONS: Once<Box<Bitmap>> = Once::new();

/// Physical address of the I/O permission map.
pub fn permissions() -> u64 {
    let map = PERMISSIONS.call_once(|| {
        let mut map = Box::new(Bitmap([0; 3 * 4096]));
        for port in [exit::PORT, RESET, FAST_RESET, CONSOLE, KEYBOARD].into_iter().chain(POWER) {
            map.0[usize::from(port) / 8] |= 1 << (port % 8);
        }
        map
    });
    core::ptr::from_ref::<Bitmap>(map).expose_provenance() as u64
}

/// Handles an access to an intercepted port.
pub fn handle_exit(vcpu: &mut Vcpu) {
    let (info, next) = (vcpu.vmcb.exit_info_1, vcpu.vmcb.exit_info_2);
    let (port, value) = ((info >> 16) as u16, vcpu.vmcb.rax as u32);
    let is_input = info & 1 != 0;
    let is_string = info & 0b100 != 0;
    if is_input {
        // SAFETY: a read by the guest of its own device, which touches no memory.
        let byte = unsafe { metal::registers::in8(port) };
        vcpu.vmcb.rax = vcpu.vmcb.rax & !0xff | u64::from(byte);
    } else if !is_string && port != CONSOLE {
        match port {
            exit::PORT => {
                summary::report_and_exit(if value == exit::SUCCESS { "guest-ended" } else { "guest-failed" }, value)
            }
            RESET if value & 0b100 != 0 => summary::report("reset"),
            FAST_RESET if value & 1 != 0 => summary::report("reset"),
            KEYBOARD if value & 0xff == 0xfe => summary::report("reset"),
            _ if POWER.contains(&port) && value & SLEEP_ENABLE != 0 => summary::report("power-off"),
            _ => {}
        }
        // SAFETY: a write by the guest to its own device.
        unsafe {
            match info >> 4 & 0b111 {
                1 => out8(port, value as u8),
                2 => out16(port, value as u16),
                _ => out32(port, value),
            }
        }
    }
    vcpu.vmcb.rip = next;
    vcpu.vmcb.interrupt_shadow = 0;
}
