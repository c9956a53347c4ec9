//! The emulated TDX module: SEAMCALL in, registers out, bit-exact in status, order of checks and
//! cleared outputs.
//!
//! Source: `tdx_abi.md` and the conformance vectors of module 1.5.01. It keeps its state as values
//! of its own, not as bytes of private memory, and tells the hardware which private lines it
//! writes, how, and under which KeyID.

mod assigned;
mod cache_wb;
mod call;
mod config;
mod disable;
mod dispatch;
mod dynamic_pamt;
mod guest;
mod info;
mod keys;
mod locks;
mod mem_large;
mod mem_page;
mod mem_range;
mod mem_sept;
mod mng;
mod pamt;
mod pamt_size;
mod phymem;
mod phymem_pamt;
mod sept;
mod sys;
mod td;
mod td_params;
mod tdmr;
mod vcpu;

use alloc::{collections::BTreeMap, sync::Arc, vec, vec::Vec};
use tdx_abi::{KeyId, Page, PhysAddr, Registers};

use crate::fault::{Lock, LockMode};
use crate::{CpuId, MachineCheck, MachineConfig, Refusal};
use cache_wb::WriteBack;
use dynamic_pamt::DynamicPamt;
use keys::KeyTable;
use locks::{LockId, Locks};
use pamt::Pamt;
use td::Td;
use tdmr::Tdmr;

pub use assigned::{AssignedKind, AssignedRun};
pub use guest::GuestOutcome;

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
    /// By CPU.
    lp_init_done: Vec<bool>,
    /// One bit per package.
    all_packages: u32,
    packages_with_key: u32,
    global_key: Option<KeyId>,
    keys: KeyTable,
    /// Ascending.
    tdmrs: Vec<Tdmr>,
    pamt: Pamt,
    /// If SYS.CONFIG switched it on.
    dynamic_pamt: Option<DynamicPamt>,
    locks: Locks,
    /// By TDR page.
    tds: BTreeMap<Page, Arc<Td>>,
    /// By package.
    write_back: Vec<WriteBack>,
    /// VCPUs that are inside, by the CPU they run on.
    running: BTreeMap<CpuId, guest::Running>,
    /// SYS.DISABLE has begun: pieces of memory it has cleared.
    disabling: Option<usize>,
}

impl Module {
    /// Loaded by the BIOS, never called.
    pub(crate) fn new(config: &MachineConfig) -> Self {
        Self {
            dead: false,
            state: SysState::InitPending,
            lp_init_done: vec![false; config.package_of_cpu.len()],
            all_packages: (0..config.packages()).fold(0, |bits, package| bits | 1 << package),
            packages_with_key: 0,
            global_key: None,
            keys: KeyTable::new(config.key_ids.unwrap_or(tdx_abi::KeyIdPartition::new(0, 0))),
            tdmrs: Vec::new(),
            pamt: Pamt::new(),
            dynamic_pamt: None,
            locks: Locks::default(),
            tds: BTreeMap::new(),
            write_back: vec![WriteBack::default(); config.packages() as usize],
            running: BTreeMap::new(),
            disabling: None,
        }
    }

    /// As after SYS.INIT, and SYS.LP.INIT on every CPU.
    pub(crate) fn skip_to_lp_init_done(&mut self) {
        self.state = SysState::InitDone;
        self.lp_init_done.fill(true);
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

    /// The key of PAMT and TDRs. Leaves that need it run only after SYS.CONFIG.
    fn global_key(&self) -> KeyId {
        self.global_key.unwrap_or(KeyId::HOST)
    }

    pub(crate) fn hold(&mut self, lock: Lock, mode: LockMode) {
        if let Some(id) = self.lock_id(lock) {
            self.locks.hold(id, mode);
        }
    }

    pub(crate) fn release(&mut self, lock: Lock, mode: LockMode) {
        if let Some(id) = self.lock_id(lock) {
            self.locks.release(id, mode);
        }
    }

    /// `None` for a TDMR that is not in the table: there is no such lock.
    fn lock_id(&self, lock: Lock) -> Option<LockId> {
        Some(match lock {
            Lock::Pamt { address, level } => LockId::Pamt(level, address.page().index() / level.pages()),
            Lock::Kot => LockId::Kot,
            Lock::Sys => LockId::Sys,
            Lock::CacheWriteBack { package } => LockId::CacheWriteBack(package),
            Lock::Tdmr { base } => LockId::Tdmr(self.tdmr_at(base)?),
            Lock::OpState { tdr } => LockId::OpState(tdr.page()),
            Lock::SeptTree { tdr } => LockId::SeptTree(tdr.page()),
            Lock::Epoch { tdr } => LockId::Epoch(tdr.page()),
        })
    }

    /// Index of the TDMR with exactly this base.
    fn tdmr_at(&self, base: PhysAddr) -> Option<usize> {
        self.tdmrs.iter().position(|tdmr| tdmr.range.base() == base)
    }
}
