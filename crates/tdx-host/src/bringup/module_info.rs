//! What the module says about itself, read field by field with SYS.RD: version, features, limits,
//! CMRs.

use arrayvec::ArrayVec;
use core::num::NonZero;
use tdx_abi::{
    CmrInfo, DYNAMIC_PAMT_MAX_PHYS_BITS, FieldId, KeyIdField, Leaf, MAX_CMRS, PAGE_SIZE, PAMT_PAIR_PAGES, PageRange,
    PageSize, Registers, TdxFeatures0,
};

use crate::layout::{Limits, Pamt4k};
use crate::platform::Cpu;
use crate::seamcall::{SeamcallError, call_unchecked};

/// Version of the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ModuleVersion {
    /// Major, 1 or 2.
    pub major: u16,
    /// Minor.
    pub minor: u16,
    /// Update.
    pub update: u16,
    /// Build number.
    pub build_num: u16,
    /// Build date, the decimal number yyyymmdd: 20240129 is 2024-01-29.
    pub build_date: u32,
}

impl core::fmt::Display for ModuleVersion {
    /// As newer kernels print it: `1.5.01`.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}.{:02}", self.major, self.minor, self.update)
    }
}

/// What the module says about itself and about the platform.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleInfo {
    /// Version.
    pub version: ModuleVersion,
    /// Features.
    pub features: TdxFeatures0,
    /// Limits for TDMRs and PAMTs, and how PAMT_4K is used.
    pub limits: Limits,
    /// Bits for each page in the bitmap of dynamic PAMT, if the module has it.
    pub pamt_bitmap_bits: Option<NonZero<u16>>,
    /// Convertible memory ranges, ascending; those that touch are joined, as the module joins them.
    pub cmrs: ArrayVec<PageRange, MAX_CMRS>,
}

/// Why the module's answers cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleInfoError {
    /// SYS.RD failed.
    #[error("cannot read {field}: {error}")]
    Read {
        /// The field.
        field: FieldId,
        /// The call.
        error: SeamcallError,
    },
    /// The module knows more CMRs than there can be.
    #[error("the module says it has {count} CMRs, at most {MAX_CMRS} can be")]
    TooManyCmrs {
        /// NUM_CMRS.
        count: u64,
    },
    /// A CMR is not made of whole pages, wraps, or does not lie above the one before.
    #[error("CMR {index} (base {base:#x}, size {size:#x}) is not page-aligned or not above the one before it")]
    BadCmr {
        /// Its index.
        index: u16,
        /// Base, bytes.
        base: u64,
        /// Size, bytes.
        size: u64,
    },
    /// Not one CMR.
    #[error("the module has no convertible memory at all: the BIOS reported no CMR")]
    NoCmrs,
}

/// Why dynamic PAMT cannot be used. Static PAMT can.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoDynamicPamt {
    /// The module does not have it.
    #[error("the module has no dynamic PAMT")]
    NotInModule,
    /// The module's tree of PAMTs does not reach all memory of this platform.
    #[error("physical addresses have {bits} bits, dynamic PAMT allows {DYNAMIC_PAMT_MAX_PHYS_BITS}")]
    PhysBits {
        /// Bits without the KeyID.
        bits: u32,
    },
    /// This crate knows pairs of pages only.
    #[error("the entries of 2 MiB need {bytes} bytes, and not two pages")]
    PairSize {
        /// Bytes of 512 entries.
        bytes: u64,
    },
}

impl ModuleInfo {
    /// As `clone`, without the check of a capacity, which could panic.
    pub(super) fn copy(&self) -> Self {
        let Self { version, features, limits, pamt_bitmap_bits, ref cmrs } = *self;
        // As many fit as fit before.
        let cmrs = ArrayVec::try_from(cmrs.as_slice()).unwrap_or_default();
        Self { version, features, limits, pamt_bitmap_bits, cmrs }
    }

