//! The memory behind a kernel's TDs: the words of the ledger and of the KeyIDs, and a pool of
//! pages.

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use tdx_abi::{Page, PageRange, PageSize};
use tdx_host::{
    key_ids::KeyIds,
    layout::{FrameRequest, FrameSource, Layout, Tdmr},
    ledger::Ledger,
    page::{SharedPage, TakeError},
    platform::TdxPlatform,
};

use crate::platform::{LabError, LabKernel, Pool, promise};

/// Pages that one TD of this laboratory needs at most: 16 MiB.
const PAGES_PER_TD: u64 = 8 * 512;

/// Memory in which the ledger and the KeyIDs live.
#[derive(Debug)]
pub struct TdMemory {
    tdmrs: Vec<PageRange>,
    ledger: Box<[AtomicU64]>,
    key_ids: Box<[AtomicU64]>,
}

fn words(count: u64) -> Box<[AtomicU64]> {
    (0..count).map(|_| AtomicU64::new(0)).collect()
}

impl TdMemory {
    /// Enough for the TDMRs of a layout and the KeyIDs of a platform.
    pub fn new(layout: &Layout, platform: &TdxPlatform) -> Self {
        let tdmrs: Vec<PageRange> = layout.tdmrs().iter().map(Tdmr::range).collect();
        let ledger = words(Ledger::words_needed(tdmrs.iter().copied()));
        let key_ids = words(KeyIds::words_needed(platform.key_ids()) as u64);
        Self { tdmrs, ledger, key_ids }
    }

    /// The ledger, with `reserved` reserved, and the KeyIDs.
    ///
    /// # Errors
    /// [`LabError::Scenario`].
    pub fn open(&mut self, reserved: PageRange, platform: &TdxPlatform) -> Result<(Ledger<'_>, KeyIds<'_>), LabError> {
        let ledger = Ledger::new(self.tdmrs.iter().copied(), &mut self.ledger).map_err(LabError::scenario)?;
        let ledger = if reserved.is_empty() { Ok(ledger) } else { ledger.with_reserved(reserved) };
        let key_ids = KeyIds::new(platform.key_ids(), &mut self.key_ids).map_err(LabError::scenario)?;
        Ok((ledger.map_err(LabError::scenario)?, key_ids))
    }
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
