//! Secure-EPT pages: MEM.SEPT.ADD and MEM.SEPT.REMOVE.

use tdx_abi::{Operand, Page, PageSize, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, Stop, operand};
use super::pamt::PageType;
use super::sept::{Entry, GuestPage, State, TreeLock};
use super::td::{OpState, lines_of};
use crate::LockMode;

/// "No page": all ones.
pub(super) const NULL_PA: u64 = u64::MAX;
/// Set in R8 to R11 on return: the page was not used.
pub(super) const NOT_USED: u64 = 1 << 63;
/// Bits of RDX that are neither the TDR nor the flag in bit 0.
const HANDLE_RESERVED: u64 = !0 << 52 | 0xffe;

/// RDX with a flag in bit 0: the address of the TDR, and the flag.
pub(super) fn handle_and_flag(register: u64) -> Result<(u64, bool), Stop> {
    if register & HANDLE_RESERVED != 0 {
        return operand(StatusCode::OPERAND_INVALID, Operand::RDX);
    }
    Ok((register & !1, register & 1 != 0))
}

impl Module {
    pub(super) fn mem_sept_add(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        if call.version() > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        // Version 1 names the pages of L2 VMs too, and says of each whether it was used.
        let mut pages = [call.input.r8, NULL_PA, NULL_PA, NULL_PA];
        if call.version() == 1 {
            pages = [call.input.r8, call.input.r9, call.input.r10, call.input.r11];
        }
        for page in pages.iter_mut().filter(|page| **page != NULL_PA) {
            *page &= !NOT_USED;
        }
        let result = self.sept_add(call, &mut pages);
        if call.version() == 1 {
            [call.out.r8, call.out.r9, call.out.r10, call.out.r11] = pages;
        }
        result
    }

    fn sept_add(&mut self, call: &mut Call, pages: &mut [u64; 4]) -> Leaf {
        let (tdr, allow_existing) = handle_and_flag(call.input.rdx)?;
        let tdr = self.find_tdr(call, tdr, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 1..=self.td(tdr)?.root())?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Shared))?;
        if !matches!(entry.state, State::Free | State::NonLeafMapped) {
            return call.wrong_state(guest, entry);
        }
        let [l1, l2 @ ..] = pages;
        let new = self.sept_page_to_add(call, guest, entry, l1, allow_existing)?;
        let l2_tables = self.l2_tables_to_add(call, tdr, guest, l2, allow_existing)?;
        let mut added = false;
        if let Some(page) = new {
            self.fill_sept_page(call, tdr, page)?;
            self.adopt_sept_page(call, tdr, page, true)?;
            self.sept_set(call, tdr, guest, Entry { state: State::NonLeafMapped, page })?;
            *l1 = NULL_PA;
            added = true;
        }
        for table in l2_tables {
            // What was added stays, and its register says so: the host repeats the call for the
            // rest.
            if added && call.conditions.interrupt {
                (call.out.rcx, call.out.rdx) = (call.input.rcx, call.input.rdx);
                return Err(StatusCode::INTERRUPTED_RESUMABLE.into());
            }
            self.add_l2_table(call, tdr, guest, table, l2)?;
            added = true;
        }
        Ok(Status::SUCCESS)
    }

    /// The page to add; `None` if the one that is there will do.
    fn sept_page_to_add(
        &mut self,
        call: &mut Call,
        guest: GuestPage,
        entry: Entry,
        register: &mut u64,
        allow_existing: bool,
    ) -> Result<Option<Page>, Stop> {
        if *register == NULL_PA {
            return match (call.version(), entry.state) {
                (0, _) => operand(StatusCode::OPERAND_INVALID, Operand::R8),
                (_, State::NonLeafMapped) => Ok(None),
                _ => call.wrong_state(guest, entry),
            };
        }
        match entry.state {
            State::Free => self.find_free_page(call, *register, Operand::R8).map(Some),
            _ if allow_existing => {
                *register |= NOT_USED;
                Ok(None)
            }
            _ => call.wrong_state(guest, entry),
        }
    }

    /// Fills a Secure-EPT page past the cache. The page is private from here on.
    pub(super) fn fill_sept_page(&self, call: &mut Call, tdr: Page, page: Page) -> Result<(), Stop> {
        call.direct_store(lines_of(page), self.td(tdr)?.key);
        Ok(())
    }

    /// The page is the TD's. SEPT.ADD clears the epoch in its PAMT entry, DEMOTE does not.
    pub(super) fn adopt_sept_page(
        &mut self,
        call: &mut Call,
        tdr: Page,
        page: Page,
        clear_epoch: bool,
    ) -> Result<(), Stop> {
        if clear_epoch {
            self.pamt.clear_epoch(page, PageSize::Size4K);
        }
        self.adopt(call, tdr, page, PageSize::Size4K, PageType::Ept)
    }

    pub(super) fn mem_sept_remove(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        if call.version() > 0 {
            (call.out.r9, call.out.r10, call.out.r11) = (NULL_PA, NULL_PA, NULL_PA);
        }
        if call.version() > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 1..=self.td(tdr)?.root())?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Exclusive))?;
        if !matches!(entry.state, State::NonLeafMapped | State::NonLeafBlocked) {
            return call.wrong_state(guest, entry);
        }
        self.lock_entry(call, entry.page, PageSize::Size4K, LockMode::Exclusive, Operand::RCX)?;
        self.check_blocked_and_tracked(call, tdr, guest, entry)?;
        if !self.td(tdr)?.sept.is_page_free(guest.level, guest.number) {
            call.show(guest.level, entry);
            return operand(StatusCode::EPT_PAGE_NOT_FREE, Operand::RCX);
        }
        let l2_tables = self.lock_l2_tables(call, tdr, guest)?;
        self.remove_l2_tables(call, tdr, guest, &l2_tables)?;
        self.sept_set(call, tdr, guest, Entry::FREE)?;
        let hint = self.disown(call, tdr, entry.page, PageSize::Size4K)?;
        call.out.rcx = entry.page.start().get() | hint;
        Ok(Status::SUCCESS)
    }
}
