//! Rust object of the test variant of `cleanslate.ko`: the shipped object (`linux/object`), and TDs
//! that are built for tests (`cleanslate_test.c`), by the hypervisor of `first-kernel`.

#![no_std]

mod counting;

use cleanslate_linux::kernel::Linux;
use cleanslate_linux::{EINVAL, EIO, ENOMEM, EPERM, HOST, host, keep, log, shim};
use first_kernel::{Count, GuestMap, TdPhase};
use tdx_abi::PageSize;
use tdx_host::layout::{FrameRequest, FrameSource};
use tdx_host::ledger::Ledger;
use tdx_host::platform::OwnedPages;
use tdx_host::td::TdHost;

/// Pages for TDs, from the page allocator.
struct KernelPages;

impl first_kernel::Pages for KernelPages {
    fn take(&self, size: PageSize) -> Option<OwnedPages> {
        shim::allocate(size.pages(), None, FrameRequest::ANYWHERE)
    }

    fn give_back(&self, pages: OwnedPages) {
        shim::free(pages);
    }
}

unsafe extern "C" {
    safe fn cleanslate_counted(cpu: u32, counter: u64, register: u64, starts: u64);
    safe fn cleanslate_entered(cycles: u64);
}

/// An event: what a TD that counts has reported.
fn counted(cpu: u32, count: Count) {
    cleanslate_counted(cpu, count.memory, count.register, count.starts);
}

/// An event: cycles from the handover of the earlier kernel to the first VP.ENTER.
fn entered(cycles: u64) {
    cleanslate_entered(cycles);
}

/// Adopts the TDs of the earlier kernel that can run, and lets them count on. 0, or a negative
/// errno; the kernel log has the reason.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_adopt() -> i32 {
    counting::adopt()
}

/// Builds a TD and leaves it in a phase: 0 runnable, 1 half built, 2 gone, 3 half gone. What it
/// owns at the end stays private until the kexec. 0, or a negative errno; the kernel log has the
/// reason.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_td(phase: u32) -> i32 {
    let phase = match phase {
        0 => TdPhase::Running,
        1 => TdPhase::HalfBuilt,
        2 => TdPhase::Gone,
        3 => TdPhase::HalfTornDown,
        _ => return -EINVAL,
    };
    let Some(tds) = HOST.tds() else { return -EPERM };
    if keep::is_wanted() {
        let built = counting::build(phase, tds);
        if built == 0 {
            host::count_td();
        }
        return built;
    }
    live(tds, &GuestMap::SMALL, phase)
}

/// 2 MiB pages of one TD: those of its first GiB, without the first one. All are in one Secure-EPT
/// page, which a TD of [`GuestMap::SMALL`] has, too.
const LARGE_PAGES_PER_TD: u64 = 511;

/// Gives this many 2 MiB pages to TDs that run: 511 each at most. They stay private until a kexec.
/// 0, or a negative errno; the kernel log has the reason, and what was given stays.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_fill(pages: u64) -> i32 {
    let Some(tds) = HOST.tds() else { return -EPERM };
    if keep::is_wanted() {
        return -EINVAL;
    }
    let mut left = pages;
    while left > 0 {
        let large = left.min(LARGE_PAGES_PER_TD);
        let done = live(tds, &GuestMap { large, ..GuestMap::SMALL }, TdPhase::Running);
        if done != 0 {
            return done;
        }
        left -= large;
    }
    0
}

/// A TD lives up to its phase, and is counted.
fn live(tds: TdHost<'_>, map: &GuestMap, phase: TdPhase) -> i32 {
    let mut linux = Linux::without_pool();
    let Some(mut shared) = linux.allocate_any(1) else { return -ENOMEM };
    let lived = first_kernel::live(&mut linux, tds, &KernelPages, &mut shared, map, phase);
    linux.free(shared);
    match lived {
        Ok(()) => {
            host::count_td();
            let pages = HOST.ledger().map_or(0, Ledger::marked_pages);
            log(format_args!("TD {}, {pages} pages may be private", phase.name()));
            0
        }
        Err(error) => {
            log(format_args!("TD: {error}"));
            -EIO
        }
    }
}
