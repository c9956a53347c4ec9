//! The CPU that runs the code of this library, pinned: the instructions of the kernel's table under
//! the traits of `tdx-host`.

use tdx_abi::{LineRange, Registers};
use tdx_host::gate::CpuGate;
use tdx_host::platform::{Cpu, CpuId, LineReset, PackageId};
use tdx_host::seamcall::Seamcall;

use crate::host::Host;
use crate::kernel::call;

/// The CPU that runs this code, which cannot change until this is dropped.
#[derive(Debug)]
pub(crate) struct PinnedCpu<'h> {
    host: &'h Host,
    id: CpuId,
}

impl<'h> PinnedCpu<'h> {
    pub(crate) fn new(host: &'h Host) -> Self {
        Self { host, id: CpuId(call!(host.kernel, pin)) }
    }
}

impl Drop for PinnedCpu<'_> {
    fn drop(&mut self) {
        call!(self.host.kernel, unpin);
    }
}

// SAFETY: by the contract of `Kernel::new` the function executes the instruction.
unsafe impl Seamcall for PinnedCpu<'_> {
    unsafe fn seamcall(&self, registers: Registers) -> Registers {
        let mut registers = registers;
        call!(self.host.kernel, seamcall, &raw mut registers);
        registers
    }
}

// SAFETY: by the contract of `Kernel::new` the functions are MOVDIR64B of each line and MFENCE.
unsafe impl LineReset for PinnedCpu<'_> {
    unsafe fn reset_lines(&self, lines: LineRange) -> u64 {
        call!(self.host.kernel, reset_lines, lines.start().start().get(), lines.len())
    }

    fn fence(&self) {
        call!(self.host.kernel, fence);
    }
}

// SAFETY: pinned from `new` to `drop`, so the kernel's functions act on the CPU with this number.
unsafe impl Cpu for PinnedCpu<'_> {
    fn id(&self) -> CpuId {
        self.id
    }

    fn package(&self) -> PackageId {
        PackageId(call!(self.host.kernel, package_of, self.id.0))
    }

    fn write_back_caches(&self) {
        call!(self.host.kernel, write_back_caches);
    }

    unsafe fn flush_lines(&self, lines: LineRange) {
        call!(self.host.kernel, flush_lines, lines.start().start().get(), lines.len());
    }

    fn cpu_gate(&self) -> CpuGate<'_> {
        // SAFETY: pinned to the CPU with this number.
        unsafe { self.host.tdx.gate().cpu_gate(self.id) }
    }
}
