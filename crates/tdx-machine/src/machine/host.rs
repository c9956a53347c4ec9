//! Memory operations of host code and of devices.

use tdx_abi::{KeyId, LINE_SIZE, LineRange, PhysAddr};

use super::Machine;
use crate::poison::PartialStore;
use crate::{AccessError, Agent, CpuId, DeviceId, Refusal};

impl Machine {
    /// Ordinary stores to lines of a cached mapping, with KeyID 0 or a shared one. The lines are
    /// dirty in this CPU's cache and reach memory as full lines when they are written back. Bytes
    /// stay as they are.
    ///
    /// # Errors
    /// No such CPU, line or KeyID, or a private KeyID.
    pub fn store(&mut self, cpu: CpuId, lines: LineRange, key: KeyId) -> Result<(), Refusal> {
        self.begin(cpu, lines, key)?;
        self.hardware.store(cpu, lines, key);
        Ok(())
    }

    /// Ordinary stores of bytes with KeyID 0.
    ///
    /// # Errors
    /// No such CPU or line.
    pub fn write_shared(&mut self, cpu: CpuId, address: PhysAddr, bytes: &[u8]) -> Result<(), Refusal> {
        let lines = touched(address, bytes.len())?;
        self.begin(cpu, lines, KeyId::HOST)?;
        self.hardware.store(cpu, lines, KeyId::HOST);
        self.hardware.memory.content.write(address, bytes);
        Ok(())
    }

    /// Loads lines with KeyID 0 or a shared one: nothing but the question whether that is possible.
    ///
    /// # Errors
    /// A machine check for the first poisoned line; or no such CPU, line or KeyID.
    pub fn load(&mut self, cpu: CpuId, lines: LineRange, key: KeyId) -> Result<(), AccessError> {
        self.begin(cpu, lines, key)?;
        self.hardware.load(cpu, lines, key).map_err(AccessError::MachineCheck)
    }

    /// Loads bytes with KeyID 0. TD-owned lines read as zeros.
    ///
    /// # Errors
    /// As [`Self::load`]; the buffer is unchanged then.
    pub fn read_shared(&mut self, cpu: CpuId, address: PhysAddr, buffer: &mut [u8]) -> Result<(), AccessError> {
        self.load(cpu, touched(address, buffer.len())?, KeyId::HOST)?;
        self.hardware.read_bytes(address, buffer);
        Ok(())
    }

    /// One MOVDIR64B of zeros with KeyID 0 for each line. Not visible to anyone before
    /// [`Self::fence`] or one of the operations that imply it; the adversary may make it visible
    /// earlier by [`Self::drain`].
    ///
    /// # Errors
    /// No such CPU or line.
    pub fn direct_store(&mut self, cpu: CpuId, lines: LineRange) -> Result<(), Refusal> {
        self.begin(cpu, lines, KeyId::HOST)?;
        self.hardware.direct_store(cpu, lines);
        Ok(())
    }

    /// Stores of less than a line by a CPU: MOVNTI, UC, WC. On erratum CPUs they poison TD-owned
    /// lines, silently. Returns how many lines became poisoned, which no host could know.
    ///
    /// # Errors
    /// No such CPU, line or KeyID, or a private KeyID.
    pub fn partial_write(
        &mut self,
        cpu: CpuId,
        lines: LineRange,
        key: KeyId,
        store: PartialStore,
    ) -> Result<u64, Refusal> {
        self.begin(cpu, lines, key)?;
        Ok(self.hardware.partial_write(Agent::Cpu(cpu), lines, key, store))
    }

