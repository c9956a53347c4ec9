//! VP.ENTER: the checks before the guest runs, and the locks that stay while it is inside.

use tdx_abi::{Operand, Page, PageSize, Status, StatusCode};

use super::Module;
use super::call::{Call, Leaf, operand};
use super::locks::LockId;
use super::pamt::PageType;
use super::running::Running;
use super::td::OpState;
use super::vcpu_state::VcpuState;
use crate::LockMode;

/// Bits of RCX beside the TDVPR that ask for something: only meaningful after certain exits.
const HINT_OR_RESUME_L1: u64 = 0b11 << 52;
/// IA32_TSC_ADJUST.
pub(super) const TSC_ADJUST: u32 = 0x3b;

impl Module {
    /// Success means that the CPU is inside; what the host reads after the exit is the answer of
    /// [`Self::td_exit`].
    pub(super) fn vp_enter(&mut self, call: &mut Call) -> Leaf {
        let flags = call.input.rcx & HINT_OR_RESUME_L1;
        let address = call.input.rcx & !HINT_OR_RESUME_L1;
        if address >> 52 != 0 || address & 0xfff != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        let tdvpr = self.find_page(call, address, Operand::RCX, LockMode::Shared, PageType::Tdvpr)?;
        let tdr = self.pamt.get(tdvpr, PageSize::Size4K).owner;
        self.lock_owner(call, tdr)?;
        self.enter_td(call, tdr, true, OpState::RUNNABLE)?;
        self.check_tdvps_size(tdr, tdvpr)?;
        self.associate(call.cpu, tdr, tdvpr, &[VcpuState::Ready])?;
        // No exit that either flag could follow is modeled.
        if flags != 0 {
            return operand(StatusCode::OPERAND_INVALID, Operand::RCX);
        }
        self.check_tsc_adjust(call)?;
        // The epoch is read and counted in under a shared lock.
        if self.locks.acquire(LockId::Epoch(tdr), LockMode::Shared).is_err() {
            return operand(StatusCode::OPERAND_BUSY, Operand::TD_EPOCH);
        }
        self.store_tdvps(call, tdr, tdvpr)?;
        self.store_tdcs(call, tdr)?;
        let epoch = self.td(tdr)?.epoch;
        let vcpu = self.vcpu_mut(tdr, tdvpr)?;
        (vcpu.state, vcpu.epoch) = (VcpuState::Active, epoch);
        for id in held_inside(tdr, tdvpr) {
            self.locks.hold(id, LockMode::Shared);
        }
        self.running.insert(call.cpu, Running { tdr, tdvpr, epoch });
        call.hardware.set_in_guest(call.cpu, true);
        Ok(Status::SUCCESS)
    }

    /// The VCPU is in one of these states, and this CPU holds its VMCS from here on. True if it did
    /// not before.
    pub(super) fn associate(
        &mut self,
        cpu: crate::CpuId,
        tdr: Page,
        tdvpr: Page,
        allowed: &[VcpuState],
    ) -> Result<bool, super::call::Stop> {
        let state = self.vcpu_mut(tdr, tdvpr)?.state;
        if !allowed.contains(&state) {
            return Err(self.vcpu_state_incorrect(state));
        }
        let td = self.td_mut(tdr)?;
        let Some(vcpu) = td.vcpus.get_mut(&tdvpr) else { return Err(super::vcpu::missing()) };
        match vcpu.associated {
            Some(other) if other != cpu => Err(StatusCode::VCPU_ASSOCIATED.into()),
            Some(_) => Ok(false),
            None => {
                vcpu.associated = Some(cpu);
                td.associated += 1;
                Ok(true)
            }
        }
    }

    /// No CPU holds the VMCS of this VCPU, which one did.
    pub(super) fn dissociate(&mut self, tdr: Page, tdvpr: Page) -> Result<(), super::call::Stop> {
        self.vcpu_mut(tdr, tdvpr)?.associated = None;
        let td = self.td_mut(tdr)?;
        td.associated = td.associated.saturating_sub(1);
        Ok(())
    }

    /// IA32_TSC_ADJUST must be what it was when SYS.INIT sampled it.
    pub(super) fn check_tsc_adjust(&self, call: &Call) -> Result<(), super::call::Stop> {
        if call.hardware.unusual_msr(call.cpu, TSC_ADJUST).unwrap_or(0) == self.tsc_adjust {
            return Ok(());
        }
        Err(StatusCode::INCONSISTENT_MSR.with(TSC_ADJUST).into())
    }

    /// The VCPU leaves the CPU: its locks are free, its state is as given.
    pub(super) fn leave_guest(&mut self, cpu: crate::CpuId, state: VcpuState) {
        let Some(running) = self.running.remove(&cpu) else { return };
        for id in held_inside(running.tdr, running.tdvpr) {
            self.locks.release(id, LockMode::Shared);
        }
        if let Ok(vcpu) = self.vcpu_mut(running.tdr, running.tdvpr) {
            vcpu.state = state;
        }
    }
}

/// Locks that are held shared while a VCPU is inside: the PAMT entry of TDR, and those that the
/// walk to TDVPR passed.
fn held_inside(tdr: Page, tdvpr: Page) -> [LockId; 4] {
    let entry = |page: Page, level: PageSize| LockId::Pamt(level, page.index() / level.pages());
    [
        entry(tdr, PageSize::Size4K),
        entry(tdvpr, PageSize::Size4K),
        entry(tdvpr, PageSize::Size2M),
        entry(tdvpr, PageSize::Size1G),
    ]
}
