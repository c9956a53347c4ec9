//! The life of a TD from MNG.CREATE to MNG.KEY.FREEID.

use alloc::sync::Arc;
use tdx_abi::{KeyId, Operand, Page, PageSize, PhysAddr, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, operand};
use super::keys::KeyState;
use super::locks::LockId;
use super::pamt::PageType;
use super::sys::program_key;
use super::td::{Lifecycle, MAX_TDCS_PAGES, MIN_TDCS_PAGES, OpState, SEPT_VE_DISABLE, Td, lines_of};
use super::td_config::TdConfig;
use super::td_params::TD_PARAMS_BYTES;
use super::tsc;
use crate::LockMode;

/// HP_LOCK_TIMEOUT of a new TD, in microseconds.
const DEFAULT_TIMEOUT: u64 = 1_000_000;

impl Module {
    pub(super) fn mng_create(&mut self, call: &mut Call) -> Leaf {
        let key = KeyId::new(call.input.rdx as u16);
        if call.input.rdx >> 16 != 0 || !call.hardware.key_ids().is_private(key) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RDX);
        }
        let tdr = self.find_free_page(call, call.input.rcx, Operand::RCX)?;
        self.lock_kot(LockMode::Exclusive)?;
        if self.keys.get(key) != Some(KeyState::Free) {
            return Err(StatusCode::HKID_NOT_FREE.into());
        }
        // The page is private from here on, also if the call fails for want of entropy.
        call.direct_store(lines_of(tdr), self.global_key());
        if call.conditions.no_entropy {
            return Err(StatusCode::RND_NO_ENTROPY.into());
        }
        self.keys.set(key, KeyState::Assigned);
        let mut entry = self.pamt.get(tdr, PageSize::Size4K);
        entry.page_type = PageType::Tdr;
        entry.owner = Page::new(0);
        self.pamt.set(tdr, PageSize::Size4K, entry);
        self.tds.insert(tdr, Arc::new(Td::new(key)));
        self.store_tdr(call, tdr)?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn mng_key_config(&mut self, call: &mut Call) -> Leaf {
        let tdr = self.find_tdr(call, call.input.rcx, Operand::RCX, LockMode::Exclusive)?;
        let all = self.all_packages;
        let td = self.td_mut(tdr)?;
        if td.fatal {
            return Err(StatusCode::TD_FATAL.into());
        }
        if td.lifecycle != Lifecycle::HkidAssigned {
            return Err(StatusCode::LIFECYCLE_STATE_INCORRECT.into());
        }
        let package = 1 << call.package().0;
        if td.packages_with_key & package != 0 {
            return Ok(StatusCode::KEY_CONFIGURED.with(0));
        }
        program_key(call)?;
        td.packages_with_key |= package;
        if td.packages_with_key == all {
            td.lifecycle = Lifecycle::KeysConfigured;
        }
        self.store_tdr(call, tdr)?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn mng_addcx(&mut self, call: &mut Call) -> Leaf {
        let tdr = self.find_tdr(call, call.input.rdx, Operand::RDX, LockMode::Exclusive)?;
        let td = self.td(tdr)?;
        if self.td(tdr)?.fatal {
            return Err(StatusCode::TD_FATAL.into());
        }
        if td.lifecycle != Lifecycle::KeysConfigured {
            return Err(StatusCode::TD_KEYS_NOT_CONFIGURED.into());
        }
        let pages = td.tdcs.len() as u64;
        if pages >= MAX_TDCS_PAGES {
            return Err(StatusCode::TDCX_NUM_INCORRECT.into());
        }
        let (key, op_state) = (td.key, td.op_state);
        let page = self.find_free_page(call, call.input.rcx, Operand::RCX)?;
        // The page is private from here on, also if one of the two checks below fails.
        call.direct_store(lines_of(page), key);
        if pages + 1 == MIN_TDCS_PAGES && call.conditions.no_entropy {
            return Err(StatusCode::RND_NO_ENTROPY.into());
        }
        if pages + 1 > MIN_TDCS_PAGES && op_state != OpState::Uninitialized {
            return Err(self.op_state_incorrect(op_state));
        }
        self.td_mut(tdr)?.tdcs.push(page);
        self.adopt(call, tdr, page, PageSize::Size4K, PageType::Tdcx)?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn mng_init(&mut self, call: &mut Call) -> Leaf {
        let address = PhysAddr::new(call.input.rdx);
        call.out.rcx = 0;
        // Bit 0 asks for an event filter in newer modules.
        let flag = if self.traits.mng_init_flag { call.input.rcx & 1 } else { 0 };
        let tdr = self.find_tdr(call, call.input.rcx & !flag, Operand::RCX, LockMode::Exclusive)?;
        self.enter_td(call, tdr, false, OpState::NEW)?;
        if !call.is_shared_buffer(address, TD_PARAMS_BYTES as u64, TD_PARAMS_BYTES as u64) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RDX);
        }
        let mut bytes = [0; TD_PARAMS_BYTES];
        call.read_bytes(address, &mut bytes)?;
        self.store_tdcs(call, tdr)?;
        let tdcs_pages = self.td(tdr)?.tdcs.len() as u64;
        let params = self.check_td_params(call, &bytes, tdcs_pages)?;
        let tsc_offset = tsc::offset(params.config.tsc_frequency, self.tsc.read());
        let td = self.td_mut(tdr)?;
        td.config = Arc::new(TdConfig { tsc_offset, ..params.config });
        td.controls.hp_lock_timeout = tsc::ticks(DEFAULT_TIMEOUT);
        td.controls.td_ctls = u64::from(params.attributes & SEPT_VE_DISABLE != 0);
        td.attributes = params.attributes;
        td.xfam = params.xfam;
        td.config_flags = params.config_flags;
        td.five_levels = params.five_levels;
        td.max_vcpus = params.max_vcpus;
        td.l2_vms = params.l2_vms;
        td.op_state = OpState::Initialized;
        td.epoch = 1;
        Ok(Status::SUCCESS)
    }

    pub(super) fn mr_finalize(&mut self, call: &mut Call) -> Leaf {
        let tdr = self.find_tdr(call, call.input.rcx, Operand::RCX, LockMode::Exclusive)?;
        self.enter_td(call, tdr, false, OpState::BUILDING)?;
        let td = self.td_mut(tdr)?;
        if td.vcpu_count == 0 {
            return Err(StatusCode::NO_VCPUS.into());
        }
        td.op_state = OpState::Runnable;
        self.store_tdcs(call, tdr)?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn mng_vpflushdone(&mut self, call: &mut Call) -> Leaf {
        let tdr = self.find_tdr(call, call.input.rcx, Operand::RCX, LockMode::Exclusive)?;
        self.lock_kot(LockMode::Exclusive)?;
        let packages_left = self.all_packages;
        let td = self.td_mut(tdr)?;
        if !matches!(td.lifecycle, Lifecycle::HkidAssigned | Lifecycle::KeysConfigured) {
            return Err(StatusCode::LIFECYCLE_STATE_INCORRECT.into());
        }
        if td.associated != 0 {
            return Err(StatusCode::FLUSHVP_NOT_DONE.into());
        }
        td.lifecycle = Lifecycle::Blocked;
        let key = td.key;
        self.keys.set(key, KeyState::Flushed { packages_left });
        self.store_tdr(call, tdr)?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn mng_key_freeid(&mut self, call: &mut Call) -> Leaf {
        let tdr = self.find_tdr(call, call.input.rcx, Operand::RCX, LockMode::Exclusive)?;
        let td = self.td(tdr)?;
        if td.lifecycle != Lifecycle::Blocked {
            return Err(StatusCode::LIFECYCLE_STATE_INCORRECT.into());
        }
        let key = td.key;
        self.lock_kot(LockMode::Exclusive)?;
        if self.keys.get(key) != Some(KeyState::Flushed { packages_left: 0 }) {
            return Err(StatusCode::WBCACHE_NOT_COMPLETE.into());
        }
        self.keys.set(key, KeyState::Free);
        self.td_mut(tdr)?.lifecycle = Lifecycle::Teardown;
        self.store_tdr(call, tdr)?;
        Ok(Status::SUCCESS)
    }

    pub(super) fn lock_kot(&mut self, mode: LockMode) -> Result<(), super::call::Stop> {
        match self.locks.acquire(LockId::Kot, mode) {
            Ok(()) => Ok(()),
            Err(_) => operand(StatusCode::OPERAND_BUSY, Operand::KOT),
        }
    }
}
