//! The hardware against an oracle that keeps every line and every cached line by itself, without
//! ranges or trees.

extern crate std;

use proptest::prelude::*;
use std::collections::BTreeMap;
use std::{vec, vec::Vec};
use tdx_abi::{KeyId, Line};

use super::Hardware;
use crate::cache::Dirty;
use crate::memory::range;
use crate::{Agent, CpuId, CpuModel, MachineConfig, PartialStore};
use core::ops::ControlFlow;

const LINES: u64 = 300;
const CPUS: u32 = 3;
/// KeyID 0, a shared one, two private ones.
const KEYS: [u16; 4] = [0, 1, 32, 33];

#[derive(Clone, Copy, Debug)]
enum Op {
    Store { cpu: u32, key: usize },
    Direct { cpu: u32 },
    Partial { cpu: u32, key: usize },
    SeamDirect { key: usize },
    SeamStore { cpu: u32, key: usize },
    Flush { key: usize },
    Fence { cpu: u32 },
    Wbinvd { cpu: u32 },
}

fn op() -> impl Strategy<Value = (Op, u64, u64)> {
    let kind = prop_oneof![
        (0..CPUS, 0..2usize).prop_map(|(cpu, key)| Op::Store { cpu, key }),
        (0..CPUS).prop_map(|cpu| Op::Direct { cpu }),
        (0..CPUS, 0..2usize).prop_map(|(cpu, key)| Op::Partial { cpu, key }),
        (2..4usize).prop_map(|key| Op::SeamDirect { key }),
        (0..CPUS, 2..4usize).prop_map(|(cpu, key)| Op::SeamStore { cpu, key }),
        (0..4usize).prop_map(|key| Op::Flush { key }),
        (0..CPUS).prop_map(|cpu| Op::Fence { cpu }),
        (0..CPUS).prop_map(|cpu| Op::Wbinvd { cpu }),
    ];
    (kind, 0..LINES, 1..80u64).prop_map(|(op, start, length)| (op, start, length.min(LINES - start)))
}

/// Memory: owner and poison of each line. Caches: (key, line) to (CPU, poison). Pending direct
/// stores by CPU.
struct Oracle {
    erratum: bool,
    memory: Vec<(u16, bool)>,
    caches: BTreeMap<(u16, u64), (u32, bool)>,
    pending: Vec<Vec<u64>>,
    late_private: u64,
    late_shared: u64,
    poisoned: u64,
}

impl Oracle {
    fn owner(key: u16) -> u16 {
        if key >= 32 { key } else { 0 }
    }

    fn write_back(&mut self, key: u16, line: u64, poison: bool) {
        let before = self.memory[line as usize].0;
        match (before == Self::owner(key), key >= 32) {
            (false, true) => self.late_private += 1,
            (false, false) => self.late_shared += 1,
            (true, _) => {}
        }
        self.memory[line as usize] = (Self::owner(key), poison);
    }

    fn flush(&mut self, key: u16, line: u64) {
        if let Some((_, poison)) = self.caches.remove(&(key, line)) {
            self.write_back(key, line, poison);
        }
    }

    fn drain(&mut self, cpu: u32) {
        for line in std::mem::take(&mut self.pending[cpu as usize]) {
            self.caches.remove(&(0, line));
            self.memory[line as usize] = (0, false);
        }
    }

    /// Stores, read for ownership first. A SEAM store needs a line that this key wrote.
    fn store(&mut self, cpu: u32, key: u16, line: u64) {
        let poison = self.caches.get(&(key, line)).map_or(self.memory[line as usize].1, |held| held.1);
        self.caches.insert((key, line), (cpu, poison));
    }

    fn may_seam_store(&self, key: u16, line: u64) -> bool {
        self.caches.contains_key(&(key, line)) || self.memory[line as usize] == (key, false)
    }

    fn apply(&mut self, op: Op, start: u64, end: u64) {
        match op {
            Op::Fence { cpu } => self.drain(cpu),
            Op::Wbinvd { cpu } => {
                self.drain(cpu);
                let held: Vec<_> = self.caches.iter().filter(|(_, held)| held.0 == cpu).map(|(k, _)| *k).collect();
                for (key, line) in held {
                    self.flush(key, line);
                }
            }
            Op::SeamStore { cpu, key } => {
                if (start..end).all(|line| self.may_seam_store(KEYS[key], line)) {
                    (start..end).for_each(|line| self.store(cpu, KEYS[key], line));
                }
            }
            Op::Direct { cpu } => self.pending[cpu as usize].extend(start..end),
            Op::Store { cpu, key } => (start..end).for_each(|line| self.store(cpu, KEYS[key], line)),
            Op::Flush { key } => (start..end).for_each(|line| self.flush(KEYS[key], line)),
            Op::SeamDirect { key } => {
                for line in start..end {
                    self.caches.remove(&(KEYS[key], line));
                    self.memory[line as usize] = (KEYS[key], false);
                }
            }
            Op::Partial { key, .. } => {
                for line in start..end {
                    self.flush(KEYS[key], line);
                    let (owner, poison) = &mut self.memory[line as usize];
                    match (*owner != 0, *poison, self.erratum) {
                        (true, false, true) => {
                            *poison = true;
                            self.poisoned += 1;
                        }
                        (true, false, false) => *owner = 0,
                        _ => {}
                    }
                }
            }
        }
    }

