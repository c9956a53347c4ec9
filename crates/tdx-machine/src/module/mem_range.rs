//! Blocking and TLB tracking: MEM.RANGE.BLOCK, MEM.RANGE.UNBLOCK, MEM.TRACK.

use tdx_abi::{Operand, PageSize, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, operand};
use super::locks::LockId;
use super::sept::{Entry, GuestPage, State, TreeLock};
use super::td::OpState;
use crate::LockMode;

impl Module {
    pub(super) fn mem_range_block(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 0..=self.td(tdr)?.root())?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Exclusive))?;
        if entry.state.is_blocked() {
            call.show(guest.level, entry);
            return Ok(StatusCode::GPA_RANGE_ALREADY_BLOCKED.operand(Operand::RCX));
        }
        if entry.state == State::Free {
            return call.wrong_state(guest, entry);
        }
        self.sept_set(call, tdr, guest, Entry { state: entry.state.blocked(), ..entry })?;
        let level = if entry.state.is_leaf() { guest.size() } else { PageSize::Size4K };
        let epoch = self.td(tdr)?.epoch;
        self.store_entry(call, entry.page, level)?;
        let mut metadata = self.pamt.get(entry.page, level);
        metadata.epoch = epoch;
        self.pamt.set(entry.page, level, metadata);
        Ok(Status::SUCCESS)
    }

    pub(super) fn mem_range_unblock(&mut self, call: &mut Call) -> Leaf {
        (call.out.rcx, call.out.rdx) = (0, 0);
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        let guest = GuestPage::parse(call.input.rcx, 0..=self.td(tdr)?.root())?;
        let entry = self.sept_walk(call, tdr, guest, TreeLock::Take(LockMode::Exclusive))?;
        if !entry.state.is_blocked() {
            return call.wrong_state(guest, entry);
        }
        let level = if entry.state.is_leaf() { guest.size() } else { PageSize::Size4K };
        if self.td(tdr)?.needs_tracking() && !self.is_tracked(tdr, self.pamt.get(entry.page, level).epoch)? {
            let name = if self.traits.unblock_names_rcx { Operand::RCX } else { Operand::SEPT_TREE };
            return operand(StatusCode::TLB_TRACKING_NOT_DONE, name);
        }
        self.sept_set(call, tdr, guest, Entry { state: entry.state.unblocked(), ..entry })?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn mem_track(&mut self, call: &mut Call) -> Leaf {
        let tdr = self.find_tdr(call, call.input.rcx, Operand::RCX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILT)?;
        if self.locks.acquire(LockId::Epoch(tdr), LockMode::Exclusive).is_err() {
            return operand(StatusCode::OPERAND_BUSY, Operand::TD_EPOCH);
        }
        if !self.previous_epoch_has_left(tdr, self.td(tdr)?.epoch) {
            return Err(StatusCode::PREVIOUS_TLB_EPOCH_BUSY.into());
        }
        self.td_mut(tdr)?.epoch += 1;
        self.store_tdcs(call, tdr)?;
        Ok(Status::SUCCESS)
    }
}
