//! Contents of private pages of TDs. They are in memory of this program, because what the host
//! reads at their addresses is zeros.

use alloc::collections::BTreeMap;
use core::ops::Range;

use crate::guest_memory;
use crate::owned_page::{BYTES, OwnedPage};

/// Pages of 4 KiB that all TDs may have together, so that the heap lasts for everything else.
const MAX_FRAMES: usize = 1024;

/// Frames by the number of the page that the host gave.
#[derive(Debug, Default)]
pub struct Frames {
    by_page: BTreeMap<u64, OwnedPage>,
}

impl Frames {
    pub(super) const fn new() -> Self {
        Self { by_page: BTreeMap::new() }
    }

    /// The frame of a page, zeroed if it has none yet. `None` if there are too many.
    pub fn get(&mut self, page: u64) -> Option<&OwnedPage> {
        if !self.by_page.contains_key(&page) {
            if self.by_page.len() >= MAX_FRAMES {
                return None;
            }
            self.by_page.insert(page, OwnedPage::new()?);
        }
        self.by_page.get(&page)
    }

    /// True if a TD has used the page.
    pub fn has(&self, page: u64) -> bool {
        self.by_page.contains_key(&page)
    }

    /// MEM.PAGE.ADD: copies a page of the host. False if there are too many.
    pub(super) fn fill(&mut self, page: u64, source: u64) -> bool {
        let mut bytes = [0; BYTES];
        // The module has read it; bytes that another CPU has changed since are as good.
        let _ = guest_memory::read(source, &mut bytes);
        self.get(page).map(|frame| frame.write(&bytes)).is_some()
    }

    /// SYS.DISABLE: forgets all pages.
    pub(super) fn clear(&mut self) {
        self.by_page.clear();
    }

    /// Forgets pages that are no TD's any more.
    pub(super) fn remove(&mut self, pages: Range<u64>) {
        while let Some(page) = self.by_page.range(pages.clone()).map(|(page, _)| *page).next() {
            self.by_page.remove(&page);
        }
    }

    /// MEM.PAGE.RELOCATE. The page has no contents but those that it is given.
    pub(super) fn relocate(&mut self, from: u64, to: u64) {
        self.by_page.remove(&to);
        if let Some(frame) = self.by_page.remove(&from) {
            self.by_page.insert(to, frame);
        }
    }
}
