//! The memory behind a kernel's TDs: the words of the ledger and of the KeyIDs, and a pool of
//! pages.

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use tdx_abi::{Page, PageRange, PageSize};
use tdx_host::{
    layout::{FrameRequest, FrameSource},
    ledger::Ledger,
    page::{SharedPage, TakeError},
    td::TdHost,
};

use crate::platform::{LabError, LabKernel, Pool, promise};

/// Pages that one TD of this laboratory needs at most: 16 MiB.
const PAGES_PER_TD: u64 = 8 * 512;

/// TDs can be built from here on: [`tdx_host::Host::track`], in `words`, which grow to what it
/// needs.
///
/// # Errors
/// [`LabError::Scenario`].
pub fn track<'t, 'm>(tdx: &'t tdx_host::Host<'m>, words: &'m mut Vec<AtomicU64>) -> Result<TdHost<'t>, LabError> {
    words.resize_with(tdx.tracking_words(), AtomicU64::default);
    tdx.track(words).map_err(LabError::scenario)
}

/// A pool for `tds` TDs, from the kernel's memory inside a TDMR.
pub fn pool(ledger: &Ledger<'_>, kernel: &mut LabKernel<'_>, tds: u32) -> Option<Pool> {
    let pages = PAGES_PER_TD * u64::from(tds) + PageSize::Size2M.pages();
    let pages = ledger
        .ranges()
        .find_map(|within| kernel.allocate(FrameRequest { within, ..FrameRequest::anywhere(pages, None) }))?;
    Some(Pool::new(pages.into_range()))
}

/// Takes a page out of the pool, as a token.
pub(super) fn take<'h>(
    pool: &RefCell<Pool>,
    ledger: &'h Ledger<'h>,
    size: PageSize,
) -> Option<Result<SharedPage<'h>, TakeError>> {
    let page = pool.borrow_mut().take(size)?;
    let range = PageRange::new(page, Page::new(page.index() + size.pages()));
    Some(SharedPage::take(ledger, promise::owned(range)))
}
