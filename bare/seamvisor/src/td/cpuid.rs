//! CPUID of a TD: the module's values, and what depends on the virtual CPU. #VE for every leaf of
//! which the values are not known.

use core::arch::x86_64::__cpuid_count;
use tdx_machine::{CpuId, VcpuOnCpu};

use super::vcpu::TdVcpu;
use crate::tdx::Tdx;

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// Emulates CPUID. False: #VE.
pub fn emulate(tdx: &Tdx, cpu: usize, td: &mut TdVcpu, on: &VcpuOnCpu) -> bool {
    let (leaf, sub_leaf) = (td.vmcb.rax as u32, td.registers.rcx as u32);
    let Some(mut output) = tdx.machine.guest_cpuid(CpuId(cpu as u32), leaf, sub_leaf) else { return false };
    let follow = |register: u32, bit: u32, set: bool| register & !(1 << bit) | u32::from(set) << bit;
    match leaf {
        0x1 => {
            output.ebx = output.ebx & 0x00ff_ffff | on.x2apic_id << 24;
            output.ecx = follow(output.ecx, 27, td.vmcb.cr4 & CR4_OSXSAVE != 0);
        }
        0x7 if sub_leaf == 0 => output.ecx = follow(output.ecx, 4, td.vmcb.cr4 & CR4_PKE != 0),
        0xb | 0x1f => output.edx = on.x2apic_id,
        // Bytes of the XSAVE area for the components in XCR0, which is the TD's while it runs here.
        0xd if sub_leaf < 2 => output.ebx = __cpuid_count(0xd, sub_leaf).ebx,
        _ => {}
    }
    td.vmcb.rax = u64::from(output.eax);
    td.registers.rbx = u64::from(output.ebx);
    td.registers.rcx = u64::from(output.ecx);
    td.registers.rdx = u64::from(output.edx);
    td.skip(2);
    true
}
