//! CPUID: the real values, changed to those of an Intel server with TDX. Leaves with frequencies
//! return 0, so that kernels calibrate themselves.

use core::arch::x86_64::__cpuid_count;
use spin::Once;
use tdx_machine::AssignedKind;

use crate::vcpu::Vcpu;
use crate::{tdx, words};

/// EAX of leaf 1.
static SIGNATURE: Once<u32> = Once::new();

/// Sets family, model and stepping that the guest sees. Once.
pub fn set_model(model: tdx_machine::CpuModel) {
    let (family, number, stepping) = (model.family, model.model, model.stepping);
    SIGNATURE.call_once(|| stepping | (number & 0xf) << 4 | family << 8 | (number >> 4) << 16);
}

/// EAX of leaf 1, as the guest sees it.
pub fn signature() -> u32 {
    SIGNATURE.get().copied().unwrap_or(0)
}

/// Leaf of this hypervisor: EAX is how many pages TDs have of the kind that the subleaf names, as
/// the emulated module counts them; ECX and EDX are "cleansla". For a guest that compares its own
/// counts while a TD is running. Not a multiple of 0x100, where kernels look for hypervisors.
const PAGE_COUNTS: u32 = 0x4000_0010;
/// The next leaf: EAX is how many bytes of [`words`] have come, and of subleaf N four bytes of
/// them, from 4 * (N - 1) on; ECX and EDX as above.
const LATE_WORDS: u32 = 0x4000_0011;
/// By subleaf. As in bare/linux/vmm.c.
const KINDS: [AssignedKind; 5] =
    [AssignedKind::Tdr, AssignedKind::Tdcx, AssignedKind::Tdvpr, AssignedKind::Sept, AssignedKind::Guest];

fn page_count(subleaf: u32) -> u32 {
    let Some(kind) = KINDS.get(subleaf as usize) else { return 0 };
    let runs = tdx::lock().machine.assigned_pages();
    runs.iter().filter(|run| run.kind == *kind).map(|run| run.pages.pages()).sum::<u64>() as u32
}

const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_PKE: u64 = 1 << 22;

/// Emulates CPUID.
pub fn handle_exit(vcpu: &mut Vcpu) {
    let (leaf, subleaf) = (vcpu.vmcb.rax as u32, vcpu.registers.rcx as u32);
    let mut real = __cpuid_count(leaf, subleaf);
    let flag = |set: bool, bit: u32| u32::from(set) << bit;
    match leaf {
        0 => (real.eax, real.ebx, real.edx, real.ecx) = (0x16, 0x756e_6547, 0x4965_6e69, 0x6c65_746e),
        1 => {
            real.eax = SIGNATURE.get().copied().unwrap_or(real.eax);
            // Set VMX, clear "hypervisor present" and x2APIC, in which INIT would not be
            // intercepted. OSXSAVE follows the guest's CR4.
            real.ecx = real.ecx & !(1 << 31 | 1 << 27 | 1 << 21) | 1 << 5 | flag(vcpu.vmcb.cr4 & CR4_OSXSAVE != 0, 27);
        }
        7 if subleaf == 0 => {
            // CLFLUSHOPT, MOVDIR64B, IA32_ARCH_CAPABILITIES, and TME, without which kernels do not
            // read the number of KeyID bits. OSPKE follows the guest's CR4.
            real.ebx |= 1 << 23;
            real.ecx = real.ecx & !(1 << 4) | 1 << 28 | 1 << 13 | flag(vcpu.vmcb.cr4 & CR4_PKE != 0, 4);
            real.edx |= 1 << 29;
        }
        // Caches, MONITOR, power, performance counters, TSC and crystal frequency, and other leaves
        // whose values would be wrong here; SVM and SEV.
        0x2 | 0x5 | 0x6 | 0x9 | 0xa | 0xe..=0x16 | 0x8000_000a | 0x8000_001f => {
            (real.eax, real.ebx, real.ecx, real.edx) = (0, 0, 0, 0);
        }
        PAGE_COUNTS | LATE_WORDS => {
            let value = match (leaf, subleaf.checked_sub(1)) {
                (PAGE_COUNTS, _) => page_count(subleaf),
                (_, None) => words::length(),
                (_, Some(part)) => words::part(part),
            };
            (real.eax, real.ebx) = (value, 0);
            (real.ecx, real.edx) = (u32::from_le_bytes(*b"clea"), u32::from_le_bytes(*b"nsla"));
        }
        0x8000_0001 => real.ecx &= !(1 << 2),
        // 52 physical address bits, of which six are the KeyID. Kernels subtract those themselves,
        // by MSR 0x982.
        0x8000_0008 => real.eax = real.eax & !0xff | tdx_abi::MAX_PHYS_BITS,
        _ => {}
    }
    vcpu.vmcb.rax = u64::from(real.eax);
    vcpu.registers.rbx = u64::from(real.ebx);
    vcpu.registers.rcx = u64::from(real.ecx);
    vcpu.registers.rdx = u64::from(real.edx);
    vcpu.skip(2);
}
