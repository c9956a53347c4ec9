//! A VCPU as the module knows it: what its TDVPS holds.

use alloc::{collections::BTreeMap, vec::Vec};
use tdx_abi::Page;

use crate::CpuId;

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

/// The cause of a #VE, as TDG.VP.VEINFO.GET gives it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct VeInfo {
    pub(super) reason: u64,
    pub(super) qualification: u64,
    pub(super) guest_linear: u64,
    pub(super) guest_physical: u64,
    pub(super) instruction_length: u64,
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
    /// The cause of a #VE that the guest has not asked for.
    pub(super) ve_info: Option<VeInfo>,
    /// A virtual interrupt was pending at the last exit.
    pub(super) interrupt_pending: bool,
    /// The LP that may hold its VMCS.
    pub(super) associated: Option<CpuId>,
}

impl Vcpu {
    /// VP.INIT is done.
    pub(super) fn is_initialized(&self) -> bool {
        self.state != VcpuState::Uninitialized
    }
}
