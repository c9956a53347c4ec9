//! VM exits of a TD guest: what the module hands to the host, and where it goes back into the
//! guest. Of debug TDs, and of L2 VMs, no exit is modeled.

use tdx_abi::{Registers, Status, StatusCode};

use super::Module;
use super::running::Running;
use super::sept::{Entry, GuestPage, State};
use super::vcpu_state::{VcpuState, VeInfo};
use crate::hardware::Hardware;
use crate::{CpuId, Refusal};

/// A VM exit of the guest on a CPU: the VMCS fields of the exit, and the guest's registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TdExit {
    /// Exit reason, all 32 bits of the field.
    pub reason: u64,
    /// Exit qualification.
    pub qualification: u64,
    /// Guest linear address.
    pub guest_linear: u64,
    /// Guest physical address.
    pub guest_physical: u64,
    /// VM-exit interruption information.
    pub interruption: u64,
    /// IDT-vectoring information.
    pub idt_vectoring: u64,
    /// VM-exit instruction length, bytes.
    pub instruction_length: u64,
    /// A virtual interrupt is pending in the guest's virtual APIC (RVI and VPPR): what the host
    /// reads of it (VCPU_STATE_DETAILS) once the VCPU is outside.
    pub interrupt_pending: bool,
    /// The guest's registers.
    pub guest: Registers,
}

/// Where an exit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AfterExit {
    /// VP.ENTER returns to the host with these registers.
    Host(Registers),
    /// The module handled the exit and went back into the guest.
    Guest {
        /// The VM; 0 is L1.
        vm: u8,
        /// The guest's registers.
        registers: Registers,
        /// What the module injects.
        event: Option<GuestEvent>,
    },
}

/// An exception that the module injects into a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestEvent {
    /// #VE. TDG.VP.VEINFO.GET says why.
    VirtualizationException,
    /// #DF: another #VE, and the guest has not asked for the cause of the one before. Source: the
    /// module's public source; not observed.
    DoubleFault,
    /// #UD. Of the instructions that never exit to the host, a few raise #GP instead: which ones is
    /// not modeled.
    InvalidOpcode,
}

/// Bit 31 of the exit reason: VM entry failed.
const ENTRY_FAILED: u64 = 1 << 31;
/// Basic exit reasons, by their number in the SDM.
mod reason {
    pub(super) const EXCEPTION_OR_NMI: u64 = 0;
    pub(super) const INTERRUPT: u64 = 1;
    pub(super) const TRIPLE_FAULT: u64 = 2;
    pub(super) const INIT: u64 = 3;
    pub(super) const OTHER_SMI: u64 = 6;
    pub(super) const NMI_WINDOW: u64 = 8;
    pub(super) const TASK_SWITCH: u64 = 9;
    pub(super) const CPUID: u64 = 10;
    pub(super) const RDPMC: u64 = 15;
    pub(super) const CR_ACCESS: u64 = 28;
    pub(super) const RDMSR: u64 = 31;
    pub(super) const WRMSR: u64 = 32;
    pub(super) const C_STATE_SMI: u64 = 42;
    pub(super) const EPT_VIOLATION: u64 = 48;
    pub(super) const EPT_MISCONFIGURATION: u64 = 49;
    pub(super) const XSETBV: u64 = 55;
    pub(super) const BUS_LOCK: u64 = 74;
    pub(super) const NOTIFICATION: u64 = 75;
    pub(super) const TDCALL: u64 = 77;
    /// The guest gets #VE: I/O, HLT, INVD, VMCALL, WBINVD, APIC write, PCONFIG.
    pub(super) const VIRTUALIZATION_EXCEPTION: &[u64] = &[12, 13, 18, 30, 54, 56, 65];
    /// The guest gets #UD or #GP: GETSEC, RSM, VMX instructions, INVEPT, INVVPID, VMFUNC, ENCLS,
    /// ENCLV, ENQCMD, SEAMCALL, MWAIT, MONITOR.
    pub(super) const INVALID_OPCODE: &[u64] =
        &[11, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 50, 53, 59, 60, 70, 72, 73, 76, 36, 39];
}
/// Bit of ATTRIBUTES.
const PERFMON: u64 = 1 << 63;
/// Bits of an interruption information field.
const TYPE_NMI: u64 = 2;
const VECTOR_MC: u64 = 18;
/// Bits of an EPT violation's qualification that the host does not get: 12 to 7.
const HIDDEN_QUALIFICATION: u64 = 0b11_1111 << 7;
const GPA_OFFSET: u64 = 0xfff;
/// Extended exit qualification: its type, and what ACCEPT found in bits 63:32.
const ACCEPT: u64 = 1;
const PENDING_EPT_VIOLATION: u64 = 6;
/// The exit reason of an EPT violation.
pub(super) const EPT_VIOLATION: u64 = reason::EPT_VIOLATION;

