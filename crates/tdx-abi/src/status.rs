//! The 64-bit completion status of a SEAMCALL: what it says, under which name, about which operand.
//!
//! Bits 63:32 identify the status, bits 31:0 say more about this one occurrence. Source:
//! `tdx_abi.md` section 2.

use crate::open_enum::open_enum;
use core::fmt;

open_enum! {
    /// Bits 63:32 of a completion status: which status it is, without the details of this
    /// occurrence.
    pub enum StatusCode: u32 {
        /// `TDX_SUCCESS`.
        SUCCESS = 0x00000000, "TDX_SUCCESS";
        /// `TDX_NON_RECOVERABLE_VCPU`.
        NON_RECOVERABLE_VCPU = 0x40000001, "TDX_NON_RECOVERABLE_VCPU";
        /// `TDX_NON_RECOVERABLE_TD`.
        NON_RECOVERABLE_TD = 0x60000002, "TDX_NON_RECOVERABLE_TD";
        /// `TDX_INTERRUPTED_RESUMABLE`.
        INTERRUPTED_RESUMABLE = 0x80000003, "TDX_INTERRUPTED_RESUMABLE";
        /// `TDX_INTERRUPTED_RESTARTABLE`.
        INTERRUPTED_RESTARTABLE = 0x80000004, "TDX_INTERRUPTED_RESTARTABLE";
        /// `TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE`.
        NON_RECOVERABLE_TD_NON_ACCESSIBLE = 0x60000005, "TDX_NON_RECOVERABLE_TD_NON_ACCESSIBLE";
        /// `TDX_INVALID_RESUMPTION`.
        INVALID_RESUMPTION = 0xC0000006, "TDX_INVALID_RESUMPTION";
        /// `TDX_OPERAND_INVALID`.
        OPERAND_INVALID = 0xC0000100, "TDX_OPERAND_INVALID";
        /// `TDX_OPERAND_ADDR_RANGE_ERROR`.
        OPERAND_ADDR_RANGE_ERROR = 0xC0000101, "TDX_OPERAND_ADDR_RANGE_ERROR";
        /// `TDX_OPERAND_BUSY`.
        OPERAND_BUSY = 0x80000200, "TDX_OPERAND_BUSY";
        /// `TDX_PREVIOUS_TLB_EPOCH_BUSY`.
        PREVIOUS_TLB_EPOCH_BUSY = 0x80000201, "TDX_PREVIOUS_TLB_EPOCH_BUSY";
        /// `TDX_SYS_BUSY`.
        SYS_BUSY = 0x80000202, "TDX_SYS_BUSY";
        /// `TDX_RND_NO_ENTROPY`.
        RND_NO_ENTROPY = 0x80000203, "TDX_RND_NO_ENTROPY";
        /// `TDX_OPERAND_BUSY_HOST_PRIORITY`.
        OPERAND_BUSY_HOST_PRIORITY = 0x80000204, "TDX_OPERAND_BUSY_HOST_PRIORITY";
        /// `TDX_HOST_PRIORITY_BUSY_TIMEOUT`.
        HOST_PRIORITY_BUSY_TIMEOUT = 0x90000205, "TDX_HOST_PRIORITY_BUSY_TIMEOUT";
        /// `TDX_PAGE_METADATA_INCORRECT`.
        PAGE_METADATA_INCORRECT = 0xC0000300, "TDX_PAGE_METADATA_INCORRECT";
        /// `TDX_PAGE_ALREADY_FREE`.
        PAGE_ALREADY_FREE = 0x00000301, "TDX_PAGE_ALREADY_FREE";
        /// `TDX_PAGE_NOT_OWNED_BY_TD`.
        PAGE_NOT_OWNED_BY_TD = 0xC0000302, "TDX_PAGE_NOT_OWNED_BY_TD";
        /// `TDX_PAGE_NOT_FREE`.
        PAGE_NOT_FREE = 0xC0000303, "TDX_PAGE_NOT_FREE";
        /// `TDX_HPA_RANGE_NOT_FREE`.
        HPA_RANGE_NOT_FREE = 0xC0000304, "TDX_HPA_RANGE_NOT_FREE";
        /// `TDX_NO_PAMT_PAGE_PAIR`. Read in the source of later modules, as the next three; never
        /// observed.
        NO_PAMT_PAGE_PAIR = 0xC0000305, "TDX_NO_PAMT_PAGE_PAIR";
        /// `TDX_PAMT_PAGE_NOT_EMPTY`.
        PAMT_PAGE_NOT_EMPTY = 0xC0000306, "TDX_PAMT_PAGE_NOT_EMPTY";
        /// `TDX_INTERRUPTED_PAMT`.
        INTERRUPTED_PAMT = 0x80000307, "TDX_INTERRUPTED_PAMT";
        /// `TDX_MISSING_PAMT_PAGE_PAIR`.
        MISSING_PAMT_PAGE_PAIR = 0x80000308, "TDX_MISSING_PAMT_PAGE_PAIR";
        /// `TDX_TD_ASSOCIATED_PAGES_EXIST`.
        TD_ASSOCIATED_PAGES_EXIST = 0xC0000400, "TDX_TD_ASSOCIATED_PAGES_EXIST";
        /// `TDX_SYS_INIT_NOT_PENDING`.
        SYS_INIT_NOT_PENDING = 0xC0000500, "TDX_SYS_INIT_NOT_PENDING";
        /// `TDX_SYS_LP_INIT_NOT_DONE`.
        SYS_LP_INIT_NOT_DONE = 0xC0000502, "TDX_SYS_LP_INIT_NOT_DONE";
        /// `TDX_SYS_LP_INIT_DONE`.
        SYS_LP_INIT_DONE = 0xC0000503, "TDX_SYS_LP_INIT_DONE";
        /// `TDX_SYS_NOT_READY`.
        SYS_NOT_READY = 0xC0000505, "TDX_SYS_NOT_READY";
        /// `TDX_SYS_SHUTDOWN`.
        SYS_SHUTDOWN = 0xC0000506, "TDX_SYS_SHUTDOWN";
        /// `TDX_SYS_KEY_CONFIG_NOT_PENDING`.
        SYS_KEY_CONFIG_NOT_PENDING = 0xC0000507, "TDX_SYS_KEY_CONFIG_NOT_PENDING";
        /// `TDX_SYS_STATE_INCORRECT`.
        SYS_STATE_INCORRECT = 0xC0000508, "TDX_SYS_STATE_INCORRECT";
        /// `TDX_SYS_INVALID_HANDOFF`.
        SYS_INVALID_HANDOFF = 0xC0000509, "TDX_SYS_INVALID_HANDOFF";
        /// `TDX_SYS_INCOMPATIBLE_SIGSTRUCT`.
        SYS_INCOMPATIBLE_SIGSTRUCT = 0xC000050A, "TDX_SYS_INCOMPATIBLE_SIGSTRUCT";
        /// `TDX_SYS_LP_INIT_NOT_PENDING`.
        SYS_LP_INIT_NOT_PENDING = 0xC000050B, "TDX_SYS_LP_INIT_NOT_PENDING";
        /// `TDX_SYS_CONFIG_NOT_PENDING`.
        SYS_CONFIG_NOT_PENDING = 0xC000050C, "TDX_SYS_CONFIG_NOT_PENDING";
        /// `TDX_INCOMPATIBLE_SEAM_CAPABILITIES`.
        INCOMPATIBLE_SEAM_CAPABILITIES = 0xC000050D, "TDX_INCOMPATIBLE_SEAM_CAPABILITIES";
        /// `TDX_UPDATE_COMPATIBILITY_SENSITIVE`.
        UPDATE_COMPATIBILITY_SENSITIVE = 0x80000512, "TDX_UPDATE_COMPATIBILITY_SENSITIVE";
        /// `TDX_TD_FATAL`.
        TD_FATAL = 0xE0000604, "TDX_TD_FATAL";
        /// `TDX_TD_NON_DEBUG`.
        TD_NON_DEBUG = 0xC0000605, "TDX_TD_NON_DEBUG";
        /// `TDX_TDCS_NOT_ALLOCATED`.
        TDCS_NOT_ALLOCATED = 0xC0000606, "TDX_TDCS_NOT_ALLOCATED";
        /// `TDX_LIFECYCLE_STATE_INCORRECT`.
        LIFECYCLE_STATE_INCORRECT = 0xC0000607, "TDX_LIFECYCLE_STATE_INCORRECT";
        /// `TDX_OP_STATE_INCORRECT`.
        OP_STATE_INCORRECT = 0xC0000608, "TDX_OP_STATE_INCORRECT";
        /// `TDX_NO_VCPUS`.
        NO_VCPUS = 0xC0000609, "TDX_NO_VCPUS";
        /// `TDX_TDCX_NUM_INCORRECT`.
        TDCX_NUM_INCORRECT = 0xC0000610, "TDX_TDCX_NUM_INCORRECT";
        /// `TDX_X2APIC_ID_NOT_UNIQUE`.
        X2APIC_ID_NOT_UNIQUE = 0xC0000621, "TDX_X2APIC_ID_NOT_UNIQUE";
        /// `TDX_VCPU_STATE_INCORRECT`.
        VCPU_STATE_INCORRECT = 0xC0000700, "TDX_VCPU_STATE_INCORRECT";
        /// `TDX_VCPU_ASSOCIATED`.
        VCPU_ASSOCIATED = 0x80000701, "TDX_VCPU_ASSOCIATED";
        /// `TDX_VCPU_NOT_ASSOCIATED`.
        VCPU_NOT_ASSOCIATED = 0x80000702, "TDX_VCPU_NOT_ASSOCIATED";
        /// `TDX_NO_VALID_VE_INFO`.
        NO_VALID_VE_INFO = 0xC0000704, "TDX_NO_VALID_VE_INFO";
        /// `TDX_MAX_VCPUS_EXCEEDED`.
        MAX_VCPUS_EXCEEDED = 0xC0000705, "TDX_MAX_VCPUS_EXCEEDED";
        /// `TDX_TSC_ROLLBACK`.
        TSC_ROLLBACK = 0xC0000706, "TDX_TSC_ROLLBACK";
        /// `TDX_TD_VMCS_FIELD_NOT_INITIALIZED`.
        TD_VMCS_FIELD_NOT_INITIALIZED = 0xC0000730, "TDX_TD_VMCS_FIELD_NOT_INITIALIZED";
        /// `TDX_KEY_GENERATION_FAILED`.
        KEY_GENERATION_FAILED = 0x80000800, "TDX_KEY_GENERATION_FAILED";
        /// `TDX_TD_KEYS_NOT_CONFIGURED`.
        TD_KEYS_NOT_CONFIGURED = 0x80000810, "TDX_TD_KEYS_NOT_CONFIGURED";
        /// `TDX_KEY_STATE_INCORRECT`.
        KEY_STATE_INCORRECT = 0xC0000811, "TDX_KEY_STATE_INCORRECT";
        /// `TDX_KEY_CONFIGURED`.
        KEY_CONFIGURED = 0x00000815, "TDX_KEY_CONFIGURED";
        /// `TDX_WBCACHE_NOT_COMPLETE`.
        WBCACHE_NOT_COMPLETE = 0x80000817, "TDX_WBCACHE_NOT_COMPLETE";
        /// `TDX_HKID_NOT_FREE`.
        HKID_NOT_FREE = 0xC0000820, "TDX_HKID_NOT_FREE";
        /// `TDX_NO_HKID_READY_TO_WBCACHE`.
        NO_HKID_READY_TO_WBCACHE = 0x00000821, "TDX_NO_HKID_READY_TO_WBCACHE";
        /// `TDX_WBCACHE_RESUME_ERROR`.
        WBCACHE_RESUME_ERROR = 0xC0000823, "TDX_WBCACHE_RESUME_ERROR";
        /// `TDX_FLUSHVP_NOT_DONE`.
        FLUSHVP_NOT_DONE = 0x80000824, "TDX_FLUSHVP_NOT_DONE";
        /// `TDX_NUM_ACTIVATED_HKIDS_NOT_SUPPORTED`.
        NUM_ACTIVATED_HKIDS_NOT_SUPPORTED = 0xC0000825, "TDX_NUM_ACTIVATED_HKIDS_NOT_SUPPORTED";
        /// `TDX_INCORRECT_CPUID_VALUE`.
        INCORRECT_CPUID_VALUE = 0xC0000900, "TDX_INCORRECT_CPUID_VALUE";
        /// `TDX_INCONSISTENT_CPUID_FIELD`.
        INCONSISTENT_CPUID_FIELD = 0xC0000902, "TDX_INCONSISTENT_CPUID_FIELD";
        /// `TDX_INVALID_PKG_ID`.
        INVALID_PKG_ID = 0xC0000906, "TDX_INVALID_PKG_ID";
        /// `TDX_SMRR_NOT_LOCKED`.
        SMRR_NOT_LOCKED = 0xC0000910, "TDX_SMRR_NOT_LOCKED";
        /// `TDX_SMRR_NOT_SUPPORTED`.
        SMRR_NOT_SUPPORTED = 0xC0000914, "TDX_SMRR_NOT_SUPPORTED";
        /// `TDX_SMRR_OVERLAPS_CMR`.
        SMRR_OVERLAPS_CMR = 0xC0000912, "TDX_SMRR_OVERLAPS_CMR";
        /// `TDX_INCONSISTENT_MSR`.
        INCONSISTENT_MSR = 0xC0000920, "TDX_INCONSISTENT_MSR";
        /// `TDX_INCORRECT_MSR_VALUE`.
        INCORRECT_MSR_VALUE = 0xC0000921, "TDX_INCORRECT_MSR_VALUE";
        /// `TDX_INVALID_TDMR`.
        INVALID_TDMR = 0xC0000A00, "TDX_INVALID_TDMR";
        /// `TDX_NON_ORDERED_TDMR`.
        NON_ORDERED_TDMR = 0xC0000A01, "TDX_NON_ORDERED_TDMR";
        /// `TDX_TDMR_OUTSIDE_CMRS`.
        TDMR_OUTSIDE_CMRS = 0xC0000A02, "TDX_TDMR_OUTSIDE_CMRS";
        /// `TDX_TDMR_ALREADY_INITIALIZED`.
        TDMR_ALREADY_INITIALIZED = 0x00000A03, "TDX_TDMR_ALREADY_INITIALIZED";
        /// `TDX_INVALID_PAMT`.
        INVALID_PAMT = 0xC0000A10, "TDX_INVALID_PAMT";
        /// `TDX_PAMT_OUTSIDE_CMRS`.
        PAMT_OUTSIDE_CMRS = 0xC0000A11, "TDX_PAMT_OUTSIDE_CMRS";
        /// `TDX_PAMT_OVERLAP`.
        PAMT_OVERLAP = 0xC0000A12, "TDX_PAMT_OVERLAP";
        /// `TDX_INVALID_RESERVED_IN_TDMR`.
        INVALID_RESERVED_IN_TDMR = 0xC0000A20, "TDX_INVALID_RESERVED_IN_TDMR";
        /// `TDX_NON_ORDERED_RESERVED_IN_TDMR`.
        NON_ORDERED_RESERVED_IN_TDMR = 0xC0000A21, "TDX_NON_ORDERED_RESERVED_IN_TDMR";
        /// `TDX_CMR_LIST_INVALID`.
        CMR_LIST_INVALID = 0xC0000A22, "TDX_CMR_LIST_INVALID";
        /// `TDX_EPT_WALK_FAILED`.
        EPT_WALK_FAILED = 0xC0000B00, "TDX_EPT_WALK_FAILED";
        /// `TDX_EPT_ENTRY_FREE`.
        EPT_ENTRY_FREE = 0xC0000B01, "TDX_EPT_ENTRY_FREE";
        /// `TDX_EPT_ENTRY_NOT_FREE`.
        EPT_ENTRY_NOT_FREE = 0xC0000B02, "TDX_EPT_ENTRY_NOT_FREE";
        /// `TDX_EPT_ENTRY_NOT_PRESENT`.
        EPT_ENTRY_NOT_PRESENT = 0xC0000B03, "TDX_EPT_ENTRY_NOT_PRESENT";
        /// `TDX_EPT_ENTRY_NOT_LEAF`.
        EPT_ENTRY_NOT_LEAF = 0xC0000B04, "TDX_EPT_ENTRY_NOT_LEAF";
        /// `TDX_EPT_ENTRY_LEAF`.
        EPT_ENTRY_LEAF = 0xC0000B05, "TDX_EPT_ENTRY_LEAF";
        /// `TDX_GPA_RANGE_NOT_BLOCKED`.
        GPA_RANGE_NOT_BLOCKED = 0xC0000B06, "TDX_GPA_RANGE_NOT_BLOCKED";
        /// `TDX_GPA_RANGE_ALREADY_BLOCKED`.
        GPA_RANGE_ALREADY_BLOCKED = 0x00000B07, "TDX_GPA_RANGE_ALREADY_BLOCKED";
        /// `TDX_TLB_TRACKING_NOT_DONE`.
        TLB_TRACKING_NOT_DONE = 0xC0000B08, "TDX_TLB_TRACKING_NOT_DONE";
        /// `TDX_EPT_INVALID_PROMOTE_CONDITIONS`.
        EPT_INVALID_PROMOTE_CONDITIONS = 0xC0000B09, "TDX_EPT_INVALID_PROMOTE_CONDITIONS";
        /// `TDX_PAGE_ALREADY_ACCEPTED`.
        PAGE_ALREADY_ACCEPTED = 0x00000B0A, "TDX_PAGE_ALREADY_ACCEPTED";
        /// `TDX_PAGE_SIZE_MISMATCH`.
        PAGE_SIZE_MISMATCH = 0xC0000B0B, "TDX_PAGE_SIZE_MISMATCH";
        /// `TDX_GPA_RANGE_BLOCKED`.
        GPA_RANGE_BLOCKED = 0xC0000B0C, "TDX_GPA_RANGE_BLOCKED";
        /// `TDX_EPT_ENTRY_STATE_INCORRECT`.
        EPT_ENTRY_STATE_INCORRECT = 0xC0000B0D, "TDX_EPT_ENTRY_STATE_INCORRECT";
        /// `TDX_EPT_PAGE_NOT_FREE`.
        EPT_PAGE_NOT_FREE = 0xC0000B0E, "TDX_EPT_PAGE_NOT_FREE";
        /// `TDX_L2_SEPT_WALK_FAILED`.
        L2_SEPT_WALK_FAILED = 0xC0000B0F, "TDX_L2_SEPT_WALK_FAILED";
        /// `TDX_L2_SEPT_ENTRY_NOT_FREE`.
        L2_SEPT_ENTRY_NOT_FREE = 0xC0000B10, "TDX_L2_SEPT_ENTRY_NOT_FREE";
        /// `TDX_L2_SEPT_PAGE_NOT_PROVIDED`.
        L2_SEPT_PAGE_NOT_PROVIDED = 0xC0000B12, "TDX_L2_SEPT_PAGE_NOT_PROVIDED";
        /// `TDX_METADATA_FIELD_ID_INCORRECT`.
        METADATA_FIELD_ID_INCORRECT = 0xC0000C00, "TDX_METADATA_FIELD_ID_INCORRECT";
        /// `TDX_METADATA_FIELD_NOT_WRITABLE`.
        METADATA_FIELD_NOT_WRITABLE = 0xC0000C01, "TDX_METADATA_FIELD_NOT_WRITABLE";
        /// `TDX_METADATA_FIELD_NOT_READABLE`.
        METADATA_FIELD_NOT_READABLE = 0xC0000C02, "TDX_METADATA_FIELD_NOT_READABLE";
        /// `TDX_METADATA_FIELD_VALUE_NOT_VALID`.
        METADATA_FIELD_VALUE_NOT_VALID = 0xC0000C03, "TDX_METADATA_FIELD_VALUE_NOT_VALID";
        /// `TDX_METADATA_LIST_OVERFLOW`.
        METADATA_LIST_OVERFLOW = 0xC0000C04, "TDX_METADATA_LIST_OVERFLOW";
        /// `TDX_METADATA_WR_MASK_NOT_VALID`.
        METADATA_WR_MASK_NOT_VALID = 0xC0000C0A, "TDX_METADATA_WR_MASK_NOT_VALID";
        /// `TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT`.
        METADATA_FIRST_FIELD_ID_IN_CONTEXT = 0x00000C0B, "TDX_METADATA_FIRST_FIELD_ID_IN_CONTEXT";
        /// `TDX_METADATA_FIELD_SKIP`.
        METADATA_FIELD_SKIP = 0x00000C0C, "TDX_METADATA_FIELD_SKIP";
    }
}

