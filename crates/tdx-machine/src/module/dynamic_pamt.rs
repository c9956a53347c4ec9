//! Dynamic PAMT: which 2 MiB pages have the pair of pages that holds their 512 entries, and the
//! bitmap of the pages that no TD can have because they are such pages or reserved.
//!
//! Source: Intel's module source of a release after 1.5.01 (`pamt_manager.c`,
//! `tdh_phymem_pamt_*.c`), read and not observed. Walks end at a 2 MiB page without a pair, which
//! needs none as long as nobody wants 4 KiB of it.

use alloc::vec::Vec;
use core::ops::ControlFlow;
use tdx_abi::{Line, LineRange, PAGE_SIZE, PAMT_PAIR_PAGES, PAMT_REMOVAL_HINT, Page, PageRange, PageSize, PhysAddr};

use super::Module;
use super::call::{Call, Stop};
use super::pamt_size::ENTRY;
use crate::tree::Tree;

/// The pages of one 2 MiB page's entries.
pub(super) type Pair = [Page; PAMT_PAIR_PAGES];

/// Entries in one page of a pair.
pub(super) const ENTRIES_PER_PAGE: u64 = PAGE_SIZE / ENTRY;

/// What SYS.CONFIG switched on.
#[derive(Clone, Debug)]
pub(super) struct DynamicPamt {
    /// By number of the 2 MiB page.
    pairs: Tree<Option<Pair>>,
    /// By page.
    bitmap: Tree<bool>,
}

impl DynamicPamt {
    pub(super) fn new() -> Self {
        Self { pairs: Tree::new(None), bitmap: Tree::new(false) }
    }

    /// The pair of the 2 MiB around this page.
    pub(super) fn pair(&self, page: Page) -> Option<Pair> {
        self.pairs.get(number(page))
    }

    /// The pages of all pairs, by the 2 MiB they serve.
    pub(super) fn pages(&self) -> Vec<Page> {
        let mut pages = Vec::new();
        let _ = self.pairs.runs(0, 1 << 40, |start, end, pair| {
            // A pair serves one 2 MiB page, so a run of equal pairs is one long.
            pages.extend((start..end).zip(pair).flat_map(|(_, pair)| pair));
            ControlFlow::<()>::Continue(())
        });
        pages
    }

    pub(super) fn set_pair(&mut self, page: Page, pair: Option<Pair>) {
        let number = number(page);
        self.pairs.set(number, number + 1, pair);
    }

    /// Does no TD get this page: because it is reserved, or one of a pair?
    pub(super) fn is_taken(&self, page: Page) -> bool {
        self.bitmap.get(page.index())
    }

    /// Is there such a page in this 2 MiB?
    pub(super) fn is_any_taken(&self, page: Page) -> bool {
        let first = number(page) * PageSize::Size2M.pages();
        self.bitmap
            .runs(first, first + PageSize::Size2M.pages(), |_, _, taken| {
                if taken { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .is_break()
    }

    pub(super) fn set_taken(&mut self, pages: PageRange, taken: bool) {
        self.bitmap.set(pages.start().index(), pages.end().index(), taken);
    }

    /// The line of a pair that holds the entry of a page; `None` without a pair.
    pub(super) fn entry_line(&self, page: Page) -> Option<Line> {
        let [first, second] = self.pair(page)?;
        let index = page.index() % PageSize::Size2M.pages();
        let half = if index < ENTRIES_PER_PAGE { first } else { second };
        Some(PhysAddr::new(half.start().get() + index % ENTRIES_PER_PAGE * ENTRY).line())
    }
}

fn number(page: Page) -> u64 {
    page.index() / PageSize::Size2M.pages()
}

impl Module {
    /// Is the page one that the bitmap withholds from TDs?
    pub(super) fn is_taken(&self, page: Page) -> bool {
        self.dynamic_pamt.as_ref().is_some_and(|dynamic| dynamic.is_taken(page))
    }

    /// Can the 2 MiB page be a TD's as a whole? Without dynamic PAMT every small entry must be
    /// free; with it (then the page has no pair) no page of it may be withheld.
    pub(super) fn is_2m_free(&self, page: Page) -> bool {
        match &self.dynamic_pamt {
            Some(dynamic) => !dynamic.is_any_taken(page),
            None => self.pamt.is_2m_free(page),
        }
    }

    /// What leaves that free a 4 KiB page add to its address: the bit that says its 2 MiB has no
    /// page of a TD any more.
    pub(super) fn removal_hint(&self, page: Page, level: PageSize) -> u64 {
        let covered = self.dynamic_pamt.as_ref().is_some_and(|dynamic| dynamic.pair(page).is_some());
        if covered && level == PageSize::Size4K && self.pamt.is_2m_free(page) { PAMT_REMOVAL_HINT } else { 0 }
    }

    /// Sets the page's bit in the bitmap with a locked instruction; false if it was set.
    pub(super) fn take_for_pair(&mut self, call: &mut Call, page: Page) -> Result<bool, Stop> {
        self.store_bitmap(call, page)?;
        let free = !self.is_taken(page);
        self.mark(page, true);
        Ok(free)
    }

    /// Clears the page's bit in the bitmap.
    pub(super) fn give_back_from_pair(&mut self, call: &mut Call, page: Page) -> Result<(), Stop> {
        self.store_bitmap(call, page)?;
        self.mark(page, false);
        Ok(())
    }

    fn mark(&mut self, page: Page, taken: bool) {
        if let Some(dynamic) = &mut self.dynamic_pamt {
            dynamic.set_taken(PageRange::new(page, Page::new(page.index() + 1)), taken);
        }
    }

    /// Stores to the word of the bitmap that has the page's bit: its line is dirty under the global
    /// key.
    fn store_bitmap(&self, call: &mut Call, page: Page) -> Result<(), Stop> {
        match self.usable_tdmr(page) {
            Some(tdmr) => call.store(LineRange::single(tdmr.bitmap_line(page)), self.global_key()),
            None => Ok(()),
        }
    }
}
