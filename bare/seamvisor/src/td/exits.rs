//! VM exits of a TD: what they are for the emulated module, which hands them to the host or injects
//! something into the guest.

use metal::println;
use tdx_abi::{Registers, Status};
use tdx_machine::{AfterExit, CpuId, GuestEvent, Refusal, TdExit, VcpuOnCpu};

use super::msr::Done;
use super::vcpu::TdVcpu;
use super::{cpuid, io, msr, page_faults, tdcall};
use crate::tdx::Tdx;
use crate::vmcb::{self, exit};

/// Basic exit reasons of VMX.
pub mod reason {
    pub const EXCEPTION_OR_NMI: u64 = 0;
    pub const EXTERNAL_INTERRUPT: u64 = 1;
    pub const TRIPLE_FAULT: u64 = 2;
    pub const INIT: u64 = 3;
    pub const TASK_SWITCH: u64 = 9;
    pub const CPUID: u64 = 10;
    pub const HLT: u64 = 12;
    pub const INVD: u64 = 13;
    pub const VMCALL: u64 = 18;
    pub const IO: u64 = 30;
    pub const RDMSR: u64 = 31;
    pub const WRMSR: u64 = 32;
    pub const MWAIT: u64 = 36;
    pub const MONITOR: u64 = 39;
    pub const EPT_VIOLATION: u64 = 48;
    pub const EPT_MISCONFIGURATION: u64 = 49;
    pub const WBINVD: u64 = 54;
    pub const TDCALL: u64 = 77;
}

/// #DF and #VE.
const DOUBLE_FAULT: u8 = 8;
const VIRTUALIZATION_EXCEPTION: u8 = 20;
const UNDEFINED: u64 = exit::EXCEPTION + metal::interrupts::INVALID_OPCODE as u64;

/// What comes after an exit.
pub enum Next {
    /// The guest goes on.
    Resume,
    /// VP.ENTER returns. `vmcall`: the guest asked for it, with this RCX.
    Host { answer: Registers, vmcall: Option<u64> },
}

/// Registers of the guest that the module sees.
pub fn guest_registers(td: &TdVcpu) -> Registers {
    let it = &td.registers;
    Registers {
        rax: td.vmcb.rax,
        rcx: it.rcx,
        rdx: it.rdx,
        r8: it.r8,
        r9: it.r9,
        r10: it.r10,
        r11: it.r11,
        r12: it.r12,
        r13: it.r13,
    }
}

fn set_guest_registers(td: &mut TdVcpu, new: &Registers) {
    td.vmcb.rax = new.rax;
    let it = &mut td.registers;
    (it.rcx, it.rdx, it.r8, it.r9) = (new.rcx, new.rdx, new.r8, new.r9);
    (it.r10, it.r11, it.r12, it.r13) = (new.r10, new.r11, new.r12, new.r13);
}

/// Hands an exit to the module.
pub fn report(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, exit: TdExit) -> Next {
    let after = tdx.machine.td_exit(CpuId(cpu as u32), with_guest(td, exit));
    conclude(tdx, cpu, td, after)
}

/// The exit with the guest's registers, and the event whose delivery it has interrupted.
pub fn with_guest(td: &TdVcpu, exit: TdExit) -> TdExit {
    TdExit { guest: guest_registers(td), idt_vectoring: td.vmcb.exit_interrupt & 0xffff_ffff, ..exit }
}

/// Carries out what the module has answered.
pub fn conclude(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, after: Result<AfterExit, Refusal>) -> Next {
    match after {
        Ok(AfterExit::Guest { registers, event, .. }) => {
            set_guest_registers(td, &registers);
            match event {
                Some(GuestEvent::VirtualizationException) => td.inject(VIRTUALIZATION_EXCEPTION),
                Some(GuestEvent::DoubleFault) => td.vmcb.inject = vmcb::exception_with_code(DOUBLE_FAULT, 0),
                Some(GuestEvent::InvalidOpcode) => td.inject(metal::interrupts::INVALID_OPCODE),
                None => {}
            }
            Next::Resume
        }
        Ok(AfterExit::Host(answer)) => Next::Host { answer, vmcall: None },
        Err(refusal) => stop(tdx, cpu, td.vmcb.rip, &refusal),
    }
}

