//! The CPU that runs this, under the traits of `tdx-host`. Refuses to be moved: the shim pins
//! whoever makes one.

use core::marker::PhantomData;
use tdx_abi::{Line, LineRange, Registers};
use tdx_host::{
    arch,
    gate::{CpuGate, CpuSlot, Gate},
    platform::{Cpu, CpuId, CpuidOutput, LineReset, Msr, PackageId, Processor},
    seamcall::Seamcall,
};

use crate::{host, shim};

/// Slots of the gate. The shim refuses a machine with more CPUs.
pub const CPUS: usize = 1024;

/// The gate of every SEAMCALL: the kernel's own, which this object hears of, or this object's.
pub static GATE: Gate<[CpuSlot; CPUS]> = Gate::new([const { CpuSlot::new() }; CPUS]);

/// The CPU that runs this.
#[derive(Clone, Copy)]
pub struct ThisCpu {
    id: CpuId,
    /// Neither `Send` nor `Sync`: safe code cannot take it to another CPU.
    pinned: PhantomData<*const ()>,
}

impl ThisCpu {
    /// The CPU that runs this, by its number.
    ///
    /// # Safety
    /// `cpu` is the number of the CPU that runs the code, and the code is not moved to another one
    /// as long as the value exists.
    pub unsafe fn pinned_to(cpu: u32) -> Self {
        Self { id: CpuId(cpu), pinned: PhantomData }
    }
}

// SAFETY: executes the instruction.
unsafe impl Seamcall for ThisCpu {
    unsafe fn seamcall(&self, mut registers: Registers) -> Registers {
        // SAFETY: ring 0, and the kernel's exception table has the fix-ups
        // (`linux/kbuild` puts them there). What the leaf does to memory is the
        // caller's promise.
        unsafe { arch::seamcall(&mut registers) };
        registers
    }
}

/// The parts of a range before, in and behind the pool, which has a mapping of its own; PAMTs in it
/// may touch pages outside.
fn mapped(lines: LineRange) -> impl Iterator<Item = LineRange> {
    let pool = host::pool().lines();
    let end = |line: Line| LineRange::new(lines.start(), line).intersection(lines);
    let behind = LineRange::new(pool.end().max(lines.start()), lines.end());
    let parts = if pool.is_empty() {
        [lines, LineRange::default(), LineRange::default()]
    } else {
        [end(pool.start()), pool.intersection(lines), behind.intersection(lines)]
    };
    parts.into_iter().filter(|part| !part.is_empty())
}

// SAFETY: MOVDIR64B of write-back mappings with KeyID 0, and MFENCE.
unsafe impl LineReset for ThisCpu {
    unsafe fn reset_lines(&self, lines: LineRange) {
        for lines in mapped(lines) {
            let first = shim::map(lines.start().start());
            // SAFETY: the lines are the caller's to overwrite, and on a CPU with TDX there is
            // MOVDIR64B. Both mappings are writable: the kernel itself clears
            // such pages in its direct map, and the pool's was made for this. The lines lie in one
            // of the two.
            unsafe { arch::movdir64b_zero(first, lines.len()) };
        }
    }

    fn fence(&self) {
        arch::mfence();
    }
}

// SAFETY: the shim pins the code that makes one, until it is dropped.
unsafe impl Cpu for ThisCpu {
    fn id(&self) -> CpuId {
        self.id
    }

    fn package(&self) -> PackageId {
        PackageId(shim::package(self.id.0))
    }

    fn write_back_caches(&self) {
        // SAFETY: the kernel runs at CPL 0.
        unsafe { arch::wbinvd() };
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        for lines in mapped(lines) {
            let first = shim::map(lines.start().start());
            // SAFETY: every CPU with TDX has CLFLUSHOPT; the lines are mapped, and lie in one
            // mapping.
            unsafe { arch::clflushopt(first, lines.len()) };
        }
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        // SAFETY: pinned to that CPU.
        unsafe { GATE.cpu_gate(self.id) }
    }
}

/// Identification of the processor.
pub struct ThisProcessor;

impl Processor for ThisProcessor {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidOutput {
        arch::cpuid(leaf, subleaf)
    }

    fn rdmsr(&self, msr: Msr) -> Option<u64> {
        shim::rdmsr(msr.0)
    }
}

// SAFETY: the instructions, on this machine.
unsafe impl tdx_host::platform::LocalProcessor for ThisProcessor {}
