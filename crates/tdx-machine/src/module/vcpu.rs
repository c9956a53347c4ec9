//! VCPUs: VP.CREATE, VP.ADDCX, VP.INIT, VP.FLUSH. Running them is in `vp_enter.rs`.

use tdx_abi::{KeyId, Operand, Page, PageSize, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, Stop, operand};
use super::pamt::PageType;
use super::td::{Lifecycle, OpState, lines_of};
use super::vcpu_state::{Vcpu, VcpuState};
use crate::LockMode;

/// Pages of TDVPS that every VCPU has, its root page included; three more for each L2 VM.
pub(super) const MIN_TDVPS_PAGES: u64 = 6;
/// Most pages of TDVPS.
const MAX_TDVPS_PAGES: u64 = 15;
/// Pages of TDVPS for each L2 VM.
pub(super) const TDVPS_PAGES_PER_L2_VM: u64 = 3;

impl Module {
    pub(super) fn vp_create(&mut self, call: &mut Call) -> Leaf {
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Shared)?;
        self.enter_td(call, tdr, true, OpState::BUILDING)?;
        let key = self.td(tdr)?.key;
        let page = self.find_free_page(call, call.input.rcx, Operand::RCX)?;
        call.direct_store(lines_of(page), key);
        self.td_mut(tdr)?.vcpus.insert(page, Vcpu::default());
        self.adopt(call, tdr, page, PageSize::Size4K, PageType::Tdvpr)?;
        self.store_tdvps(call, tdr, page)?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn vp_addcx(&mut self, call: &mut Call) -> Leaf {
        let (tdvpr, tdr) = self.find_vcpu(call, call.input.rdx, Operand::RDX)?;
        self.enter_td(call, tdr, true, OpState::BUILDING)?;
        let vcpu = self.vcpu_mut(tdr, tdvpr)?;
        if vcpu.state != VcpuState::Uninitialized {
            let state = vcpu.state;
            return Err(self.vcpu_state_incorrect(state));
        }
        if vcpu.pages.len() as u64 + 1 >= MAX_TDVPS_PAGES {
            return Err(StatusCode::TDCX_NUM_INCORRECT.into());
        }
        let page = self.find_free_page(call, call.input.rcx, Operand::RCX)?;
        call.direct_store(lines_of(page), self.td(tdr)?.key);
        self.vcpu_mut(tdr, tdvpr)?.pages.push(page);
        self.adopt(call, tdr, page, PageSize::Size4K, PageType::Tdcx)?;
        self.store_tdvps(call, tdr, tdvpr)?;
        Ok(Status::SUCCESS)
    }