/// Stops a virtual CPU for good, as a triple fault does, because of something that is not modelled.
pub fn stop(tdx: &mut Tdx, cpu: usize, rip: u64, why: &dyn core::fmt::Display) -> Next {
    println!("TD on CPU {cpu} at {rip:#x}: {why}: its virtual CPU is stopped");
    let fault = TdExit { reason: reason::TRIPLE_FAULT, ..TdExit::default() };
    let answer = match tdx.machine.td_exit(CpuId(cpu as u32), fault) {
        Ok(AfterExit::Host(answer)) => answer,
        _ => Registers { rax: Status::VMFAIL_INVALID.raw(), ..Registers::default() },
    };
    Next::Host { answer, vmcall: None }
}

/// Handles a VM exit, except interrupts and kicks.
pub fn handle(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, on: &VcpuOnCpu) -> Next {
    let plain = |reason: u64, length: u64| TdExit { reason, instruction_length: length, ..TdExit::default() };
    match td.vmcb.exit_code {
        exit::NESTED_PAGE_FAULT => page_faults::handle(tdx, cpu, td, on),
        UNDEFINED => tdcall::handle(tdx, cpu, td),
        exit::SHUTDOWN => report(tdx, cpu, td, plain(reason::TRIPLE_FAULT, 0)),
        exit::CPUID => {
            if cpuid::emulate(tdx, cpu, td, on) {
                return Next::Resume;
            }
            virtualization_exception(tdx, cpu, td, plain(reason::CPUID, 2))
        }
        exit::MSR => {
            let write = td.vmcb.exit_info_1 != 0;
            match msr::access(td, write) {
                Done::Yes => td.skip(2),
                Done::GeneralProtection => td.inject_general_protection(),
                Done::VirtualizationException => {
                    let reason = if write { reason::WRMSR } else { reason::RDMSR };
                    return virtualization_exception(tdx, cpu, td, plain(reason, 2));
                }
            }
            Next::Resume
        }
        exit::IOIO => {
            let (qualification, length) = io::qualification(td);
            report(tdx, cpu, td, TdExit { qualification, ..plain(reason::IO, length) })
        }
        exit::HLT => report(tdx, cpu, td, plain(reason::HLT, 1)),
        exit::WBINVD => report(tdx, cpu, td, plain(reason::WBINVD, 2)),
        exit::INVD => report(tdx, cpu, td, plain(reason::INVD, 2)),
        exit::MONITOR => report(tdx, cpu, td, plain(reason::MONITOR, 3)),
        exit::MWAIT | exit::MWAIT_ARMED => report(tdx, cpu, td, plain(reason::MWAIT, 3)),
        exit::TASK_SWITCH => report(tdx, cpu, td, plain(reason::TASK_SWITCH, 0)),
        exit::XSETBV => {
            let value = td.vmcb.rax & 0xffff_ffff | td.registers.rdx << 32;
            if td.vmcb.cpl == 0 && td.registers.rcx as u32 == 0 && td.extended.set_xcr0(value) {
                td.skip(3);
            } else {
                td.inject_general_protection();
            }
            Next::Resume
        }
        // As for a TD without PERFMON: assumed.
        exit::RDPMC => {
            td.inject_general_protection();
            Next::Resume
        }
        exit::VMRUN..=exit::SKINIT | exit::INVLPGA => {
            td.inject(metal::interrupts::INVALID_OPCODE);
            Next::Resume
        }
        exit::IRET => {
            td.unblock_nmi_at_iret();
            Next::Resume
        }
        exit::INVALID => report(tdx, cpu, td, plain(reason::TRIPLE_FAULT, 0)),
        other => {
            let rip = td.vmcb.rip;
            stop(tdx, cpu, rip, &format_args!("VM exit {other:#x} is not modelled"))
        }
    }
}

/// Injects the NMI that the host has asked for by VP.WR, unless the guest is in its NMI handler.
pub fn deliver_nmi(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu) {
    if !td.in_nmi && td.vmcb.inject == 0 && tdx.machine.take_pending_nmi(CpuId(cpu as u32)) {
        td.inject_nmi();
    }
}

/// #VE of an exit that the machine leaves to this program: the module injects it as for HLT.
fn virtualization_exception(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, exit: TdExit) -> Next {
    let exit = with_guest(td, exit);
    let after = tdx.machine.guest_virtualization_exception(CpuId(cpu as u32), exit);
    conclude(tdx, cpu, td, after)
}
