//! State that no real host can read: the owner of each line, poison, dirty cache lines.

use alloc::vec::Vec;
use core::ops::ControlFlow;
use tdx_abi::{KeyId, Line, LineRange};

use super::Machine;
use crate::events::{Counters, Event};
use crate::memory::range;
use crate::poison::PoisonedRun;
use crate::{AssignedRun, CpuId, PoisonCause};

/// Adjacent lines that one private KeyID owns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnerRun {
    /// The lines.
    pub lines: LineRange,
    /// The owner.
    pub key: KeyId,
}

/// Adjacent lines that are dirty in one CPU's cache under one KeyID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirtyRun {
    /// The lines.
    pub lines: LineRange,
    /// The KeyID.
    pub key: KeyId,
    /// The CPU.
    pub cpu: CpuId,
}

/// All lines there can be.
const ALL: LineRange = range(0, u64::MAX);

impl Machine {
    /// The private KeyID that owns the line in memory.
    pub fn owner(&self, line: Line) -> Option<KeyId> {
        Some(self.hardware.memory.state(line)).filter(|state| state.is_private()).map(|state| state.owner)
    }

    /// What poisoned the line, if it is poisoned in memory.
    pub fn poison(&self, line: Line) -> Option<PoisonCause> {
        self.hardware.poison.cause(self.hardware.memory.state(line).poison)
    }

    /// TD-owned lines of all memory.
    pub fn private_lines(&self) -> u64 {
        self.private_lines_in(ALL)
    }

    /// TD-owned lines among these.
    pub fn private_lines_in(&self, lines: LineRange) -> u64 {
        let mut count = 0;
        self.for_each_owner_run(lines, |run| count += run.lines.len());
        count
    }

    /// Maximal runs of lines with one owner, ascending.
    pub fn owner_runs(&self, lines: LineRange) -> Vec<OwnerRun> {
        let mut runs = Vec::new();
        self.for_each_owner_run(lines, |run| runs.push(run));
        runs
    }

    /// As [`Self::owner_runs`] over all of memory.
    pub fn all_owner_runs(&self) -> Vec<OwnerRun> {
        self.owner_runs(ALL)
    }

    fn for_each_owner_run(&self, lines: LineRange, mut function: impl FnMut(OwnerRun)) {
        // Poison splits runs in memory; the owner does not care.
        let mut last: Option<OwnerRun> = None;
        let _ = self.hardware.memory.runs(lines, |run, state| {
            if state.is_private() {
                match &mut last {
                    Some(joined) if joined.key == state.owner && joined.lines.end() == run.start() => {
                        joined.lines = LineRange::new(joined.lines.start(), run.end());
                    }
                    _ => {
                        if let Some(done) = last.replace(OwnerRun { lines: run, key: state.owner }) {
                            function(done);
                        }
                    }
                }
            }
            ControlFlow::<()>::Continue(())
        });
        if let Some(done) = last {
            function(done);
        }
    }

    /// Runs of poisoned lines with one cause, ascending. Poison that sits in a dirty cache line
    /// only is not here.
    pub fn poisoned_runs(&self, lines: LineRange) -> Vec<PoisonedRun> {
        let mut runs: Vec<PoisonedRun> = Vec::new();
        let _ = self.hardware.memory.runs(lines, |run, state| {
            if let Some(cause) = self.hardware.poison.cause(state.poison) {
                match runs.last_mut() {
                    Some(last) if last.cause == cause && last.lines.end() == run.start() => {
                        last.lines = LineRange::new(last.lines.start(), run.end());
                    }
                    _ => runs.push(PoisonedRun { lines: run, cause }),
                }
            }
            ControlFlow::<()>::Continue(())
        });
        runs
    }

    /// As [`Self::poisoned_runs`] over all of memory.
    pub fn all_poisoned_runs(&self) -> Vec<PoisonedRun> {
        self.poisoned_runs(ALL)
    }

    /// Runs of lines that are dirty in a cache under a private KeyID: any of them may be written
    /// back at any time.
    pub fn dirty_private_runs(&self) -> Vec<DirtyRun> {
        let mut runs = self.dirty_runs();
        runs.retain(|run| self.hardware.key_ids().is_private(run.key));
        runs
    }

    /// Runs of lines that are dirty in a cache, by KeyID and line.
    pub fn dirty_runs(&self) -> Vec<DirtyRun> {
        let mut runs = Vec::new();
        for key in self.hardware.caches.keys() {
            let _ = self.hardware.caches.runs(ALL, key, |dirty| {
                runs.push(DirtyRun { lines: dirty.lines, key, cpu: dirty.cpu });
                ControlFlow::<()>::Continue(())
            });
        }
        runs
    }

    /// Lines dirty in a cache under a private KeyID.
    pub fn dirty_private_lines(&self) -> u64 {
        self.dirty_private_runs().iter().map(|run| run.lines.len()).sum()
    }

    /// Direct stores of a CPU that are not visible yet, in lines.
    pub fn pending_lines(&self, cpu: CpuId) -> u64 {
        self.hardware.pending(cpu).iter().map(|lines| lines.len()).sum()
    }

    /// Every page that the module holds, and what for. Pages that it has returned, or only written
    /// to, are not here, private or not. Empty without a module.
    pub fn assigned_pages(&self) -> Vec<AssignedRun> {
        self.module.as_ref().map(crate::module::Module::assigned).unwrap_or_default()
    }

    /// Operations so far: the clock of [`PoisonCause`] and of [`Self::events`].
    pub fn step(&self) -> u64 {
        self.hardware.step
    }

    /// Counts since the machine was made.
    pub fn counters(&self) -> &Counters {
        &self.hardware.record.counters
    }

    /// The first rare events, each with its step. When the list is full, later ones are only
    /// counted.
    pub fn events(&self) -> &[(u64, Event)] {
        self.hardware.record.events()
    }
}
