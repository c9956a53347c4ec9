//! TDX module versions: what differs between them, as tables.
//!
//! Source: conformance vectors of 1.5.01 and 1.5.25. From which version between the two a
//! difference is there is said where it is known.

use tdx_abi::TdxFeatures0;

use crate::fields::{self, AcceptedCpuid, CpuidRow, Edition, Row};

/// Which module is loaded: a version, and leaves that no observed module has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ModuleProfile {
    version: Version,
    /// Leaf 69 is SYS.DISABLE as the Linux patches describe it. Unverified: no module that has it
    /// was observed.
    sys_disable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Version {
    V1_5_01,
    V1_5_25,
}

/// What differs from one version to the next.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent differences of module versions")]
pub(crate) struct Traits {
    /// Whose tables of metadata it has.
    pub(crate) edition: Edition,
    /// EPTP in metadata has the TD's KeyID in its address.
    pub(crate) eptp_has_key: bool,
    /// A host that writes a metadata field repeats what it can read in bits that it must not
    /// change; otherwise what is there.
    pub(crate) forbidden_bits_as_read: bool,
    /// VP.WR takes all ones for an address of host memory.
    pub(crate) shared_address_may_be_none: bool,
    /// Global metadata fields.
    pub(crate) fields: &'static [Row],
    /// Handoff versions that SYS.SHUTDOWN takes.
    pub(crate) handoff_versions: core::ops::RangeInclusive<u64>,
    /// Bytes of handoff data, where observed (once).
    pub(crate) handoff_bytes: Option<u64>,
    /// SYS.CONFIG takes the bit that switches Dynamic PAMT on (1.5.20 and newer).
    pub(crate) dynamic_pamt: bool,
    /// OP_STATE_INCORRECT and VCPU_STATE_INCORRECT carry the state in bits 31:0 (1.5.20 and newer).
    pub(crate) state_in_status: bool,
    /// Bit 10 is set in a present Secure-EPT entry that a leaf shows in RCX (1.5.16 or earlier).
    pub(crate) sept_entry_bits: u64,
    /// What TLB_TRACKING_NOT_DONE of MEM.RANGE.UNBLOCK names (RCX from 1.5.05).
    pub(crate) unblock_names_rcx: bool,
    /// MEM.PAGE.PROMOTE takes the Secure-EPT tree exclusively (1.5.20 and newer).
    pub(crate) promote_locks_tree: bool,
    /// ATTRIBUTES bits that MNG.INIT takes.
    pub(crate) attributes: u64,
    /// CONFIG_FLAGS bits that MNG.INIT takes.
    pub(crate) config_flags: u64,
    /// CPUID leafs that can be configured.
    pub(crate) cpuid_config: &'static [CpuidRow],
    /// What MNG.INIT takes of them.
    pub(crate) accepted_cpuid: &'static [AcceptedCpuid],
    /// Most VCPUs of a TD.
    pub(crate) max_vcpus: u64,
    /// SYS.LP.INIT needs a random number.
    pub(crate) lp_init_needs_entropy: bool,
    /// VP.INIT looks at IA32_TSC_ADJUST before all else.
    pub(crate) vp_init_checks_tsc_first: bool,
    /// Bit 0 of RCX of MNG.INIT is a flag (1.5.16 and newer).
    pub(crate) mng_init_flag: bool,
    /// Leaves that have a version 1.
    pub(crate) version_1: &'static [u16],
}

/// 1.5.01.
const V1_5_01: Traits = Traits {
    edition: Edition::V1_5_01,
    eptp_has_key: false,
    forbidden_bits_as_read: false,
    shared_address_may_be_none: false,
    fields: fields::V1_5_01,
    handoff_versions: 0..=0,
    handoff_bytes: None,
    dynamic_pamt: false,
    state_in_status: false,
    sept_entry_bits: 0,
    unblock_names_rcx: false,
    promote_locks_tree: false,
    attributes: 0x8000_0000_7000_0001,
    config_flags: 0b111,
    cpuid_config: fields::CPUID_CONFIG_1_5_01,
    accepted_cpuid: fields::ACCEPTED_CPUID_1_5_01,
    max_vcpus: 0xffff,
    lp_init_needs_entropy: true,
    vp_init_checks_tsc_first: false,
    mng_init_flag: false,
    version_1: &[3, 11, 23, 26, 30],
};

/// 1.5.25.
const V1_5_25: Traits = Traits {
    edition: Edition::V1_5_25,
    eptp_has_key: true,
    forbidden_bits_as_read: true,
    shared_address_may_be_none: true,
    fields: fields::V1_5_25,
    handoff_versions: 1..=1,
    handoff_bytes: Some(0xd08f),
    dynamic_pamt: true,
    state_in_status: true,
    sept_entry_bits: 1 << 10,
    unblock_names_rcx: true,
    promote_locks_tree: true,
    attributes: 0x8000_0000_7001_0001,
    config_flags: 0b1_1111,
    cpuid_config: fields::CPUID_CONFIG_1_5_25,
    accepted_cpuid: fields::ACCEPTED_CPUID_1_5_25,
    max_vcpus: 576,
    lp_init_needs_entropy: false,
    vp_init_checks_tsc_first: true,
    mng_init_flag: true,
    version_1: &[3, 11, 22, 23, 26, 30, 33, 53],
};

impl ModuleProfile {
    /// 1.5.01: no Dynamic PAMT.
    pub const V1_5_01: Self = Self { version: Version::V1_5_01, sys_disable: false };
    /// 1.5.25: with static PAMT, or with Dynamic PAMT if SYS.CONFIG asks for it.
    pub const V1_5_25: Self = Self { version: Version::V1_5_25, sys_disable: false };

    /// The same module with TDH.SYS.DISABLE, unverified.
    #[must_use]
    pub const fn with_sys_disable(self) -> Self {
        Self { sys_disable: true, ..self }
    }

    /// Leaf 69 is SYS.DISABLE.
    pub const fn has_sys_disable(self) -> bool {
        self.sys_disable
    }

    /// The version, without the overlays.
    pub const fn version(self) -> &'static str {
        match self.version {
            Version::V1_5_01 => "1.5.01",
            Version::V1_5_25 => "1.5.25",
        }
    }

    /// SYS.CONFIG takes the bit that switches Dynamic PAMT on.
    pub const fn has_dynamic_pamt(self) -> bool {
        self.traits().dynamic_pamt
    }

    /// TDX_FEATURES0, as SYS.RD has it.
    pub const fn features(self) -> TdxFeatures0 {
        let features = TdxFeatures0::new(match self.version {
            Version::V1_5_01 => 0xF_0FBF,
            Version::V1_5_25 => 0xD132_6F3F_0FBF,
        });
        if self.sys_disable { features.with_sys_disable() } else { features }
    }

    pub(crate) const fn traits(self) -> &'static Traits {
        match self.version {
            Version::V1_5_01 => &V1_5_01,
            Version::V1_5_25 => &V1_5_25,
        }
    }
}
