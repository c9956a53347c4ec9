//! Memory that was reserved at boot for PAMTs and, with `policy=keep`, for TDs. It has a mapping of
//! its own.

use core::sync::atomic::{AtomicU64, Ordering};
use tdx_abi::{Page, PageRange, PhysAddr};
use tdx_host::{ledger::PageState, platform::OwnedPages};

use crate::HOST;

/// First byte and size.
static POOL: (AtomicU64, AtomicU64) = (AtomicU64::new(0), AtomicU64::new(0));

/// Sets the range, before the bring-up.
pub fn set(range: PageRange) {
    POOL.0.store(range.base().get(), Ordering::Relaxed);
    POOL.1.store(range.bytes(), Ordering::Relaxed);
}

/// Is any of these pages in it? Then they are not the page allocator's.
pub fn holds(pages: PageRange) -> bool {
    !range().intersection(pages).is_empty()
}

/// The range, or an empty one.
pub fn range() -> PageRange {
    let (base, bytes) = (POOL.0.load(Ordering::Relaxed), POOL.1.load(Ordering::Relaxed));
    PageRange::inside(PhysAddr::new(base), PhysAddr::new(base.saturating_add(bytes)))
}

/// The page after the last that [`take`] may hand out.
static NEXT: AtomicU64 = AtomicU64::new(u64::MAX);

/// Takes pages for a TD from the end of the pool, aligned to their number: neither PAMT nor marked,
/// and each once. After the bring-up. `None` if there are none. One call at a time.
pub fn take(pages: u64) -> Option<OwnedPages> {
    let (pool, ledger) = (range(), HOST.ledger()?);
    let mut end = NEXT.load(Ordering::Relaxed).min(pool.end().index());
    loop {
        let start = end.checked_sub(pages)?.checked_div(pages)? * pages;
        let found = PageRange::new(Page::new(start), Page::new(start + pages));
        if !pool.contains_range(found) {
            return None;
        }
        let is_free = ledger.check(found, PageState::Shared).is_ok();
        if is_free && HOST.pamt_ranges().all(|pamt| !pamt.overlaps(found)) {
            NEXT.store(start, Ordering::Relaxed);
            // SAFETY: pages of the pool, which is this module's alone: not in use as PAMT or by a
            // TD, and handed out once, because the next ones are below.
            return Some(unsafe { OwnedPages::new(found) });
        }
        end = start + pages - 1;
    }
}
