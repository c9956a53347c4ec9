//! Memory accesses of the module, in SEAM: private KeyIDs are allowed, and consumed poison is fatal
//! for the module.

use core::ops::ControlFlow;
use tdx_abi::{KeyId, LineRange, PhysAddr};

use super::Hardware;
use crate::machine_check::MachineCheckReason;
use crate::poison::CauseId;
use crate::{CpuId, MachineCheck};

impl Hardware {
    /// MOVDIR64B under a private key, whole lines. The module fences before it returns, so they are
    /// visible at once.
    pub(crate) fn seam_direct_store(&mut self, lines: LineRange, key: KeyId) {
        self.direct_write(lines, key);
    }

    /// The module makes lines normal again: its dirty copies under any private KeyID are gone,
    /// memory has zeros under KeyID 0.
    pub(crate) fn seam_clear(&mut self, lines: LineRange) {
        let key_ids = self.key_ids();
        for key in self.caches.keys().into_iter().filter(|key| key_ids.is_private(*key)) {
            self.caches.take(lines, key, |_| {});
        }
        self.direct_write(lines, KeyId::HOST);
    }

    /// An ordinary store under a private key. The line is read for ownership: if it is not in a
    /// cache, memory must have it from this very key and without poison.
    pub(crate) fn seam_store(&mut self, cpu: CpuId, lines: LineRange, key: KeyId) -> Result<(), MachineCheck> {
        self.seam_load(cpu, lines, key)?;
        self.caches.store(cpu, lines, key, CauseId::CLEAN);
        Ok(())
    }

    /// A read under a private key: the copy in a cache, or memory, which must have the line from
    /// this very key and without poison.
    pub(crate) fn seam_load(&self, cpu: CpuId, lines: LineRange, key: KeyId) -> Result<(), MachineCheck> {
        if lines.len() == 1 && self.caches.dirty(lines.start(), key).is_some() {
            return Ok(());
        }
        let fault = self.memory.runs(lines, |run, state| {
            if state.owner == key && !state.poison.is_poison() {
                return ControlFlow::Continue(());
            }
            let cause = self.poison.cause(state.poison);
            match self.caches.first_absent(run, key) {
                Some(line) => {
                    ControlFlow::Break((line, cause.map_or(MachineCheckReason::Integrity, MachineCheckReason::Poison)))
                }
                None => ControlFlow::Continue(()),
            }
        });
        match fault.break_value() {
            Some((line, reason)) => Err(MachineCheck::data_load(cpu, line, reason)),
            None => Ok(()),
        }
    }

    /// Reads host memory through a shared key.
    pub(crate) fn seam_read(&self, cpu: CpuId, address: PhysAddr, buffer: &mut [u8]) -> Result<(), MachineCheck> {
        let lines = LineRange::touching(address, buffer.len() as u64);
        if let Some((line, cause)) = self.first_poison(lines, KeyId::HOST) {
            return Err(MachineCheck::data_load(cpu, line, MachineCheckReason::Poison(cause)));
        }
        self.memory.content.read(address, buffer);
        Ok(())
    }

    /// Writes host memory through KeyID 0.
    pub(crate) fn seam_write(&mut self, cpu: CpuId, address: PhysAddr, bytes: &[u8]) {
        self.store(cpu, LineRange::touching(address, bytes.len() as u64), KeyId::HOST);
        self.memory.content.write(address, bytes);
    }
}
