//! VMXON and VMXOFF: SEAMCALL needs VMX operation.

use core::arch::asm;
use core::cell::UnsafeCell;
use metal::MAX_CPUS;
use metal::registers::{cr4, rdmsr, set_cr4};

const FEATURE_CONTROL: u32 = 0x3a;
const LOCKED_AND_VMX: u64 = 0b101;
const VMX_BASIC: u32 = 0x480;
const CR4_VMXE: u64 = 1 << 13;

#[repr(C, align(4096))]
struct Region(UnsafeCell<[u32; 1024]>);

// SAFETY: each CPU accesses only its own region.
unsafe impl Sync for Region {}

static REGIONS: [Region; MAX_CPUS] = [const { Region(UnsafeCell::new([0; 1024])) }; MAX_CPUS];

/// Enters VMX operation on this CPU. False if the firmware has disabled it, or VMXON failed.
pub fn enter() -> bool {
    // SAFETY: a CPU with VMX has both registers.
    let (control, basic) = unsafe { (rdmsr(FEATURE_CONTROL), rdmsr(VMX_BASIC)) };
    if control & LOCKED_AND_VMX != LOCKED_AND_VMX {
        return false;
    }
    let region = REGIONS[metal::smp::this_cpu()].0.get();
    let address = region.addr() as u64;
    let failed: u8;
    // SAFETY: the region is this CPU's own page and has the revision of IA32_VMX_BASIC; the other
    // bits of CR4 are unchanged.
    unsafe {
        region.cast::<u32>().write_volatile(basic as u32 & 0x7fff_ffff);
        set_cr4(cr4() | CR4_VMXE);
        asm!("vmxon [{}]", "setbe {}", in(reg) &raw const address, out(reg_byte) failed, options(nostack));
    }
    failed == 0
}

/// Leaves VMX operation on this CPU, in which INIT is blocked. Does nothing outside it.
pub fn leave() {
    if cr4() & CR4_VMXE == 0 {
        return;
    }
    // SAFETY: only `enter` sets CR4.VMXE, right before VMXON.
    unsafe {
        asm!("vmxoff", options(nostack, nomem));
        set_cr4(cr4() & !CR4_VMXE);
    }
}
