//! CPUs, caches and the memory controller together: every way in which a store becomes a write and
//! a read becomes data. The host side checks what it is asked to do; the SEAM side belongs to the
//! emulated module, which checks for itself.

mod host;
mod seam;
#[cfg(test)]
mod tests;
mod write_back;

use alloc::{sync::Arc, vec::Vec};
use tdx_abi::{KeyId, KeyIdPartition, LineRange, PhysAddr};

use crate::cache::Caches;
use crate::events::Record;
use crate::memory::Memory;
use crate::poison::PoisonTable;
use crate::rng::Rng;
use crate::{CpuId, MachineConfig, PackageId, Refusal};

/// One CPU, apart from its cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cpu {
    /// In VMX operation.
    pub(crate) vmx: bool,
    /// A VCPU runs on it: it makes no operation of the host.
    in_guest: bool,
    /// A SEAMCALL is in flight on it: it makes no other operation.
    in_module: bool,
    /// Direct stores of zeros that no fence has made visible yet, in order; touching ones are
    /// joined.
    pending: Vec<LineRange>,
    /// MSRs that have another value than the machine's configuration says.
    pub(crate) msrs: Vec<(u32, u64)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Hardware {
    pub(crate) config: Arc<MachineConfig>,
    pub(crate) memory: Memory,
    pub(crate) caches: Caches,
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) poison: PoisonTable,
    pub(crate) record: Record,
    /// Operations of the host so far.
    pub(crate) step: u64,
    rng: Rng,
}

impl Hardware {
    pub(crate) fn new(config: MachineConfig) -> Self {
        let cpus = config.package_of_cpu.len();
        Self {
            memory: Memory::new(),
            caches: Caches::new(cpus),
            cpus: alloc::vec![Cpu::default(); cpus],
            poison: PoisonTable::default(),
            record: Record::default(),
            step: 0,
            rng: Rng::new(config.seed),
            config: Arc::new(config),
        }
    }

    /// Number of CPUs.
    pub(crate) fn cpu_count(&self) -> u32 {
        self.cpus.len() as u32
    }

    /// The package of a CPU that exists.
    pub(crate) fn package_of(&self, cpu: CpuId) -> PackageId {
        self.config.package_of_cpu.get(cpu.index()).copied().unwrap_or_default()
    }

    /// The CPUs of a package.
    pub(crate) fn cpus_of(&self, package: PackageId) -> Vec<CpuId> {
        (0..self.cpu_count()).map(CpuId).filter(|cpu| self.package_of(*cpu) == package).collect()
    }

    pub(crate) fn check_cpu(&self, cpu: CpuId) -> Result<(), Refusal> {
        match self.cpus.get(cpu.index()) {
            None => Err(Refusal::NoSuchCpu { cpu }),
            Some(state) if state.in_guest => Err(Refusal::CpuInGuest { cpu }),
            Some(state) if state.in_module => Err(Refusal::CpuInModule { cpu }),
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn set_in_guest(&mut self, cpu: CpuId, inside: bool) {
        if let Some(state) = self.cpus.get_mut(cpu.index()) {
            state.in_guest = inside;
        }
    }

    pub(crate) fn is_in_module(&self, cpu: CpuId) -> bool {
        self.cpus.get(cpu.index()).is_some_and(|state| state.in_module)
    }

    pub(crate) fn set_in_module(&mut self, cpu: CpuId, inside: bool) {
        if let Some(state) = self.cpus.get_mut(cpu.index()) {
            state.in_module = inside;
        }
    }

    /// Host accesses go to memory that exists, with a shared key.
    pub(crate) fn check_access(&self, lines: LineRange, key: KeyId) -> Result<(), Refusal> {
        let limit = PhysAddr::new(self.config.key_id_field.memory_mask()).line();
        if lines.end().index() > limit.index() + 1 {
            return Err(Refusal::BeyondPhysicalMemory { address: lines.end().start() });
        }
        let key_ids = self.key_ids();
        if key_ids.is_private(key) {
            return Err(Refusal::PrivateKeyOutsideSeam { key });
        }
        if u64::from(key.get()) >= key_ids.private_end() {
            return Err(Refusal::NoSuchKeyId { key });
        }
        Ok(())
    }

    /// An MSR that does not have the value of a platform that is fit for TDX.
    pub(crate) fn unusual_msr(&self, cpu: CpuId, msr: u32) -> Option<u64> {
        let own = self.cpus.get(cpu.index()).map_or(&[][..], |state| state.msrs.as_slice());
        own.iter().chain(&self.config.msrs).find(|(number, _)| *number == msr).map(|(_, value)| *value)
    }

    /// How the BIOS split the KeyIDs; a machine without TDX has only KeyID 0.
    pub(crate) fn key_ids(&self) -> KeyIdPartition {
        self.config.key_ids.unwrap_or(KeyIdPartition::new(0, 0))
    }

    /// The owner that a full write under this key leaves.
    pub(crate) fn owner_of(&self, key: KeyId) -> KeyId {
        if self.key_ids().is_private(key) { key } else { KeyId::HOST }
    }
}

impl Hardware {
    /// A device writes whole lines with KeyID 0: copies under this key are gone, memory has the
    /// lines.
    pub(crate) fn full_write_by_device(&mut self, lines: LineRange) {
        self.direct_write(lines, KeyId::HOST);
    }

    /// Direct stores of a CPU that are not visible yet.
    pub(crate) fn pending(&self, cpu: CpuId) -> &[LineRange] {
        self.cpus.get(cpu.index()).map_or(&[], |state| &state.pending)
    }

    /// CPUs after reset: caches and pending stores are lost, no VMX operation.
    pub(crate) fn reset_cpus(&mut self) {
        self.caches.drop_all();
        self.cpus.fill(Cpu::default());
    }
}