    /// Version 1 names the x2APIC id of the VCPU, which no other has, and locks TDR exclusively.
    pub(super) fn vp_init(&mut self, call: &mut Call) -> Leaf {
        if self.traits.vp_init_checks_tsc_first {
            self.check_tsc_adjust(call)?;
        }
        let version = call.version();
        if version > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        let tdvpr = self.find_page(call, call.input.rcx, Operand::RCX, LockMode::Exclusive, PageType::Tdvpr)?;
        let tdr = self.pamt.get(tdvpr, PageSize::Size4K).owner;
        let mode = if version == 0 { LockMode::Shared } else { LockMode::Exclusive };
        self.lock_entry(call, tdr, PageSize::Size4K, mode, Operand::TDR)?;
        self.enter_td(call, tdr, true, OpState::BUILDING)?;
        self.check_tdvps_size(tdr, tdvpr)?;
        let state = self.vcpu_mut(tdr, tdvpr)?.state;
        if state != VcpuState::Uninitialized {
            return Err(self.vcpu_state_incorrect(state));
        }
        if !self.traits.vp_init_checks_tsc_first {
            self.check_tsc_adjust(call)?;
        }
        let (cpu, initial_rcx) = (call.cpu, call.input.rdx);
        let td = self.td_mut(tdr)?;
        if td.vcpu_count >= td.max_vcpus {
            return Err(StatusCode::MAX_VCPUS_EXCEEDED.into());
        }
        let id = if version == 0 { 0 } else { call.input.r8 };
        if id >> 32 != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::R8);
        }
        let id = id as u32;
        if version == 1 && td.vcpus.values().any(|vcpu| vcpu.is_initialized() && vcpu.x2apic_id == id) {
            return Err(StatusCode::X2APIC_ID_NOT_UNIQUE.with(id).into());
        }
        let index = td.vcpu_count;
        td.vcpu_count += 1;
        td.associated += 1;
        if let Some(vcpu) = td.vcpus.get_mut(&tdvpr) {
            vcpu.state = VcpuState::Ready;
            vcpu.associated = Some(cpu);
            vcpu.index = index;
            vcpu.initial_rcx = initial_rcx;
            vcpu.x2apic_id = id;
        }
        self.store_tdvps(call, tdr, tdvpr)?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn vp_flush(&mut self, call: &mut Call) -> Leaf {
        let (tdvpr, tdr) = self.find_vcpu(call, call.input.rcx, Operand::RCX)?;
        if self.td(tdr)?.lifecycle != Lifecycle::KeysConfigured {
            return Err(StatusCode::TD_KEYS_NOT_CONFIGURED.into());
        }
        self.check_tdvps_size(tdr, tdvpr)?;
        let cpu = call.cpu;
        if self.vcpu_mut(tdr, tdvpr)?.associated != Some(cpu) {
            return Err(StatusCode::VCPU_NOT_ASSOCIATED.into());
        }
        self.dissociate(tdr, tdvpr)?;
        self.store_tdvps(call, tdr, tdvpr)?;
        self.store_tdcs(call, tdr)?;
        Ok(Status::SUCCESS)
    }

    /// The register names a TDVPR: its page, and the TDR that owns it.
    pub(super) fn find_vcpu(&mut self, call: &mut Call, address: u64, name: Operand) -> Result<(Page, Page), Stop> {
        let tdvpr = self.find_page(call, address, name, LockMode::Exclusive, PageType::Tdvpr)?;
        let tdr = self.pamt.get(tdvpr, PageSize::Size4K).owner;
        self.lock_owner(call, tdr)?;
        Ok((tdvpr, tdr))
    }

    pub(super) fn check_tdvps_size(&self, tdr: Page, tdvpr: Page) -> Result<(), Stop> {
        let td = self.td(tdr)?;
        let pages = td.vcpus.get(&tdvpr).map_or(0, |vcpu| vcpu.pages.len() as u64 + 1);
        if pages < MIN_TDVPS_PAGES + TDVPS_PAGES_PER_L2_VM * u64::from(td.l2_vms) {
            return Err(StatusCode::TDCX_NUM_INCORRECT.into());
        }
        Ok(())
    }

    pub(super) fn vcpu_mut(&mut self, tdr: Page, tdvpr: Page) -> Result<&mut Vcpu, Stop> {
        self.td_mut(tdr)?.vcpus.get_mut(&tdvpr).ok_or_else(missing)
    }

    /// Stores to TDVPS: its lines are dirty under the TD's key.
    pub(super) fn store_tdvps(&self, call: &mut Call, tdr: Page, tdvpr: Page) -> Result<(), Stop> {
        let td = self.td(tdr)?;
        let key: KeyId = td.key;
        call.store(lines_of(tdvpr), key)?;
        for page in td.vcpus.get(&tdvpr).map(|vcpu| vcpu.pages.as_slice()).unwrap_or_default() {
            call.store(lines_of(*page), key)?;
        }
        Ok(())
    }
}

/// PAMT says TDVPR exactly for the VCPUs that a TD has, so this is never the answer.
pub(super) fn missing() -> Stop {
    StatusCode::PAGE_METADATA_INCORRECT.operand(Operand::RCX).into()
}
