//! PAMT: type and owner of each page. Entries are values here; their bytes are lines of
//! private memory that every walk stores to, because it locks the entries it passes.

use core::ops::ControlFlow;
use tdx_abi::{LineRange, Operand, Page, PageRange, PageSize, PhysAddr, StatusCode};

use super::Module;
use super::call::{Call, Stop, operand};
use super::locks::LockId;
use crate::LockMode;
use crate::tree::Tree;

/// Page types, with their numbers in registers; the last one only with dynamic PAMT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PageType {
    Nda = 0,
    Rsvd = 1,
    Reg = 3,
    Tdr = 4,
    Tdcx = 5,
    Tdvpr = 6,
    Ept = 8,
    Pamt = 15,
}

/// One entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) page_type: PageType,
    /// The owner's TDR page; stale once the page is free again.
    pub(super) owner: Page,
    /// Epoch at which the page was blocked.
    pub(super) epoch: u64,
}

impl Entry {
    pub(super) const FREE: Self = Self { page_type: PageType::Nda, owner: Page::new(0), epoch: 0 };
}

/// Entries of the three levels, by page number at that level.
#[derive(Clone, Debug)]
pub(super) struct Pamt {
    levels: [Tree<Entry>; 3],
}

/// A page as a walk found it: the level where the walk ended, and the entry there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) page: Page,
    pub(super) level: PageSize,
    pub(super) entry: Entry,
}

impl Pamt {
    pub(super) fn new() -> Self {
        Self { levels: [const { Tree::new(Entry::FREE) }; 3] }
    }

    pub(super) fn get(&self, page: Page, level: PageSize) -> Entry {
        let [small, middle, large] = &self.levels;
        let tree = match level {
            PageSize::Size4K => small,
            PageSize::Size2M => middle,
            PageSize::Size1G => large,
        };
        tree.get(page.index() / level.pages())
    }

    /// Runs of equal entries at one level, as pages.
    pub(super) fn runs<B>(
        &self,
        level: PageSize,
        mut function: impl FnMut(PageRange, Entry) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let [small, middle, large] = &self.levels;
        let tree = match level {
            PageSize::Size4K => small,
            PageSize::Size2M => middle,
            PageSize::Size1G => large,
        };
        // The number of the last page of physical memory fits in 40 bits.
        tree.runs(0, 1 << 40, |start, end, entry| {
            let pages = PageRange::new(Page::new(start * level.pages()), Page::new(end * level.pages()));
            function(pages, entry)
        })
    }

    pub(super) fn set(&mut self, page: Page, level: PageSize, entry: Entry) {
        let [small, middle, large] = &mut self.levels;
        let tree = match level {
            PageSize::Size4K => small,
            PageSize::Size2M => middle,
            PageSize::Size1G => large,
        };
        let number = page.index() / level.pages();
        tree.set(number, number + 1, entry);
    }

    /// The page is free. Owner and epoch stay.
    pub(super) fn free(&mut self, page: Page, level: PageSize) {
        let entry = Entry { page_type: PageType::Nda, ..self.get(page, level) };
        self.set(page, level, entry);
    }

    /// The page was not blocked in its present use.
    pub(super) fn clear_epoch(&mut self, page: Page, level: PageSize) {
        let entry = Entry { epoch: 0, ..self.get(page, level) };
        self.set(page, level, entry);
    }

    /// Are the 512 small entries of the 2 MiB around this page all free?
    pub(super) fn is_2m_free(&self, page: Page) -> bool {
        self.first_in_use(page).is_none()
    }

    /// Index of the first small entry of the 2 MiB around this page that is not free.
    pub(super) fn first_in_use(&self, page: Page) -> Option<u64> {
        let [small, ..] = &self.levels;
        let pages = PageSize::Size2M.pages();
        let first = page.index() / pages * pages;
        small
            .runs(first, first + pages, |start, _, entry| match entry.page_type {
                PageType::Nda => ControlFlow::Continue(()),
                _ => ControlFlow::Break(start - first),
            })
            .break_value()
    }

    /// Sets all small entries of a 2 MiB page.
    pub(super) fn fill_2m(&mut self, page: Page, entry: Entry) {
        let [small, ..] = &mut self.levels;
        small.set(page.index(), page.index() + PageSize::Size2M.pages(), entry);
    }

