//! Guest memory of a TD while it lives: Secure-EPT pages, guest pages, and their way back.

use tdx_abi::{Leaf, Page, PageSize, Registers, removed_page};

use super::error::{PageError, TdCause};
use super::guest_page::GuestPage;
use super::pages::{call_back, check_size, clean, give, returned};
use super::{Building, Runnable, Td};
use crate::page::{ReturnedPage, SharedPage};
use crate::platform::Cpu;
use crate::seamcall::call_unchecked;

/// The level of the Secure-EPT entry that points to a Secure-EPT page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SeptLevel {
    /// The page maps 2 MiB.
    Maps2M = 1,
    /// The page maps 1 GiB.
    Maps1G = 2,
    /// The page maps 512 GiB.
    Maps512G = 3,
    /// The page maps 256 TiB (5-level Secure-EPT only).
    Maps256T = 4,
}

/// A TD that has guest memory.
pub trait Built {}
impl Built for Building {}
impl Built for Runnable {}

impl<'h, S: Built> Td<'h, S> {
    /// MEM.SEPT.ADD: the page becomes a Secure-EPT page over the guest range.
    ///
    /// # Errors
    /// [`PageError`] with the page.
    ///
    /// # SEAMCALL
    /// MEM.SEPT.ADD on this CPU. Takes a page.
    pub fn add_sept_page<C: Cpu>(
        &self,
        cpu: &C,
        gpa: GuestPage,
        level: SeptLevel,
        page: SharedPage<'h>,
    ) -> Result<(), PageError> {
        let page = check_size(page, PageSize::Size4K)?;
        let input = self.on_guest(Leaf::MEM_SEPT_ADD, gpa.address() | level as u64).r8(page.page().start().get());
        // SAFETY: the leaf takes this page, under the TD's key.
        unsafe { give(self.common.host, cpu, page, self.key_id(), input)? };
        self.common.took(PageSize::Size4K);
        Ok(())
    }

