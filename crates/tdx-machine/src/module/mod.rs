//! The emulated TDX module: SEAMCALL in, registers out, bit-exact in status, order of checks and
//! cleared outputs.
//!
//! Source: `tdx_abi.md` and the conformance vectors of modules 1.5.01 and 1.5.25. Its state is kept
//! as values, not as bytes of private memory; it tells the hardware which private lines it writes,
//! how, and under which KeyID.

mod accept;
mod assigned;
mod cache_wb;
mod call;
mod config;
mod debug_memory;
mod disable;
mod dispatch;
mod dynamic_pamt;
mod exit;
mod guest;
mod in_flight;
mod info;
mod inside;
mod keys;
mod l2_sept;
mod locks;
mod mem_large;
mod mem_page;
mod mem_range;
mod mem_rd_wr;
mod mem_sept;
mod metadata;
mod mng;
mod pamt;
mod pamt_size;
mod phymem;
mod phymem_pamt;
mod running;
mod sept;
mod sys;
mod td;
mod td_checks;
mod td_config;
mod td_params;
mod tdcall;
mod tdmr;
mod tsc;
mod vcpu;
mod vcpu_state;
mod vp_enter;

use alloc::{boxed::Box, collections::BTreeMap, sync::Arc, vec, vec::Vec};
use tdx_abi::{KeyId, Page, PhysAddr, Registers};

use crate::fault::{Lock, LockMode};
use crate::profile::Traits;
use crate::{CpuId, MachineCheck, MachineConfig, ModuleProfile, Refusal};
use cache_wb::WriteBack;
use dynamic_pamt::DynamicPamt;
use keys::KeyTable;
use locks::{LockId, Locks};
use pamt::Pamt;
use td::Td;
use tdmr::Tdmr;

pub use assigned::{AssignedKind, AssignedRun};
pub use exit::{AfterExit, GuestEvent, TdExit};
pub use guest::GuestOutcome;
pub use inside::{GuestMapping, VcpuOnCpu};

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
    /// It has not returned yet.
    InFlight,
    Refused(Refusal),
    MachineCheck(MachineCheck),
}

/// The module.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// What this version does differently from others.
    traits: &'static Traits,
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
    running: BTreeMap<CpuId, running::Running>,
    /// Calls that have begun and not returned, by the CPU they run on.
    in_flight: BTreeMap<CpuId, in_flight::InFlight>,
    /// IA32_TSC_ADJUST when SYS.INIT ran.
    tsc_adjust: u64,
    tsc: tsc::Tsc,
    /// What the module before this one left when it was shut down.
    handoff: Option<Box<Self>>,
    /// SYS.DISABLE has begun: pieces of memory it has cleared.
    disabling: Option<usize>,
}

impl Module {
    /// Loaded by the BIOS, never called.
    pub(crate) fn new(config: &MachineConfig) -> Self {
        Self {
            traits: config.module.unwrap_or(ModuleProfile::V1_5_01).traits(),
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
            in_flight: BTreeMap::new(),
            tsc_adjust: 0,
            tsc: tsc::Tsc::new(),
            handoff: None,
            disabling: None,
        }
    }

    /// As after SYS.INIT, and SYS.LP.INIT on every CPU.
    pub(crate) fn skip_to_lp_init_done(&mut self) {
        self.state = SysState::InitDone;
        self.lp_init_done.fill(true);
    }

    /// The module is loaded in the place of `old`, whose handoff data stay if there are any.
    pub(crate) fn inherit(&mut self, old: Self) {
        self.handoff = match old.state {
            SysState::Shutdown => Some(Box::new(old)),
            _ => old.handoff,
        };
    }

    /// Handoff data lie where SYS.UPDATE looks for them.
    fn has_handoff_data(&self) -> bool {
        self.handoff.is_some()
    }

    /// TDs, keys, PAMT and TDMRs are those of the module before.
    fn take_over(&mut self, old: Self) {
        self.packages_with_key = old.packages_with_key;
        self.global_key = old.global_key;
        self.keys = old.keys;
        self.tdmrs = old.tdmrs;
        self.pamt = old.pamt;
        self.dynamic_pamt = old.dynamic_pamt;
        self.tds = old.tds;
        self.write_back = old.write_back;
        self.state = SysState::Ready;
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
