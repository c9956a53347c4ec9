//! The checks that every leaf on a TD begins with, and the stores that it ends with.

use alloc::sync::Arc;
use tdx_abi::{Operand, Page, PageSize, PhysAddr, StatusCode};

use super::Module;
use super::call::{Call, Stop, operand};
use super::locks::LockId;
use super::pamt::PageType;
use super::td::{Lifecycle, MIN_TDCS_PAGES, OpState, Td, lines_of};
use super::vcpu_state::VcpuState;
use crate::LockMode;

impl Module {
    /// No VCPU can still use a translation that was blocked in this epoch (`tdx_abi.md` section
    /// 10).
    pub(super) fn is_tracked(&self, tdr: Page, blocked_in: u64) -> Result<bool, Stop> {
        let epoch = self.td(tdr)?.epoch;
        Ok(epoch > blocked_in + 1 || (epoch == blocked_in + 1 && self.previous_epoch_has_left(tdr, epoch)))
    }

    /// The register names a TDR: its page, locked as asked.
    pub(super) fn find_tdr(
        &mut self,
        call: &mut Call,
        address: u64,
        name: Operand,
        mode: LockMode,
    ) -> Result<Page, Stop> {
        self.find_page(call, address, name, mode, PageType::Tdr)
    }

    /// The register names a 4 KiB page of this type.
    pub(super) fn find_page(
        &mut self,
        call: &mut Call,
        address: u64,
        name: Operand,
        mode: LockMode,
        page_type: PageType,
    ) -> Result<Page, Stop> {
        let found = self.walk(call, PhysAddr::new(address), name, mode)?;
        self.check_found(found, Some(PageSize::Size4K), page_type, name)
    }

    /// The register names a free 4 KiB page.
    pub(super) fn find_free_page(&mut self, call: &mut Call, address: u64, name: Operand) -> Result<Page, Stop> {
        self.find_page(call, address, name, LockMode::Exclusive, PageType::Nda)
    }

    /// Locks the TDR that owns a page, shared, without walking to it: only its own PAMT entry is
    /// touched.
    pub(super) fn lock_owner(&mut self, call: &mut Call, tdr: Page) -> Result<(), Stop> {
        self.lock_entry(call, tdr, PageSize::Size4K, LockMode::Shared, Operand::TDR)
    }

    /// The TD of a TDR page. PAMT says TDR exactly for the pages that are here.
    pub(super) fn td(&self, tdr: Page) -> Result<&Td, Stop> {
        self.tds.get(&tdr).map(AsRef::as_ref).ok_or(StatusCode::PAGE_METADATA_INCORRECT.operand(Operand::TDR).into())
    }

    /// As [`Self::td`], to change it.
    pub(super) fn td_mut(&mut self, tdr: Page) -> Result<&mut Td, Stop> {
        let missing = StatusCode::PAGE_METADATA_INCORRECT.operand(Operand::TDR);
        self.tds.get_mut(&tdr).map(Arc::make_mut).ok_or(missing.into())
    }

    /// The checks that most leaves on a TD begin with: keys, TDCS, OP_STATE. A leaf that holds the
    /// TDR shared also locks OP_STATE, which is a word in TDCS.
    pub(super) fn enter_td(
        &mut self,
        call: &mut Call,
        tdr: Page,
        lock_op_state: bool,
        allowed: &[OpState],
    ) -> Result<(), Stop> {
        let td = self.td(tdr)?;
        if td.fatal {
            return Err(StatusCode::TD_FATAL.into());
        }
        if td.lifecycle != Lifecycle::KeysConfigured {
            return Err(StatusCode::TD_KEYS_NOT_CONFIGURED.into());
        }
        if (td.tdcs.len() as u64) < MIN_TDCS_PAGES {
            return Err(StatusCode::TDCS_NOT_ALLOCATED.into());
        }
        let op_state = td.op_state;
        if lock_op_state {
            self.store_tdcs(call, tdr)?;
            if self.locks.acquire(LockId::OpState(tdr), LockMode::Shared).is_err() {
                return operand(StatusCode::OPERAND_BUSY, Operand::OP_STATE);
            }
        }
        if !allowed.contains(&op_state) {
            return Err(self.op_state_incorrect(op_state));
        }
        Ok(())
    }

    /// The status says the state in newer modules.
    pub(super) fn op_state_incorrect(&self, state: OpState) -> Stop {
        let details = if self.traits.state_in_status { state as u32 } else { 0 };
        StatusCode::OP_STATE_INCORRECT.with(details).into()
    }

    /// The status says the state in newer modules.
    pub(super) fn vcpu_state_incorrect(&self, state: VcpuState) -> Stop {
        let details = if self.traits.state_in_status { state as u32 } else { 0 };
        StatusCode::VCPU_STATE_INCORRECT.with(details).into()
    }

    /// Stores to TDR: its lines are dirty under the global key.
    pub(super) fn store_tdr(&self, call: &mut Call, tdr: Page) -> Result<(), Stop> {
        call.store(lines_of(tdr), self.global_key())
    }

    /// Stores to TDCS: its lines are dirty under the TD's key.
    pub(super) fn store_tdcs(&self, call: &mut Call, tdr: Page) -> Result<(), Stop> {
        let td = self.td(tdr)?;
        for page in &td.tdcs {
            call.store(lines_of(*page), td.key)?;
        }
        Ok(())
    }

    /// A free page becomes the TD's: PAMT entry, child count.
    pub(super) fn adopt(
        &mut self,
        call: &mut Call,
        tdr: Page,
        page: Page,
        level: PageSize,
        page_type: PageType,
    ) -> Result<(), Stop> {
        let mut entry = self.pamt.get(page, level);
        entry.page_type = page_type;
        entry.owner = tdr;
        self.pamt.set(page, level, entry);
        self.td_mut(tdr)?.children += level.pages();
        self.store_tdr(call, tdr)
    }

    /// A page of the TD is free. The owner and the epoch stay in its PAMT entry, and its content
    /// stays in its lines. Gives the hint of [`Module::removal_hint`].
    pub(super) fn disown(&mut self, call: &mut Call, tdr: Page, page: Page, level: PageSize) -> Result<u64, Stop> {
        self.pamt.free(page, level);
        let td = self.td_mut(tdr)?;
        td.children = td.children.saturating_sub(level.pages());
        self.store_tdr(call, tdr)?;
        Ok(self.removal_hint(page, level))
    }
}
