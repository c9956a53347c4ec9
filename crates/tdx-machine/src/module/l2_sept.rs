//! Secure EPT of L2 VMs, at the host side: tables that MEM.SEPT.ADD version 1 adds. No page is ever
//! mapped in them here, which takes a guest that asks for it.

use tdx_abi::{Operand, Page, StatusCode};

use super::Module;
use super::call::{Call, Stop, operand};
use super::mem_sept::{NOT_USED, NULL_PA};
use super::sept::GuestPage;
use crate::Refusal;

/// RCX and state of a free L2 entry.
const FREE_ENTRY: u64 = 1 << 63;
const L2_FREE: u64 = 0x40;

impl Module {
    /// Walks the tables of an L2 VM to the entry of a guest page: its table, if it has one. RCX and
    /// RDX show where the walk ended too early.
    fn l2_walk(&self, call: &mut Call, tdr: Page, vm: u8, guest: GuestPage) -> Result<Option<Page>, Stop> {
        let td = self.td(tdr)?;
        let entry = |level: u64| td.l2_sept.get(&(vm, level, guest.number >> (9 * (level - guest.level)))).copied();
        for level in (guest.level + 1..=td.root()).rev() {
            if entry(level).is_none() {
                call.out.rcx = FREE_ENTRY;
                call.out.rdx = level | L2_FREE << 8 | u64::from(vm) << 16;
                return Err(StatusCode::L2_SEPT_WALK_FAILED.with(level as u32 | u32::from(vm) << 16).into());
            }
        }
        Ok(entry(guest.level))
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

    /// MEM.SEPT.ADD version 1: a table for each VM that a register names one for. All ones is none,
    /// and so is every register of a VM that the TD does not have.
    pub(super) fn add_l2_tables(
        &mut self,
        call: &mut Call,
        tdr: Page,
        guest: GuestPage,
        registers: &mut [u64; 3],
        allow_existing: bool,
    ) -> Result<(), Stop> {
        let vms = usize::from(self.td(tdr)?.l2_vms);
        if let Some(index) = (vms..3).find(|index| registers[*index] != NULL_PA) {
            return operand(StatusCode::OPERAND_INVALID, Operand(Operand::R9.0 + index as u32));
        }
        for (vm, register, name) in self.l2_registers(tdr, *registers)? {
            if register == NULL_PA {
                continue;
            }
            match (self.l2_walk(call, tdr, vm, guest)?, allow_existing) {
                (Some(_), true) => registers[usize::from(vm) - 1] |= NOT_USED,
                (Some(_), false) => return Err(Stop::Refused(Refusal::L2VmNotModelled)),
                (None, _) => {
                    let page = self.find_free_page(call, register, name)?;
                    self.fill_sept_page(call, tdr, page)?;
                    self.adopt_sept_page(call, tdr, page, true)?;
                    self.td_mut(tdr)?.l2_sept.insert((vm, guest.level, guest.number), page);
                    registers[usize::from(vm) - 1] = NULL_PA;
                }
            }
        }
        Ok(())
    }

    /// MEM.PAGE.DEMOTE: the pages that R9 to R11 name are free.
    pub(super) fn check_l2_pages(&mut self, call: &mut Call, tdr: Page) -> Result<(), Stop> {
        let registers = [call.input.r9, call.input.r10, call.input.r11];
        for (_, register, name) in self.l2_registers(tdr, registers)? {
            if register != NULL_PA {
                self.find_free_page(call, register, name)?;
            }
        }
        Ok(())
    }

    /// MEM.PAGE.DEMOTE: each VM with a page has the tables above it.
    pub(super) fn demote_l2(&mut self, call: &mut Call, tdr: Page, guest: GuestPage) -> Result<(), Stop> {
        let registers = [call.input.r9, call.input.r10, call.input.r11];
        for (vm, register, _) in self.l2_registers(tdr, registers)? {
            if register != NULL_PA {
                self.l2_walk(call, tdr, vm, guest)?;
                return Err(Stop::Refused(Refusal::L2VmNotModelled));
            }
        }
        Ok(())
    }

    /// Leaves that take a Secure-EPT page away do not know what to do with tables of L2 VMs there.
    pub(super) fn refuse_l2_tables(&self, tdr: Page, guest: GuestPage) -> Result<(), Stop> {
        let there =
            self.td(tdr)?.l2_sept.keys().any(|(_, level, number)| (*level, *number) == (guest.level, guest.number));
        if there { Err(Stop::Refused(Refusal::L2VmNotModelled)) } else { Ok(()) }
    }
}
