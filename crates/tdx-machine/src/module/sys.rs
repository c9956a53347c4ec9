//! The global state machine: SYS.INIT, SYS.LP.INIT, SYS.KEY.CONFIG, SYS.SHUTDOWN, SYS.UPDATE.

use tdx_abi::{CmrInfo, Operand, PAGE_SIZE, PhysAddr, Status, StatusCode};

use super::call::{Call, Leaf, Stop, operand};
use super::locks::LockId;
use super::{Module, SysState};
use crate::LockMode;

impl Module {
    pub(super) fn sys_init(&mut self, call: &mut Call) -> Leaf {
        call.out.rcx = 0;
        call.out.rdx = 0;
        call.out.r8 = 0;
        call.out.r9 = 0;
        call.out.r10 = 0;
        self.lock_sys(LockMode::Exclusive)?;
        if call.input.rcx != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        if self.state != SysState::InitPending {
            return Err(StatusCode::SYS_INIT_NOT_PENDING.into());
        }
        if !cmrs_are_valid(call, &call.hardware.config.cmrs) {
            return Err(StatusCode::CMR_LIST_INVALID.into());
        }
        if call.conditions.no_entropy {
            return Err(StatusCode::RND_NO_ENTROPY.into());
        }
        self.state = SysState::InitDone;
        Ok(Status::SUCCESS)
    }

    pub(super) fn sys_lp_init(&mut self, call: &mut Call) -> Leaf {
        call.out.rcx = 0;
        call.out.rdx = 0;
        call.out.r8 = 0;
        self.lock_sys(LockMode::Shared)?;
        if self.state != SysState::InitDone {
            return Err(StatusCode::SYS_LP_INIT_NOT_PENDING.into());
        }
        let Some(done) = self.lp_init_done.get_mut(call.cpu.index()) else {
            return Err(StatusCode::SYS_LP_INIT_NOT_PENDING.into());
        };
        if *done {
            return Err(StatusCode::SYS_LP_INIT_DONE.into());
        }
        if call.conditions.no_entropy {
            return Err(StatusCode::RND_NO_ENTROPY.into());
        }
        *done = true;
        Ok(Status::SUCCESS)
    }

    pub(super) fn sys_key_config(&mut self, call: &mut Call) -> Leaf {
        self.lock_sys(LockMode::Exclusive)?;
        if self.state != SysState::ConfigDone {
            return Err(StatusCode::SYS_KEY_CONFIG_NOT_PENDING.into());
        }
        let package = 1 << call.package().0;
        if self.packages_with_key & package != 0 {
            return Ok(StatusCode::KEY_CONFIGURED.with(0));
        }
        program_key(call)?;
        self.packages_with_key |= package;
        if self.packages_with_key == self.all_packages {
            self.state = SysState::Ready;
        }
        Ok(Status::SUCCESS)
    }

    pub(super) fn sys_shutdown(&mut self, call: &mut Call) -> Leaf {
        self.lock_sys(LockMode::Exclusive)?;
        // The only handoff version of this module is 0.
        if call.input.rcx != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        self.state = SysState::Shutdown;
        Ok(Status::SUCCESS)
    }

    pub(super) fn sys_update(&mut self) -> Leaf {
        self.lock_sys(LockMode::Exclusive)?;
        if self.state != SysState::InitDone || self.lp_init_done.contains(&false) {
            return Err(StatusCode::SYS_STATE_INCORRECT.into());
        }
        // There never was an earlier module to hand anything over.
        Err(StatusCode::SYS_INVALID_HANDOFF.into())
    }

    pub(super) fn lock_sys(&mut self, mode: LockMode) -> Result<(), Stop> {
        self.locks.acquire(LockId::Sys, mode).map_err(|_| StatusCode::SYS_BUSY.into())
    }
}

/// PCONFIG with a random key on this package.
pub(super) fn program_key(call: &Call) -> Result<(), Stop> {
    if call.conditions.key_engine_busy {
        return operand(StatusCode::OPERAND_BUSY, Operand::KET);
    }
    if call.conditions.key_engine_no_entropy {
        return Err(StatusCode::KEY_GENERATION_FAILED.into());
    }
    Ok(())
}

/// 4 KiB granular, ascending, not overlapping, without KeyID bits; unused entries anywhere.
fn cmrs_are_valid(call: &Call, cmrs: &[CmrInfo]) -> bool {
    let mut previous_end = 0;
    cmrs.iter().filter(|cmr| cmr.size != 0).all(|cmr| {
        let Some(end) = cmr.base.checked_add(cmr.size) else { return false };
        let ordered = cmr.base >= previous_end;
        previous_end = end;
        let aligned = cmr.base.is_multiple_of(PAGE_SIZE) && cmr.size.is_multiple_of(PAGE_SIZE);
        ordered && aligned && call.is_plain(PhysAddr::new(cmr.base)) && call.is_plain(PhysAddr::new(end - 1))
    })
}
