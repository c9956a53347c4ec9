//! A TD as the module knows it, and the checks that every leaf on a TD begins with.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use tdx_abi::{KeyId, LineRange, Operand, Page, PageRange, PageSize, PhysAddr, StatusCode};

use super::Module;
use super::call::{Call, Stop, operand};
use super::locks::LockId;
use super::mem_rd_wr::DebugMemory;
use super::pamt::PageType;
use super::sept::{GuestPage, Sept};
use crate::{CpuId, LockMode};

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

/// State of a VCPU, with its number in a status.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum VcpuState {
    #[default]
    Uninitialized = 0,
    Ready = 2,
    Active = 4,
    /// A triple fault: it cannot be entered any more.
    Disabled = 8,
}

/// A VCPU.
#[derive(Clone, Debug, Default)]
pub(super) struct Vcpu {
    /// TDCX pages, the root page not counted.
    pub(super) pages: Vec<Page>,
    pub(super) state: VcpuState,
    /// Its place in the order of VP.INIT.
    pub(super) index: u32,
    /// What VP.INIT set.
    pub(super) x2apic_id: u32,
    /// RDX of VP.INIT.
    pub(super) initial_rcx: u64,
    /// The TD's epoch when it last entered.
    pub(super) epoch: u64,
    /// Metadata fields that a host has written, by class and code.
    pub(super) written: BTreeMap<u64, u64>,
    /// A #VE was injected, and the guest has not asked for its cause.
    pub(super) has_ve_info: bool,
    /// The LP that may hold its VMCS.
    pub(super) associated: Option<CpuId>,
}

impl Vcpu {
    /// VP.INIT is done.
    pub(super) fn is_initialised(&self) -> bool {
        self.state != VcpuState::Uninitialized
    }
}

/// What MNG.INIT takes from TD_PARAMS and nothing changes, as far as it can be read.
#[derive(Clone, Debug, Default)]
pub(super) struct TdConfig {
    /// Units of 25 MHz.
    pub(super) tsc_frequency: u16,
    pub(super) tsc_offset: u64,
    /// MRCONFIGID, MROWNER, MROWNERCONFIG: 18 words, or none before MNG.INIT.
    pub(super) ids: Vec<u64>,
    /// By place in CPUID_CONFIG: EAX and EBX, ECX and EDX.
    pub(super) cpuid: Vec<(u64, u64)>,
}

/// Fields of TDCS that a host or the guest may write.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Controls {
    pub(super) notify_enables: u64,
    /// TSC ticks.
    pub(super) hp_lock_timeout: u64,
    pub(super) vm_ctls: [u64; 4],
    /// Bit 0: an access to a pending page is an EPT violation, not #VE.
    pub(super) td_ctls: u64,
}

/// A TD: what its TDR and TDCS hold.
#[derive(Clone, Debug)]
pub(super) struct Td {
    pub(super) key: KeyId,
    pub(super) lifecycle: Lifecycle,
    /// The module holds it for broken.
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
    /// Initialised VCPUs.
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

impl Module {
    /// No VCPU can still use a translation that was blocked in this epoch (`tdx_abi.md` section
    /// 10).
    pub(super) fn is_tracked(&self, tdr: Page, blocked_in: u64) -> Result<bool, Stop> {
        let epoch = self.td(tdr)?.epoch;
        Ok(epoch > blocked_in + 1 || (epoch == blocked_in + 1 && self.previous_epoch_has_left(tdr, epoch)))
    }

    /// The register names a TDR: its page, locked as asked.
    pub(super) fn find_tdr(
        &mut self,
        call: &mut Call,
        address: u64,
        name: Operand,
        mode: LockMode,
    ) -> Result<Page, Stop> {
        self.find_page(call, address, name, mode, PageType::Tdr)
    }

    /// The register names a 4 KiB page of this type.
    pub(super) fn find_page(
        &mut self,
        call: &mut Call,
        address: u64,
        name: Operand,
        mode: LockMode,
        page_type: PageType,
    ) -> Result<Page, Stop> {
        let found = self.walk(call, PhysAddr::new(address), name, mode)?;
        self.check_found(found, Some(PageSize::Size4K), page_type, name)
    }

    /// The register names a free 4 KiB page.
    pub(super) fn find_free_page(&mut self, call: &mut Call, address: u64, name: Operand) -> Result<Page, Stop> {
        self.find_page(call, address, name, LockMode::Exclusive, PageType::Nda)
    }

