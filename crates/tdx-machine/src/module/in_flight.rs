//! SEAMCALLs that have begun and not returned: what they hold meanwhile.
//!
//! What a call does to memory and to the module is done when it begins, the earliest moment at
//! which a host has to reckon with it; its locks are free, and its registers are known, when it
//! finishes.

use alloc::vec::Vec;
use tdx_abi::{Leaf, Registers};

use super::Module;
use super::locks::LockId;
use crate::{CpuId, LockMode};

/// A call on the CPU it runs on.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    leaf: Leaf,
    locks: Vec<(LockId, LockMode)>,
    answer: Registers,
}

impl Module {
    /// The call that has just run on this CPU keeps its locks.
    pub(super) fn keep_in_flight(&mut self, cpu: CpuId, leaf: Leaf, answer: Registers) {
        let locks = self.locks.detach();
        self.in_flight.insert(cpu, InFlight { leaf, locks, answer });
    }

    /// The call on this CPU returns. `None`: there is none.
    pub(crate) fn finish(&mut self, cpu: CpuId) -> Option<(Leaf, Registers)> {
        let InFlight { leaf, locks, answer } = self.in_flight.remove(&cpu)?;
        for (id, mode) in locks {
            self.locks.release(id, mode);
        }
        Some((leaf, answer))
    }

    /// Every call returns, and nobody sees how.
    pub(crate) fn finish_all(&mut self) {
        while let Some(cpu) = self.in_flight.keys().next().copied() {
            self.finish(cpu);
        }
    }

    /// Another CPU is in the module, or in a guest.
    pub(super) fn is_another_inside(&self, cpu: CpuId) -> bool {
        self.running.keys().chain(self.in_flight.keys()).any(|other| *other != cpu)
    }

    /// SYS.SHUTDOWN is in flight and holds the global lock: whether it succeeds or not, calls that
    /// begin meanwhile find the module shut down.
    pub(super) fn is_shutting_down(&self) -> bool {
        self.in_flight.values().any(|call| call.leaf == Leaf::SYS_SHUTDOWN && !call.locks.is_empty())
    }
}
