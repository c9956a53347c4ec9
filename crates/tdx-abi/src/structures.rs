//! Structures that host and module exchange through memory, byte-exact: TDSYSINFO, CMR_INFO,
//! TDMR_INFO.
//!
//! Source: TDX module 1.5.01, `tdx_abi.md` section 5; field names follow Linux where it has them.

use crate::{PAGE_SIZE, PageRange, PageSize, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most CMRs a platform can have; the module's table always has this many entries, unused ones of
/// size 0.
pub const MAX_CMRS: usize = 32;
/// Most TDMRs of module 1.5; the module's own answer (MAX_TDMRS) is what counts.
pub const MAX_TDMRS: usize = 64;
/// Reserved areas in a TDMR_INFO of module 1.5; the module always reads all of them.
pub const MAX_RESERVED_AREAS: usize = 16;
/// TDMR base and size are multiples of this many bytes (1 GiB).
pub const TDMR_GRANULARITY: u64 = 1 << 30;
/// TDMR_INFO and the array of pointers to them stand on this boundary, in bytes.
pub const STRUCTURE_ALIGN: u64 = 512;

/// A convertible memory range, 4 KiB granular. Size 0 is an unused entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct CmrInfo {
    /// First byte.
    pub base: u64,
    /// Bytes.
    pub size: u64,
}

const _: () = assert!(size_of::<CmrInfo>() == 16);

impl CmrInfo {
    /// The range, or `None` if the entry is unused, not made of whole pages, or wraps.
    pub fn range(&self) -> Option<PageRange> {
        if self.size == 0 { None } else { PageRange::from_base_size(PhysAddr::new(self.base), self.size).ok() }
    }
}

/// A part of a TDMR that the module must not use: a hole, or PAMT itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct ReservedArea {
    /// Bytes from the TDMR's base.
    pub offset: u64,
    /// Bytes; 0 is an unused entry.
    pub size: u64,
}

/// One trust-domain memory region, as SYS.CONFIG reads it: 320 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TdmrInfo {
    /// First byte, a multiple of 1 GiB.
    pub base: u64,
    /// Bytes, a multiple of 1 GiB, not 0.
    pub size: u64,
    /// PAMT for 1 GiB pages: first byte.
    pub pamt_1g_base: u64,
    /// PAMT for 1 GiB pages: bytes.
    pub pamt_1g_size: u64,
    /// PAMT for 2 MiB pages: first byte.
    pub pamt_2m_base: u64,
    /// PAMT for 2 MiB pages: bytes.
    pub pamt_2m_size: u64,
    /// PAMT for 4 KiB pages: first byte.
    pub pamt_4k_base: u64,
    /// PAMT for 4 KiB pages: bytes.
    pub pamt_4k_size: u64,
    /// Reserved areas, ascending, without gaps in the list.
    pub reserved: [ReservedArea; MAX_RESERVED_AREAS],
}

const _: () = assert!(size_of::<TdmrInfo>() == 320);
const _: () = assert!(size_of::<TdmrInfo>() <= STRUCTURE_ALIGN as usize);

impl TdmrInfo {
    /// Base and size in bytes of the PAMT of one level, as they stand: unchecked.
    pub const fn pamt(&self, level: PageSize) -> (u64, u64) {
        match level {
            PageSize::Size4K => (self.pamt_4k_base, self.pamt_4k_size),
            PageSize::Size2M => (self.pamt_2m_base, self.pamt_2m_size),
            PageSize::Size1G => (self.pamt_1g_base, self.pamt_1g_size),
        }
    }

    /// Sets the PAMT of one level.
    pub const fn set_pamt(&mut self, level: PageSize, base: PhysAddr, size: u64) {
        match level {
            PageSize::Size4K => (self.pamt_4k_base, self.pamt_4k_size) = (base.get(), size),
            PageSize::Size2M => (self.pamt_2m_base, self.pamt_2m_size) = (base.get(), size),
            PageSize::Size1G => (self.pamt_1g_base, self.pamt_1g_size) = (base.get(), size),
        }
    }
}

