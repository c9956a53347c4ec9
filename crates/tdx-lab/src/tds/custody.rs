//! `Custody`: which pages of a pool the hypervisor has taken and not given back.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tdx_abi::{Page, PageRange, PageSize};

use crate::platform::Pool;

/// The pages of a pool, and which of them the hypervisor has. All others are in use by the rest of
/// the kernel.
#[derive(Debug)]
pub struct Custody {
    pool: Mutex<Pool>,
    range: PageRange,
    /// A bit for each page of the pool.
    held: Vec<AtomicU64>,
    complaints: Mutex<Vec<String>>,
}

impl Custody {
    /// Nothing of the pool is in custody.
    pub fn new(pool: Pool) -> Self {
        let range = pool.range();
        let held = (0..range.pages().div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { pool: Mutex::new(pool), range, held, complaints: Mutex::default() }
    }

    /// A page came back to the allocator and was not clean.
    pub(super) fn complain(&self, what: String) {
        lock(&self.complaints).push(what);
    }

    /// All pages of the pool.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// True if the hypervisor has this page.
    pub fn holds(&self, page: Page) -> bool {
        let index = page.index().wrapping_sub(self.range.start().index());
        self.range.contains(page)
            && self
                .held
                .get((index / 64) as usize)
                .is_some_and(|word| word.load(Ordering::Relaxed) >> (index % 64) & 1 == 1)
    }

    /// What was found wrong with pages that came back.
    pub fn complaints(&self) -> Vec<String> {
        lock(&self.complaints).clone()
    }

    fn mark(&self, pages: PageRange, held: bool) {
        let pages = pages.intersection(self.range);
        for page in pages.start().index()..pages.end().index() {
            let index = page - self.range.start().index();
            if let Some(word) = self.held.get((index / 64) as usize) {
                let bit = 1 << (index % 64);
                if held {
                    word.fetch_or(bit, Ordering::Relaxed)
                } else {
                    word.fetch_and(!bit, Ordering::Relaxed)
                };
            }
        }
    }

    pub(super) fn take(&self, size: PageSize) -> Option<Page> {
        let page = lock(&self.pool).take(size)?;
        self.mark(PageRange::new(page, Page::new(page.index() + size.pages())), true);
        Some(page)
    }

    /// A page of an adopted TD, which is not of the pool, is free and not handed out again.
    pub(super) fn put(&self, pages: PageRange, size: PageSize) {
        self.mark(pages, false);
        if self.range.contains(pages.start()) {
            lock(&self.pool).put(pages.start(), size);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
