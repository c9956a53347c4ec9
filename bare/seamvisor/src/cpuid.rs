//! CPUID: the real answer, made to look like an Intel server with TDX. What must be true for a
//! kernel's own calibrations (the leaves about frequencies) is left out instead of made up.

use core::arch::x86_64::__cpuid_count;
use spin::Once;

use crate::vcpu::Vcpu;

/// EAX of leaf 1.
static SIGNATURE: Once<u32> = Once::new();

/// Which CPU the guest sees.
pub fn is(model: tdx_machine::CpuModel) {
    let (family, number, stepping) = (model.family, model.model, model.stepping);
    SIGNATURE.call_once(|| stepping | (number & 0xf) << 4 | family << 8 | (number >> 4) << 16);
}

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// Answers CPUID.
pub fn answer(vcpu: &mut Vcpu) {
    let (leaf, subleaf) = (vcpu.vmcb.rax as u32, vcpu.registers.rcx as u32);
    let mut real = __cpuid_count(leaf, subleaf);
    let flag = |set: bool, bit: u32| u32::from(set) << bit;
    match leaf {
        0 => (real.eax, real.ebx, real.edx, real.ecx) = (0x16, 0x756e_6547, 0x4965_6e69, 0x6c65_746e),
        1 => {
            real.eax = SIGNATURE.get().copied().unwrap_or(real.eax);
            // VMX; OSXSAVE as the guest's own CR4 says; no hypervisor, and no x2APIC: INIT would go
            // round this program.
            real.ecx = real.ecx & !(1 << 31 | 1 << 27 | 1 << 21) | 1 << 5 | flag(vcpu.vmcb.cr4 & CR4_OSXSAVE != 0, 27);
        }
        7 if subleaf == 0 => {
            // CLFLUSHOPT, MOVDIR64B, and TME, without which kernels do not ask how many bits of an
            // address are the KeyID; OSPKE as CR4 says; IA32_ARCH_CAPABILITIES.
            real.ebx |= 1 << 23;
            real.ecx = real.ecx & !(1 << 4) | 1 << 28 | 1 << 13 | flag(vcpu.vmcb.cr4 & CR4_PKE != 0, 4);
            real.edx |= 1 << 29;
        }
        // No leaf of these is true for this machine (zero makes kernels measure for themselves),
        // and SVM and SEV are not there.
        0x2 | 0x5 | 0x6 | 0x9 | 0xa | 0xe..=0x16 | 0x8000_000a | 0x8000_001f => {
            (real.eax, real.ebx, real.ecx, real.edx) = (0, 0, 0, 0);
        }
        0x8000_0001 => real.ecx &= !(1 << 2),
        // Of addresses of 52 bits six are the KeyID: kernels take those off themselves, by MSR
        // 0x982.
        0x8000_0008 => real.eax = real.eax & !0xff | tdx_abi::MAX_PHYS_BITS,
        _ => {}
    }
    vcpu.vmcb.rax = u64::from(real.eax);
    vcpu.registers.rbx = u64::from(real.ebx);
    vcpu.registers.rcx = u64::from(real.ecx);
    vcpu.registers.rdx = u64::from(real.edx);
    vcpu.skip(2);
}