/// What a status is about: bits 47:40.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum StatusClass {
    /// General.
    General,
    /// An operand is wrong.
    Operand,
    /// Something is in use right now.
    ResourceBusy,
    /// PAMT says no.
    PageMetadata,
    /// Something else depends on it.
    DependentResources,
    /// The module's state.
    ModuleState,
    /// The TD's state.
    TdState,
    /// The VCPU's state.
    VcpuState,
    /// Keys and caches.
    KeyManagement,
    /// CPUID, MSRs, packages.
    Platform,
    /// TDMR, PAMT, CMR.
    PhysicalMemory,
    /// Secure-EPT.
    GuestMemory,
    /// Metadata fields.
    Metadata,
    /// Service TDs.
    ServiceTd,
    /// Migration.
    Migration,
    /// Attestation.
    Attestation,
    /// Partitioning and entry.
    Partitioning,
    /// Made up by the host for a call that did not reach the module.
    Software,
    /// A class this crate does not know.
    Unknown(u8),
}

/// An operand, by the id in DETAILS_L2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(transparent)]
pub struct Operand(pub u32);

impl Operand {
    /// RAX.
    pub const RAX: Self = Self(0);
    /// RCX.
    pub const RCX: Self = Self(1);
    /// RDX.
    pub const RDX: Self = Self(2);
    /// R8.
    pub const R8: Self = Self(8);
    /// R9.
    pub const R9: Self = Self(9);
    /// R12.
    pub const R12: Self = Self(12);
    /// R13.
    pub const R13: Self = Self(13);
    /// TDR.
    pub const TDR: Self = Self(128);
    /// Secure-EPT tree.
    pub const SEPT_TREE: Self = Self(146);
    /// TD epoch.
    pub const TD_EPOCH: Self = Self(169);
    /// Operation state of the TD.
    pub const OP_STATE: Self = Self(172);
    /// Key ownership table.
    pub const KOT: Self = Self(186);
    /// Key engine.
    pub const KET: Self = Self(187);
    /// Cache write-back.
    pub const WBCACHE: Self = Self(188);

