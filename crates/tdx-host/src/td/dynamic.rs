//! Pages of 2 MiB that are split and merged on a host with dynamic PAMT. All other operations are
//! the same there: the kernel covers each 4 KiB page with [`DynamicPamt::get`] before it gives it,
//! and calls [`DynamicPamt::put`] when it is back.

use tdx_abi::{Leaf, Page, PageSize, PhysAddr};

use super::Td;
use super::error::{PageError, TdCause};
use super::guest::{Built, named};
use super::guest_page::GuestPage;
use super::pages::{check_size, give, returned};
use crate::dynamic_pamt::{DynamicPamt, Pair, Recovered};
use crate::page::SharedPage;
use crate::platform::Cpu;
use crate::seamcall::call_unchecked;

/// What a PROMOTE has set free.
#[derive(Debug)]
pub struct Promoted<'h> {
    /// The Secure-EPT page over the 512; still covered.
    pub sept_page: Result<SharedPage<'h>, PageError>,
    /// The pair of the 512.
    pub pair: Recovered<'h>,
}

impl<'h, S: Built> Td<'h, S> {
    /// MEM.PAGE.DEMOTE of the 2 MiB page at `gpa`, which is `large` in physical memory. `page`,
    /// which is covered, becomes the Secure-EPT page over the 512; two pages are taken out of
    /// `spare` for their PAMT entries, and all 512 are counted.
    ///
    /// # Errors
    /// [`PageError`] with the page; the pair is in `spare` again, clean, but for what had to be
    /// leaked.
    ///
    /// # SEAMCALL
    /// MEM.PAGE.DEMOTE on this CPU, as [`Td::demote`]. Takes the Secure-EPT page, and the pair
    /// under the global KeyID.
    pub fn demote_with_pair<C: Cpu>(
        &self,
        cpu: &C,
        gpa: GuestPage,
        large: Page,
        page: SharedPage<'h>,
        pamt: &DynamicPamt<'h>,
        spare: &mut Pair<'h>,
    ) -> Result<(), PageError> {
        let page = check_size(page, PageSize::Size4K)?;
        let split = match pamt.split(cpu, large, spare) {
            Ok(split) => split,
            Err(cause) => return Err(PageError::unchanged(page, cause)),
        };
        let [first, second] = split.pair().map(|page| page.start().get());
        let input = self.on_guest(Leaf::MEM_PAGE_DEMOTE, gpa.operand(PageSize::Size2M)).r8(page.page().start().get());
        // SAFETY: the leaf takes this page, under the TD's key, and the pair, which is marked.
        match unsafe { give(self.common.host, cpu, page, self.key_id(), input.r12(first).r13(second)) } {
            Ok(_) => {
                // SAFETY: the call has succeeded.
                unsafe { split.done() };
                self.common.took(PageSize::Size4K);
                Ok(())
            }
            Err(error) => {
                let seamcall = match &error.cause {
                    TdCause::Seamcall(error) => Some(error),
                    _ => None,
                };
                // SAFETY: the call has failed, or was not made.
                *spare = unsafe { split.failed(cpu, seamcall) };
                Err(error)
            }
        }
    }

    /// MEM.PAGE.PROMOTE of 512 pages that are the 2 MiB page `large` in physical memory. They are
    /// counted no more.
    ///
    /// # Errors
    /// [`TdCause`]; nothing has changed.
    ///
    /// # SEAMCALL
    /// MEM.PAGE.PROMOTE on this CPU, as [`Td::promote`]. Returns the Secure-EPT page, and the pair
    /// under the global KeyID.
    pub fn promote_with_pair<C: Cpu>(
        &self,
        cpu: &C,
        gpa: GuestPage,
        large: Page,
        pamt: &DynamicPamt<'h>,
    ) -> Result<Promoted<'h>, TdCause> {
        let merge = pamt.merge(large)?;
        // The Secure-EPT page returns in the same answer.
        let returning = self.common.host.ledger().returning();
        let input = self.on_guest(Leaf::MEM_PAGE_PROMOTE, gpa.operand(PageSize::Size2M));
        // SAFETY: the pages that it returns stay marked until their reset.
        match unsafe { call_unchecked(cpu, input) } {
            Ok(registers) => {
                let pair = [registers.r12, registers.r13].map(|address| PhysAddr::new(address).page());
                // SAFETY: the call has succeeded; this is the pair that it names.
                let pair = unsafe { merge.done(cpu, pair) };
                // SAFETY: the call has succeeded.
                let page = unsafe { returned(self.common.host, named(&registers), PageSize::Size4K) };
                let sept_page = page.and_then(|page| {
                    returning.settled();
                    self.left(cpu, page)
                });
                Ok(Promoted { sept_page, pair })
            }
            Err(error) => {
                returning.settled();
                merge.failed();
                Err(error.into())
            }
        }
    }
}
