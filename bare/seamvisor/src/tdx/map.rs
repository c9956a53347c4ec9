//! Keeps the nested page tables in step with the machine: pages with private lines are read-only,
//! pages with poisoned lines are not present.

use core::ops::Range;
use tdx_abi::{LINE_SIZE, LINES_PER_PAGE, Line, LineRange, Page};

use super::Tdx;
use crate::nested::Rights;
use crate::ranges::{self, Ranges};
use crate::{guest_memory, kick, translations};

/// Pages that a range of line numbers touches.
fn pages(lines: &Range<u64>) -> Range<u64> {
    lines.start / LINES_PER_PAGE..lines.end.div_ceil(LINES_PER_PAGE)
}

fn numbers(lines: LineRange) -> Range<u64> {
    lines.start().index()..lines.end().index()
}

impl Tdx {
    /// Updates the nested page tables after anything that may have changed line ownership.
    pub fn sync_map(&mut self, cpu: usize) {
        let private: Ranges =
            ranges::normalize(self.machine.all_owner_runs().iter().map(|run| numbers(run.lines)).collect());
        let poisoned = self.machine.all_poisoned_runs();
        let unmapped = ranges::normalize(poisoned.iter().map(|run| pages(&numbers(run.lines))).collect());
        let private_pages = private.iter().map(pages);
        let trapped = ranges::normalize(
            private_pages.chain(unmapped.iter().cloned()).chain(self.future_pamt.iter().cloned()).collect(),
        );
        let newly_trapped = ranges::difference(&trapped, &self.trapped);
        let newly_unmapped = ranges::difference(&unmapped, &self.unmapped);
        let readable_again = ranges::difference(&self.unmapped, &unmapped);
        for page in newly_trapped.iter().chain(&readable_again).cloned().flatten() {
            self.map.set(page, Rights::Read);
        }
        for page in newly_unmapped.iter().cloned().flatten() {
            self.map.set(page, Rights::NotPresent);
        }
        for page in ranges::difference(&self.trapped, &trapped).into_iter().flatten() {
            self.map.set(page, Rights::All);
        }
        if !newly_trapped.is_empty() || !newly_unmapped.is_empty() {
            // A TD may have mapped one as a shared page.
            translations::invalidate();
            kick::flush_others(cpu);
        }
        // A read with KeyID 0 of a line that has just become private returns zeros.
        for lines in ranges::difference(&private, &self.private) {
            let address = lines.start * LINE_SIZE;
            guest_memory::clear(address, (lines.end - lines.start) * LINE_SIZE);
            for page in pages(&lines) {
                let kind = self.kind_now(page);
                self.kinds.insert(page, kind);
            }
        }
        self.trapped = trapped;
        self.unmapped = unmapped;
        self.private = private;
    }

    /// Maps a page with all rights again if it has no private and no poisoned line. Called after a
    /// store, which may have made its last private line shared.
    pub fn untrap(&mut self, page: u64) {
        let pages = [page..page + 1];
        let lines = page * LINES_PER_PAGE..(page + 1) * LINES_PER_PAGE;
        let range = LineRange::new(Line::new(lines.start), Line::new(lines.end));
        // The guest uses the page, so it is no PAMT page that waits for TDMR.INIT.
        self.future_pamt = ranges::difference(&self.future_pamt, &pages);
        let stays = self.machine.private_lines_in(range) > 0 || !self.machine.poisoned_runs(range).is_empty();
        if !stays && self.is_trapped(page) {
            self.map.set(page, Rights::All);
            self.trapped = ranges::difference(&self.trapped, &pages);
            self.unmapped = ranges::difference(&self.unmapped, &pages);
            self.private = ranges::difference(&self.private, core::slice::from_ref(&lines));
        }
    }

    /// Unmaps a page that has poison, so that reads exit, too.
    pub(super) fn unmap(&mut self, cpu: usize, page: u64) {
        if !ranges::contains(&self.unmapped, page) {
            self.map.set(page, Rights::NotPresent);
            self.unmapped.push(page..page + 1);
            self.unmapped = ranges::normalize(core::mem::take(&mut self.unmapped));
            kick::flush_others(cpu);
        }
    }

    fn kind_now(&self, page: u64) -> &'static str {
        if let Some(pamt) = self.pamts.iter().find(|pamt| (pamt.first..pamt.end).contains(&page)) {
            return pamt.name;
        }
        let runs = self.machine.assigned_pages();
        let run = runs.iter().find(|run| run.pages.contains(Page::new(page)));
        run.map_or("returned page", |run| run.kind.name())
    }
}