    /// The limits with dynamic PAMT on a platform with this KeyID field.
    ///
    /// # Errors
    /// [`NoDynamicPamt`].
    pub(super) fn with_dynamic_pamt(&self, field: KeyIdField) -> Result<Limits, NoDynamicPamt> {
        let bits = self.pamt_bitmap_bits.ok_or(NoDynamicPamt::NotInModule)?;
        if field.shift() > DYNAMIC_PAMT_MAX_PHYS_BITS {
            return Err(NoDynamicPamt::PhysBits { bits: field.shift() });
        }
        let [entry, ..] = self.limits.pamt_entry_size;
        let bytes = u64::from(entry) * PageSize::Size2M.pages();
        if bytes != PAGE_SIZE * PAMT_PAIR_PAGES as u64 {
            return Err(NoDynamicPamt::PairSize { bytes });
        }
        Ok(Limits { pamt_4k: Pamt4k::Bitmap { bits }, ..self.limits })
    }
}

fn read<C: Cpu>(cpu: &C, field: FieldId) -> Result<u64, ModuleInfoError> {
    // SAFETY: SYS.RD answers in registers.
    match unsafe { call_unchecked(cpu, Registers::call(Leaf::SYS_RD).rdx(field.0)) } {
        Ok(output) => Ok(output.r8),
        Err(error) => Err(ModuleInfoError::Read { field, error }),
    }
}

/// Reads everything that bring-up needs. Fields are cut to the width that the specification gives
/// them.
pub(super) fn read_all<C: Cpu>(cpu: &C) -> Result<ModuleInfo, ModuleInfoError> {
    let read16 = |field| read(cpu, field).map(|value| value as u16);
    let version = ModuleVersion {
        major: read16(FieldId::MAJOR_VERSION)?,
        minor: read16(FieldId::MINOR_VERSION)?,
        update: read16(FieldId::UPDATE_VERSION)?,
        build_num: read16(FieldId::BUILD_NUM)?,
        build_date: read(cpu, FieldId::BUILD_DATE)? as u32,
    };
    let features = TdxFeatures0::new(read(cpu, FieldId::TDX_FEATURES0)?);
    let limits = Limits {
        max_tdmrs: read16(FieldId::MAX_TDMRS)?,
        max_reserved_per_tdmr: read16(FieldId::MAX_RESERVED_PER_TDMR)?,
        pamt_entry_size: [
            read16(FieldId::PAMT_4K_ENTRY_SIZE)?,
            read16(FieldId::PAMT_2M_ENTRY_SIZE)?,
            read16(FieldId::PAMT_1G_ENTRY_SIZE)?,
        ],
        pamt_4k: Pamt4k::Entries,
    };
    // A module without the feature has no such field.
    let pamt_bitmap_bits =
        if features.dynamic_pamt() { NonZero::new(read16(FieldId::PAMT_PAGE_BITMAP_ENTRY_BITS)?) } else { None };
    Ok(ModuleInfo { version, features, limits, pamt_bitmap_bits, cmrs: read_cmrs(cpu)? })
}

fn read_cmrs<C: Cpu>(cpu: &C) -> Result<ArrayVec<PageRange, MAX_CMRS>, ModuleInfoError> {
    let count = read(cpu, FieldId::NUM_CMRS)?;
    if count > MAX_CMRS as u64 {
        return Err(ModuleInfoError::TooManyCmrs { count });
    }
    let mut cmrs: ArrayVec<PageRange, MAX_CMRS> = ArrayVec::new();
    for index in 0..count as u16 {
        let base = read(cpu, FieldId::cmr_base(index))?;
        let size = read(cpu, FieldId::cmr_size(index))?;
        if size == 0 {
            continue;
        }
        let bad = ModuleInfoError::BadCmr { index, base, size };
        let range = CmrInfo { base, size }.range().ok_or(bad)?;
        match cmrs.last_mut() {
            Some(last) if range.start() < last.end() => return Err(bad),
            Some(last) if range.start() == last.end() => *last = PageRange::new(last.start(), range.end()),
            _ => cmrs.try_push(range).map_err(|_| bad)?,
        }
    }
    if cmrs.is_empty() { Err(ModuleInfoError::NoCmrs) } else { Ok(cmrs) }
}
