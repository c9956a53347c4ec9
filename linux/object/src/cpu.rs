//! This CPU under the traits of `tdx-host`. Callers stay on the CPU while they use it.

use core::marker::PhantomData;
use tdx_abi::{LINE_SIZE, Line, LineRange, Page, Registers};
use tdx_host::{
    arch,
    gate::CpuGate,
    platform::{Cpu, CpuId, CpuidOutput, LineReset, Msr, NodeId, PackageId, Processor},
    seamcall::Seamcall,
};

use crate::{HOST, pool, shares, shim};

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

/// Runs an instruction on each line of one mapping; on the lines of a page that the kernel has
/// taken out of its direct map, because of a memory error, through a mapping of this CPU's own.
/// `instruction` gets an address and a number of lines, and returns how many of them are left
/// because they are not mapped. Returns how many lines are in no mapping.
fn on_lines(cpu: &ThisCpu, lines: LineRange, instruction: impl Fn(*mut u8, u64) -> u64) -> u64 {
    let (mut rest, mut left) = (lines, 0);
    while !rest.is_empty() {
        // SAFETY: the lines are in one mapping, or in none: the instruction says so.
        let missing = instruction(unsafe { shim::map(rest.start().start()) }, rest.len());
        if missing == 0 {
            break;
        }
        let first = Line::new(rest.end().index() - missing);
        let page_end = Page::new(first.page().index() + 1).first_line();
        let part = LineRange::new(first, page_end.min(rest.end()));
        let at = ((first.index() - first.page().first_line().index()) * LINE_SIZE) as usize;
        let through = |page: *mut u8| instruction(page.wrapping_add(at), part.len());
        // SAFETY: the code stays on this CPU; the lines are the caller's for this instruction.
        left += unsafe { shim::mapped_page(cpu.id.0, first.page(), through) }.unwrap_or(part.len());
        rest = LineRange::new(part.end(), rest.end());
    }
    left
}

// SAFETY: MOVDIR64B of write-back mappings with KeyID 0, and MFENCE. Lines in no mapping are
// counted.
unsafe impl LineReset for ThisCpu {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        // SAFETY: the lines are the caller's to overwrite. The direct map, the mapping of the pool
        // or a mapping for this call has them, writable and write-back; if none has, the kernel's
        // exception table has the fix-up. A CPU with TDX has MOVDIR64B.
        let reset = |first, lines| unsafe { arch::movdir64b_zero(first, lines) };
        let left = mapped(lines).map(|lines| on_lines(self, lines, reset)).sum();
        shares::count_lines(self.id(), self.node(), lines, left);
        left
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

    fn node(&self) -> Option<NodeId> {
        // SAFETY: by the contract of `pinned_to` this code runs on it.
        unsafe { shim::node(self.id.0) }
    }

    fn write_back_caches(&self) {
        // SAFETY: the kernel runs at CPL 0.
        unsafe { arch::wbinvd() };
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        for lines in mapped(lines) {
            // SAFETY: every CPU with TDX has CLFLUSHOPT, and the kernel's exception table has the
            // fix-up.
            let flush = |first: *mut u8, lines| unsafe { arch::clflushopt(first, lines) };
            // What is in no mapping cannot be flushed, nor used by anyone.
            on_lines(self, lines, flush);
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
