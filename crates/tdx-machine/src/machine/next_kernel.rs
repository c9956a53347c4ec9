//! Kexec, warm reset, and how the next kernel uses all of memory.

use core::ops::ControlFlow;
use tdx_abi::{KeyId, PageRange};

use super::Machine;
use crate::module::Module;
use crate::poison::PartialStore;
use crate::{Agent, CpuId, MachineCheck, Refusal};

/// What came of using a range of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MemoryUse {
    /// Lines written, one partial store each.
    pub lines_written: u64,
    /// Lines these stores poisoned.
    pub lines_poisoned: u64,
    /// Lines whose read is a machine check, poisoned now or before.
    pub lines_fatal: u64,
    /// The machine check at the lowest of them: what the kernel would die of.
    pub first: Option<MachineCheck>,
}

impl Machine {
    /// A kernel uses all of these pages as a kernel does: some store of less than a line to every
    /// line, and then a read of every line. Counts every line whose read would be fatal, although a
    /// real kernel stops at the first.
    ///
    /// # Errors
    /// No such CPU or line.
    pub fn use_memory(&mut self, cpu: CpuId, pages: PageRange, store: PartialStore) -> Result<MemoryUse, Refusal> {
        let lines = pages.lines();
        let lines_poisoned = self.partial_write(cpu, lines, KeyId::HOST, store)?;
        Ok(self.read_back(cpu, pages, lines_poisoned))
    }

    /// A device writes part of every line of these pages, and the CPU then reads them:
    /// [`Self::use_memory`] with DMA.
    ///
    /// # Errors
    /// No such CPU or line.
    pub fn use_memory_by_device(
        &mut self,
        device: crate::DeviceId,
        reader: CpuId,
        pages: PageRange,
    ) -> Result<MemoryUse, Refusal> {
        self.begin(reader, pages.lines(), KeyId::HOST)?;
        let by = Agent::Device(device);
        let lines_poisoned = self.hardware.partial_write(by, pages.lines(), KeyId::HOST, PartialStore::Dma);
        Ok(self.read_back(reader, pages, lines_poisoned))
    }

    /// Reads every line: nothing is evicted between the count and the read.
    fn read_back(&mut self, cpu: CpuId, pages: PageRange, lines_poisoned: u64) -> MemoryUse {
        let lines = pages.lines();
        let mut lines_fatal = 0;
        let _ = self.hardware.memory.runs(lines, |run, state| {
            if state.poison.is_poison() {
                lines_fatal += run.len();
            }
            ControlFlow::<()>::Continue(())
        });
        let first = self.hardware.load(cpu, lines, KeyId::HOST).err();
        MemoryUse { lines_written: lines.len(), lines_poisoned, lines_fatal, first }
    }

    /// One kernel jumps into the next: VMX operation has ended on every CPU, so calls in flight
    /// have returned, for a CPU in the module answers to nothing before. Caches, pending direct
    /// stores, memory and the module stay as they are.
    pub fn kexec_boundary(&mut self) {
        self.hardware.next_step();
        for cpu in &mut self.hardware.cpus {
            cpu.vmx = false;
        }
        for cpu in 0..self.hardware.cpu_count() {
            self.hardware.set_in_guest(CpuId(cpu), false);
            self.hardware.set_in_module(CpuId(cpu), false);
        }
        if let Some(module) = &mut self.module {
            module.abandon_guests();
            module.finish_all();
        }
    }

    /// A fast warm reset: caches and pending stores are lost, VMX operation has ended, the BIOS has
    /// loaded the module anew. Memory keeps its bytes, its owners and its poison.
    pub fn warm_reset(&mut self) {
        self.hardware.step += 1;
        self.hardware.reset_cpus();
        self.module = self.hardware.config.module.map(|_| Module::new(&self.hardware.config));
    }
}
