//! Memory that was reserved for PAMTs at boot. It has a mapping of its own.

use core::sync::atomic::{AtomicU64, Ordering};
use tdx_abi::{PageRange, PhysAddr};

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
