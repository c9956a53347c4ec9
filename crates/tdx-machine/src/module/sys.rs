//! The global state machine: SYS.INIT, SYS.LP.INIT, SYS.KEY.CONFIG, SYS.SHUTDOWN, SYS.UPDATE.

use tdx_abi::{CmrInfo, Operand, PAGE_SIZE, PhysAddr, Status, StatusCode};

use super::call::{Call, Leaf, Stop, operand};
use super::locks::LockId;
use super::vp_enter::TSC_ADJUST;
use super::{Module, SysState};
use crate::LockMode;

/// Bit of RCX of SYS.SHUTDOWN.
const AVOID_COMPAT_SENSITIVE: u64 = 1 << 16;

impl Module {
    pub(super) fn sys_init(&mut self, call: &mut Call) -> Leaf {
        call.out.rcx = 0;
        call.out.rdx = 0;
        call.out.r8 = 0;
        call.out.r9 = 0;
        call.out.r10 = 0;
        if call.version() > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        self.lock_sys(LockMode::Exclusive)?;
        if call.input.rcx != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        if self.state != SysState::InitPending {
            return Err(StatusCode::SYS_INIT_NOT_PENDING.into());
        }
        check_platform(call)?;
        if !cmrs_are_valid(call, &call.hardware.config.cmrs) {
            return Err(StatusCode::CMR_LIST_INVALID.into());
        }
        if call.conditions.no_entropy {
            return Err(StatusCode::RND_NO_ENTROPY.into());
        }
        if call.version() == 1 && !is_fatal_info_valid(call, call.input.r8) {
            return operand(StatusCode::OPERAND_INVALID, Operand::R8);
        }
        self.tsc_adjust = call.hardware.unusual_msr(call.cpu, TSC_ADJUST).unwrap_or(0);
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
        if call.conditions.no_entropy && self.traits.lp_init_needs_entropy {
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

    /// RCX: handoff version in bits 15:0; bit 16 asks for a refusal while a TD is being built.
    pub(super) fn sys_shutdown(&mut self, call: &mut Call) -> Leaf {
        let flags = if self.traits.handoff_versions.contains(&0) { 0 } else { AVOID_COMPAT_SENSITIVE };
        let handoff = call.input.rcx & !flags;
        if !self.traits.handoff_versions.contains(&handoff) {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        self.lock_sys(LockMode::Exclusive)?;
        if self.is_another_inside(call.cpu) {
            return Err(StatusCode::SYS_BUSY.into());
        }
        let building = self.tds.values().filter(|td| td.is_being_built()).count() as u32;
        if call.input.rcx & flags != 0 && building != 0 {
            return Err(StatusCode::UPDATE_COMPATIBILITY_SENSITIVE.with(building << 16).into());
        }
        self.state = SysState::Shutdown;
        Ok(Status::SUCCESS)
    }

    /// Takes over what the earlier module left when it was shut down.
    pub(super) fn sys_update(&mut self, call: &Call) -> Leaf {
        if call.version() > 1 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RAX);
        }
        self.lock_sys(LockMode::Exclusive)?;
        if self.state != SysState::InitDone || self.lp_init_done.contains(&false) {
            return Err(StatusCode::SYS_STATE_INCORRECT.into());
        }
        match self.handoff.take() {
            Some(old) => {
                self.take_over(*old);
                Ok(Status::SUCCESS)
            }
            None => Err(StatusCode::SYS_INVALID_HANDOFF.into()),
        }
    }

    pub(super) fn lock_sys(&mut self, mode: LockMode) -> Result<(), Stop> {
        self.locks.acquire(LockId::Sys, mode).map_err(|_| StatusCode::SYS_BUSY.into())
    }
}

/// Answer of SYS.INIT if an MSR is not fit for TDX, in the order in which it looks. Which values
/// are fit is not modeled: an MSR that the machine's configuration names is not.
const PLATFORM: &[(u32, StatusCode)] = &[
    (0x982, StatusCode::INCORRECT_MSR_VALUE), // IA32_TME_ACTIVATE
    (0x981, StatusCode::INCORRECT_MSR_VALUE), // IA32_TME_CAPABILITY
    (0xbd, StatusCode::INCORRECT_MSR_VALUE),  // IA32_XAPIC_DISABLE_STATUS
    (0xbc, StatusCode::INCORRECT_MSR_VALUE),  // IA32_MISC_PACKAGE_CTLS
    (0x1a0, StatusCode::INCORRECT_MSR_VALUE), // IA32_MISC_ENABLE
    (0x99, StatusCode::INCORRECT_MSR_VALUE),  // MSR_WBNOINVDP
    (0x10a, StatusCode::INCORRECT_MSR_VALUE), // IA32_ARCH_CAPABILITIES
    (0x480, StatusCode::INCORRECT_MSR_VALUE), // IA32_VMX_BASIC
    (0x48c, StatusCode::INCORRECT_MSR_VALUE), // IA32_VMX_EPT_VPID_CAP
];
/// MTRRCAP without SMRR; SMRR_PHYS_MASK without the lock.
const SMRR: &[(u32, StatusCode)] = &[(0xfe, StatusCode::SMRR_NOT_SUPPORTED), (0x1f3, StatusCode::SMRR_NOT_LOCKED)];
const KEYID_PARTITIONING: u32 = 0x87;
/// Fewest KeyIDs that are too many.
const TOO_MANY_KEYIDS: u64 = 2048;

fn check_platform(call: &Call) -> Result<(), Stop> {
    let unusual = |msr: u32| call.hardware.unusual_msr(call.cpu, msr);
    if let Some(partition) = unusual(KEYID_PARTITIONING) {
        let keys = (partition & 0xffff_ffff) + (partition >> 32);
        if keys >= TOO_MANY_KEYIDS {
            return Err(StatusCode::NUM_ACTIVATED_HKIDS_NOT_SUPPORTED.with(keys as u32).into());
        }
    }
    if let Some((msr, code)) = PLATFORM.iter().find(|(msr, _)| unusual(*msr).is_some()) {
        return Err(code.with(*msr).into());
    }
    match SMRR.iter().find(|(msr, _)| unusual(*msr).is_some()) {
        Some((_, code)) => Err((*code).into()),
        None => Ok(()),
    }
}

/// R8 of SYS.INIT version 1: where information on a fatal error goes, and what notifies of it.
fn is_fatal_info_valid(call: &Call, register: u64) -> bool {
    const LINE_ADDRESS: u64 = ((1 << 52) - 1) & !0x3f;
    let (address, notify, vector) = (register & LINE_ADDRESS, register >> 54 & 0b11, register >> 56);
    let no_logging = address == LINE_ADDRESS;
    register & (0x3f | 0b11 << 52) == 0
        && (no_logging || call.is_shared_buffer(PhysAddr::new(address), 64, 64))
        && (notify != 1 || vector >= 16)
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
