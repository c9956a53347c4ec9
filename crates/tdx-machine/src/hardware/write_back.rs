//! How dirty lines and pending stores reach memory: write-back, eviction, fences, WBINVD.

use core::ops::ControlFlow;
use tdx_abi::{KeyId, LineRange};

use super::Hardware;
use crate::cache::Dirty;
use crate::config::EvictionPolicy;
use crate::events::Event;
use crate::memory::range;
use crate::poison::CauseId;
use crate::{CpuId, PackageId};

/// Longest piece of a dirty run that a seeded eviction takes at once, in lines.
const EVICTED_AT_ONCE: u64 = 256;

impl Hardware {
    /// A full line from a cache arrives at memory, whatever has become of that line since it was
    /// stored to.
    pub(super) fn write_back(&mut self, dirty: Dirty) {
        let owner = self.owner_of(dirty.key);
        let (record, step) = (&mut self.record, self.step);
        let mut lost = false;
        let _ = self.memory.runs(dirty.lines, |lines, state| {
            if state.owner != owner {
                if owner == KeyId::HOST {
                    record.counters.lines_late_shared += lines.len();
                    record.push(step, Event::SharedWriteBackOverPrivate { lines, owner: state.owner, cpu: dirty.cpu });
                } else {
                    lost = true;
                    record.counters.lines_late_private += lines.len();
                    record.push(step, Event::PrivateWriteBackOverShared { lines, key: dirty.key, cpu: dirty.cpu });
                }
            }
            ControlFlow::<()>::Continue(())
        });
        self.memory.full_write(dirty.lines, owner, dirty.poison);
        if lost {
            self.memory.content.clear(dirty.lines);
        }
    }

    /// Writes back the dirty copies of these lines under one key, in whatever cache they are.
    pub(crate) fn evict(&mut self, lines: LineRange, key: KeyId) -> u64 {
        let mut evicted = 0;
        let mut caches = core::mem::replace(&mut self.caches, crate::cache::Caches::new(0));
        caches.take(lines, key, |dirty| {
            evicted += dirty.lines.len();
            self.write_back(dirty);
        });
        self.caches = caches;
        evicted
    }

    /// WBINVD without its serializing side: every dirty line of this CPU reaches memory.
    ///
    /// Lines of different keys may go in any order. Without a seed private ones go last, the order
    /// that hurts most.
    pub(crate) fn write_back_cpu(&mut self, cpu: CpuId) {
        if self.caches.held_by(cpu) == 0 {
            return;
        }
        let mut keys = self.caches.keys();
        if matches!(self.config.eviction, EvictionPolicy::Seeded { .. }) {
            let turn = self.rng.below(keys.len() as u64) as usize;
            keys.rotate_left(turn);
        }
        let mut caches = core::mem::replace(&mut self.caches, crate::cache::Caches::new(0));
        caches.take_all_of(cpu, &keys, |dirty| self.write_back(dirty));
        self.caches = caches;
    }

    /// Every cache of a package, as PHYMEM.CACHE.WB does through WBNOINVD: what was dirty is clean.
    pub(crate) fn write_back_package(&mut self, package: PackageId) {
        for cpu in self.cpus_of(package) {
            self.write_back_cpu(cpu);
        }
    }

    /// The direct stores of this CPU become visible.
    pub(crate) fn drain(&mut self, cpu: CpuId) {
        let Some(state) = self.cpus.get_mut(cpu.index()) else { return };
        for lines in core::mem::take(&mut state.pending) {
            self.record.counters.lines_direct_stored += lines.len();
            self.direct_write(lines, KeyId::HOST);
        }
    }

    /// A full line of zeros arrives past the caches. A copy under the same key is gone; copies
    /// under other keys stay.
    pub(super) fn direct_write(&mut self, lines: LineRange, key: KeyId) {
        self.caches.take(lines, key, |_| {});
        self.memory.full_write(lines, self.owner_of(key), CauseId::CLEAN);
        self.memory.content.clear(lines);
    }

    /// A new operation of the host. The adversary may evict something first.
    pub(crate) fn next_step(&mut self) {
        self.step += 1;
        if let EvictionPolicy::Seeded { one_in } = self.config.eviction
            && self.rng.below(u64::from(one_in)) == 0
        {
            self.evict_something();
        }
    }

    /// Writes back a random piece of a random dirty run. Returns the lines and the key, or `None`
    /// if nothing is dirty.
    pub(crate) fn evict_something(&mut self) -> Option<(LineRange, KeyId)> {
        let keys = self.caches.keys();
        let mut runs = 0;
        for key in &keys {
            let _ = self.caches.runs(range(0, u64::MAX), *key, |_| {
                runs += 1;
                ControlFlow::<()>::Continue(())
            });
        }
        let mut chosen = self.rng.below(runs);
        let found = keys.iter().find_map(|key| {
            let found = self.caches.runs(range(0, u64::MAX), *key, |dirty| match chosen.checked_sub(1) {
                Some(left) => {
                    chosen = left;
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Break(dirty),
            });
            found.break_value()
        })?;
        let lines = found.lines;
        let length = 1 + self.rng.below(lines.len().min(EVICTED_AT_ONCE));
        let start = lines.start().index() + self.rng.below(lines.len() - length + 1);
        let piece = range(start, start + length);
        self.evict(piece, found.key);
        Some((piece, found.key))
    }
}
