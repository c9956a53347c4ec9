//! Secure EPT of L2 VMs, at the host side: the tables that MEM.SEPT.ADD version 1 and
//! MEM.PAGE.DEMOTE add, and MEM.SEPT.REMOVE and MEM.PAGE.PROMOTE take away. No page is ever mapped
//! in them here, which takes a guest that asks for it.
//!
//! Source: conformance vectors; what happens where a table is there already, and the removal of
//! tables, the module's source.

use alloc::vec::Vec;
use tdx_abi::{Operand, Page, PageSize, StatusCode};

use super::Module;
use super::call::{Call, Stop, operand};
use super::mem_sept::{NOT_USED, NULL_PA};
use super::sept::{Entry, GuestPage, State};
use crate::LockMode;

/// RCX and state of a free L2 entry.
const FREE_ENTRY: u64 = 1 << 63;
const L2_FREE: u64 = 0x40;
/// State of an L2 entry that points to a table.
const L2_TABLE: u64 = 0xc4;

/// A table to add: its VM, its page.
type NewTable = (u8, Page);

impl Module {
    /// Walks the tables of an L2 VM to the entry of a guest page: its table, if it has one. RCX and
    /// RDX show where the walk ended too early.
    fn l2_walk(&self, call: &mut Call, tdr: Page, vm: u8, guest: GuestPage) -> Result<Option<Page>, Stop> {
        for level in (guest.level + 1..=self.td(tdr)?.root()).rev() {
            let number = guest.number >> (9 * (level - guest.level));
            if self.l2_table(tdr, vm, GuestPage { level, number })?.is_none() {
                call.out.rcx = FREE_ENTRY;
                call.out.rdx = level | L2_FREE << 8 | u64::from(vm) << 16;
                return Err(StatusCode::L2_SEPT_WALK_FAILED.with(level as u32 | u32::from(vm) << 16).into());
            }
        }
        self.l2_table(tdr, vm, guest)
    }

    /// The table that an entry of a VM points to.
    fn l2_table(&self, tdr: Page, vm: u8, guest: GuestPage) -> Result<Option<Page>, Stop> {
        Ok(self.td(tdr)?.l2_sept.get(&(vm, guest.level, guest.number)).copied())
    }

    /// The VMs of a TD with the register that names their page.
    fn l2_registers(
        &self,
        tdr: Page,
        registers: [u64; 3],
    ) -> Result<impl Iterator<Item = (u8, u64, Operand)> + use<>, Stop> {
        let vms = self.td(tdr)?.l2_vms;
        Ok((1..=vms).zip(registers).map(|(vm, register)| (vm, register, Operand(Operand::R8.0 + u32::from(vm)))))
    }

    /// MEM.SEPT.ADD version 1: the tables to add, one for each VM that a register names a page for.
    /// All ones is none, and so is every register of a VM that the TD does not have.
    pub(super) fn l2_tables_to_add(
        &mut self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
        registers: &mut [u64; 3],
        allow_existing: bool,
    ) -> Result<Vec<NewTable>, Stop> {
        let vms = usize::from(self.td(tdr)?.l2_vms);
        let mut tables = Vec::new();
        for (vm, register, name) in self.l2_registers(tdr, *registers)? {
            if register == NULL_PA {
                continue;
            }
            if self.l2_walk(call, tdr, vm, guest)?.is_none() {
                tables.push((vm, self.find_free_page(call, register, name)?));
            } else if allow_existing {
                registers[usize::from(vm) - 1] |= NOT_USED;
            } else {
                let shown = Entry { state: State::NonLeafMapped, page: Page::new(0) };
                call.show(guest.level, shown);
                call.out.rdx = guest.level | L2_TABLE << 8 | u64::from(vm) << 16;
                let details = guest.level as u32 | u32::from(vm) << 16;
                return Err(StatusCode::L2_SEPT_ENTRY_NOT_FREE.with(details).into());
            }
        }
        match (vms..3).find(|index| registers[*index] != NULL_PA) {
            Some(index) => operand(StatusCode::OPERAND_INVALID, Operand(Operand::R9.0 + index as u32)),
            None => Ok(tables),
        }
    }

