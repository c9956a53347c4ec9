//! What configures a TD: what MNG.INIT takes from TD_PARAMS, and what may be written later.

use alloc::vec::Vec;

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
