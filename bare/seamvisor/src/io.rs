//! Ports: the guest has all of them. Those through which a machine ends are watched, so that the
//! summary comes first.

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
/// The debug console is this program's own: a guest must not be able to write a summary.
const CONSOLE: u16 = 0xe9;
/// The keyboard controller, which resets the machine by 0xfe.
const KEYBOARD: u16 = 0x64;
/// ACPI PM1a control of QEMU's q35 and pc.
const POWER: [u16; 2] = [0x604, 0xb004];
const SLEEP_ENABLE: u32 = 1 << 13;

#[repr(align(4096))]
struct Bitmap([u8; 3 * 4096]);

static PERMISSIONS: Once<Box<Bitmap>> = Once::new();

/// Physical address of the permissions.
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

/// Answers an access to a watched port.
pub fn answer(vcpu: &mut Vcpu) {
    let (info, next) = (vcpu.vmcb.exit_info_1, vcpu.vmcb.exit_info_2);
    let (port, value) = ((info >> 16) as u16, vcpu.vmcb.rax as u32);
    let is_input = info & 1 != 0;
    let is_string = info & 0b100 != 0;
    if is_input {
        // SAFETY: a port of the guest's, read for it. None of the watched ones is a string port.
        let byte = unsafe { metal::registers::in8(port) };
        vcpu.vmcb.rax = vcpu.vmcb.rax & !0xff | u64::from(byte);
    } else if !is_string && port != CONSOLE {
        match port {
            exit::PORT => summary::end(if value == exit::SUCCESS { "guest-ended" } else { "guest-failed" }, value),
            RESET if value & 0b100 != 0 => summary::tell("reset"),
            FAST_RESET if value & 1 != 0 => summary::tell("reset"),
            KEYBOARD if value & 0xff == 0xfe => summary::tell("reset"),
            _ if POWER.contains(&port) && value & SLEEP_ENABLE != 0 => summary::tell("power-off"),
            _ => {}
        }
        // SAFETY: the guest's own access to its own device.
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
