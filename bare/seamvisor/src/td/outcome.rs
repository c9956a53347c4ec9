//! What the emulated module makes of a VM exit of a TD: the guest goes on, perhaps with an
//! exception, or VP.ENTER returns to the host.

use metal::interrupts::{DOUBLE_FAULT, INVALID_OPCODE, VIRTUALIZATION_EXCEPTION};
use metal::println;
use tdx_abi::{Registers, Status};
use tdx_machine::{AfterExit, CpuId, GuestEvent, Refusal, TdExit};

use super::vcpu::TdVcpu;
use crate::tdx::Tdx;
use crate::vmcb;

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
    pub const APIC_WRITE: u64 = 56;
    pub const TDCALL: u64 = 77;
}

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

/// The exit with the guest's registers, the event whose delivery it has interrupted, and whether an
/// interrupt is pending.
pub fn with_guest(td: &TdVcpu, exit: TdExit) -> TdExit {
    let idt_vectoring = td.vmcb.exit_interrupt & 0xffff_ffff;
    TdExit { guest: guest_registers(td), idt_vectoring, interrupt_pending: td.apic.pending().is_some(), ..exit }
}

/// Carries out what the module has answered.
pub fn conclude(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, after: Result<AfterExit, Refusal>) -> Next {
    match after {
        Ok(AfterExit::Guest { registers, event, .. }) => {
            set_guest_registers(td, &registers);
            match event {
                Some(GuestEvent::VirtualizationException) => td.inject(VIRTUALIZATION_EXCEPTION),
                Some(GuestEvent::DoubleFault) => td.vmcb.inject = vmcb::exception_with_code(DOUBLE_FAULT, 0),
                Some(GuestEvent::InvalidOpcode) => td.inject(INVALID_OPCODE),
                None => {}
            }
            Next::Resume
        }
        Ok(AfterExit::Host(answer)) => Next::Host { answer, vmcall: None },
        Err(refusal) => stop(tdx, cpu, td.vmcb.rip, &refusal),
    }
}

/// Stops a virtual CPU for good, as a triple fault does, because of something that is not modeled.
pub fn stop(tdx: &mut Tdx, cpu: usize, rip: u64, why: &dyn core::fmt::Display) -> Next {
    println!("TD on CPU {cpu} at {rip:#x}: {why}: its virtual CPU is stopped");
    let fault = TdExit { reason: reason::TRIPLE_FAULT, ..TdExit::default() };
    let answer = match tdx.machine.td_exit(CpuId(cpu as u32), fault) {
        Ok(AfterExit::Host(answer)) => answer,
        _ => Registers { rax: Status::VMFAIL_INVALID.raw(), ..Registers::default() },
    };
    Next::Host { answer, vmcall: None }
}

/// Injects the NMI that the host has asked for by VP.WR. It can be injected.
pub fn deliver_nmi(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu) {
    td.nmi_requested = false;
    if tdx.machine.take_pending_nmi(CpuId(cpu as u32)) {
        td.inject_nmi();
    }
}