    /// The name, or `None` for an id this crate does not know.
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "RAX",
            1 => "RCX",
            2 => "RDX",
            3 => "RBX",
            5 => "RBP",
            6 => "RSI",
            7 => "RDI",
            8 => "R8",
            9 => "R9",
            10 => "R10",
            11 => "R11",
            12 => "R12",
            13 => "R13",
            14 => "R14",
            15 => "R15",
            64 => "ATTRIBUTES",
            65 => "XFAM",
            66 => "EXEC_CONTROLS",
            67 => "EPTP_CONTROLS",
            68 => "MAX_VCPUS",
            69 => "CPUID_CONFIG",
            70 => "TSC_FREQUENCY",
            71 => "NUM_L2_VMS",
            95 => "PAGE",
            96 => "TDMR_INFO_PA",
            128 => "TDR",
            129 => "TDCX",
            130 => "TDVPR",
            144 => "TDCS",
            145 => "TDVPS",
            146 => "SEPT_TREE",
            147 => "SEPT_ENTRY",
            169 => "TD_EPOCH",
            172 => "OP_STATE",
            184 => "SYS",
            185 => "TDMR",
            186 => "KOT",
            187 => "KET",
            188 => "WBCACHE",
            _ => return None,
        })
    }
}

impl fmt::Display for Operand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "operand {:#x}", self.0),
        }
    }
}

