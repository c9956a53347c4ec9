//! Large pages: MEM.PAGE.PROMOTE and MEM.PAGE.DEMOTE.

use tdx_abi::{Operand, Page, PageSize, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, Stop, operand};
use super::mem_sept::handle_and_flag;
use super::pamt;
use super::phymem_pamt::{check_address, write_pair};
use super::sept::{Entry, GuestPage, State, TreeLock};
use super::td::OpState;
use crate::LockMode;

/// Entries of a Secure-EPT page.
const ENTRIES: u64 = 512;

impl Module {
    pub(super) fn mem_page_promote(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        if call.version() > 0 {
            (call.out.r9, call.out.r10, call.out.r11) = (u64::MAX, u64::MAX, u64::MAX);
        }
        if call.version() > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 1..=2)?;
        let mode = if self.traits.promote_locks_tree { LockMode::Exclusive } else { LockMode::Shared };
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(mode))?;
        if !matches!(entry.state, State::NonLeafMapped | State::NonLeafBlocked) {
            return call.wrong_state(guest, entry);
        }
        self.lock_entry(call, entry.page, PageSize::Size4K, LockMode::Exclusive, Operand::RCX)?;
        self.check_blocked_and_tracked(call, tdr, guest, entry)?;
        let Some(merged) = self.mergeable(tdr, guest)? else {
            call.show(guest.level, entry);
            return operand(StatusCode::EPT_INVALID_PROMOTE_CONDITIONS, Operand::RCX);
        };
        if call.conditions.interrupt {
            return Err(interrupted(call));
        }
        let l2_tables = self.lock_l2_tables(call, tdr, guest)?;
        self.lock_entry(call, merged.page, guest.size(), LockMode::Exclusive, Operand::RCX)?;
        let small = GuestPage { level: guest.level - 1, number: guest.number * ENTRIES };
        if self.dynamic_pamt.is_some() && guest.size() == PageSize::Size2M {
            self.merge_pair(call, merged.page)?;
        } else {
            self.merge_pamt(call, merged.page, guest.size(), small.size())?;
        }
        self.td_mut(tdr)?.sept.set(small.level, small.number, ENTRIES, Entry::FREE);
        self.sept_set(call, tdr, guest, merged)?;
        self.remove_l2_tables(call, tdr, guest, &l2_tables)?;
        let hint = self.disown(call, tdr, entry.page, PageSize::Size4K)?;
        call.out.rcx = entry.page.start().get() | hint;
        Ok(Status::SUCCESS)
    }

    /// The entry that stands for all 512 below, if they have one state, mapped or pending, and
    /// adjacent pages from an address that is aligned to the large page.
    fn mergeable(&self, tdr: Page, guest: GuestPage) -> Result<Option<Entry>, Stop> {
        let sept = &self.td(tdr)?.sept;
        let (level, first) = (guest.level - 1, guest.number * ENTRIES);
        let entry = sept.get(level, first);
        let pages = guest.size().pages() / ENTRIES;
        let ok = matches!(entry.state, State::Mapped | State::Pending)
            && entry.page.index().is_multiple_of(guest.size().pages())
            && (0..ENTRIES).all(|index| {
                let page = Page::new(entry.page.index() + index * pages);
                sept.get(level, first + index) == Entry { page, ..entry }
            });
        Ok(ok.then_some(entry))
    }

    pub(super) fn mem_page_demote(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let (tdr, sparse) = handle_and_flag(call.input.rdx)?;
        let tdr = self.find_tdr(call, tdr, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 1..=2)?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Shared))?;
        if !entry.state.is_leaf() {
            return call.wrong_state(guest, entry);
        }
        self.check_blocked_and_tracked(call, tdr, guest, entry)?;
        let page = self.find_free_page(call, call.input.r8, Operand::R8)?;
        let l2_tables = self.l2_pages_of_demote(call, tdr, sparse)?;
        // The new page is private from here on, also if the call ends below.
        self.fill_sept_page(call, tdr, page)?;
        self.fill_l2_pages(call, tdr, guest, &l2_tables, interrupted)?;
        if call.conditions.interrupt {
            return Err(interrupted(call));
        }
        self.lock_entry(call, entry.page, guest.size(), LockMode::Exclusive, Operand::RCX)?;
        let state = entry.state.unblocked();
        let small = GuestPage { level: guest.level - 1, number: guest.number * ENTRIES };
        if self.dynamic_pamt.is_some() && guest.size() == PageSize::Size2M {
            self.split_pamt_into_pair(call, entry.page)?;
        } else {
            self.split_pamt(call, entry.page, guest.size(), small.size())?;
        }
        let td = self.td_mut(tdr)?;
        for index in 0..ENTRIES {
            let page = Page::new(entry.page.index() + index * small.size().pages());
            td.sept.set(small.level, small.number + index, 1, Entry { state, page });
        }
        self.sept_set(call, tdr, guest, Entry { state: State::NonLeafMapped, page })?;
        self.adopt_sept_page(call, tdr, page, false)?;
        self.adopt_l2_pages(call, tdr, guest, &l2_tables)?;
        Ok(Status::SUCCESS)
    }

    /// The entries of 512 pages become that of the large page, which keeps the epoch it had.
    fn merge_pamt(&mut self, call: &mut Call, page: Page, large: PageSize, small: PageSize) -> Result<(), Stop> {
        let first = self.pamt.get(page, small);
        for index in 0..ENTRIES {
            let page = Page::new(page.index() + index * small.pages());
            self.store_entry(call, page, small)?;
            self.pamt.free(page, small);
        }
        let mut entry = self.pamt.get(page, large);
        entry.page_type = first.page_type;
        entry.owner = first.owner;
        self.pamt.set(page, large, entry);
        Ok(())
    }

    /// The entry of the large page becomes those of 512 pages.
    fn split_pamt(&mut self, call: &mut Call, page: Page, large: PageSize, small: PageSize) -> Result<(), Stop> {
        let mut entry = self.pamt.get(page, large);
        self.pamt.free(page, large);
        entry.epoch = 0;
        for index in 0..ENTRIES {
            let page = Page::new(page.index() + index * small.pages());
            self.store_entry(call, page, small)?;
            self.pamt.set(page, small, entry);
        }
        Ok(())
    }
}

