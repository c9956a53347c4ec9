//! Exception handlers. A machine check is printed with all its banks, and ends the run.

use metal::interrupts::{self, Frame};
use metal::registers::{cr4, rdmsr, set_cr4};
use metal::{console, exit, lapic};
use spin::Once;
use tdx_abi::PhysAddr;

use crate::cpus;

/// Writes what is known about an address.
pub type Explain = fn(PhysAddr, &mut dyn core::fmt::Write);

/// Explains the address of a machine check.
pub static EXPLAIN: Once<Explain> = Once::new();

/// Enables machine-check exceptions on this CPU (CR4.MCE); without it they reset the machine.
pub fn enable_machine_checks() {
    const MCE: u64 = 1 << 6;
    // SAFETY: every x86-64 CPU has the bit.
    unsafe { set_cr4(cr4() | MCE) };
}

/// Handler for exceptions and interrupts.
pub fn handle(frame: &mut Frame) {
    match frame.vector as u8 {
        interrupts::WAKE => lapic::end_of_interrupt(),
        lapic::SPURIOUS_VECTOR => {}
        interrupts::NMI => cpus::nmi(),
        interrupts::MACHINE_CHECK => machine_check(frame),
        _ => interrupts::unexpected(frame),
    }
}

const MCG_CAP: u32 = 0x179;
const MCG_STATUS: u32 = 0x17a;
const MC0_STATUS: u32 = 0x401;
const VALID: u64 = 1 << 63;
const ADDRESS_VALID: u64 = 1 << 58;

struct Console;

impl core::fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        console::print_unlocked(format_args!("{text}"));
        Ok(())
    }
}

fn machine_check(frame: &Frame) -> ! {
    // SAFETY: every x86-64 CPU has these registers.
    let (capabilities, global) = unsafe { (rdmsr(MCG_CAP), rdmsr(MCG_STATUS)) };
    for bank in 0..(capabilities & 0xff) as u32 {
        // SAFETY: banks below the count exist.
        let status = unsafe { rdmsr(MC0_STATUS + 4 * bank) };
        if status & VALID == 0 {
            continue;
        }
        // SAFETY: as above.
        let (address, misc) = unsafe { (rdmsr(MC0_STATUS + 4 * bank + 1), rdmsr(MC0_STATUS + 4 * bank + 2)) };
        console::print_unlocked(format_args!(
            "mce: [Hardware Error]: CPU {}: Machine Check Exception: {global:x} Bank {bank}: {status:016x}\n\
             mce: [Hardware Error]: RIP {:02x}:<{:016x}> ADDR {address:x} MISC {misc:x}\n",
            metal::smp::this_cpu(),
            frame.cs,
            frame.rip
        ));
        if status & ADDRESS_VALID != 0
            && let Some(explain) = EXPLAIN.get()
        {
            explain(PhysAddr::new(address), &mut Console);
            console::print_unlocked(format_args!("\n"));
        }
    }
    console::print_unlocked(format_args!("@ {{\"event\":\"machine-check\",\"rip\":\"{:#x}\"}}\n", frame.rip));
    exit::exit(exit::MACHINE_CHECK)
}
