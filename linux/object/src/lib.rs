//! `tdx-host` for the Linux module. The C shim says what the kernel does; every decision is here.
//!
//! ```text
//! shim (C) -> watch     the kernel brings TDX up, and this listens
//!          -> host      this brings TDX up (kernel, cpu: Linux as tdx-host sees it)
//!          -> handover  CPUs stop, private memory is reset
//!          -> status    what is private, and what is at an address
//! ```

#![no_std]

mod cpu;
mod handover;
mod host;
mod kernel;
mod once;
mod shim;
mod status;
mod watch;

use once::Once;
use tdx_host::{
    ledger::Ledger,
    platform::{TdxPlatform, detect},
    private_memory::PrivateMemory,
};

const EPERM: i32 = 1;
const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// Which PAMTs there are.
static RECORD: PrivateMemory = PrivateMemory::new();
static PLATFORM: Once<TdxPlatform> = Once::new();

/// Pages of TDs, whoever builds them.
fn ledger() -> Option<&'static Ledger<'static>> {
    host::ledger().or_else(watch::ledger)
}

fn platform() -> Option<&'static TdxPlatform> {
    PLATFORM.get()
}

/// Is there TDX, and does this CPU have the erratum? 0: no TDX; 1: TDX; 3: TDX and the erratum.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_detect() -> u32 {
    let Ok(found) = detect(&cpu::ThisProcessor) else { return 0 };
    PLATFORM.set(found);
    if found.has_partial_write_erratum() { 3 } else { 1 }
}

/// CPUs that this object can watch.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_cpus() -> u32 {
    cpu::CPUS as u32
}
