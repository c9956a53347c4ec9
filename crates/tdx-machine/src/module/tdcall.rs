//! TDCALL: what a guest asks the module for.

use tdx_abi::{FieldId, Operand, PAGE_SIZE, Registers, Status, StatusCode};

use super::Module;
use super::accept::Accepted;
use super::call::Stop;
use super::exit::{AfterExit, EPT_VIOLATION, TdExit, accept_qualification, resume};
use super::metadata::VcpuField;
use super::running::Running;
use super::sept::GuestPage;
use super::vcpu_state::VeInfo;
use crate::hardware::Hardware;
use crate::{CpuId, Refusal};

/// The exit reason, which VP.ENTER gives after VMCALL.
const TDCALL: u64 = 77;
/// The guest makes a read, a write.
const DATA_READ: u64 = 1 << 0;
const DATA_WRITE: u64 = 1 << 1;
const GPA_OFFSET: u64 = 0xfff;
/// TDCALL leaves that the module has. Those without an arm in [`Module::tdcall`] are not modeled.
const TDCALLS: &[u64] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18, 20, 22, 23, 24, 25, 26, 27];
const VP_VMCALL: u64 = 0;
const VP_INFO: u64 = 1;
const MR_RTMR_EXTEND: u64 = 2;
const VP_VEINFO_GET: u64 = 3;
const MR_REPORT: u64 = 4;
const VP_CPUIDVE_SET: u64 = 5;
const MEM_PAGE_ACCEPT: u64 = 6;
const VM_RD: u64 = 7;
const VM_WR: u64 = 8;
const VP_RD: u64 = 9;
const VP_WR: u64 = 10;
const SYS_RD: u64 = 11;
const SYS_RDALL: u64 = 12;
const SERVTD_RD: u64 = 18;
const SERVTD_WR: u64 = 20;
const VP_ENTER: u64 = 25;
const VP_INVEPT: u64 = 26;
const VP_INVGLA: u64 = 27;
/// Bytes of the structure with the registers of an L2 VM.
const L2_REGISTERS: u64 = 256;
/// Runtime measurement registers.
const RTMRS: u64 = 4;

