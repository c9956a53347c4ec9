//! What host code and devices can do to memory: shared keys only.

use core::ops::ControlFlow;
use tdx_abi::{KeyId, LineRange, PhysAddr};

use super::Hardware;
use crate::events::Event;
use crate::machine_check::MachineCheckReason;
use crate::poison::{PartialStore, PoisonCause};
use crate::{Agent, CpuId, MachineCheck};

impl Hardware {
    /// An ordinary store to a cached mapping: the line is read for ownership and is dirty from here
    /// on.
    pub(crate) fn store(&mut self, cpu: CpuId, lines: LineRange, key: KeyId) {
        let (memory, caches) = (&self.memory, &mut self.caches);
        let _ = memory.runs(lines, |lines, state| {
            caches.store(cpu, lines, key, state.poison);
            ControlFlow::<()>::Continue(())
        });
    }

    /// MOVDIR64B of zeros with KeyID 0: weakly ordered, so nothing is visible before a fence.
    pub(crate) fn direct_store(&mut self, cpu: CpuId, lines: LineRange) {
        let Some(state) = self.cpus.get_mut(cpu.index()) else { return };
        if lines.is_empty() {
            return;
        }
        match state.pending.last_mut() {
            Some(last) if last.end() == lines.start() => *last = LineRange::new(last.start(), lines.end()),
            _ => state.pending.push(lines),
        }
    }

    /// Writes of less than a line. The agent's own coherent copy is written back first; then memory
    /// decides.
    pub(crate) fn partial_write(&mut self, by: Agent, lines: LineRange, key: KeyId, store: PartialStore) -> u64 {
        self.evict(lines, key);
        self.record.counters.lines_partially_written += lines.len();
        let erratum = self.config.cpu_model.has_partial_write_erratum();
        // Most partial writes poison nothing: the cause is only recorded if there is something to
        // poison.
        let harms = erratum
            && self
                .memory
                .runs(lines, |_, state| {
                    if state.is_private() && !state.poison.is_poison() {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                })
                .is_break();
        let cause = PoisonCause { by, store, step: self.step };
        let id = if harms { self.poison.id(cause) } else { crate::poison::CauseId::CLEAN };
        let count = self.memory.partial_write(lines, erratum, id);
        if count > 0 {
            self.record.counters.lines_poisoned += count;
            self.record.push(self.step, Event::Poisoned { lines, count, cause });
        }
        count
    }

    /// Reads lines under a shared key; the first poisoned one is a machine check.
    pub(crate) fn load(&mut self, cpu: CpuId, lines: LineRange, key: KeyId) -> Result<(), MachineCheck> {
        match self.first_poison(lines, key) {
            None => Ok(()),
            Some((line, cause)) => {
                let check = MachineCheck::data_load(cpu, line, MachineCheckReason::Poison(cause));
                self.record.counters.machine_checks += 1;
                self.record.push(self.step, Event::MachineCheck(check));
                Err(check)
            }
        }
    }

    /// The first line whose read under this key meets poison: in a cache that has it dirty, else in
    /// memory.
    pub(crate) fn first_poison(&self, lines: LineRange, key: KeyId) -> Option<(tdx_abi::Line, PoisonCause)> {
        let cached = self
            .caches
            .runs(lines, key, |dirty| {
                if dirty.poison.is_poison() {
                    return ControlFlow::Break((dirty.lines.start(), dirty.poison));
                }
                ControlFlow::Continue(())
            })
            .break_value();
        let stored = self
            .memory
            .runs(lines, |run, state| {
                if !state.poison.is_poison() {
                    return ControlFlow::Continue(());
                }
                // A dirty copy answers instead of memory.
                match self.caches.first_absent(run, key) {
                    Some(line) => ControlFlow::Break((line, state.poison)),
                    None => ControlFlow::Continue(()),
                }
            })
            .break_value();
        let (line, id) = match (cached, stored) {
            (Some(cached), Some(stored)) if cached.0 < stored.0 => cached,
            (Some(cached), None) => cached,
            (_, stored) => stored?,
        };
        Some((line, self.poison.cause(id)?))
    }

    /// Bytes as a shared read gives them: TD-owned lines read as zeros. The pattern itself is not
    /// known; zeros are ours.
    pub(crate) fn read_bytes(&self, address: PhysAddr, buffer: &mut [u8]) {
        self.memory.content.read(address, buffer);
    }
}