/// Registers of an exit to the host; the others are 0.
fn to_host(status: Status, exit: &TdExit) -> Registers {
    Registers {
        rax: status.raw() | exit.reason,
        rcx: exit.qualification,
        r9: exit.interruption,
        ..Registers::default()
    }
}

impl Module {
    /// The guest on this CPU exits.
    pub(crate) fn td_exit(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        exit: TdExit,
        interrupt: bool,
    ) -> Result<AfterExit, Refusal> {
        let running = self.running(cpu)?;
        self.note_interrupt(running, &exit);
        let not_modeled = Refusal::ExitNotModeled { reason: exit.reason };
        let plain = TdExit { interruption: 0, ..exit };
        if exit.reason & ENTRY_FAILED != 0 {
            return self.exit_fatal(hardware, cpu, StatusCode::NON_RECOVERABLE_TD, &TdExit { interruption: 0, ..exit });
        }
        match exit.reason & 0xffff {
            reason::INTERRUPT | reason::C_STATE_SMI => self.exit(hardware, cpu, to_host(Status::SUCCESS, &exit)),
            reason::EXCEPTION_OR_NMI if exit.interruption >> 8 & 0b111 == TYPE_NMI => {
                self.exit(hardware, cpu, to_host(Status::SUCCESS, &exit))
            }
            reason::EXCEPTION_OR_NMI if exit.interruption & 0xff == VECTOR_MC => {
                self.exit_fatal(hardware, cpu, StatusCode::NON_RECOVERABLE_TD_NON_ACCESSIBLE, &exit)
            }
            reason::INIT | reason::TASK_SWITCH | reason::BUS_LOCK => {
                self.exit(hardware, cpu, to_host(Status::SUCCESS, &plain))
            }
            reason::NOTIFICATION if exit.qualification & 1 == 0 => {
                self.exit(hardware, cpu, to_host(Status::SUCCESS, &plain))
            }
            reason::OTHER_SMI if exit.qualification & 1 == 0 => {
                self.exit(hardware, cpu, to_host(Status::SUCCESS, &exit))
            }
            reason::OTHER_SMI => self.exit_fatal(hardware, cpu, StatusCode::NON_RECOVERABLE_TD_NON_ACCESSIBLE, &exit),
            reason::TRIPLE_FAULT => {
                let answer = to_host(StatusCode::NON_RECOVERABLE_VCPU.with(0), &plain);
                self.save_guest(hardware, cpu, running);
                self.leave_guest(cpu, VcpuState::Disabled);
                hardware.set_in_guest(cpu, false);
                Ok(AfterExit::Host(answer))
            }
            reason::EPT_VIOLATION => self.ept_violation(hardware, cpu, running, &exit),
            reason::EPT_MISCONFIGURATION => {
                let answer =
                    Registers { rax: exit.reason, r8: exit.guest_physical & !GPA_OFFSET, ..Registers::default() };
                self.exit(hardware, cpu, answer)
            }
            reason::TDCALL => self.tdcall(hardware, cpu, running, &exit, interrupt),
            // #GP, or a new XCR0: neither is modeled. After an NMI window nothing is injected.
            reason::XSETBV | reason::NMI_WINDOW => Ok(resume(exit.guest)),
            // #GP, which is not modeled, in a TD without PERFMON.
            reason::RDPMC if self.td(running.tdr).is_ok_and(|td| td.attributes & PERFMON == 0) => {
                Ok(resume(exit.guest))
            }
            // Any other exception is a bug of the module, which then shuts itself down.
            reason::EXCEPTION_OR_NMI
            | reason::CPUID
            | reason::RDPMC
            | reason::CR_ACCESS
            | reason::RDMSR
            | reason::WRMSR => Err(not_modeled),
            other if reason::INVALID_OPCODE.contains(&other) => Ok(inject(exit.guest, GuestEvent::InvalidOpcode)),
            other if reason::VIRTUALIZATION_EXCEPTION.contains(&other) => {
                Ok(self.virtualization_exception(running, &exit))
            }
            _ => self.exit_fatal(hardware, cpu, StatusCode::NON_RECOVERABLE_TD, &plain),
        }
    }

    /// Keeps what the virtual APIC says, which is part of TDVPS.
    fn note_interrupt(&mut self, running: Running, exit: &TdExit) {
        if let Ok(vcpu) = self.vcpu_mut(running.tdr, running.tdvpr) {
            vcpu.interrupt_pending = exit.interrupt_pending;
        }
    }