    /// Pages of a reserved area. Only the 4 KiB level knows of them.
    pub(super) fn reserve(&mut self, pages: PageRange) {
        let entry = Entry { page_type: PageType::Rsvd, ..Entry::FREE };
        let [small, ..] = &mut self.levels;
        small.set(pages.start().index(), pages.end().index(), entry);
    }
}

impl Module {
    /// Checks that a register names a page the module can hold, and finds its entry: 1 GiB, 2 MiB,
    /// 4 KiB, ending at the first that is a TD's large page, or (dynamic PAMT) a 2 MiB page without
    /// a pair. Upper entries are locked shared, the last one as asked.
    pub(super) fn walk(
        &mut self,
        call: &mut Call,
        address: PhysAddr,
        name: Operand,
        mode: LockMode,
    ) -> Result<Found, Stop> {
        self.walk_to(call, address, name, mode, PageSize::Size4K)
    }

    /// As [`Self::walk`], ending at `leaf` at the latest.
    pub(super) fn walk_to(
        &mut self,
        call: &mut Call,
        address: PhysAddr,
        name: Operand,
        mode: LockMode,
        leaf: PageSize,
    ) -> Result<Found, Stop> {
        if !call.is_plain(address) || !address.is_aligned(leaf.bytes()) {
            return operand(StatusCode::OPERAND_INVALID, name);
        }
        let page = address.page();
        if self.usable_tdmr(page).is_none() {
            return operand(StatusCode::OPERAND_ADDR_RANGE_ERROR, name);
        }
        let mut level = PageSize::Size1G;
        loop {
            let entry = self.pamt.get(page, level);
            let without_pair =
                self.dynamic_pamt.is_some() && level == PageSize::Size2M && entry.page_type != PageType::Pamt;
            let last = level == leaf || entry.page_type == PageType::Reg || without_pair;
            self.lock_entry(call, page, level, if last { mode } else { LockMode::Shared }, name)?;
            if last {
                return Ok(Found { page, level, entry });
            }
            level = if level == PageSize::Size1G { PageSize::Size2M } else { PageSize::Size4K };
        }
    }

    /// Checks what a walk found: the wanted type, at the wanted level if there is one.
    /// `PAGE_METADATA_INCORRECT` otherwise, or the word for a free page of 4 KiB that no pair
    /// covers.
    pub(super) fn check_found(
        &self,
        found: Found,
        level: Option<PageSize>,
        page_type: PageType,
        name: Operand,
    ) -> Result<Page, Stop> {
        let free = found.entry.page_type == PageType::Nda;
        if level.is_some_and(|level| level != found.level) {
            let uncovered = self.dynamic_pamt.is_some() && free && page_type == PageType::Nda;
            let code = if uncovered { StatusCode::MISSING_PAMT_PAGE_PAIR } else { StatusCode::PAGE_METADATA_INCORRECT };
            return operand(code, name);
        }
        if found.entry.page_type != page_type || (free && self.is_taken(found.page)) {
            return operand(StatusCode::PAGE_METADATA_INCORRECT, name);
        }
        Ok(found.page)
    }

    /// Locks one entry, without those above it. The lock is a word of the entry, so its line is
    /// stored to, taken or not.
    pub(super) fn lock_entry(
        &mut self,
        call: &mut Call,
        page: Page,
        level: PageSize,
        mode: LockMode,
        name: Operand,
    ) -> Result<(), Stop> {
        self.store_entry(call, page, level)?;
        match self.locks.acquire(LockId::Pamt(level, page.index() / level.pages()), mode) {
            Ok(()) => Ok(()),
            Err(_) => operand(StatusCode::OPERAND_BUSY, name),
        }
    }

    /// Stores to the entry: its line is dirty under the global key.
    pub(super) fn store_entry(&self, call: &mut Call, page: Page, level: PageSize) -> Result<(), Stop> {
        let line = match (level, &self.dynamic_pamt) {
            (PageSize::Size4K, Some(dynamic)) => dynamic.entry_line(page),
            _ => self.usable_tdmr(page).map(|tdmr| tdmr.entry_line(page, level)),
        };
        match line {
            Some(line) => call.store(LineRange::single(line), self.global_key()),
            None => Ok(()),
        }
    }
}
