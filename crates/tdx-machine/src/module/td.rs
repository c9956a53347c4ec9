//! A TD as the module knows it: what its TDR and TDCS hold.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use tdx_abi::{KeyId, LineRange, Page, PageRange};

use super::debug_memory::DebugMemory;
use super::sept::{GuestPage, Sept};
use super::td_config::{Controls, TdConfig};
use super::vcpu_state::Vcpu;

/// Pages of TDCS that every TD has; one more for each L2 VM.
pub(super) const MIN_TDCS_PAGES: u64 = 6;
/// Most pages of TDCS.
pub(super) const MAX_TDCS_PAGES: u64 = 9;

/// Bits of ATTRIBUTES.
pub(super) const SEPT_VE_DISABLE: u64 = 1 << 28;
/// Bits of CONFIG_FLAGS.
pub(super) const GPAW: u64 = 1 << 0;
const NO_RBP_MOD: u64 = 1 << 2;

/// Where a TD is between MNG.CREATE and the RECLAIM of its TDR, with its number in metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lifecycle {
    HkidAssigned = 0,
    KeysConfigured = 1,
    Blocked = 2,
    Teardown = 3,
}

/// OP_STATE, without migration, with its number in a status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum OpState {
    Uninitialized = 0,
    Initialized = 1,
    Runnable = 2,
}

impl OpState {
    /// Operations on memory and VCPUs that go on after MR.FINALIZE.
    pub(super) const BUILT: &'static [Self] = &[Self::Initialized, Self::Runnable];
    /// Operations that end with MR.FINALIZE.
    pub(super) const BUILDING: &'static [Self] = &[Self::Initialized];
    /// Operations before MNG.INIT.
    pub(super) const NEW: &'static [Self] = &[Self::Uninitialized];
    /// VCPUs run.
    pub(super) const RUNNABLE: &'static [Self] = &[Self::Runnable];
}

/// A TD: what its TDR and TDCS hold.
#[derive(Clone, Debug)]
pub(super) struct Td {
    pub(super) key: KeyId,
    pub(super) lifecycle: Lifecycle,
    /// Every leaf that looks answers TD_FATAL.
    pub(super) fatal: bool,
    /// One bit per package.
    pub(super) packages_with_key: u32,
    /// Pages that belong to the TD, in 4 KiB, its TDR not counted.
    pub(super) children: u64,
    pub(super) tdcs: Vec<Page>,
    pub(super) op_state: OpState,
    pub(super) max_vcpus: u32,
    pub(super) l2_vms: u8,
    pub(super) attributes: u64,
    pub(super) xfam: u64,
    pub(super) config_flags: u64,
    /// Five levels of EPT.
    pub(super) five_levels: bool,
    pub(super) config: Arc<TdConfig>,
    pub(super) controls: Controls,
    pub(super) debug_memory: DebugMemory,
    /// Pages of 4 KiB that an interrupted ACCEPT of a large page has written, by guest page
    /// number.
    accepting: BTreeMap<u64, u64>,
    /// Initialized VCPUs.
    pub(super) vcpu_count: u32,
    /// VCPUs that some LP holds.
    pub(super) associated: u32,
    /// TLB-tracking epoch; 1 after MNG.INIT.
    pub(super) epoch: u64,
    pub(super) sept: Sept,
    /// Secure-EPT pages of L2 VMs, by VM and the entry that points to them: level, number.
    pub(super) l2_sept: BTreeMap<(u8, u64, u64), Page>,
    /// By TDVPR page.
    pub(super) vcpus: BTreeMap<Page, Vcpu>,
}

impl Td {
    pub(super) fn new(key: KeyId) -> Self {
        Self {
            key,
            lifecycle: Lifecycle::HkidAssigned,
            fatal: false,
            packages_with_key: 0,
            children: 0,
            tdcs: Vec::new(),
            op_state: OpState::Uninitialized,
            max_vcpus: 0,
            l2_vms: 0,
            attributes: 0,
            xfam: 0,
            config_flags: 0,
            five_levels: false,
            config: Arc::default(),
            controls: Controls::default(),
            debug_memory: DebugMemory::default(),
            accepting: BTreeMap::new(),
            vcpu_count: 0,
            associated: 0,
            epoch: 0,
            sept: Sept::new(),
            l2_sept: BTreeMap::new(),
            vcpus: BTreeMap::new(),
        }
    }

    /// The bit of a guest address that makes it shared: 47, or 51 with wide guest addresses.
    pub(super) fn shared_gpa(&self) -> u64 {
        if self.config_flags & GPAW != 0 { 1 << 51 } else { 1 << 47 }
    }

    /// Level of the root entries of Secure EPT.
    pub(super) fn root(&self) -> u64 {
        if self.five_levels { 4 } else { 3 }
    }

    /// A debug TD: the host may read and write its state.
    pub(super) fn is_debug(&self) -> bool {
        self.attributes & 1 != 0
    }

    /// An access to a pending page is an EPT violation, not #VE.
    pub(super) fn sept_ve_disable(&self) -> bool {
        self.controls.td_ctls & 1 != 0
    }

    /// VP.ENTER does not modify RBP.
    pub(super) fn keeps_rbp(&self) -> bool {
        self.config_flags & NO_RBP_MOD != 0
    }

    /// Pages of 4 KiB of a pending large page that ACCEPT has written.
    pub(super) fn accepted_so_far(&self, guest: GuestPage) -> u64 {
        if guest.level == 1 { self.accepting.get(&guest.number).copied().unwrap_or(0) } else { 0 }
    }

    /// Sets it; 0 if the page is not pending any more.
    pub(super) fn set_accepted_so_far(&mut self, guest: GuestPage, pages: u64) {
        if guest.level == 1 {
            if pages == 0 {
                self.accepting.remove(&guest.number);
            } else {
                self.accepting.insert(guest.number, pages);
            }
        }
    }

    /// Its measurement has begun and is not final.
    pub(super) fn is_being_built(&self) -> bool {
        self.op_state == OpState::Initialized
    }

    /// Must pages be blocked and tracked before the host may take them away?
    pub(super) fn needs_tracking(&self) -> bool {
        self.op_state == OpState::Runnable
    }
}

/// The lines of one page.
pub(super) fn lines_of(page: Page) -> LineRange {
    PageRange::new(page, Page::new(page.index() + 1)).lines()
}
