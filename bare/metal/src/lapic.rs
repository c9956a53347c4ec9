//! Local APIC in xAPIC mode: inter-processor interrupts.

use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

/// Physical base address.
pub const BASE: u64 = 0xfee0_0000;

const ID: u64 = 0x20;
const EOI: u64 = 0xb0;
const SPURIOUS: u64 = 0xf0;
const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;

/// Spurious-interrupt vector.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// An inter-processor interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ipi {
    /// A fixed interrupt with this vector.
    Fixed(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: the CPU waits for [`Ipi::Startup`].
    Init,
    /// SIPI: the CPU starts in real mode at this page.
    Startup(u8),
}

/// Reads a register.
pub fn read(offset: u64) -> u32 {
    // SAFETY: the APIC's page is mapped one to one; its registers are 32 bits wide.
    unsafe { with_exposed_provenance::<u32>((BASE + offset) as usize).read_volatile() }
}

/// Writes a register.
pub fn write(offset: u64, value: u32) {
    // SAFETY: as above; the write affects interrupts, not memory.
    unsafe { with_exposed_provenance_mut::<u32>((BASE + offset) as usize).write_volatile(value) }
}

/// Enables this CPU's APIC.
pub fn enable() {
    write(SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
}

/// This CPU's APIC ID.
pub fn id() -> u32 {
    read(ID) >> 24
}

/// Signals end of interrupt.
pub fn end_of_interrupt() {
    write(EOI, 0);
}

/// Sends an interrupt to the CPU with this APIC ID, and waits until it has been sent.
pub fn send(target: u32, ipi: Ipi) {
    let command = match ipi {
        Ipi::Fixed(vector) => 0x4000 | u32::from(vector),
        Ipi::Nmi => 0x4400,
        Ipi::Init => 0x4500,
        Ipi::Startup(page) => 0x4600 | u32::from(page),
    };
    // A guest that shares this APIC may be between its two stores: restore the high half.
    let before = read(COMMAND_HIGH);
    write(COMMAND_HIGH, target << 24);
    write(COMMAND_LOW, command);
    while read(COMMAND_LOW) & 0x1000 != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_HIGH, before);
}
