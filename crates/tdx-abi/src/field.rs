//! Global metadata field ids, as SYS.RD takes them.

use crate::open_enum::open_enum;
use core::fmt;

open_enum! {
    /// A metadata field id: RDX of SYS.RD.
    ///
    /// Bits 23:0 field code, 33:32 element size code (0 = 1 byte .. 3 = 8 bytes), 61:56 class, 63
    /// non-architectural.
    pub enum FieldId: u64 {
        /// Features of the module, [`TdxFeatures0`].
        TDX_FEATURES0 = 0x0A00_0003_0000_0008, "TDX_FEATURES0";
        /// Always 32 on 1.5.01; skip entries of size 0.
        NUM_CMRS = 0x9000_0001_0000_0000, "NUM_CMRS";
        /// Base of CMR 0; CMR n is at `+ n`.
        CMR_BASE = 0x9000_0003_0000_0080, "CMR_BASE";
        /// Size of CMR 0; CMR n is at `+ n`.
        CMR_SIZE = 0x9000_0003_0000_0100, "CMR_SIZE";
        /// Most TDMRs.
        MAX_TDMRS = 0x9100_0001_0000_0008, "MAX_TDMRS";
        /// Most reserved areas per TDMR.
        MAX_RESERVED_PER_TDMR = 0x9100_0001_0000_0009, "MAX_RESERVED_PER_TDMR";
        /// Bytes of a PAMT_4K entry.
        PAMT_4K_ENTRY_SIZE = 0x9100_0001_0000_0010, "PAMT_4K_ENTRY_SIZE";
        /// Bytes of a PAMT_2M entry.
        PAMT_2M_ENTRY_SIZE = 0x9100_0001_0000_0011, "PAMT_2M_ENTRY_SIZE";
        /// Bytes of a PAMT_1G entry.
        PAMT_1G_ENTRY_SIZE = 0x9100_0001_0000_0012, "PAMT_1G_ENTRY_SIZE";
        /// Dynamic PAMT: bits per 4 KiB page in the page bitmap. Absent in 1.5.01. The id as Linux
        /// reads it; in the module's source its element is one byte, not two.
        PAMT_PAGE_BITMAP_ENTRY_BITS = 0x9100_0001_0000_0013, "PAMT_PAGE_BITMAP_ENTRY_BITS";
        /// Bytes of TDR.
        TDR_BASE_SIZE = 0x9800_0001_0000_0000, "TDR_BASE_SIZE";
        /// Bytes of TDCS.
        TDCS_BASE_SIZE = 0x9800_0001_0000_0100, "TDCS_BASE_SIZE";
        /// Bytes of TDVPS.
        TDVPS_BASE_SIZE = 0x9800_0001_0000_0200, "TDVPS_BASE_SIZE";
        /// ATTRIBUTES bits that may be 1; every other bit is 0 ("fixed 0").
        ATTRIBUTES_FIXED0 = 0x1900_0003_0000_0000, "ATTRIBUTES_FIXED0";
        /// ATTRIBUTES bits that must be 1.
        ATTRIBUTES_FIXED1 = 0x1900_0003_0000_0001, "ATTRIBUTES_FIXED1";
        /// XFAM bits that may be 1; every other bit is 0 ("fixed 0").
        XFAM_FIXED0 = 0x1900_0003_0000_0002, "XFAM_FIXED0";
        /// XFAM bits that must be 1.
        XFAM_FIXED1 = 0x1900_0003_0000_0003, "XFAM_FIXED1";
        /// Build date, the decimal number yyyymmdd: 20230323 in 1.5.01, which newer kernels print
        /// as hex (`0134b0b3`).
        BUILD_DATE = 0x8800_0002_0000_0001, "BUILD_DATE";
        /// Build number.
        BUILD_NUM = 0x8800_0001_0000_0002, "BUILD_NUM";
        /// Minor version.
        MINOR_VERSION = 0x0800_0001_0000_0003, "MINOR_VERSION";
        /// Major version.
        MAJOR_VERSION = 0x0800_0001_0000_0004, "MAJOR_VERSION";
        /// Update version.
        UPDATE_VERSION = 0x0800_0001_0000_0005, "UPDATE_VERSION";
        /// Internal version.
        INTERNAL_VERSION = 0x0800_0001_0000_0006, "INTERNAL_VERSION";
        /// Handoff version of this module.
        MODULE_HV = 0x8900_0001_0000_0000, "MODULE_HV";
        /// Lowest handoff version it can update from.
        MIN_UPDATE_HV = 0x8900_0001_0000_0001, "MIN_UPDATE_HV";
        /// Input: start at the first field. Output: no field left.
        NONE = u64::MAX, "NONE";
    }
}

impl FieldId {
    /// Base of CMR `index`.
    pub const fn cmr_base(index: u16) -> Self {
        Self(Self::CMR_BASE.0 + index as u64)
    }

    /// Size of CMR `index`.
    pub const fn cmr_size(index: u16) -> Self {
        Self(Self::CMR_SIZE.0 + index as u64)
    }
}

impl fmt::Display for FieldId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "field {:#018x}", self.0),
        }
    }
}

/// The feature bits of TDX_FEATURES0.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(transparent)]
pub struct TdxFeatures0(u64);

impl TdxFeatures0 {
    /// What 1.5.01 answers, but for bit 8, which it sets in SYS.INIT where the CPU has what it
    /// stands for (0xF0FBF on Sapphire Rapids).
    pub const MODULE_1_5_01: Self = Self(0xF0EBF);

    /// From the value of the field.
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The raw bits.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Bit 18: VP.ENTER does not modify RBP.
    pub const fn no_rbp_mod(self) -> bool {
        self.0 >> 18 & 1 == 1
    }

    /// Bit 23: pages must be flushed with CLFLUSH before they are given. Known from Linux only.
    pub const fn clflush_before_alloc(self) -> bool {
        self.0 >> 23 & 1 == 1
    }

    /// Bit 20: a TD's topology can be configured, and VP.INIT version 1 takes an x2APIC id. Linux's
    /// KVM refuses a module without it.
    pub const fn topology_enum(self) -> bool {
        self.0 >> 20 & 1 == 1
    }

    /// Bit 36: dynamic PAMT. Observed in 1.5.25.
    pub const fn dynamic_pamt(self) -> bool {
        self.0 >> 36 & 1 == 1
    }

    /// The same features and dynamic PAMT.
    #[must_use]
    pub const fn with_dynamic_pamt(self) -> Self {
        Self(self.0 | 1 << 36)
    }

    /// The same features and SYS.DISABLE.
    #[must_use]
    pub const fn with_sys_disable(self) -> Self {
        Self(self.0 | 1 << 53)
    }

    /// Bit 53: SYS.DISABLE, by the draft specification. Unverified; Linux does not look at it.
    pub const fn sys_disable(self) -> bool {
        self.0 >> 53 & 1 == 1
    }
}