impl StatusCode {
    /// The status with these DETAILS_L2.
    pub const fn with(self, details: u32) -> Status {
        Status((self.0 as u64) << 32 | details as u64)
    }

    /// The status about this operand.
    pub const fn operand(self, operand: Operand) -> Status {
        self.with(operand.0)
    }

    /// The status with info bytes, byte 0 in bits 7:0.
    pub const fn info(self, bytes: [u8; 4]) -> Status {
        self.with(u32::from_le_bytes(bytes))
    }

    /// How DETAILS_L2 is to be read for this code.
    const fn details(self) -> Details {
        match self {
            Self::INVALID_TDMR | Self::NON_ORDERED_TDMR | Self::TDMR_OUTSIDE_CMRS => Details::Tdmr,
            Self::INVALID_RESERVED_IN_TDMR | Self::NON_ORDERED_RESERVED_IN_TDMR => Details::Area,
            Self::INVALID_PAMT | Self::PAMT_OUTSIDE_CMRS => Details::Pamt,
            Self::PAMT_OVERLAP => Details::PamtAndTdmr,
            Self::INCORRECT_MSR_VALUE | Self::INCONSISTENT_MSR => Details::Msr,
            Self::OPERAND_INVALID
            | Self::OPERAND_ADDR_RANGE_ERROR
            | Self::OPERAND_BUSY
            | Self::OPERAND_BUSY_HOST_PRIORITY
            | Self::PAGE_METADATA_INCORRECT
            | Self::PAGE_NOT_FREE
            | Self::HPA_RANGE_NOT_FREE
            | Self::NO_PAMT_PAGE_PAIR
            | Self::MISSING_PAMT_PAGE_PAIR
            | Self::TLB_TRACKING_NOT_DONE
            | Self::EPT_WALK_FAILED
            | Self::EPT_ENTRY_NOT_PRESENT
            | Self::EPT_INVALID_PROMOTE_CONDITIONS
            | Self::EPT_PAGE_NOT_FREE
            | Self::GPA_RANGE_NOT_BLOCKED
            | Self::GPA_RANGE_ALREADY_BLOCKED
            | Self::EPT_ENTRY_STATE_INCORRECT => Details::Operand,
            _ => Details::Raw,
        }
    }
}

