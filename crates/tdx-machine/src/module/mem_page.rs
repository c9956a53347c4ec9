//! Guest pages: MEM.PAGE.ADD, AUG, REMOVE, RELOCATE, and MR.EXTEND.

use tdx_abi::{Operand, PAGE_SIZE, Page, PageSize, PhysAddr, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, Stop, operand};
use super::pamt::PageType;
use super::sept::{Entry, GuestPage, State, TreeLock};
use super::td::{OpState, lines_of};
use crate::LockMode;

/// Bytes that one MR.EXTEND measures.
const EXTEND: u64 = 256;

impl Module {
    pub(super) fn mem_page_add(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Exclusive)?;
        self.enter_td(call, tdr, false, OpState::BUILDING)?;
        let guest = GuestPage::parse(call.input.rcx, 0..=0)?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::None)?;
        if entry.state != State::Free {
            return call.wrong_state(guest, entry);
        }
        let source = PhysAddr::new(call.input.r9);
        if !call.is_shared_buffer(source, PAGE_SIZE, PAGE_SIZE) {
            return operand(StatusCode::OPERAND_INVALID, Operand::R9);
        }
        let page = self.find_free_page(call, call.input.r8, Operand::R8)?;
        let mut content = [0; PAGE_SIZE as usize];
        call.read_bytes(source, &mut content)?;
        call.direct_store(lines_of(page), self.td(tdr)?.key);
        self.sept_set(call, tdr, guest, Entry { state: State::Mapped, page })?;
        self.adopt_guest_page(call, tdr, page, PageSize::Size4K)?;
        let td = self.td_mut(tdr)?;
        if td.is_debug() {
            td.debug_memory.fill(guest.number * PAGE_SIZE, &content);
        }
        self.store_tdcs(call, tdr)?;
        Ok(Status::SUCCESS)
    }

    /// Writes no content: the lines are the guest's only once it accepts the page.
    pub(super) fn mem_page_aug(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 0..=1)?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Shared))?;
        if entry.state != State::Free {
            return call.wrong_state(guest, entry);
        }
        let page = self.find_free_range(call, call.input.r8, Operand::R8, guest.size())?;
        self.sept_set(call, tdr, guest, Entry { state: State::Pending, page })?;
        self.adopt_guest_page(call, tdr, page, guest.size())?;
        Ok(Status::SUCCESS)
    }

    /// The register names a free page of this size, with no page in it that is in use.
    fn find_free_range(&mut self, call: &mut Call, address: u64, name: Operand, size: PageSize) -> Result<Page, Stop> {
        let found = self.walk_to(call, PhysAddr::new(address), name, LockMode::Exclusive, size)?;
        let page = self.check_found(found, Some(size), PageType::Nda, name)?;
        if size == PageSize::Size2M && !self.is_2m_free(page) {
            return operand(StatusCode::PAGE_METADATA_INCORRECT, name);
        }
        Ok(page)
    }

    fn adopt_guest_page(&mut self, call: &mut Call, tdr: Page, page: Page, size: PageSize) -> Result<(), Stop> {
        self.pamt.clear_epoch(page, size);
        self.adopt(call, tdr, page, size, PageType::Reg)
    }

    pub(super) fn mem_page_remove(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 0..=2)?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Shared))?;
        if !entry.state.is_leaf() {
            return call.wrong_state(guest, entry);
        }
        self.lock_entry(call, entry.page, guest.size(), LockMode::Exclusive, Operand::RCX)?;
        self.check_blocked_and_tracked(call, tdr, guest, entry)?;
        self.sept_set(call, tdr, guest, Entry::FREE)?;
        let hint = self.disown(call, tdr, entry.page, guest.size())?;
        call.out.rcx = entry.page.start().get() | hint;
        Ok(Status::SUCCESS)
    }

    pub(super) fn mem_page_relocate(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 0..=0)?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Shared))?;
        if !entry.state.is_leaf() {
            return call.wrong_state(guest, entry);
        }
        if call.input.r8 == entry.page.start().get() {
            return operand(StatusCode::OPERAND_INVALID, Operand::R8);
        }
        self.lock_entry(call, entry.page, PageSize::Size4K, LockMode::Exclusive, Operand::RCX)?;
        self.check_blocked_and_tracked(call, tdr, guest, entry)?;
        let page = self.find_free_page(call, call.input.r8, Operand::R8)?;
        if !entry.state.is_pending() {
            call.direct_store(lines_of(page), self.td(tdr)?.key);
        }
        // The target is counted before the source is not, so in one 2 MiB there is no hint.
        self.adopt_guest_page(call, tdr, page, PageSize::Size4K)?;
        let hint = self.disown(call, tdr, entry.page, PageSize::Size4K)?;
        self.sept_set(call, tdr, guest, Entry { state: entry.state.unblocked(), page })?;
        call.out.rcx = entry.page.start().get() | hint;
        Ok(Status::SUCCESS)
    }

    /// The measurement itself has no value here.
    pub(super) fn mr_extend(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Exclusive)?;
        self.enter_td(call, tdr, false, OpState::BUILDING)?;
        let address = call.input.rcx;
        if !address.is_multiple_of(EXTEND) || address >> 52 != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        let guest = GuestPage::parse(address & !(PAGE_SIZE - 1), 0..=0)?;
        guest.check_private(self.td(tdr)?.shared_gpa())?;
        let (level, entry) = self.sept_find(tdr, guest)?;
        if entry.state != State::Mapped {
            call.show(level, entry);
            return operand(StatusCode::EPT_ENTRY_NOT_PRESENT, Operand::RCX);
        }
        self.store_tdcs(call, tdr)?;
        Ok(Status::SUCCESS)
    }
}
