//! The border between two kernels, and what the next one does with all of memory.

use core::ops::ControlFlow;
use tdx_abi::{KeyId, PageRange};

use super::Machine;
use crate::machine_check::MachineCheckReason;
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
    /// A kernel uses all of these pages as a kernel does: some store of less than a line to every line, and then a read of
    /// every line. Counts every line whose read would be fatal, although a real kernel stops at the first.
    ///
    /// # Errors
    /// No such CPU or line.
    pub fn use_memory(&mut self, cpu: CpuId, pages: PageRange, store: PartialStore) -> Result<MemoryUse, Refusal> {
        let lines = pages.lines();
        let lines_poisoned = self.partial_write(cpu, lines, KeyId::HOST, store)?;
        let mut fatal = 0;
        let _ = self.hardware.memory.runs(lines, |run, state| {
            if state.poison.is_poison() {
                fatal += run.len();
            }
            ControlFlow::<()>::Continue(())
        });
        let first = self.load(cpu, lines, KeyId::HOST).err().and_then(|error| match error {
            crate::AccessError::MachineCheck(check) => Some(check),
            crate::AccessError::Refused(_) => None,
        });
        Ok(MemoryUse { lines_written: lines.len(), lines_poisoned, lines_fatal: fatal, first })
    }

    /// A device writes part of every line of these pages, and the CPU then reads them: [`Self::use_memory`] with DMA.
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
        let lines = pages.lines();
        let poisoned = self.hardware.partial_write(Agent::Device(device), lines, KeyId::HOST, PartialStore::Dma);
        let mut used = MemoryUse { lines_written: lines.len(), lines_poisoned: poisoned, ..MemoryUse::default() };
        let _ = self.hardware.memory.runs(lines, |run, state| {
            if let Some(cause) = self.hardware.poison.cause(state.poison) {
                used.lines_fatal += run.len();
                let check = MachineCheck::data_load(reader, run.start(), MachineCheckReason::Poison(cause));
                used.first.get_or_insert(check);
            }
            ControlFlow::<()>::Continue(())
        });
        Ok(used)
    }

    /// One kernel jumps into the next: VMX operation has ended on every CPU. Caches, pending direct stores, memory and the
    /// module stay as they are.
    pub fn kexec_boundary(&mut self) {
        self.hardware.next_step();
        for cpu in &mut self.hardware.cpus {
            cpu.vmx = false;
        }
    }

    /// A fast warm reset: caches and pending stores are lost, VMX operation has ended, the BIOS has loaded the module anew.
    /// Memory keeps its bytes, its owners and its poison.
    pub fn warm_reset(&mut self) {
        self.hardware.step += 1;
        self.hardware.reset_cpus();
        self.module = self.hardware.config.module.map(|_| Module::new(&self.hardware.config));
    }
}