// Constants are matched in patterns above.
impl StatusCode {
    /// The operation did not complete.
    pub const fn is_error(self) -> bool {
        self.0 >> 31 == 1
    }
}

enum Details {
    Operand,
    Tdmr,
    Area,
    Pamt,
    PamtAndTdmr,
    Msr,
    Raw,
}

/// The whole completion status, all 64 bits kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Status(u64);

impl Status {
    /// All done.
    pub const SUCCESS: Self = Self(0);
    /// SEAMCALL set the carry flag: the module is not loaded, or it died. Software code, as in
    /// Linux.
    pub const VMFAIL_INVALID: Self = Self(0x8000_FF00_FFFF_0000);
    /// SEAMCALL raised #GP: SEAM is not enabled by the BIOS. Software code, as in Linux.
    pub const GENERAL_PROTECTION: Self = Self(0x8000_FF00_0000_000D);
    /// SEAMCALL raised #UD: this CPU is not in VMX operation. Software code, as in Linux.
    pub const UNDEFINED_OPCODE: Self = Self(0x8000_FF00_0000_0006);
    /// The host did not execute SEAMCALL: its gate is closed for a handover. Software code of
    /// Cleanslate; Linux has none.
    pub const GATE_CLOSED: Self = Self(0x8000_FF00_0001_0000);