impl Module {
    /// The guest on this CPU executed TDCALL.
    pub(super) fn tdcall(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        running: Running,
        exit: &TdExit,
        interrupt: bool,
    ) -> Result<AfterExit, Refusal> {
        let mut guest = exit.guest;
        let (leaf, version) = (guest.rax & 0xffff, guest.rax >> 16 & 0xff);
        let status = |status: Status| Ok(resume(Registers { rax: status.raw(), ..guest }));
        let versioned = matches!(leaf, VP_VEINFO_GET | VM_RD);
        if guest.rax >> 24 != 0 || (version > 0 && !versioned) || !TDCALLS.contains(&leaf) {
            return status(StatusCode::OPERAND_INVALID.operand(Operand::RAX));
        }
        let not_modeled = Refusal::TdcallNotModeled { leaf };
        match leaf {
            VP_VMCALL => match self.vmcall(running, guest) {
                Some(answer) => self.exit(hardware, cpu, answer),
                None => status(StatusCode::OPERAND_INVALID.operand(Operand::RCX)),
            },
            VP_INFO => Ok(resume(self.vp_info(running, guest))),
            MR_RTMR_EXTEND => self.rtmr_extend(hardware, cpu, running, guest),
            VP_VEINFO_GET => match self.vcpu_mut(running.tdr, running.tdvpr) {
                Ok(vcpu) if vcpu.ve_info.is_none() => {
                    (guest.rcx, guest.rdx, guest.r8, guest.r9, guest.r10) = (0, 0, 0, 0, 0);
                    Ok(resume(Registers { rax: StatusCode::NO_VALID_VE_INFO.with(0).raw(), ..guest }))
                }
                Ok(vcpu) if version == 0 => Ok(resume(ve_info(vcpu.ve_info.take().as_ref(), guest))),
                _ => Err(not_modeled),
            },
            MR_REPORT => {
                let mapped = |gpa: u64| self.is_accessible(running, gpa);
                let aligned = guest.rcx.is_multiple_of(1024) && guest.rdx.is_multiple_of(64);
                if guest.r8 == 0 && aligned && mapped(guest.rcx) && mapped(guest.rdx) {
                    return status(Status::SUCCESS);
                }
                Err(not_modeled)
            }
            VP_CPUIDVE_SET => status(self.cpuid_ve_set(running, guest.rcx)),
            MEM_PAGE_ACCEPT => match self.accept(hardware, cpu, running, guest.rcx, interrupt) {
                Accepted::Status(answer) => status(answer),
                Accepted::Interrupted => Ok(resume(guest)),
                Accepted::Violation(level, entry) => {
                    let answer = Registers {
                        rax: EPT_VIOLATION,
                        rcx: DATA_WRITE,
                        rdx: accept_qualification(guest.rcx & 0b111, level, entry),
                        r8: guest.rcx & !GPA_OFFSET,
                        ..Registers::default()
                    };
                    self.exit(hardware, cpu, answer)
                }
                Accepted::MachineCheck(_) => {
                    self.exit_fatal(hardware, cpu, StatusCode::NON_RECOVERABLE_TD_NON_ACCESSIBLE, exit)
                }
            },
            VM_RD | VM_WR => {
                let done = self.guest_vm_rd_wr(hardware, running, version, leaf == VM_WR, &mut guest);
                metadata(done, guest, not_modeled)
            }
            VP_RD | VP_WR => {
                let done = self.guest_vp_rd_wr(hardware, running, leaf == VP_WR, &mut guest);
                metadata(done, guest, not_modeled)
            }
            SYS_RD => {
                let done = self.guest_sys_rd(&hardware.config, &mut guest);
                metadata(done, guest, not_modeled)
            }
            // Without a page that is aligned; the list itself is not modeled.
            SYS_RDALL if !guest.rdx.is_multiple_of(PAGE_SIZE) => {
                guest.r8 = FieldId::NONE.0;
                Ok(resume(Registers { rax: StatusCode::OPERAND_INVALID.operand(Operand::RDX).raw(), ..guest }))
            }
            // No service TD is bound.
            SERVTD_RD | SERVTD_WR => {
                guest.rdx = if leaf == SERVTD_RD { FieldId::NONE.0 } else { guest.rdx };
                guest.r8 = 0;
                Ok(resume(Registers { rax: StatusCode::OPERAND_INVALID.operand(Operand::RCX).raw(), ..guest }))
            }
            VP_ENTER | VP_INVEPT | VP_INVGLA => match self.check_l2_call(running, leaf, guest) {
                Ok(answer) => status(answer),
                Err(()) => Err(not_modeled),
            },
            _ => Err(not_modeled),
        }
    }

    /// TDG.VP.ENTER, INVEPT and INVGLA of an L2 VM, as far as no L2 VM runs and none has a page.
    /// Source: `neighbors.jsonl.gz`.
    fn check_l2_call(&self, running: Running, leaf: u64, guest: Registers) -> Result<Status, ()> {
        let td = self.td(running.tdr).map_err(|_| ())?;
        let invalid = |name: Operand| Ok(StatusCode::OPERAND_INVALID.operand(name));
        let (shared, l2_vms) = (td.shared_gpa(), u64::from(td.l2_vms));
        let page = GuestPage { level: 0, number: guest.rdx >> 12 };
        if leaf == VP_ENTER && (!guest.rdx.is_multiple_of(L2_REGISTERS) || page.check_private(shared).is_err()) {
            return invalid(Operand::RDX);
        }
        if leaf == VP_INVEPT {
            // A mask of VMs without L1.
            let mask = guest.rcx;
            return if mask & 1 != 0 || mask >> (l2_vms + 1) != 0 {
                invalid(Operand::RCX)
            } else {
                Ok(Status::SUCCESS)
            };
        }
        let vm = guest.rcx >> 52 & 0b11;
        let flags = if leaf == VP_ENTER { 0b11 } else { 0b01 };
        if vm == 0 || vm > l2_vms || guest.rcx & !(0b11 << 52 | flags) != 0 {
            return invalid(Operand::RCX);
        }
        Err(())
    }

