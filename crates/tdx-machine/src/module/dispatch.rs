//! What happens before a leaf runs: reserved bits, version, global state, in this order. Then the
//! leaf, and its locks are given back.

use tdx_abi::{Leaf as Number, LeafCall, Operand, Registers, StatusCode};

use super::call::{Call, Leaf, Stop, operand};
use super::{Answer, Module, SysState};
use crate::fault::Conditions;
use crate::hardware::Hardware;
use crate::{CpuId, Refusal};

impl Module {
    /// SEAMCALL. If it is to stay `in_flight` it keeps its locks until [`Self::finish`].
    pub(crate) fn seamcall(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        input: Registers,
        conditions: Conditions,
        in_flight: bool,
    ) -> Answer {
        let mut call = Call { hardware, cpu, input, out: input, conditions };
        let result = self.admit(input.leaf_call(), call.has_sys_disable()).and_then(|()| self.leaf(&mut call));
        let out = call.out;
        if let (true, Ok(status) | Err(Stop::Status(status))) = (in_flight, &result) {
            self.keep_in_flight(cpu, input.leaf_call().leaf(), Registers { rax: status.raw(), ..out });
            return Answer::InFlight;
        }
        self.locks.release_all();
        match result {
            Ok(status) | Err(Stop::Status(status)) => Answer::Registers(Registers { rax: status.raw(), ..out }),
            Err(Stop::MachineCheck(check)) => Answer::MachineCheck(check),
            Err(Stop::Refused(refusal)) => Answer::Refused(refusal),
        }
    }

    fn admit(&self, call: LeafCall, has_sys_disable: bool) -> Result<(), Stop> {
        let leaf = call.leaf();
        if call.reserved() != 0 || (call.version() > 0 && !self.traits.version_1.contains(&leaf.0)) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        match self.state {
            _ if leaf == Number::SYS_LP_SHUTDOWN || (leaf == Number::SYS_DISABLE && has_sys_disable) => Ok(()),
            _ if self.disabling.is_some() => Err(StatusCode::SYS_BUSY.into()),
            _ if self.is_shutting_down() => Err(StatusCode::SYS_SHUTDOWN.into()),
            SysState::Shutdown => Err(StatusCode::SYS_SHUTDOWN.into()),
            SysState::Ready => Ok(()),
            _ if runs_before_ready(leaf) => Ok(()),
            _ => Err(StatusCode::SYS_NOT_READY.into()),
        }
    }