    /// From RAX.
    pub const fn new(raw: u64) -> Self {
        Self(raw)
    }

    /// All 64 bits.
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Bits 63:32: compare these to identify a status.
    pub const fn code(self) -> StatusCode {
        StatusCode((self.0 >> 32) as u32)
    }

    /// Bits 31:0, DETAILS_L2.
    pub const fn details(self) -> u32 {
        self.0 as u32
    }

    /// Bits 39:32, the code inside the class.
    pub const fn details_l1(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// DETAILS_L2 read as an operand id; only some codes mean it so.
    pub const fn operand(self) -> Operand {
        Operand(self.0 as u32)
    }

    /// Bit 63: the operation did not complete.
    pub const fn is_error(self) -> bool {
        self.0 >> 63 == 1
    }

    /// Bit 62: the same call cannot succeed.
    pub const fn is_non_recoverable(self) -> bool {
        self.0 >> 62 & 1 == 1
    }

    /// Bit 61: fatal for the TD.
    pub const fn is_fatal(self) -> bool {
        self.0 >> 61 & 1 == 1
    }

    /// No call of the module stands behind this: VMfailInvalid, #GP, #UD or a closed gate.
    pub const fn is_software(self) -> bool {
        matches!(self.class(), StatusClass::Software)
    }

    /// Bits 47:40.
    pub const fn class(self) -> StatusClass {
        match (self.0 >> 40) as u8 {
            0x00 => StatusClass::General,
            0x01 => StatusClass::Operand,
            0x02 => StatusClass::ResourceBusy,
            0x03 => StatusClass::PageMetadata,
            0x04 => StatusClass::DependentResources,
            0x05 => StatusClass::ModuleState,
            0x06 => StatusClass::TdState,
            0x07 => StatusClass::VcpuState,
            0x08 => StatusClass::KeyManagement,
            0x09 => StatusClass::Platform,
            0x0A => StatusClass::PhysicalMemory,
            0x0B => StatusClass::GuestMemory,
            0x0C => StatusClass::Metadata,
            0x0D => StatusClass::ServiceTd,
            0x0E => StatusClass::Migration,
            0x10 => StatusClass::Attestation,
            0x11 => StatusClass::Partitioning,
            0xFF => StatusClass::Software,
            other => StatusClass::Unknown(other),
        }
    }
}

impl fmt::Display for Status {
    /// The kernel's name with what DETAILS_L2 says, e.g. `TDX_OPERAND_BUSY (RCX)`; an unknown
    /// status as its 64 bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::VMFAIL_INVALID => return f.write_str("TDX_SEAMCALL_VMFAILINVALID"),
            Self::GENERAL_PROTECTION => return f.write_str("TDX_SEAMCALL_GP"),
            Self::UNDEFINED_OPCODE => return f.write_str("TDX_SEAMCALL_UD"),
            Self::GATE_CLOSED => return f.write_str("SEAMCALL not made: the machine is being handed over"),
            _ => {}
        }
        let Some(name) = self.code().name() else {
            return write!(f, "unknown status {:#018x}", self.0);
        };
        f.write_str(name)?;
        let [b0, b1, b2, _] = self.details().to_le_bytes();
        match self.code().details() {
            Details::Operand => write!(f, " ({})", self.operand()),
            Details::Tdmr => write!(f, " (TDMR {b0})"),
            Details::Area => write!(f, " (TDMR {b0}, reserved area {b1})"),
            Details::Pamt => write!(f, " (TDMR {b0}, {})", level(b1)),
            Details::PamtAndTdmr => write!(f, " ({} of TDMR {b0}, TDMR {b2})", level(b1)),
            Details::Msr => write!(f, " (MSR {:#x})", self.details()),
            Details::Raw if self.details() != 0 => write!(f, " ({:#x})", self.details()),
            Details::Raw => Ok(()),
        }
    }
}