    /// A device writes bytes with KeyID 0: lines that it covers are full writes, the rest are
    /// partial ones. Returns how many lines became poisoned.
    ///
    /// # Errors
    /// No such line.
    pub fn dma_write(&mut self, device: DeviceId, address: PhysAddr, bytes: &[u8]) -> Result<u64, Refusal> {
        let lines = touched(address, bytes.len())?;
        self.hardware.check_access(lines, KeyId::HOST)?;
        self.hardware.next_step();
        let by = Agent::Device(device);
        let mut poisoned = 0;
        let head_is_partial = !address.is_aligned(LINE_SIZE);
        let tail_is_partial = !(address.get() + bytes.len() as u64).is_multiple_of(LINE_SIZE);
        let mut full = lines;
        if head_is_partial && !full.is_empty() {
            poisoned +=
                self.hardware.partial_write(by, LineRange::single(full.start()), KeyId::HOST, PartialStore::Dma);
            full = LineRange::new(tdx_abi::Line::new(full.start().index() + 1), full.end());
        }
        if tail_is_partial && !full.is_empty() {
            let last = tdx_abi::Line::new(full.end().index() - 1);
            poisoned += self.hardware.partial_write(by, LineRange::single(last), KeyId::HOST, PartialStore::Dma);
            full = LineRange::new(full.start(), last);
        }
        self.hardware.full_write_by_device(full);
        self.hardware.memory.content.write(address, bytes);
        Ok(poisoned)
    }

    /// MFENCE: direct stores of this CPU become visible.
    ///
    /// # Errors
    /// No such CPU.
    pub fn fence(&mut self, cpu: CpuId) -> Result<(), Refusal> {
        self.hardware.check_cpu(cpu)?;
        self.hardware.next_step();
        self.hardware.drain(cpu);
        Ok(())
    }

    /// WBINVD: writes back every dirty line of this CPU, of every KeyID. Says nothing about other
    /// CPUs: neither their caches nor the order in which they see anything. Direct stores of this
    /// CPU become visible.
    ///
    /// # Errors
    /// No such CPU.
    pub fn wbinvd(&mut self, cpu: CpuId) -> Result<(), Refusal> {
        self.hardware.check_cpu(cpu)?;
        self.hardware.next_step();
        self.hardware.drain(cpu);
        self.hardware.write_back_cpu(cpu);
        Ok(())
    }

    /// CLFLUSH of lines with KeyID 0 or a shared one: copies under this key are written back, in
    /// whatever cache they are. Copies under other keys stay. Orders no direct store of other
    /// lines.
    ///
    /// # Errors
    /// No such CPU, line or KeyID, or a private KeyID.
    pub fn flush_lines(&mut self, cpu: CpuId, lines: LineRange, key: KeyId) -> Result<(), Refusal> {
        self.begin(cpu, lines, key)?;
        self.hardware.evict(lines, key);
        Ok(())
    }

    /// The adversary makes the direct stores of a CPU visible before it fences.
    ///
    /// # Errors
    /// No such CPU.
    pub fn drain(&mut self, cpu: CpuId) -> Result<(), Refusal> {
        self.fence(cpu)
    }

    /// The adversary evicts the dirty copies of these lines under any KeyID, private ones included.
    /// Returns how many lines were written back.
    pub fn evict(&mut self, lines: LineRange, key: KeyId) -> u64 {
        self.hardware.step += 1;
        self.hardware.evict(lines, key)
    }

    /// Every dirty line of every CPU is written back, and every direct store is visible.
    pub fn write_back_all(&mut self) {
        self.hardware.step += 1;
        for cpu in (0..self.hardware.cpu_count()).map(CpuId) {
            self.hardware.drain(cpu);
            self.hardware.write_back_cpu(cpu);
        }
    }

    /// The adversary evicts a random piece of a random dirty run, by the machine's seed. Returns
    /// what it was; `None` if no line is dirty.
    pub fn evict_something(&mut self) -> Option<(LineRange, KeyId)> {
        self.hardware.step += 1;
        self.hardware.evict_something()
    }

    pub(super) fn begin(&mut self, cpu: CpuId, lines: LineRange, key: KeyId) -> Result<(), Refusal> {
        self.hardware.check_cpu(cpu)?;
        self.hardware.check_access(lines, key)?;
        self.hardware.next_step();
        Ok(())
    }
}

/// The lines of `[address, address + length)`, if the sum exists.
fn touched(address: PhysAddr, length: usize) -> Result<LineRange, Refusal> {
    match address.checked_add(length as u64) {
        Some(_) => Ok(LineRange::touching(address, length as u64)),
        None => Err(Refusal::BeyondPhysicalMemory { address }),
    }
}