    /// TDG.VP.INFO: what the TD is.
    fn vp_info(&self, running: Running, guest: Registers) -> Registers {
        let Ok(td) = self.td(running.tdr) else { return guest };
        let index = td.vcpus.get(&running.tdvpr).map_or(0, |vcpu| vcpu.index);
        Registers {
            rax: Status::SUCCESS.raw(),
            // Width of guest addresses: up to the shared bit.
            rcx: u64::from(td.shared_gpa().trailing_zeros()) + 1,
            rdx: td.attributes,
            r8: u64::from(td.vcpu_count) | u64::from(td.max_vcpus) << 32,
            r9: u64::from(index),
            // TDG.SYS.RD is there.
            r10: 1,
            r11: 0,
            ..guest
        }
    }

    /// TDG.MR.RTMR.EXTEND: 64 bytes at RCX into the register RDX, which has no value here.
    fn rtmr_extend(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        running: Running,
        guest: Registers,
    ) -> Result<AfterExit, Refusal> {
        let status = |status: Status| Ok(resume(Registers { rax: status.raw(), ..guest }));
        let page = GuestPage { level: 0, number: guest.rcx >> 12 };
        let private = self.td(running.tdr).is_ok_and(|td| page.check_private(td.shared_gpa()).is_ok());
        if !guest.rcx.is_multiple_of(64) || !private {
            return status(StatusCode::OPERAND_INVALID.operand(Operand::RCX));
        }
        if !self.is_accessible(running, guest.rcx) {
            let exit = TdExit {
                reason: EPT_VIOLATION,
                qualification: DATA_READ,
                guest_physical: guest.rcx,
                guest,
                ..TdExit::default()
            };
            return self.ept_violation(hardware, cpu, running, &exit);
        }
        if guest.rdx >= RTMRS {
            return status(StatusCode::OPERAND_INVALID.operand(Operand::RDX));
        }
        status(Status::SUCCESS)
    }

    /// TDG.VP.CPUIDVE.SET: whether CPUID is #VE for the guest's kernel (bit 0) and its programs.
    fn cpuid_ve_set(&mut self, running: Running, control: u64) -> Status {
        if control >> 2 != 0 {
            return StatusCode::OPERAND_INVALID.operand(Operand::RCX);
        }
        if let Ok(vcpu) = self.vcpu_mut(running.tdr, running.tdvpr) {
            vcpu.written.insert(VcpuField::CpuidSupervisorVe.name(), control & 1);
            vcpu.written.insert(VcpuField::CpuidUserVe.name(), control >> 1);
        }
        Status::SUCCESS
    }

    /// Registers that TDG.VP.VMCALL hands to the host: those that RCX selects. `None`: RCX selects
    /// one that it must not.
    fn vmcall(&self, running: Running, guest: Registers) -> Option<Registers> {
        let keeps_rbp = self.td(running.tdr).is_ok_and(super::td::Td::keeps_rbp);
        let forbidden = 0b1_0011 | u64::from(keeps_rbp) << 5 | !0 << 32;
        if guest.rcx & forbidden != 0 {
            return None;
        }
        let selected = |number: u64, value: u64| if guest.rcx >> number & 1 == 1 { value } else { 0 };
        Some(Registers {
            rax: TDCALL,
            rcx: guest.rcx,
            rdx: selected(2, guest.rdx),
            r8: selected(8, guest.r8),
            r9: selected(9, guest.r9),
            r10: selected(10, guest.r10),
            r11: selected(11, guest.r11),
            r12: selected(12, guest.r12),
            r13: selected(13, guest.r13),
        })
    }
}

/// TDG.VP.VEINFO.GET, version 0. Bits 63:32 of R10, information on the instruction, are 0.
fn ve_info(info: Option<&VeInfo>, guest: Registers) -> Registers {
    let Some(info) = info else { return guest };
    Registers {
        rax: Status::SUCCESS.raw(),
        rcx: info.reason,
        rdx: info.qualification,
        r8: info.guest_linear,
        r9: info.guest_physical,
        r10: info.instruction_length,
        ..guest
    }
}

/// The end of a TDCALL on metadata: its status, with the outputs that it has set.
fn metadata(done: Result<Status, Stop>, guest: Registers, not_modeled: Refusal) -> Result<AfterExit, Refusal> {
    match done {
        Ok(status) | Err(Stop::Status(status)) => Ok(resume(Registers { rax: status.raw(), ..guest })),
        Err(Stop::Refused(refusal)) => Err(refusal),
        Err(Stop::MachineCheck(_)) => Err(not_modeled),
    }
}