fn level(code: u8) -> &'static str {
    match code {
        0 => "PAMT_4K",
        1 => "PAMT_2M",
        2 => "PAMT_1G",
        _ => "PAMT of unknown level",
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} [{:#018x}]", self.0)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::{collections::BTreeSet, format, string::ToString};

    #[test]
    fn names_and_operands() {
        assert_eq!(StatusCode::OPERAND_BUSY.operand(Operand::RCX).to_string(), "TDX_OPERAND_BUSY (RCX)");
        assert_eq!(Status::new(0xc000050500000000).to_string(), "TDX_SYS_NOT_READY");
        assert_eq!(Status::new(0xc000092100000122).to_string(), "TDX_INCORRECT_MSR_VALUE (MSR 0x122)");
        assert_eq!(
            StatusCode::INVALID_RESERVED_IN_TDMR.info([3, 2, 0, 0]).to_string(),
            "TDX_INVALID_RESERVED_IN_TDMR (TDMR 3, reserved area 2)"
        );
        assert_eq!(
            StatusCode::PAMT_OVERLAP.info([3, 1, 2, 0]).to_string(),
            "TDX_PAMT_OVERLAP (PAMT_2M of TDMR 3, TDMR 2)"
        );
        assert_eq!(Status::VMFAIL_INVALID.to_string(), "TDX_SEAMCALL_VMFAILINVALID");
        assert_eq!(
            format!("{:?}", StatusCode::OPERAND_INVALID.operand(Operand::RDX)),
            "TDX_OPERAND_INVALID (RDX) [0xc000010000000002]"
        );
    }

    #[test]
    fn unknown_codes_are_values() {
        let status = Status::new(0xc0004242_00000007);
        assert!(status.is_error() && status.is_non_recoverable() && !status.is_fatal());
        assert_eq!(status.class(), StatusClass::Unknown(0x42));
        assert_eq!(status.to_string(), "unknown status 0xc000424200000007");
        assert_eq!(status.raw(), 0xc0004242_00000007);
    }

    #[test]
    fn classes_and_flags() {
        assert_eq!(Status::UNDEFINED_OPCODE.class(), StatusClass::Software);
        assert!(Status::GENERAL_PROTECTION.is_software() && Status::GENERAL_PROTECTION.is_error());
        assert!(!StatusCode::KEY_CONFIGURED.with(0).is_error());
        assert!(StatusCode::TD_FATAL.with(0).is_fatal());
    }

    #[test]
    fn codes_are_distinct() {
        let all: BTreeSet<_> = StatusCode::KNOWN.iter().map(|c| c.0).collect();
        assert_eq!(all.len(), StatusCode::KNOWN.len());
    }
}