    /// Locks the TDR that owns a page, shared, without walking to it: only its own PAMT entry is
    /// touched.
    pub(super) fn lock_owner(&mut self, call: &mut Call, tdr: Page) -> Result<(), Stop> {
        self.lock_entry(call, tdr, PageSize::Size4K, LockMode::Shared, Operand::TDR)
    }

    /// The TD of a TDR page. PAMT says TDR exactly for the pages that are here.
    pub(super) fn td(&self, tdr: Page) -> Result<&Td, Stop> {
        self.tds.get(&tdr).map(AsRef::as_ref).ok_or(StatusCode::PAGE_METADATA_INCORRECT.operand(Operand::TDR).into())
    }

    /// As [`Self::td`], to change it.
    pub(super) fn td_mut(&mut self, tdr: Page) -> Result<&mut Td, Stop> {
        let missing = StatusCode::PAGE_METADATA_INCORRECT.operand(Operand::TDR);
        self.tds.get_mut(&tdr).map(Arc::make_mut).ok_or(missing.into())
    }

    /// The checks that most leaves on a TD begin with: keys, TDCS, OP_STATE. A leaf that holds the
    /// TDR shared also locks OP_STATE, which is a word in TDCS.
    pub(super) fn enter_td(
        &mut self,
        call: &mut Call,
        tdr: Page,
        lock_op_state: bool,
        allowed: &[OpState],
    ) -> Result<(), Stop> {
        let td = self.td(tdr)?;
        if td.fatal {
            return Err(StatusCode::TD_FATAL.into());
        }
        if td.lifecycle != Lifecycle::KeysConfigured {
            return Err(StatusCode::TD_KEYS_NOT_CONFIGURED.into());
        }
        if (td.tdcs.len() as u64) < MIN_TDCS_PAGES {
            return Err(StatusCode::TDCS_NOT_ALLOCATED.into());
        }
        let op_state = td.op_state;
        if lock_op_state {
            self.store_tdcs(call, tdr)?;
            if self.locks.acquire(LockId::OpState(tdr), LockMode::Shared).is_err() {
                return operand(StatusCode::OPERAND_BUSY, Operand::OP_STATE);
            }
        }
        if !allowed.contains(&op_state) {
            return Err(self.op_state_incorrect(op_state));
        }
        Ok(())
    }

    /// The status says the state in newer modules.
    pub(super) fn op_state_incorrect(&self, state: OpState) -> Stop {
        let details = if self.traits.state_in_status { state as u32 } else { 0 };
        StatusCode::OP_STATE_INCORRECT.with(details).into()
    }

    /// The status says the state in newer modules.
    pub(super) fn vcpu_state_incorrect(&self, state: VcpuState) -> Stop {
        let details = if self.traits.state_in_status { state as u32 } else { 0 };
        StatusCode::VCPU_STATE_INCORRECT.with(details).into()
    }

    /// Stores to TDR: its lines are dirty under the global key.
    pub(super) fn store_tdr(&self, call: &mut Call, tdr: Page) -> Result<(), Stop> {
        call.store(lines_of(tdr), self.global_key())
    }

    /// Stores to TDCS: its lines are dirty under the TD's key.
    pub(super) fn store_tdcs(&self, call: &mut Call, tdr: Page) -> Result<(), Stop> {
        let td = self.td(tdr)?;
        for page in &td.tdcs {
            call.store(lines_of(*page), td.key)?;
        }
        Ok(())
    }

    /// A free page becomes the TD's: PAMT entry, child count.
    pub(super) fn adopt(
        &mut self,
        call: &mut Call,
        tdr: Page,
        page: Page,
        level: PageSize,
        page_type: PageType,
    ) -> Result<(), Stop> {
        let mut entry = self.pamt.get(page, level);
        entry.page_type = page_type;
        entry.owner = tdr;
        self.pamt.set(page, level, entry);
        self.td_mut(tdr)?.children += level.pages();
        self.store_tdr(call, tdr)
    }

    /// A page of the TD is free. The owner and the epoch stay in its PAMT entry, and its content
    /// stays in its lines. Gives the hint of [`Module::removal_hint`].
    pub(super) fn disown(&mut self, call: &mut Call, tdr: Page, page: Page, level: PageSize) -> Result<u64, Stop> {
        self.pamt.free(page, level);
        let td = self.td_mut(tdr)?;
        td.children = td.children.saturating_sub(level.pages());
        self.store_tdr(call, tdr)?;
        Ok(self.removal_hint(page, level))
    }
}
