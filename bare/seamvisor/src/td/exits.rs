//! VM exits of a TD, by cause.

use tdx_machine::{CpuId, TdExit, VcpuOnCpu};

use super::msr::Done;
use super::outcome::{Next, conclude, reason, report, stop, with_guest};
use super::vcpu::TdVcpu;
use super::{cpuid, msr, page_faults, tdcall};
use crate::tdx::Tdx;
use crate::vmcb::exit;

const UNDEFINED: u64 = exit::EXCEPTION + metal::interrupts::INVALID_OPCODE as u64;

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
                Done::ApicWrite(qualification) => {
                    td.skip(2);
                    return report(tdx, cpu, td, TdExit { qualification, ..plain(reason::APIC_WRITE, 0) });
                }
                Done::GeneralProtection => td.inject_general_protection(),
                Done::VirtualizationException => {
                    let reason = if write { reason::WRMSR } else { reason::RDMSR };
                    return virtualization_exception(tdx, cpu, td, plain(reason, 2));
                }
            }
            Next::Resume
        }
        exit::IOIO => {
            let qualification = vmx::io::qualification(td.vmcb.exit_info_1);
            let length = td.vmcb.exit_info_2.wrapping_sub(td.vmcb.rip) & 0xf;
            report(tdx, cpu, td, TdExit { qualification, ..plain(reason::IO, length) })
        }
        // `delivery` injects it.
        exit::VINTR => Next::Resume,
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
        exit::INVALID | exit::INVALID_OF_QEMU => report(tdx, cpu, td, plain(reason::TRIPLE_FAULT, 0)),
        other => {
            let rip = td.vmcb.rip;
            stop(tdx, cpu, rip, &format_args!("VM exit {other:#x} is not modeled"))
        }
    }
}

/// #VE of an exit that the machine leaves to this program: the module injects it as for HLT.
fn virtualization_exception(tdx: &mut Tdx, cpu: usize, td: &mut TdVcpu, exit: TdExit) -> Next {
    let exit = with_guest(td, exit);
    let after = tdx.machine.guest_virtualization_exception(CpuId(cpu as u32), exit);
    conclude(tdx, cpu, td, after)
}
