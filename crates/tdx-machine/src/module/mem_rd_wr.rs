//! What a host reads of guest memory and Secure EPT: MEM.RD and MEM.WR of a debug TD, MEM.SEPT.RD.

use tdx_abi::{LineRange, Operand, PAGE_SIZE, PhysAddr, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, operand};
use super::debug_memory::WORD;
use super::sept::{GuestPage, State, TreeLock};
use super::td::OpState;
use crate::LockMode;

impl Module {
    /// MEM.RD and MEM.WR: R8 is the word before, and the word to write.
    pub(super) fn mem_rd_wr(&mut self, call: &mut Call, write: bool) -> Leaf {
        (call.out.rcx, call.out.rdx, call.out.r8) = (0, 0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let td = self.td(tdr)?;
        let (key, shared) = (td.key, td.shared_gpa());
        if !td.is_debug() {
            return Err(StatusCode::TD_NON_DEBUG.into());
        }
        let gpa = call.input.rcx;
        if !gpa.is_multiple_of(WORD) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        self.lock_sept_tree(tdr, LockMode::Shared)?;
        if gpa >> 52 != 0 || gpa >= shared {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        let (level, entry) = self.sept_find(tdr, GuestPage { level: 0, number: gpa / PAGE_SIZE })?;
        // The walk goes on only through what is mapped, so no other state gets as far as its lock.
        if entry.state != State::Mapped {
            call.show(level, entry);
            return operand(StatusCode::EPT_ENTRY_NOT_PRESENT, Operand::RCX);
        }
        let guest = GuestPage { level, number: gpa / (PAGE_SIZE << (9 * level)) };
        self.lock_sept_entry(call, tdr, guest, entry)?;
        let size = PAGE_SIZE << (9 * level);
        let line = LineRange::single(PhysAddr::new(entry.page.start().get() + gpa % size).line());
        call.out.r8 = self.td(tdr)?.debug_memory.get(gpa);
        if write {
            call.store(line, key)?;
            self.td_mut(tdr)?.debug_memory.set(gpa, call.input.r8);
        } else {
            call.load(line, key)?;
        }
        Ok(Status::SUCCESS)
    }

    /// RCX and RDX show the entry.
    pub(super) fn mem_sept_rd(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 0..=self.td(tdr)?.root())?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Shared))?;
        call.show(guest.level, entry);
        Ok(Status::SUCCESS)
    }
}
