//! Private memory in numbers, pages by kind, and the description of an address.

use arrayvec::ArrayString;
use core::fmt::Write;
use tdx_abi::{Page, PhysAddr};
use tdx_host::{ledger::PageState, td::page_held};

use crate::cpu::ThisCpu;
use crate::pages::{Pages, kind};
use crate::{EIO, EPERM, HOST, host, pamt_kb, shim, watch};

/// Private memory by state, in KiB.
#[repr(C)]
#[derive(Default)]
pub struct Status {
    /// PAMTs.
    pub pamt_kb: u64,
    /// Pages owned by the TDX module.
    pub given_kb: u64,
    /// Pages of SEAMCALLs in flight.
    pub giving_kb: u64,
    /// Pages returned by the TDX module and not reset, which are leaked.
    pub returned_kb: u64,
    /// TDs.
    pub tds: u32,
}

/// How much is private, by state. Walks the ledger, and lets others run meanwhile.
///
/// # Safety
/// `status` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_status(status: *mut Status) {
    let mut found = Status { pamt_kb: pamt_kb(), tds: host::tds() + watch::tds(), ..Status::default() };
    if let Some(ledger) = HOST.ledger() {
        for range in ledger.marked() {
            for page in range.start().index()..range.end().index() {
                shim::cond_resched();
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
    let Some(range) = HOST.pamt_ranges().nth(index as usize) else { return false };
    // SAFETY: the caller's.
    unsafe {
        *base = range.base().get();
        *end = range.base().get() + range.bytes();
    }
    true
}

/// Counts [`Pages`]: asks the TDX module for each marked page. 0, or a negative errno.
///
/// # Safety
/// `pages` can be written. This CPU is in VMX operation and the caller stays on it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_pages(pages: *mut Pages) -> i32 {
    let mut found = Pages::default();
    let Some(ledger) = HOST.ledger() else { return -EPERM };
    // SAFETY: the caller stays on this CPU.
    let cpu = unsafe { ThisCpu::pinned_to(shim::this_cpu()) };
    for range in ledger.marked() {
        let mut page = range.start();
        while page < range.end() {
            shim::cond_resched();
            let Ok(held) = page_held(&cpu, page) else { return -EIO };
            if let Some(count) = kind(held.page_type).and_then(|kind| found.count.get_mut(kind)) {
                *count += held.size.pages();
            }
            page = Page::new(page.index() + held.size.pages());
        }
    }
    // SAFETY: the caller's.
    unsafe { *pages = found };
    0
}

/// Describes a physical address in one line without a newline, for a machine check. Returns its
/// length.
///
/// # Safety
/// `text` has room for `room` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cleanslate_explain(address: u64, text: *mut u8, room: u32) -> u32 {
    let mut line = ArrayString::<200>::new();
    // What does not fit is cut.
    let _ = write!(line, "{}", HOST.explain(PhysAddr::new(address)));
    let length = line.len().min(room as usize);
    // SAFETY: the caller's; the source is this function's own.
    unsafe { text.copy_from_nonoverlapping(line.as_ptr(), length) };
    length as u32
}
