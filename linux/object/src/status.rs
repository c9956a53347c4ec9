//! What people ask: how much is private, of which kind, and what is at an address.

use arrayvec::ArrayString;
use core::fmt::Write;
use tdx_abi::{Page, PageRange, PamtPageType, PhysAddr};
use tdx_host::{handover::explain, ledger::PageState, td::page_held};

use crate::cpu::ThisCpu;
use crate::handover::memory;
use crate::{EIO, EPERM, RECORD, host, ledger, shim, watch};

/// How much is private, in KiB.
#[repr(C)]
#[derive(Default)]
pub struct Status {
    /// PAMTs.
    pub pamt_kb: u64,
    /// Pages that TDs have.
    pub given_kb: u64,
    /// Pages that a SEAMCALL may have given.
    pub giving_kb: u64,
    /// Pages that came back and were not reset: leaked on purpose.
    pub returned_kb: u64,
    /// TDs that were built.
    pub tds: u32,
}

/// KiB of PAMT and pages that may be private. Takes no lock and may be called from anywhere.
#[unsafe(no_mangle)]
pub extern "C" fn cleanslate_private_kb() -> u64 {
    let pages = ledger().map_or(0, |ledger| ledger.marked_pages() * 4);
    pamt_kb() + pages
}

fn pamt_kb() -> u64 {
    RECORD.pamt_ranges().map(PageRange::bytes).sum::<u64>() / 1024
}

/// How much is private, by state. Walks the ledger.
///
/// # Safety
/// `status` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_status(status: *mut Status) {
    let mut found = Status { pamt_kb: pamt_kb(), tds: host::tds() + watch::tds(), ..Status::default() };
    if let Some(ledger) = ledger() {
        for range in ledger.marked() {
            for page in range.start().index()..range.end().index() {
                match ledger.state(Page::new(page)) {
                    Some(PageState::Private) => found.given_kb += 4,
                    Some(PageState::InFlight) => found.giving_kb += 4,
                    Some(PageState::Returned) => found.returned_kb += 4,
                    Some(PageState::Shared) | None => {}
                }
            }
        }
    }
    // SAFETY: the caller's.
    unsafe { *status = found };
}

/// A range of PAMT, by its place in the list. False if there are no more.
///
/// # Safety
/// `base` and `end` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_pamt_range(index: u32, base: *mut u64, end: *mut u64) -> bool {
    let Some(range) = RECORD.pamt_ranges().nth(index as usize) else { return false };
    // SAFETY: the caller's.
    unsafe {
        *base = range.base().get();
        *end = range.base().get() + range.bytes();
    }
    true
}

/// 4 KiB pages that the module has, by what for: TDR, TDCX, TDVPR, SEPT, guest. Asks the module for
/// each marked page.
#[repr(C)]
#[derive(Default)]
pub struct Pages {
    /// In this order.
    pub count: [u64; 5],
}

/// Counts [`Pages`]. 0, or a negative errno.
///
/// # Safety
/// `pages` can be written. As for `cleanslate_td`: this CPU is in VMX operation, the caller stays
/// on it, and nobody builds a TD beside it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_pages(pages: *mut Pages) -> i32 {
    let mut found = Pages::default();
    let Some(ledger) = ledger() else { return -EPERM };
    // SAFETY: the caller stays on this CPU.
    let cpu = unsafe { ThisCpu::pinned_to(shim::this_cpu()) };
    for range in ledger.marked() {
        let mut page = range.start();
        while page < range.end() {
            let Ok(held) = page_held(&cpu, page) else { return -EIO };
            let kinds =
                [PamtPageType::TDR, PamtPageType::TDCX, PamtPageType::TDVPR, PamtPageType::EPT, PamtPageType::REG];
            if let Some(index) = kinds.iter().position(|kind| *kind == held.page_type)
                && let Some(count) = found.count.get_mut(index)
            {
                *count += held.size.pages();
            }
            page = Page::new(page.index() + held.size.pages());
        }
    }
    // SAFETY: the caller's.
    unsafe { *pages = found };
    0
}

/// Says what is at an address, in one line without a line feed, for a machine check. Returns its
/// length.
///
/// # Safety
/// `text` has room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_explain(address: u64, text: *mut u8, room: u32) -> u32 {
    let mut line = ArrayString::<200>::new();
    // What does not fit is cut.
    let _ = write!(line, "{}", explain(&memory(), host::layout(), PhysAddr::new(address)));
    let length = line.len().min(room as usize);
    // SAFETY: the caller's; the source is this function's own.
    unsafe { text.copy_from_nonoverlapping(line.as_ptr(), length) };
    length as u32
}