    /// MEM.SEPT.REMOVE, after the range was blocked and tracked. Gives the page back, clean.
    ///
    /// # Errors
    /// [`PageError`].
    ///
    /// # SEAMCALL
    /// MEM.SEPT.REMOVE on this CPU. Returns a page.
    pub fn remove_sept_page<C: Cpu>(
        &self,
        cpu: &C,
        gpa: GuestPage,
        level: SeptLevel,
    ) -> Result<SharedPage<'h>, PageError> {
        let input = self.on_guest(Leaf::MEM_SEPT_REMOVE, gpa.address() | level as u64);
        self.back(cpu, input, PageSize::Size4K)
    }

    /// MEM.PAGE.AUG: the page (4 KiB or 2 MiB) becomes guest memory once the guest accepts it. No
    /// content is written now, and the page still counts as private.
    ///
    /// # Errors
    /// [`PageError`] with the page.
    ///
    /// # SEAMCALL
    /// MEM.PAGE.AUG on this CPU. Takes a page.
    pub fn augment<C: Cpu>(&self, cpu: &C, gpa: GuestPage, page: SharedPage<'h>) -> Result<(), PageError> {
        let size = page.size();
        let input = self.on_guest(Leaf::MEM_PAGE_AUG, gpa.operand(size)).r8(page.page().start().get());
        // SAFETY: the leaf takes this page, under the TD's key.
        unsafe { give(self.common.host, cpu, page, self.key_id(), input)? };
        self.common.took(size);
        Ok(())
    }

    /// MEM.RANGE.BLOCK: no new translation of the range is made. A range that is blocked already is
    /// fine.
    ///
    /// # Errors
    /// [`TdCause`].
    ///
    /// # SEAMCALL
    /// MEM.RANGE.BLOCK on this CPU.
    pub fn block<C: Cpu>(&self, cpu: &C, gpa: GuestPage, size: PageSize) -> Result<(), TdCause> {
        // SAFETY: MEM.RANGE.BLOCK moves and writes no memory of the host.
        unsafe { call_unchecked(cpu, self.on_guest(Leaf::MEM_RANGE_BLOCK, gpa.operand(size)))? };
        Ok(())
    }

    /// MEM.RANGE.UNBLOCK.
    ///
    /// # Errors
    /// [`TdCause`].
    ///
    /// # SEAMCALL
    /// MEM.RANGE.UNBLOCK on this CPU.
    pub fn unblock<C: Cpu>(&self, cpu: &C, gpa: GuestPage, size: PageSize) -> Result<(), TdCause> {
        // SAFETY: MEM.RANGE.UNBLOCK moves and writes no memory of the host.
        unsafe { call_unchecked(cpu, self.on_guest(Leaf::MEM_RANGE_UNBLOCK, gpa.operand(size)))? };
        Ok(())
    }

    /// MEM.TRACK: a new TLB epoch. The caller kicks all VCPUs out of the TD afterwards; with that,
    /// what was blocked before has no translation left.
    ///
    /// # Errors
    /// [`TdCause::is_busy`]: a VCPU of the epoch before is still inside. Kick, and try again.
    ///
    /// # SEAMCALL
    /// MEM.TRACK on this CPU.
    pub fn track<C: Cpu>(&self, cpu: &C) -> Result<(), TdCause> {
        // SAFETY: MEM.TRACK moves and writes no memory of the host.
        unsafe { call_unchecked(cpu, self.call(Leaf::MEM_TRACK))? };
        Ok(())
    }

    /// MEM.PAGE.REMOVE, after the page was blocked and tracked (a TD that is not finalized needs
    /// neither). Gives the page back, clean.
    ///
    /// # Errors
    /// [`PageError`].
    ///
    /// # SEAMCALL
    /// MEM.PAGE.REMOVE on this CPU. Returns a page.
    pub fn remove_page<C: Cpu>(&self, cpu: &C, gpa: GuestPage, size: PageSize) -> Result<SharedPage<'h>, PageError> {
        self.back(cpu, self.on_guest(Leaf::MEM_PAGE_REMOVE, gpa.operand(size)), size)
    }

    /// MEM.PAGE.RELOCATE of a 4 KiB page to `page`, after it was blocked and tracked. Gives the old
    /// page back, clean.
    ///
    /// # Errors
    /// [`PageError`] with the new page if the module did not take it, without one if only the old
    /// page is in trouble.
    ///
    /// # SEAMCALL
    /// MEM.PAGE.RELOCATE on this CPU. Takes a page and returns another.
    pub fn relocate_page<C: Cpu>(
        &self,
        cpu: &C,
        gpa: GuestPage,
        page: SharedPage<'h>,
    ) -> Result<SharedPage<'h>, PageError> {
        let page = check_size(page, PageSize::Size4K)?;
        let input = self.on_guest(Leaf::MEM_PAGE_RELOCATE, gpa.operand(PageSize::Size4K)).r8(page.page().start().get());
        let (host, key) = (self.common.host, self.key_id());
        let returning = host.ledger.returning();
        // SAFETY: the leaf takes this page, under the TD's key, and returns the one it names.
        let registers = match unsafe { give(host, cpu, page, key, input) } {
            Ok(registers) => registers,
            Err(error) => {
                returning.settled();
                return Err(error);
            }
        };
        // One page came, one goes.
        // SAFETY: the call has succeeded.
        let old = unsafe { returned(host, named(&registers), PageSize::Size4K)? };
        returning.settled();
        clean(host, cpu, old, key)
    }

    /// MEM.PAGE.PROMOTE: 512 adjacent pages become one of `size` (2 MiB or 1 GiB), after the range
    /// was blocked and tracked. Gives the Secure-EPT page back that is not needed any more, clean.
    ///
    /// # Errors
    /// [`PageError`].
    ///
    /// # SEAMCALL
    /// MEM.PAGE.PROMOTE on this CPU, again as often as [`crate::seamcall::RESTARTS`] says if an
    /// interrupt comes. Returns the Secure-EPT page.
    pub fn promote<C: Cpu>(&self, cpu: &C, gpa: GuestPage, size: PageSize) -> Result<SharedPage<'h>, PageError> {
        self.back(cpu, self.on_guest(Leaf::MEM_PAGE_PROMOTE, gpa.operand(size)), PageSize::Size4K)
    }

    /// MEM.PAGE.DEMOTE: a page of `size` (2 MiB or 1 GiB) becomes 512 smaller ones, after it was
    /// blocked and tracked. `page` becomes the Secure-EPT page over them.
    ///
    /// # Errors
    /// [`PageError`] with the page: an interrupted DEMOTE has filled it already.
    ///
    /// # SEAMCALL
    /// MEM.PAGE.DEMOTE on this CPU, again as often as [`crate::seamcall::RESTARTS`] says if an
    /// interrupt comes. Takes the Secure-EPT page.
    pub fn demote<C: Cpu>(
        &self,
        cpu: &C,
        gpa: GuestPage,
        size: PageSize,
        page: SharedPage<'h>,
    ) -> Result<(), PageError> {
        let page = check_size(page, PageSize::Size4K)?;
        let input = self.on_guest(Leaf::MEM_PAGE_DEMOTE, gpa.operand(size)).r8(page.page().start().get());
        // SAFETY: the leaf takes this page, under the TD's key.
        unsafe { give(self.common.host, cpu, page, self.key_id(), input)? };
        self.common.took(PageSize::Size4K);
        Ok(())
    }

    pub(super) fn on_guest(&self, leaf: Leaf, range: u64) -> Registers {
        Registers::call(leaf).rcx(range).rdx(self.common.tdr.start().get())
    }

    /// A call by which a page leaves the TD; the module names it in RCX.
    fn back<C: Cpu>(&self, cpu: &C, input: Registers, size: PageSize) -> Result<SharedPage<'h>, PageError> {
        // SAFETY: the leaf returns the page in RCX of its answer.
        let page = unsafe { call_back(self.common.host, cpu, input, |registers| (named(registers), size))? };
        self.left(cpu, page)
    }

    /// A page has left the TD.
    pub(super) fn left<C: Cpu>(&self, cpu: &C, page: ReturnedPage<'h>) -> Result<SharedPage<'h>, PageError> {
        self.common.let_go(page.size());
        clean(self.common.host, cpu, page, self.key_id())
    }
}

/// The page that the module names. The hint of dynamic PAMT beside its address says what the
/// kernel's own counts say better.
pub(super) fn named(registers: &Registers) -> Page {
    removed_page(registers.rcx).0.page()
}
