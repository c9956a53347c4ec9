//! This CPU under the traits of `tdx-host`. Callers stay on the CPU while they use it.

use core::marker::PhantomData;
use tdx_abi::{Line, LineRange, Registers};
use tdx_host::{
    arch,
    gate::CpuGate,
    platform::{Cpu, CpuId, CpuidOutput, LineReset, Msr, PackageId, Processor},
    seamcall::Seamcall,
};

use crate::{HOST, pool, shim};

/// This CPU.
#[derive(Clone, Copy)]
pub struct ThisCpu {
    id: CpuId,
    /// Neither `Send` nor `Sync`: safe code cannot take it to another CPU.
    pinned: PhantomData<*const ()>,
}

impl ThisCpu {
    /// The CPU that runs this code.
    ///
    /// # Safety
    /// `cpu` is the number of the CPU that runs the code, and the code stays on it as long as the
    /// value exists.
    pub unsafe fn pinned_to(cpu: u32) -> Self {
        Self { id: CpuId(cpu), pinned: PhantomData }
    }
}

// SAFETY: executes the instruction.
unsafe impl Seamcall for ThisCpu {
    unsafe fn seamcall(&self, mut registers: Registers) -> Registers {
        // SAFETY: ring 0, and the kernel's exception table has the fix-ups
        // (`linux/kbuild` puts them there). What the leaf does to memory is the caller's promise.
        unsafe { arch::seamcall(&mut registers) };
        registers
    }
}

/// The parts of a range before, in and after the pool, which has a mapping of its own.
fn mapped(lines: LineRange) -> impl Iterator<Item = LineRange> {
    let pool = pool::range().lines();
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
            // SAFETY: the lines are the caller's to overwrite. The direct map and the mapping of
            // the pool cover them, writable, and the lines are in one of the two. A CPU with TDX
            // has MOVDIR64B.
            unsafe { arch::movdir64b_zero(shim::map(lines.start().start()), lines.len()) };
        }
    }

    fn fence(&self) {
        arch::mfence();
    }
}

// SAFETY: by the contract of `pinned_to`.
unsafe impl Cpu for ThisCpu {
    fn id(&self) -> CpuId {
        self.id
    }

    fn package(&self) -> PackageId {
        // SAFETY: by the contract of `pinned_to` this code runs on it.
        PackageId(unsafe { shim::package(self.id.0) })
    }

    fn write_back_caches(&self) {
        // SAFETY: the kernel runs at CPL 0.
        unsafe { arch::wbinvd() };
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        for lines in mapped(lines) {
            // SAFETY: every CPU with TDX has CLFLUSHOPT; the lines are mapped, and are in one
            // mapping.
            unsafe { arch::clflushopt(shim::map(lines.start().start()), lines.len()) };
        }
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        // SAFETY: this CPU, by the contract above.
        unsafe { HOST.gate().cpu_gate(self.id) }
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
