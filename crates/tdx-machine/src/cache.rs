//! Dirty lines of all CPUs, by (line, KeyID): two KeyIDs of one line are two cache lines, and
//! hardware does not keep them in step. For one KeyID it does: a dirty line is in the cache of one
//! CPU, the last that stored to it.
//!
//! Caches are per CPU, not per package: only the CPU that holds a dirty line is sure to write it
//! back with WBINVD (its own L1 and L2), so that is what an adversary would choose. Clean lines are
//! not kept: a read then always meets memory.

use alloc::{collections::BTreeMap, vec, vec::Vec};
use core::ops::ControlFlow;
use tdx_abi::{KeyId, Line, LineRange};

use crate::CpuId;
use crate::memory::range;
use crate::poison::CauseId;
use crate::tree::Tree;

/// Who holds a line dirty.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Holder {
    /// CPU number + 1; 0 is nobody.
    cpu: u32,
    /// The poison that the line brought from memory when it was read for ownership.
    poison: CauseId,
}

impl Holder {
    const NOBODY: Self = Self { cpu: 0, poison: CauseId::CLEAN };

    const fn holds(self) -> Option<CpuId> {
        match self.cpu.checked_sub(1) {
            Some(cpu) => Some(CpuId(cpu)),
            None => None,
        }
    }
}

/// A run of dirty lines that left its cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Dirty {
    pub(crate) lines: LineRange,
    pub(crate) key: KeyId,
    pub(crate) cpu: CpuId,
    pub(crate) poison: CauseId,
}

/// The caches of all CPUs.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    by_key: BTreeMap<KeyId, Tree<Holder>>,
    /// Dirty lines of each CPU.
    held: Vec<u64>,
}

impl Caches {
    pub(crate) fn new(cpus: usize) -> Self {
        Self { by_key: BTreeMap::new(), held: vec![0; cpus] }
    }

    /// Is this line dirty under this key, and with what poison?
    pub(crate) fn dirty(&self, line: Line, key: KeyId) -> Option<CauseId> {
        let holder = self.by_key.get(&key)?.get(line.index());
        holder.holds().map(|_| holder.poison)
    }

    /// The CPU stores to these lines, which were read for ownership first: `poison` is what memory
    /// gave. A line that is dirty already keeps the poison it has, and moves here if another CPU
    /// holds it.
    pub(crate) fn store(&mut self, cpu: CpuId, lines: LineRange, key: KeyId, poison: CauseId) {
        let tree = self.by_key.entry(key).or_insert(Tree::new(Holder::NOBODY));
        let held = &mut self.held;
        tree.update(lines.start().index(), lines.end().index(), |start, end, holder| {
            let poison = match holder.holds() {
                Some(old) => {
                    add(held, old, -((end - start).cast_signed()));
                    holder.poison
                }
                None => poison,
            };
            add(held, cpu, (end - start).cast_signed());
            Holder { cpu: cpu.0 + 1, poison }
        });
    }

    /// Calls the function with each run of these lines that is dirty under the key.
    pub(crate) fn runs<B>(
        &self,
        lines: LineRange,
        key: KeyId,
        mut function: impl FnMut(Dirty) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let Some(tree) = self.by_key.get(&key) else { return ControlFlow::Continue(()) };
        tree.runs(lines.start().index(), lines.end().index(), |start, end, holder| match holder.holds() {
            Some(cpu) => function(Dirty { lines: range(start, end), key, cpu, poison: holder.poison }),
            None => ControlFlow::Continue(()),
        })
    }

    /// The first line that no cache holds dirty under this key.
    pub(crate) fn first_absent(&self, lines: LineRange, key: KeyId) -> Option<Line> {
        let mut at = lines.start();
        let _ = self.runs(lines, key, |dirty| {
            if dirty.lines.start() > at {
                return ControlFlow::Break(());
            }
            at = dirty.lines.end();
            ControlFlow::Continue(())
        });
        (at < lines.end()).then_some(at)
    }

    /// Takes the dirty lines among these out of the caches, for the caller to write back or to
    /// drop.
    pub(crate) fn take(&mut self, lines: LineRange, key: KeyId, mut function: impl FnMut(Dirty)) {
        let Some(tree) = self.by_key.get_mut(&key) else { return };
        let held = &mut self.held;
        tree.update(lines.start().index(), lines.end().index(), |start, end, holder| {
            if let Some(cpu) = holder.holds() {
                add(held, cpu, -((end - start).cast_signed()));
                function(Dirty { lines: range(start, end), key, cpu, poison: holder.poison });
            }
            Holder::NOBODY
        });
    }

    /// Takes every dirty line of the CPU out of its cache; keys in the order given.
    pub(crate) fn take_all_of(&mut self, cpu: CpuId, keys: &[KeyId], mut function: impl FnMut(Dirty)) {
        if self.held_by(cpu) == 0 {
            return;
        }
        for key in keys {
            let Some(tree) = self.by_key.get_mut(key) else { continue };
            tree.update(0, u64::MAX, |start, end, holder| {
                if holder.holds() != Some(cpu) {
                    return holder;
                }
                function(Dirty { lines: range(start, end), key: *key, cpu, poison: holder.poison });
                Holder::NOBODY
            });
        }
        if let Some(held) = self.held.get_mut(cpu.index()) {
            *held = 0;
        }
    }

    /// Number of dirty lines the CPU holds, all keys.
    pub(crate) fn held_by(&self, cpu: CpuId) -> u64 {
        self.held.get(cpu.index()).copied().unwrap_or(0)
    }

    /// Every key under which a line is or was dirty, ascending: KeyID 0 first, private ones last.
    pub(crate) fn keys(&self) -> Vec<KeyId> {
        self.by_key.keys().copied().collect()
    }

    /// Drops every line without writing it back.
    pub(crate) fn drop_all(&mut self) {
        self.by_key.clear();
        self.held.fill(0);
    }
}

fn add(held: &mut [u64], cpu: CpuId, lines: i64) {
    if let Some(held) = held.get_mut(cpu.index()) {
        *held = held.saturating_add_signed(lines);
    }
}
