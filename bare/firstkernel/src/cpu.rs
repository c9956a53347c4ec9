//! The CPU traits of `tdx-host`, implemented with the functions of `tdx_host::arch`.

use core::marker::PhantomData;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use metal::MAX_CPUS;
use tdx_abi::{LineRange, Registers};
use tdx_host::{
    Host, arch,
    gate::{CpuGate, CpuSlot},
    platform::{Cpu, CpuId, CpuidOutput, LineReset, LocalProcessor, Msr, PackageId, Processor},
    seamcall::Seamcall,
};

static SLOTS: [CpuSlot; MAX_CPUS] = [const { CpuSlot::new() }; MAX_CPUS];

/// What this kernel knows of the machine's TDX, the gate of every SEAMCALL included.
pub static TDX: Host<'static> = Host::new(&SLOTS);

/// A handle to the current CPU. This kernel does not migrate work between CPUs.
#[derive(Clone, Copy, Debug)]
pub struct HardwareCpu {
    id: CpuId,
    package: PackageId,
    /// Neither `Send` nor `Sync`: safe code cannot move the handle to another CPU.
    pinned: PhantomData<*const ()>,
}

impl HardwareCpu {
    /// The current CPU.
    pub fn this() -> Self {
        let id = CpuId(metal::smp::this_cpu() as u32);
        Self { id, package: package(), pinned: PhantomData }
    }
}

/// Package of this CPU: APIC ID without the bits of the levels below (CPUID leaf 0xb, level
/// "core").
fn package() -> PackageId {
    if arch::cpuid(0, 0).eax < 0xb {
        return PackageId(0);
    }
    let level = arch::cpuid(0xb, 1);
    PackageId(level.edx.checked_shr(level.eax & 0x1f).unwrap_or(0))
}

// SAFETY: executes the instruction.
unsafe impl Seamcall for HardwareCpu {
    unsafe fn seamcall(&self, mut registers: Registers) -> Registers {
        // SAFETY: ring 0, and `metal` applies the fix-ups of #UD and #GP. What the leaf does to
        // memory is the caller's promise.
        unsafe { arch::seamcall(&mut registers) };
        registers
    }
}

// SAFETY: MOVDIR64B of write-back memory that is mapped one to one, with KeyID 0, and MFENCE.
unsafe impl LineReset for HardwareCpu {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        let first = with_exposed_provenance_mut(lines.start().start().get() as usize);
        // SAFETY: detection has found MOVDIR64B, or nothing was ever private and nothing is reset.
        // The lines are mapped one to one and writable, and the caller's to overwrite.
        unsafe { arch::movdir64b_zero(first, lines.len()) }
    }

    fn fence(&self) {
        arch::mfence();
    }
}

// SAFETY: this kernel does not migrate work between CPUs, and a handle cannot be sent to another
// one.
unsafe impl Cpu for HardwareCpu {
    fn id(&self) -> CpuId {
        self.id
    }

    fn package(&self) -> PackageId {
        self.package
    }

    fn write_back_caches(&self) {
        // SAFETY: ring 0.
        unsafe { arch::wbinvd() };
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        let first = with_exposed_provenance(lines.start().start().get() as usize);
        // SAFETY: every CPU with TDX has CLFLUSHOPT, and pages are given to the module only if
        // TDX is available; the lines are mapped.
        let left = unsafe { arch::clflushopt(first, lines.len()) };
        assert_eq!(left, 0, "all memory is mapped");
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        // SAFETY: as for the handle.
        unsafe { TDX.gate().cpu_gate(self.id) }
    }
}

/// Identification of the processor.
pub struct ThisProcessor;

impl Processor for ThisProcessor {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidOutput {
        arch::cpuid(leaf, subleaf)
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        // SAFETY: ring 0, and `metal` applies the fix-up of #GP.
        unsafe { arch::rdmsr(msr) }
    }
}

// SAFETY: the instructions, on this machine.
unsafe impl LocalProcessor for ThisProcessor {}