/// What SYS.INFO returns about the module: 1024 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct TdSysInfo {
    /// Bit 31: debug module.
    pub attributes: u32,
    /// 0x8086.
    pub vendor_id: u32,
    /// Decimal yyyymmdd as a number.
    pub build_date: u32,
    /// Build number.
    pub build_num: u16,
    /// Minor version.
    pub minor_version: u16,
    /// Major version.
    pub major_version: u16,
    /// 1 if SYS.RD is there.
    pub sys_rd: u8,
    /// Reserved.
    pub reserved_0: [u8; 13],
    /// Most TDMRs.
    pub max_tdmrs: u16,
    /// Most reserved areas in a TDMR.
    pub max_reserved_per_tdmr: u16,
    /// Bytes of a PAMT entry.
    pub pamt_entry_size: u16,
    /// Reserved.
    pub reserved_1: [u8; 10],
    /// Bytes of TDCS, without L2 VMs.
    pub tdcs_base_size: u16,
    /// Reserved.
    pub reserved_2: [u8; 2],
    /// Bytes of TDVPS, without L2 VMs.
    pub tdvps_base_size: u16,
    /// 1 if TDVPS size depends on XFAM.
    pub tdvps_xfam_dependent_size: u8,
    /// Reserved.
    pub reserved_3: [u8; 9],
    /// ATTRIBUTES bits that must be 1 where this is 1.
    pub attributes_fixed0: u64,
    /// ATTRIBUTES bits that may be 1.
    pub attributes_fixed1: u64,
    /// XFAM bits that must be 1.
    pub xfam_fixed0: u64,
    /// XFAM bits that may be 1.
    pub xfam_fixed1: u64,
    /// Reserved.
    pub reserved_4: [u8; 32],
    /// Valid entries of `cpuid_config`.
    pub num_cpuid_config: u32,
    /// CPUID_CONFIG entries, 24 bytes each, and what is left of the 1024 bytes.
    pub cpuid_config: [u8; 892],
}

const _: () = assert!(size_of::<TdSysInfo>() == 1024);
const _: () = assert!(core::mem::offset_of!(TdSysInfo, sys_rd) == 18);
const _: () = assert!(core::mem::offset_of!(TdSysInfo, max_tdmrs) == 32);
const _: () = assert!(core::mem::offset_of!(TdSysInfo, tdcs_base_size) == 48);
const _: () = assert!(core::mem::offset_of!(TdSysInfo, tdvps_base_size) == 52);
const _: () = assert!(core::mem::offset_of!(TdSysInfo, attributes_fixed0) == 64);
const _: () = assert!(core::mem::offset_of!(TdSysInfo, xfam_fixed0) == 80);
const _: () = assert!(core::mem::offset_of!(TdSysInfo, num_cpuid_config) == 128);
const _: () = assert!(core::mem::offset_of!(TdSysInfo, cpuid_config) == 132);
const _: () = assert!(TDMR_GRANULARITY.is_multiple_of(PAGE_SIZE));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tdmr_info_bytes() {
        let mut info = TdmrInfo { base: 0x4000_0000, size: 0x8000_0000, ..TdmrInfo::default() };
        info.set_pamt(PageSize::Size4K, PhysAddr::new(0x1234_5000), 0x80_0000);
        info.reserved[1] = ReservedArea { offset: 0x1000, size: 0x2000 };
        let bytes = info.as_bytes();
        assert_eq!(bytes[48..56], 0x1234_5000u64.to_le_bytes());
        assert_eq!(bytes[80..88], 0x1000u64.to_le_bytes());
        assert_eq!(info.pamt(PageSize::Size4K), (0x1234_5000, 0x80_0000));
    }

    #[test]
    fn cmr_ranges() {
        assert_eq!(CmrInfo { base: 0x1000, size: 0 }.range(), None);
        assert_eq!(CmrInfo { base: 0x1001, size: 0x1000 }.range(), None);
        assert_eq!(CmrInfo { base: u64::MAX - 0xfff, size: 0x2000 }.range(), None);
        assert!(CmrInfo { base: 0x10_0000, size: 0x7770_0000 }.range().is_some());
    }
}
