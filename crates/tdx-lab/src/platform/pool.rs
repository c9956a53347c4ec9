//! Pages that a kernel has set aside for TDs: taken out of its allocator in one piece, handed out
//! by size, given back.

use tdx_abi::{Page, PageRange, PageSize};

/// Free pages of one range, by size. 2 MiB pages come from the front, 4 KiB pages from broken ones.
#[derive(Debug, Default)]
pub struct Pool {
    range: PageRange,
    next: u64,
    free_2m: Vec<Page>,
    free_4k: Vec<Page>,
}

impl Pool {
    /// All of the range is free; whole 2 MiB pages of it are used.
    pub fn new(range: PageRange) -> Self {
        let next = range.start().index().next_multiple_of(PageSize::Size2M.pages());
        Self { range, next, ..Self::default() }
    }

    /// The range the pages come from.
    pub fn range(&self) -> PageRange {
        self.range
    }

    /// A free page of this size (4 KiB or 2 MiB).
    pub fn take(&mut self, size: PageSize) -> Option<Page> {
        match size {
            PageSize::Size4K => {
                if self.free_4k.is_empty() {
                    let large = self.take(PageSize::Size2M)?.index();
                    self.free_4k.extend((large..large + PageSize::Size2M.pages()).rev().map(Page::new));
                }
                self.free_4k.pop()
            }
            PageSize::Size2M => self.free_2m.pop().or_else(|| {
                let page = Page::new(self.next);
                let end = self.next + PageSize::Size2M.pages();
                (end <= self.range.end().index()).then(|| {
                    self.next = end;
                    page
                })
            }),
            PageSize::Size1G => None,
        }
    }

    /// Takes a page back.
    pub fn put(&mut self, page: Page, size: PageSize) {
        match size {
            PageSize::Size4K => self.free_4k.push(page),
            PageSize::Size2M | PageSize::Size1G => {
                let pages = page.index()..page.index() + size.pages();
                self.free_2m.extend(pages.step_by(512).map(Page::new));
            }
        }
    }
}