    fn leaf(&mut self, call: &mut Call) -> Leaf {
        let leaf = call.input.leaf_call().leaf();
        match leaf {
            Number::SYS_INIT => self.sys_init(call),
            Number::SYS_LP_INIT => self.sys_lp_init(call),
            Number::SYS_INFO => self.sys_info(call),
            Number::SYS_RD => self.sys_rd(call),
            Number::SYS_CONFIG => self.sys_config(call),
            Number::SYS_KEY_CONFIG => self.sys_key_config(call),
            Number::SYS_TDMR_INIT => self.tdmr_init(call),
            Number::SYS_SHUTDOWN => self.sys_shutdown(call),
            Number::SYS_UPDATE => self.sys_update(call),
            Number::SYS_DISABLE if call.has_sys_disable() => self.sys_disable(call),
            // Both are left over from older modules and do nothing.
            Number::SYS_LP_SHUTDOWN | Number::MNG_KEY_RECLAIMID => Ok(tdx_abi::Status::SUCCESS),
            Number::MNG_CREATE => self.mng_create(call),
            Number::MNG_KEY_CONFIG => self.mng_key_config(call),
            Number::MNG_ADDCX => self.mng_addcx(call),
            Number::MNG_INIT => self.mng_init(call),
            Number::MNG_VPFLUSHDONE => self.mng_vpflushdone(call),
            Number::MNG_KEY_FREEID => self.mng_key_freeid(call),
            Number::VP_ENTER => self.vp_enter(call),
            Number::VP_CREATE => self.vp_create(call),
            Number::VP_ADDCX => self.vp_addcx(call),
            Number::VP_INIT => self.vp_init(call),
            Number::VP_FLUSH => self.vp_flush(call),
            Number::MR_EXTEND => self.mr_extend(call),
            Number::MR_FINALIZE => self.mr_finalize(call),
            Number::MEM_SEPT_ADD => self.mem_sept_add(call),
            Number::MEM_SEPT_REMOVE => self.mem_sept_remove(call),
            Number::MEM_PAGE_ADD => self.mem_page_add(call),
            Number::MEM_PAGE_AUG => self.mem_page_aug(call),
            Number::MEM_PAGE_REMOVE => self.mem_page_remove(call),
            Number::MEM_PAGE_RELOCATE => self.mem_page_relocate(call),
            Number::MEM_PAGE_PROMOTE => self.mem_page_promote(call),
            Number::MEM_PAGE_DEMOTE => self.mem_page_demote(call),
            Number::MEM_RANGE_BLOCK => self.mem_range_block(call),
            Number::MEM_RANGE_UNBLOCK => self.mem_range_unblock(call),
            Number::MEM_TRACK => self.mem_track(call),
            Number::PHYMEM_PAGE_RDMD => self.phymem_page_rdmd(call),
            Number::PHYMEM_PAGE_RECLAIM => self.phymem_page_reclaim(call),
            Number::PHYMEM_PAGE_WBINVD => self.phymem_page_wbinvd(call),
            Number::PHYMEM_PAMT_ADD => self.phymem_pamt_add(call),
            Number::PHYMEM_PAMT_REMOVE => self.phymem_pamt_remove(call),
            Number::PHYMEM_CACHE_WB => self.phymem_cache_wb(call),
            Number::MNG_RD => self.mng_rd(call),
            Number::MNG_WR => self.mng_wr(call),
            Number::VP_RD => self.vp_rd(call),
            Number::VP_WR => self.vp_wr(call),
            Number::MEM_RD | Number::MEM_WR => self.mem_rd_wr(call, leaf == Number::MEM_WR),
            Number::MEM_SEPT_RD => self.mem_sept_rd(call),
            Number::SYS_RDALL => self.sys_rdall(call),
            Number::MEM_SEPT_WR => operand(StatusCode::OPERAND_INVALID, Operand::RAX),
            _ if of_migration_or_service_tds(leaf).is_some() => self.other_leaf(call),
            _ => operand(StatusCode::OPERAND_INVALID, Operand::RAX),
        }
    }
}

fn runs_before_ready(leaf: Number) -> bool {
    matches!(
        leaf,
        Number::SYS_INFO
            | Number::SYS_RD
            | Number::SYS_RDALL
            | Number::SYS_INIT
            | Number::SYS_LP_INIT
            | Number::SYS_CONFIG
            | Number::SYS_KEY_CONFIG
            | Number::SYS_UPDATE
    )
}

/// The register that names the TDR, for leaves on migration and service TDs.
fn of_migration_or_service_tds(leaf: Number) -> Option<Operand> {
    Some(match leaf.0 {
        48 | 49 | 64 | 70..=74 | 80..=82 | 84..=87 => Operand::RCX,
        65 | 66 | 68 | 75 | 83 | 96 => Operand::RDX,
        _ => return None,
    })
}

impl Module {
    /// Leaves on migration and service TDs look for the TDR first. What follows is not modeled.
    fn other_leaf(&mut self, call: &mut Call) -> Leaf {
        let leaf = call.input.leaf_call().leaf();
        let name = of_migration_or_service_tds(leaf).unwrap_or(Operand::RCX);
        let address = if name == Operand::RCX { call.input.rcx } else { call.input.rdx };
        let out = call.out;
        self.find_tdr(call, address, name, crate::LockMode::Shared)?;
        call.out = out;
        Err(Stop::Refused(Refusal::LeafNotModeled { leaf }))
    }
}
