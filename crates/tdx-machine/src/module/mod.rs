//! The emulated TDX module: SEAMCALL in, registers out, bit-exact in status, order of checks and cleared outputs.
//!
//! Source: `tdx_abi.md` and the conformance vectors of module 1.5.01. It keeps its state as values of its own, not as bytes
//! of private memory, and tells the hardware which private lines it writes, how, and under which KeyID.

use tdx_abi::Registers;

use crate::fault::{Conditions, Lock, LockMode};
use crate::hardware::Hardware;
use crate::{CpuId, MachineCheck, MachineConfig, Refusal};

/// The module's global state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SysState {
    /// Loaded; waits for SYS.INIT.
    InitPending,
    /// Waits for SYS.LP.INIT on every CPU, then SYS.CONFIG.
    InitDone,
    /// Waits for SYS.KEY.CONFIG on every package.
    ConfigDone,
    /// Ready for TDMR.INIT and TDs.
    Ready,
    /// Shut down for an update.
    Shutdown,
}

/// How a SEAMCALL ended.
pub(crate) enum Answer {
    Registers(Registers),
    Refused(Refusal),
    MachineCheck(MachineCheck),
}

/// The module.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    dead: bool,
    state: SysState,
}

impl Module {
    pub(crate) fn new(_config: &MachineConfig) -> Self {
        Self { dead: false, state: SysState::InitPending }
    }

    pub(crate) fn skip_to_lp_init_done(&mut self) {
        self.state = SysState::InitDone;
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead
    }

    pub(crate) fn die(&mut self) {
        self.dead = true;
    }

    pub(crate) fn state(&self) -> SysState {
        self.state
    }

    pub(crate) fn hold(&mut self, _hardware: &Hardware, _lock: Lock, _mode: LockMode) {}

    pub(crate) fn release(&mut self, _hardware: &Hardware, _lock: Lock, _mode: LockMode) {}

    pub(crate) fn seamcall(
        &mut self,
        _hardware: &mut Hardware,
        _cpu: CpuId,
        registers: Registers,
        _conditions: Conditions,
    ) -> Answer {
        Answer::Refused(Refusal::LeafNotModelled { leaf: registers.leaf_call().leaf() })
    }
}