    /// VP.ENTER returns to the host; the VCPU can be entered again.
    pub(super) fn exit(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        answer: Registers,
    ) -> Result<AfterExit, Refusal> {
        let running = self.running(cpu)?;
        let saved = self.save_guest(hardware, cpu, running);
        self.leave_guest(cpu, VcpuState::Ready);
        hardware.set_in_guest(cpu, false);
        Ok(AfterExit::Host(if saved { answer } else { Registers { rax: Status::VMFAIL_INVALID.raw(), ..answer } }))
    }

    /// VP.ENTER returns to the host; the TD is fatal.
    pub(super) fn exit_fatal(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        code: StatusCode,
        exit: &TdExit,
    ) -> Result<AfterExit, Refusal> {
        let running = self.running(cpu)?;
        let _ = self.make_fatal(running.tdr);
        // The state of the VCPU stays as it was before it entered.
        self.leave_guest(cpu, VcpuState::Ready);
        hardware.set_in_guest(cpu, false);
        Ok(AfterExit::Host(to_host(code.with(0), exit)))
    }

    /// The guest's state is stored to TDVPS and TDCS. False: they are poisoned, and the module
    /// died.
    fn save_guest(&mut self, hardware: &mut Hardware, cpu: CpuId, running: Running) -> bool {
        let saved = self.store_guest_state(hardware, cpu, running).is_ok();
        if !saved {
            self.die();
        }
        saved
    }

    /// #VE for this exit, or #DF if the guest has not asked for the cause of the last one.
    fn virtualization_exception(&mut self, running: Running, exit: &TdExit) -> AfterExit {
        let Ok(vcpu) = self.vcpu_mut(running.tdr, running.tdvpr) else { return resume(exit.guest) };
        if vcpu.ve_info.is_some() {
            return inject(exit.guest, GuestEvent::DoubleFault);
        }
        vcpu.ve_info = Some(VeInfo {
            reason: exit.reason,
            qualification: exit.qualification,
            guest_linear: exit.guest_linear,
            guest_physical: exit.guest_physical,
            instruction_length: exit.instruction_length,
        });
        inject(exit.guest, GuestEvent::VirtualizationException)
    }

    pub(crate) fn guest_virtualization_exception(&mut self, cpu: CpuId, exit: TdExit) -> Result<AfterExit, Refusal> {
        let running = self.running(cpu)?;
        Ok(self.virtualization_exception(running, &exit))
    }

    /// The CPU turns an EPT violation of the guest on it into #VE, as the entry of the shared EPT
    /// asks for. It remains an exit as long as the cause of the last #VE has not been read.
    pub(crate) fn convertible_ept_violation(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        exit: TdExit,
    ) -> Result<AfterExit, Refusal> {
        let running = self.running(cpu)?;
        let exit = TdExit { reason: reason::EPT_VIOLATION, ..exit };
        self.note_interrupt(running, &exit);
        match self.vcpu_mut(running.tdr, running.tdvpr) {
            Ok(vcpu) if vcpu.ve_info.is_none() => Ok(self.virtualization_exception(running, &exit)),
            _ => self.ept_violation(hardware, cpu, running, &exit),
        }
    }

    pub(super) fn ept_violation(
        &mut self,
        hardware: &mut Hardware,
        cpu: CpuId,
        running: Running,
        exit: &TdExit,
    ) -> Result<AfterExit, Refusal> {
        let mut extended = 0;
        if let Ok(td) = self.td(running.tdr)
            && exit.guest_physical & td.shared_gpa() == 0
        {
            let guest = GuestPage { level: 0, number: exit.guest_physical >> 12 };
            let pending = self.sept_find(running.tdr, guest).is_ok_and(|(_, entry)| entry.state == State::Pending);
            if pending && !td.sept_ve_disable() {
                return Ok(self.virtualization_exception(running, exit));
            }
            extended = if pending { PENDING_EPT_VIOLATION } else { 0 };
        }
        let answer = Registers {
            rax: exit.reason,
            rcx: exit.qualification & !HIDDEN_QUALIFICATION,
            rdx: extended,
            r8: exit.guest_physical & !GPA_OFFSET,
            ..Registers::default()
        };
        self.exit(hardware, cpu, answer)
    }
}

pub(super) fn resume(registers: Registers) -> AfterExit {
    AfterExit::Guest { vm: 0, registers, event: None }
}

fn inject(registers: Registers, event: GuestEvent) -> AfterExit {
    AfterExit::Guest { vm: 0, registers, event: Some(event) }
}

/// RDX of an exit that ACCEPT makes: level asked for, level found, state found, leaf.
pub(super) fn accept_qualification(asked: u64, level: u64, entry: Entry) -> u64 {
    let leaf = u64::from(entry.state.is_leaf());
    ACCEPT | (asked | level << 3 | (entry.state.code() & 0x7f) << 6 | leaf << 14) << 32
}
