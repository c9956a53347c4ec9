//! Rust object of `cleanslate.ko`: `tdx-host` behind functions for the C files. The C files know
//! Linux, this object knows TDX and decides. `linux/object.h` is the interface.
//!
//! ```text
//! C files -> watch     a kernel with TDX host support: PAMTs and pages from its SEAMCALLs
//!         -> host      a kernel without: initializes TDX (kernel, cpu: Linux as tdx-host sees it)
//!         -> handover  CPUs stop, private memory is reset (captured: by all CPUs together)
//!         -> dump      what a crash kernel leaves out of its dump
//!         -> sweep     ledger and module, page by page: an audit, or a late load
//!         -> keep      TDX is kept for the next kernel, with its TDs
//!         -> line      which command lines of a next kernel reserve the pool
//!         -> take_over the next kernel: TDX and its TDs are this one's
//!         -> status    how much is private, and what is at an address
//! ```

#![no_std]

pub mod captured;
pub mod cpu;
pub mod dump;
pub mod handover;
pub mod host;
pub mod keep;
pub mod kernel;
mod line;
mod nodes;
pub mod pages;
pub mod pool;
pub mod roster;
pub mod shares;
pub mod shim;
pub mod status;
pub mod sweep;
pub mod take_over;
pub mod watch;

use arrayvec::ArrayString;
use core::fmt::{Arguments, Write as _};
use core::panic::PanicInfo;
use tdx_host::{CpuSlot, Host, PageRange};

/// Supported `nr_cpu_ids`: slots of the gate.
const CPUS: usize = 1024;

static SLOTS: [CpuSlot; CPUS] = [const { CpuSlot::new() }; CPUS];

/// All TDX state: platform, PAMTs, gate, layout, ledger, KeyIDs.
pub static HOST: Host<'static> = Host::new(&SLOTS);

/// Operation not permitted.
pub const EPERM: i32 = 1;
/// I/O error.
pub const EIO: i32 = 5;
/// Out of memory.
pub const ENOMEM: i32 = 12;
/// Device or resource busy.
pub const EBUSY: i32 = 16;
/// No such device.
pub const ENODEV: i32 = 19;
/// Invalid argument.
pub const EINVAL: i32 = 22;

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    shim::panic()
}

/// Prints a line to the kernel log, cut after 256 bytes.
pub fn log(arguments: Arguments<'_>) {
    let mut text = ArrayString::<256>::new();
    // What does not fit is cut.
    let _ = text.write_fmt(arguments);
    shim::log(&text);
}

/// KiB of PAMT that may be private.
fn pamt_kb() -> u64 {
    HOST.pamt_ranges().map(PageRange::bytes).sum::<u64>() / 1024
}

/// May any memory be private? Lock-free, from any context.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_is_private() -> bool {
    HOST.pamt_ranges().next().is_some() || HOST.ledger().is_some_and(|ledger| ledger.marked().next().is_some())
}

/// No TDX.
pub const CLEANSLATE_NO_TDX: u32 = 0;
/// TDX, on a CPU without the partial-write erratum.
pub const CLEANSLATE_TDX: u32 = 1;
/// TDX, on a CPU with the partial-write erratum.
pub const CLEANSLATE_TDX_PW_MCE: u32 = 2;

/// Detects TDX and the erratum: one of the three above.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_detect() -> u32 {
    let Ok(found) = HOST.detect(&cpu::ThisProcessor) else { return CLEANSLATE_NO_TDX };
    if found.has_partial_write_erratum() { CLEANSLATE_TDX_PW_MCE } else { CLEANSLATE_TDX }
}

/// The largest supported `nr_cpu_ids`.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_max_cpus() -> u32 {
    CPUS as u32
}
