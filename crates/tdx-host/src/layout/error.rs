//! Why there is no layout. Each error names the limit or the input, and the TDMR where it shows.

use crate::platform::NodeId;
use tdx_abi::{PageRange, PageSize};

/// Which input list an error is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InputList {
    /// The memory map.
    Memory,
    /// The convertible memory ranges.
    Cmrs,
}

impl core::fmt::Display for InputList {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Memory => "memory map",
            Self::Cmrs => "CMR list",
        })
    }
}

/// Why there is no layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The output still owns the PAMTs of an earlier layout.
    #[error("the layout still owns PAMT memory: release it before building another")]
    InUse,
    /// The module has the PAMTs.
    #[error("the PAMTs of this layout may be private: they cannot be given back")]
    Private,
    /// The PAMTs are memory that a bring-up has taken, and not places of a plan.
    #[error("the PAMTs of this layout are memory of a bring-up, and not places of a plan")]
    OwnsFrames,
    /// A list is not in ascending order, or two of its ranges overlap.
    #[error("{list}: {range} starts before the range in front of it ends; sort the list and join what overlaps")]
    Unordered {
        /// Which list.
        list: InputList,
        /// The range that is out of place.
        range: PageRange,
    },
    /// A range ends above 2^52, where no physical memory can be.
    #[error("{list}: {range} ends above 2^52")]
    TooHigh {
        /// Which list.
        list: InputList,
        /// The range.
        range: PageRange,
    },
    /// The module reported PAMT entries of no bytes.
    #[error("the module reports PAMT entries of 0 bytes for {level:?}; its metadata cannot be trusted")]
    PamtEntrySize {
        /// The level.
        level: PageSize,
    },
    /// Nothing to cover: there is no usable memory inside CMRs.
    #[error("no memory that TDX can use; check that the BIOS has TDX on and reports CMRs")]
    NoMemory,
    /// More TDMRs are needed than the module allows. Linux: "TDMRs exhausted".
    #[error("TDMRs exhausted at TDMR {tdmr}: {needed} needed, the module allows {allowed}")]
    TdmrsExhausted {
        /// The first TDMR for which there is no place.
        tdmr: PageRange,
        /// TDMRs needed.
        needed: u64,
        /// TDMRs allowed.
        allowed: u64,
    },
    /// A TDMR needs more reserved areas than the module allows. Linux: "reserved areas exhausted".
    #[error("TDMR {tdmr}: reserved areas exhausted: {needed} needed, the module allows {allowed}")]
    ReservedAreasExhausted {
        /// The TDMR.
        tdmr: PageRange,
        /// Areas needed.
        needed: u64,
        /// Areas allowed.
        allowed: u64,
    },
    /// There is no place for the PAMT of a TDMR.
    #[error("TDMR {tdmr}: no {bytes:#x} bytes of contiguous memory for its PAMT (wanted on {node}); free some memory")]
    NoPamtMemory {
        /// The TDMR.
        tdmr: PageRange,
        /// Bytes of PAMT it needs, all levels.
        bytes: u64,
        /// The node it was wanted on.
        node: NodeId,
    },
}

impl LayoutError {
    /// The error number that Linux returns in this case: -12 ENOMEM, -16 EBUSY, -22 EINVAL, -28
    /// ENOSPC.
    pub const fn errno(&self) -> i32 {
        match self {
            Self::NoPamtMemory { .. } => -12,
            Self::InUse | Self::Private | Self::OwnsFrames => -16,
            Self::Unordered { .. } | Self::TooHigh { .. } | Self::PamtEntrySize { .. } | Self::NoMemory => -22,
            Self::TdmrsExhausted { .. } | Self::ReservedAreasExhausted { .. } => -28,
        }
    }
}
