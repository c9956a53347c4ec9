//! The memory behind a kernel's TDs: the words of the ledger and of the KeyIDs, and a pool of
//! pages.

use std::cell::RefCell;
use std::sync::atomic::AtomicU64;

use tdx_abi::{PageRange, PageSize};
use tdx_host::{
    key_ids::{KeyIds, KeyIdsError},
    layout::{FrameRequest, FrameSource, Layout, Tdmr},
    ledger::{Ledger, LedgerError},
    page::{SharedPage, TokenError},
    platform::TdxPlatform,
};

use crate::platform::{LabKernel, Pool};

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

    /// The ledger, which leaves `untouched` alone.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn ledger(&self, untouched: PageRange) -> Result<Ledger<'_>, LedgerError> {
        let ledger = Ledger::new(self.tdmrs.iter().copied(), &self.ledger)?;
        if untouched.is_empty() { Ok(ledger) } else { ledger.leaving_alone(untouched) }
    }

    /// The KeyIDs.
    ///
    /// # Errors
    /// [`KeyIdsError`].
    pub fn key_ids(&self, platform: &TdxPlatform) -> Result<KeyIds<'_>, KeyIdsError> {
        KeyIds::new(platform.key_ids(), &self.key_ids)
    }

    /// A pool for `tds` TDs, from the kernel's memory inside a TDMR.
    pub fn pool(&self, kernel: &mut LabKernel<'_>, tds: u32) -> Option<Pool> {
        let pages = PAGES_PER_TD * u64::from(tds) + PageSize::Size2M.pages();
        let range = self
            .tdmrs
            .iter()
            .find_map(|tdmr| kernel.allocate(FrameRequest { within: *tdmr, ..FrameRequest::anywhere(pages, None) }))?;
        Some(Pool::new(range))
    }
}

/// Takes a page out of the pool, as a token.
pub(super) fn take<'h>(
    pool: &RefCell<Pool>,
    ledger: &'h Ledger<'h>,
    size: PageSize,
) -> Option<Result<SharedPage<'h>, TokenError>> {
    let page = pool.borrow_mut().take(size)?;
    Some(SharedPage::take(ledger, page, size))
}
