//! RDMSR and WRMSR: SVM MSRs are hidden, TDX and VMX MSRs are emulated, all others are passed
//! through.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use metal::registers::rdmsr;
use metal::{MAX_CPUS, lapic};
use spin::Once;
use tdx_machine::{CpuId, MsrRead};

use super::vmx_capabilities;
use crate::tdx;
use crate::vcpu::Vcpu;
use crate::vmcb::EFER_SVME;

const PLATFORM_ID: u32 = 0x17;
const APIC_BASE: u32 = 0x1b;
const FEATURE_CONTROL: u32 = 0x3a;
const KEYID_PARTITIONING: u32 = 0x87;
const MICROCODE: u32 = 0x8b;
const ARCH_CAPABILITIES: u32 = 0x10a;
const MCG_CAP: u32 = 0x179;
const MCG_EXT_CTL: u32 = 0x4d0;
const TME_CAPABILITY: u32 = 0x981;
const TME_ACTIVATE: u32 = 0x982;
const SEAMRR_BASE: u32 = 0x1400;
const SEAMRR_MASK: u32 = 0x1401;
const EFER: u32 = 0xc000_0080;
const VM_CR: u32 = 0xc001_0114;
const VM_HSAVE_PA: u32 = 0xc001_0117;

/// IA32_APIC_BASE: address, mode bits, and their value for an enabled xAPIC.
const APIC_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const APIC_MODE: u64 = 0b11 << 10;
const APIC_ON: u64 = 1 << 11;

/// IA32_FEATURE_CONTROL: locked, VMX outside SMX, LMCE.
const FEATURES: u64 = 1 | 1 << 2 | 1 << 20;
/// IA32_ARCH_CAPABILITIES.RDCL_NO. Without it kernels enable page table isolation, which is slow
/// under emulation.
const RDCL_NO: u64 = 1;
const LMCE: u64 = 1 << 27;

static LMCE_ENABLED: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// MSR permission map: two bits for each MSR of three ranges. A set bit intercepts RDMSR or WRMSR.
#[repr(align(4096))]
struct Bitmap([u8; 8192]);

static PERMISSIONS: Once<Box<Bitmap>> = Once::new();

/// Physical address of the MSR permission map.
pub fn permissions() -> u64 {
    let map = PERMISSIONS.call_once(|| {
        let mut map = Box::new(Bitmap([0; 8192]));
        let others = [
            PLATFORM_ID,
            APIC_BASE,
            FEATURE_CONTROL,
            KEYID_PARTITIONING,
            MICROCODE,
            ARCH_CAPABILITIES,
            MCG_CAP,
            MCG_EXT_CTL,
            TME_CAPABILITY,
            TME_ACTIVATE,
            SEAMRR_BASE,
            SEAMRR_MASK,
            EFER,
            VM_CR,
            VM_HSAVE_PA,
        ];
        for msr in others.into_iter().chain(vmx_capabilities::FIRST..=vmx_capabilities::LAST) {
            let (range, index) = match msr {
                0..0x2000 => (0, msr),
                0xc000_0000..0xc000_2000 => (0x800, msr - 0xc000_0000),
                _ => (0x1000, msr - 0xc001_0000),
            };
            map.0[range + index as usize / 4] |= 0b11 << (2 * (index % 4));
        }
        map
    });
    core::ptr::from_ref::<Bitmap>(map).expose_provenance() as u64
}

/// Emulates RDMSR and WRMSR.
pub fn handle_exit(vcpu: &mut Vcpu) {
    let msr = vcpu.registers.rcx as u32;
    let done = if vcpu.vmcb.exit_info_1 == 0 {
        read(vcpu, msr).inspect(|value| {
            vcpu.vmcb.rax = value & 0xffff_ffff;
            vcpu.registers.rdx = value >> 32;
        })
    } else {
        let value = vcpu.vmcb.rax & 0xffff_ffff | vcpu.registers.rdx << 32;
        write(vcpu, msr, value)
    };
    match done {
        Some(_) => vcpu.skip(2),
        None => vcpu.inject_general_protection(),
    }
}

/// Value of an intercepted MSR. `None` if RDMSR raises #GP.
fn read(vcpu: &Vcpu, msr: u32) -> Option<u64> {
    Some(match msr {
        EFER => vcpu.vmcb.efer & !EFER_SVME,
        FEATURE_CONTROL => FEATURES,
        ARCH_CAPABILITIES => RDCL_NO,
        PLATFORM_ID | MICROCODE => 0,
        MCG_CAP => {
            // SAFETY: every x86-64 CPU has it.
            let real = unsafe { rdmsr(MCG_CAP) };
            real | LMCE
        }
        MCG_EXT_CTL => LMCE_ENABLED[vcpu.number].load(Ordering::Relaxed),
        KEYID_PARTITIONING | TME_CAPABILITY | TME_ACTIVATE | SEAMRR_BASE | SEAMRR_MASK => {
            match tdx::lock().machine.rdmsr(CpuId(vcpu.number as u32), msr) {
                Ok(MsrRead::Value(value)) => value,
                Ok(MsrRead::GeneralProtection) | Err(_) => return None,
            }
        }
        vmx_capabilities::FIRST..=vmx_capabilities::LAST => return vmx_capabilities::read(msr),
        // SAFETY: every CPU with an APIC has it.
        APIC_BASE => unsafe { rdmsr(APIC_BASE) },
        // SVM MSRs, and MSRs outside the ranges of the permission map, do not exist.
        _ => return None,
    })
}

/// Writes an intercepted MSR. `None` if WRMSR raises #GP.
fn write(vcpu: &mut Vcpu, msr: u32, value: u64) -> Option<u64> {
    match msr {
        EFER if vcpu.vmcb.set_efer(value) => {}
        MCG_EXT_CTL => LMCE_ENABLED[vcpu.number].store(value & 1, Ordering::Relaxed),
        // The APIC stays enabled, in xAPIC mode, and at its address: at another one, INIT would not
        // be intercepted.
        APIC_BASE if value & APIC_ADDRESS == lapic::BASE && value & APIC_MODE == APIC_ON => {}
        MICROCODE => {}
        // Locked or read-only.
        _ => return None,
    }
    Some(value)
}