    /// Adds one of them; its register then names no page.
    pub(super) fn add_l2_table(
        &mut self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
        (vm, page): NewTable,
        registers: &mut [u64; 3],
    ) -> Result<(), Stop> {
        self.fill_sept_page(call, tdr, page)?;
        self.adopt_sept_page(call, tdr, page, true)?;
        self.td_mut(tdr)?.l2_sept.insert((vm, guest.level, guest.number), page);
        registers[usize::from(vm) - 1] = NULL_PA;
        Ok(())
    }

    /// MEM.PAGE.DEMOTE: the free pages that R9 to R11 name. If tables are wanted only where an L2
    /// VM maps the page (`sparse`), which none does, the registers say that they are not used.
    pub(super) fn l2_pages_of_demote(
        &mut self,
        call: &mut Call,
        tdr: Page,
        sparse: bool,
    ) -> Result<Vec<NewTable>, Stop> {
        let mut registers = [call.input.r9, call.input.r10, call.input.r11];
        let mut tables = Vec::new();
        for (vm, register, name) in self.l2_registers(tdr, registers)? {
            match register {
                NULL_PA => {}
                _ if sparse => registers[usize::from(vm) - 1] |= NOT_USED,
                _ => tables.push((vm, self.find_free_page(call, register & !NOT_USED, name)?)),
            }
        }
        if sparse {
            [call.out.r9, call.out.r10, call.out.r11] = registers;
        }
        Ok(tables)
    }

    /// MEM.PAGE.DEMOTE: fills the pages. Each VM with a page has the tables above it; a page that
    /// was filled before the call failed is private and free.
    pub(super) fn fill_l2_pages(
        &self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
        tables: &[NewTable],
        interrupted: fn(&mut Call) -> Stop,
    ) -> Result<(), Stop> {
        for (vm, page) in tables {
            if call.conditions.interrupt {
                return Err(interrupted(call));
            }
            self.l2_walk(call, tdr, *vm, guest)?;
            self.fill_sept_page(call, tdr, *page)?;
        }
        Ok(())
    }

    /// MEM.PAGE.DEMOTE: the pages are the TD's.
    pub(super) fn adopt_l2_pages(
        &mut self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
        tables: &[NewTable],
    ) -> Result<(), Stop> {
        for (vm, page) in tables {
            self.adopt_sept_page(call, tdr, *page, false)?;
            self.td_mut(tdr)?.l2_sept.insert((*vm, guest.level, guest.number), *page);
        }
        Ok(())
    }

    /// The tables of L2 VMs below an entry, locked: they go with the table of the TD itself.
    pub(super) fn lock_l2_tables(
        &mut self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
    ) -> Result<Vec<NewTable>, Stop> {
        let mut tables = Vec::new();
        for vm in 1..=self.td(tdr)?.l2_vms {
            if let Some(page) = self.l2_table(tdr, vm, guest)? {
                self.lock_entry(call, page, PageSize::Size4K, LockMode::Exclusive, Operand::RCX)?;
                tables.push((vm, page));
            }
        }
        Ok(tables)
    }

    /// Takes them away, the last VM's first. Version 1 names their pages in R9 to R11, version 0
    /// does not.
    pub(super) fn remove_l2_tables(
        &mut self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
        tables: &[NewTable],
    ) -> Result<(), Stop> {
        let mut registers = [NULL_PA; 3];
        for (vm, page) in tables.iter().rev() {
            self.td_mut(tdr)?.l2_sept.remove(&(*vm, guest.level, guest.number));
            let hint = self.disown(call, tdr, *page, PageSize::Size4K)?;
            registers[usize::from(*vm) - 1] = page.start().get() | hint;
        }
        if call.version() > 0 {
            [call.out.r9, call.out.r10, call.out.r11] = registers;
        }
        Ok(())
    }
}