    fn first_poison(&self, key: u16, start: u64, end: u64) -> Option<u64> {
        (start..end).find(|line| match self.caches.get(&(key, *line)) {
            Some((_, poison)) => *poison,
            None => self.memory[*line as usize].1,
        })
    }
}

fn apply(hardware: &mut Hardware, op: Op, start: u64, end: u64) {
    let lines = range(start, end);
    hardware.next_step();
    match op {
        Op::Store { cpu, key } => hardware.store(CpuId(cpu), lines, KeyId::new(KEYS[key])),
        Op::Direct { cpu } => hardware.direct_store(CpuId(cpu), lines),
        Op::Partial { cpu, key } => {
            let by = Agent::Cpu(CpuId(cpu));
            hardware.partial_write(by, lines, KeyId::new(KEYS[key]), PartialStore::NonTemporal);
        }
        Op::SeamDirect { key } => hardware.seam_direct_store(lines, KeyId::new(KEYS[key])),
        // A fault changes nothing here; the module would be dead.
        Op::SeamStore { cpu, key } => drop(hardware.seam_store(CpuId(cpu), lines, KeyId::new(KEYS[key]))),
        Op::Flush { key } => drop(hardware.evict(lines, KeyId::new(KEYS[key]))),
        Op::Fence { cpu } => hardware.drain(CpuId(cpu)),
        Op::Wbinvd { cpu } => {
            hardware.drain(CpuId(cpu));
            hardware.write_back_cpu(CpuId(cpu));
        }
    }
}

fn cached(hardware: &Hardware) -> BTreeMap<(u16, u64), (u32, bool)> {
    let mut lines = BTreeMap::new();
    for key in hardware.caches.keys() {
        let _ = hardware.caches.runs(range(0, u64::MAX), key, |dirty: Dirty| {
            for line in dirty.lines.start().index()..dirty.lines.end().index() {
                lines.insert((key.get(), line), (dirty.cpu.0, dirty.poison.is_poison()));
            }
            ControlFlow::<()>::Continue(())
        });
    }
    lines
}

fn compare(erratum: bool, ops: Vec<(Op, u64, u64)>) -> Result<(), TestCaseError> {
    let model = if erratum { CpuModel::SAPPHIRE_RAPIDS } else { CpuModel::GRANITE_RAPIDS };
    let mut hardware = Hardware::new(MachineConfig::new(model, CPUS, 1, []));
    let mut oracle = Oracle {
        erratum,
        memory: vec![(0, false); LINES as usize],
        caches: BTreeMap::new(),
        pending: vec![Vec::new(); CPUS as usize],
        late_private: 0,
        late_shared: 0,
        poisoned: 0,
    };
    for (op, start, length) in ops {
        apply(&mut hardware, op, start, start + length);
        oracle.apply(op, start, start + length);
        for line in 0..LINES {
            let state = hardware.memory.state(Line::new(line));
            let got = (state.owner.get(), state.poison.is_poison());
            prop_assert_eq!(got, oracle.memory[line as usize], "line {} after {:?}", line, op);
        }
        prop_assert_eq!(cached(&hardware), oracle.caches.clone(), "caches after {:?}", op);
        for cpu in 0..CPUS {
            let held = oracle.caches.values().filter(|held| held.0 == cpu).count() as u64;
            prop_assert_eq!(hardware.caches.held_by(CpuId(cpu)), held);
        }
        for key in [0, 1] {
            let expected = oracle.first_poison(key, start, start + length);
            let got = hardware.first_poison(range(start, start + length), KeyId::new(key));
            prop_assert_eq!(got.map(|(line, _)| line.index()), expected);
        }
        let counters = &hardware.record.counters;
        prop_assert_eq!(counters.lines_late_private, oracle.late_private);
        prop_assert_eq!(counters.lines_late_shared, oracle.late_shared);
        prop_assert_eq!(counters.lines_poisoned, oracle.poisoned);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn with_the_erratum(ops in prop::collection::vec(op(), 1..60)) {
        compare(true, ops)?;
    }

    #[test]
    fn without_the_erratum(ops in prop::collection::vec(op(), 1..60)) {
        compare(false, ops)?;
    }
}
