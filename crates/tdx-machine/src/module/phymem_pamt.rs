//! The pairs of dynamic PAMT: PHYMEM.PAMT.ADD and PHYMEM.PAMT.REMOVE, and what MEM.PAGE.DEMOTE
//! shares with the first.
//!
//! Both check everything before they change anything. ADD writes the pair; REMOVE gives it back as
//! it is.

use tdx_abi::{KeyId, Operand, PAGE_SIZE, Page, PageSize, PhysAddr, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, Stop, operand};
use super::dynamic_pamt::{ENTRIES_PER_PAGE, Pair};
use super::pamt::{Entry, Found, PageType};
use super::td::lines_of;
use crate::LockMode;

/// A page for a pair, as a register names it.
type Named = (u64, Operand);

impl Module {
    pub(super) fn phymem_pamt_add(&mut self, call: &mut Call) -> Leaf {
        self.check_dynamic()?;
        let large = parse_large_page(call)?;
        let named = [(call.input.rdx, Operand::RDX), (call.input.r8, Operand::R8)];
        for (address, name) in named {
            check_address(call, address, name)?;
            self.check_initialized(address, name)?;
        }
        self.check_initialized(large.start().get(), Operand::RCX)?;
        let found = self.lock_large_page(call, large)?;
        if found.level != PageSize::Size2M || found.entry.page_type != PageType::Nda {
            return operand(StatusCode::HPA_RANGE_NOT_FREE, Operand::RCX);
        }
        for (address, name) in named {
            // A page of the pair may lie in the very 2 MiB whose entries it holds; that is locked
            // already.
            if !large_contains(large, address) {
                self.check_pair_page(call, address, name)?;
            }
        }
        let pair = self.take_pair(call, named)?;
        let key = self.global_key();
        write_pair(call, pair, key);
        if call.conditions.late_failure {
            for page in pair {
                self.give_back_from_pair(call, page)?;
            }
            return operand(StatusCode::OPERAND_BUSY, Operand::RCX);
        }
        self.pamt.fill_2m(large, Entry::FREE);
        self.install_pair(large, pair);
        Ok(Status::SUCCESS)
    }

    pub(super) fn phymem_pamt_remove(&mut self, call: &mut Call) -> Leaf {
        self.check_dynamic()?;
        let large = parse_large_page(call)?;
        self.check_initialized(large.start().get(), Operand::RCX)?;
        let found = self.lock_large_page(call, large)?;
        let pair = self.dynamic_pamt.as_ref().and_then(|dynamic| dynamic.pair(large));
        let Some(pair) = pair.filter(|_| found.level == PageSize::Size2M) else {
            return operand(StatusCode::NO_PAMT_PAGE_PAIR, Operand::RCX);
        };
        if let Some(index) = self.pamt.first_in_use(large) {
            return Err(StatusCode::PAMT_PAGE_NOT_EMPTY.with((index / ENTRIES_PER_PAGE) as u32).into());
        }
        self.remove_pair(call, large, pair)?;
        let [first, second] = pair;
        // The entry keeps the first page's address where a leaf has the owner's page number.
        let stale = Page::new(first.start().get() << 4 >> 12);
        self.pamt.set(large, PageSize::Size2M, Entry { owner: stale, ..Entry::FREE });
        (call.out.rdx, call.out.r8) = (first.start().get(), second.start().get());
        Ok(Status::SUCCESS)
    }

    /// Takes two free pages for a pair; all or nothing.
    pub(super) fn take_pair(&mut self, call: &mut Call, named: [Named; 2]) -> Result<Pair, Stop> {
        let [(first, first_name), (second, second_name)] =
            named.map(|(address, name)| (PhysAddr::new(address).page(), name));
        if !self.take_for_pair(call, first)? {
            return operand(StatusCode::PAGE_NOT_FREE, first_name);
        }
        if !self.take_for_pair(call, second)? {
            self.give_back_from_pair(call, first)?;
            return operand(StatusCode::PAGE_NOT_FREE, second_name);
        }
        Ok([first, second])
    }

    /// The page is free, at 4 KiB or as part of a 2 MiB page without a pair.
    pub(super) fn check_pair_page(&mut self, call: &mut Call, address: u64, name: Operand) -> Result<(), Stop> {
        let found = self.walk(call, PhysAddr::new(address), name, LockMode::Shared)?;
        if found.entry.page_type != PageType::Nda {
            return operand(StatusCode::PAGE_NOT_FREE, name);
        }
        Ok(())
    }

    /// From here on the 4 KiB entries of a large page stand in its pair.
    pub(super) fn install_pair(&mut self, large: Page, pair: Pair) {
        let entry = Entry { page_type: PageType::Pamt, ..Entry::FREE };
        self.pamt.set(large, PageSize::Size2M, entry);
        if let Some(dynamic) = &mut self.dynamic_pamt {
            dynamic.set_pair(large, Some(pair));
        }
    }

    /// The large page has no pair any more; its pages are free and keep their content.
    pub(super) fn remove_pair(&mut self, call: &mut Call, large: Page, pair: Pair) -> Result<(), Stop> {
        for page in pair {
            self.give_back_from_pair(call, page)?;
        }
        if let Some(dynamic) = &mut self.dynamic_pamt {
            dynamic.set_pair(large, None);
        }
        Ok(())
    }

    /// The leaf exists, and SYS.CONFIG has switched dynamic PAMT on.
    fn check_dynamic(&self) -> Result<(), Stop> {
        match self.dynamic_pamt {
            Some(_) => Ok(()),
            None => operand(StatusCode::OPERAND_INVALID, Operand::RAX),
        }
    }

    pub(super) fn check_initialized(&self, address: u64, name: Operand) -> Result<(), Stop> {
        match self.usable_tdmr(PhysAddr::new(address).page()) {
            Some(_) => Ok(()),
            None => operand(StatusCode::OPERAND_ADDR_RANGE_ERROR, name),
        }
    }

    fn lock_large_page(&mut self, call: &mut Call, large: Page) -> Result<Found, Stop> {
        self.walk_to(call, large.start(), Operand::RCX, LockMode::Exclusive, PageSize::Size2M)
    }
}

/// RCX: an aligned 2 MiB page with its level in bits 2:0.
fn parse_large_page(call: &Call) -> Result<Page, Stop> {
    let address = call.input.rcx & !(PAGE_SIZE - 1);
    let level = call.input.rcx & (PAGE_SIZE - 1);
    let address = PhysAddr::new(address);
    if level != PageSize::Size2M as u64 || !call.is_plain(address) || !address.is_aligned(PageSize::Size2M.bytes()) {
        return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
    }
    Ok(address.page())
}

/// An aligned page without KeyID bits.
pub(super) fn check_address(call: &Call, address: u64, name: Operand) -> Result<(), Stop> {
    let address = PhysAddr::new(address);
    if !call.is_plain(address) || !address.is_aligned(PAGE_SIZE) {
        return operand(StatusCode::OPERAND_INVALID, name);
    }
    Ok(())
}

/// Writes a whole pair past the cache. Its pages are private from here on.
pub(super) fn write_pair(call: &mut Call, pair: Pair, key: KeyId) {
    for page in pair {
        call.direct_store(lines_of(page), key);
    }
}

fn large_contains(large: Page, address: u64) -> bool {
    PhysAddr::new(address).page().index() / PageSize::Size2M.pages() == large.index() / PageSize::Size2M.pages()
}
