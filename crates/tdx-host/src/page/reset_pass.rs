//! The only way from a private page to a shared one: MOVDIR64B over every line, a fence, and then
//! the mark goes.

use arrayvec::ArrayVec;

use super::{CleanPage, SharedPage};
use crate::ledger::MarkError;
use crate::platform::LineReset;
use crate::reset::{ResetCount, reset_ranges};

/// Pages that share one fence.
pub const BATCH: usize = 64;

/// Resets pages on one CPU, many with one fence.
#[derive(Debug)]
pub struct ResetPass<'c, R: LineReset + ?Sized> {
    cpu: &'c R,
    count: ResetCount,
}

impl<'c, R: LineReset + ?Sized> ResetPass<'c, R> {
    /// On this CPU.
    pub fn new(cpu: &'c R) -> Self {
        Self { cpu, count: ResetCount::default() }
    }

    /// Resets one page.
    ///
    /// # Errors
    /// The page is not mapped, or the ledger was changed by someone else; the page is leaked.
    pub fn reset<'l>(&mut self, page: CleanPage<'l>) -> Result<SharedPage<'l>, MarkError> {
        // SAFETY: the token says that the page is owned, not the module's, and in no cache under a
        // private KeyID.
        let done = unsafe { reset_ranges(self.cpu, [page.range()]) };
        self.count.lines += done.lines;
        self.count.ranges += done.ranges;
        self.count.left += done.left;
        if done.left > 0 {
            return Err(MarkError::NotReset { page: page.range().start() });
        }
        // SAFETY: reset and fenced above.
        unsafe { page.ledger().unmark(page.range())? };
        Ok(page.become_())
    }

    /// Resets all pages, [`BATCH`] to a fence, and hands each to `done`.
    ///
    /// # Errors
    /// As [`ResetPass::reset`]; pages not yet handed over are leaked. If one of a batch is not
    /// mapped, the whole batch is leaked.
    pub fn reset_all<'l>(
        &mut self,
        pages: impl IntoIterator<Item = CleanPage<'l>>,
        mut done: impl FnMut(SharedPage<'l>),
    ) -> Result<(), MarkError> {
        let mut batch: ArrayVec<CleanPage<'l>, BATCH> = ArrayVec::new();
        let mut pages = pages.into_iter();
        loop {
            batch.extend(pages.by_ref().take(BATCH));
            if batch.is_empty() {
                return Ok(());
            }
            let mut not_reset = None;
            for page in &batch {
                // SAFETY: as in `reset`.
                let left = unsafe { self.cpu.reset_lines(page.range().lines()) };
                self.count.lines += page.range().lines().len() - left;
                self.count.left += left;
                if left > 0 {
                    not_reset = not_reset.or(Some(page.range().start()));
                }
            }
            self.cpu.fence();
            self.count.ranges += 1;
            if let Some(page) = not_reset {
                return Err(MarkError::NotReset { page });
            }
            for page in batch.drain(..) {
                // SAFETY: reset in this batch, and fenced after all of it.
                unsafe { page.ledger().unmark(page.range())? };
                done(page.become_());
            }
        }
    }

    /// Lines written and fences so far.
    pub fn count(&self) -> ResetCount {
        self.count
    }
}