/// With dynamic PAMT the small entries come and go with a pair of pages. No entry but that of the
/// large page is locked.
impl Module {
    /// The pair is not needed any more: R12 and R13 hand it back.
    fn merge_pair(&mut self, call: &mut Call, large: Page) -> Result<(), Stop> {
        let pair = self.dynamic_pamt.as_ref().and_then(|dynamic| dynamic.pair(large));
        let Some(pair) = pair else { return operand(StatusCode::NO_PAMT_PAGE_PAIR, Operand::RCX) };
        let entry = self.pamt.get(large, PageSize::Size4K);
        self.remove_pair(call, large, pair)?;
        self.pamt.set(large, PageSize::Size2M, pamt::Entry { epoch: 0, ..entry });
        self.pamt.fill_2m(large, pamt::Entry::FREE);
        let [first, second] = pair;
        (call.out.r12, call.out.r13) = (first.start().get(), second.start().get());
        Ok(())
    }

    /// R12 and R13 name the pair that holds the 512 entries.
    fn split_pamt_into_pair(&mut self, call: &mut Call, large: Page) -> Result<(), Stop> {
        let named = [(call.input.r12, Operand::R12), (call.input.r13, Operand::R13)];
        for (address, name) in named {
            check_address(call, address, name)?;
        }
        for (address, name) in named {
            self.check_initialized(address, name)?;
        }
        for (address, name) in named {
            self.check_pair_page(call, address, name)?;
        }
        let pair = self.take_pair(call, named)?;
        write_pair(call, pair, self.global_key());
        let entry = self.pamt.get(large, PageSize::Size2M);
        self.pamt.fill_2m(large, pamt::Entry { epoch: 0, ..entry });
        self.install_pair(large, pair);
        Ok(())
    }
}

/// The operands come back as they were, so that the host can make the same call again.
fn interrupted(call: &mut Call) -> Stop {
    (call.out.rcx, call.out.rdx) = (call.input.rcx, call.input.rdx);
    StatusCode::INTERRUPTED_RESTARTABLE.into()
}
