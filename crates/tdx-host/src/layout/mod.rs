//! Memory map and CMRs to TDMRs, PAMT places and reserved areas.
//!
//! Pure: it makes no SEAMCALL and touches no memory; it asks [`Places`] for the pages of the
//! PAMTs and writes its answer into a [`Layout`] that the caller owns (it is too large for a kernel
//! stack). It allocates nothing and cannot panic. [`Fit`] is the algorithm to use; [`build_with`]
//! takes another.
//!
//! Sources: Linux `arch/x86/virt/vmx/tdx/tdx.c` (`docs/reference/linux.md` 1.3); the checks of
//! TDH.SYS.CONFIG (`docs/reference/tdx_abi.md` section 6).
//!
//! # Concepts
//!
//! * A *TDMR* is a range of memory, in whole GiB, that TDs can have pages of. The module allows 64.
//! * Each TDMR has a *PAMT*, 1/256 of its size: three tables with an entry for each page of 4 KiB,
//!   2 MiB and 1 GiB. The host finds the memory for it, and it turns private at bring-up.
//! * A TDMR may have 16 *reserved areas*: holes that the module must not touch. What lies in no CMR
//!   (what the firmware did not verify) must be in one, and so must PAMTs.
//! * What cannot be had within these limits is *given up*: TDs must not have it, and
//!   [`Layout::given_up`] names it with the reason.
//!
//! ```
//! use tdx_abi::{Page, PageRange};
//! use tdx_host::layout::{self, Layout, Limits, MapFrames};
//! use tdx_host::platform::{NodeId, NodeRange};
//!
//! // 1 MiB to 4 GiB of memory, all convertible.
//! let memory = [NodeRange { range: PageRange::new(Page::new(256), Page::new(1 << 20)), node: NodeId(0) }];
//! let cmrs = [memory[0].range];
//! let mut frames = MapFrames::new(&memory);
//! let mut layout = Box::new(Layout::new());
//! layout::build(&memory, &cmrs, &Limits::MODULE_1_5, &mut frames, &mut layout)?;
//!
//! assert_eq!((layout.tdmr_count(), layout.pamt_kb()), (1, 16420));
//! assert_eq!(layout.given_up(&memory, &cmrs).count(), 0);
//! layout.release(&mut frames)?;
//! # Ok::<(), tdx_host::layout::LayoutError>(())
//! ```

mod algorithm;
mod error;
mod explain;
mod fit;
mod frames;
mod given_up;
mod host;
mod map_frames;
mod span;
mod table;

use core::num::NonZero;
use tdx_abi::{MAX_RESERVED_AREAS, MAX_TDMRS, PageRange, PageSize, pamt_bitmap_bytes, pamt_bytes};

use crate::platform::NodeRange;
use host::Host;

pub use algorithm::{Algorithm, Fit, Table};
pub use error::{InputList, LayoutError};
pub use explain::Note;
pub(crate) use frames::OwnedPlaces;
pub use frames::{FrameRequest, FrameSource, Places};
pub use given_up::{GiveUpReason, GivenUp};
pub use map_frames::MapFrames;
pub use span::Border;
pub use table::{Layout, Tdmr};

/// What PAMT_4K of a TDMR is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Pamt4k {
    /// An entry for each page, for good.
    #[default]
    Entries,
    /// Dynamic PAMT: a bitmap; [`crate::dynamic_pamt`] adds entries where they are needed.
    Bitmap {
        /// Bits for each 4 KiB page.
        bits: NonZero<u16>,
    },
}

/// What the module allows, from its global metadata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// MAX_TDMRS. More than [`MAX_TDMRS`] are never used.
    pub max_tdmrs: u16,
    /// MAX_RESERVED_PER_TDMR. More than [`MAX_RESERVED_AREAS`] are never used: TDMR_INFO has no
    /// room for them.
    pub max_reserved_per_tdmr: u16,
    /// Bytes of a PAMT entry for 4 KiB, 2 MiB and 1 GiB pages.
    pub pamt_entry_size: [u16; 3],
    /// What PAMT_4K is made of. The module allows both, if it has dynamic PAMT; SYS.CONFIG must be
    /// told.
    pub pamt_4k: Pamt4k,
}

impl Limits {
    /// The limits of module 1.5: 64 TDMRs, 16 reserved areas, 16-byte entries.
    pub const MODULE_1_5: Self =
        Self { max_tdmrs: 64, max_reserved_per_tdmr: 16, pamt_entry_size: [16; 3], pamt_4k: Pamt4k::Entries };

    /// TDMRs that both the module and [`Layout`] have room for.
    pub fn tdmrs(&self) -> usize {
        usize::from(self.max_tdmrs).min(MAX_TDMRS)
    }

    /// Reserved areas that both the module and TDMR_INFO have room for.
    pub fn reserved_areas(&self) -> usize {
        usize::from(self.max_reserved_per_tdmr).min(MAX_RESERVED_AREAS)
    }

    /// Pages of the PAMT of one level for a TDMR.
    ///
    /// Inputs are checked to end below 2^52, so nothing overflows: 2^40 entries of 2^16 bytes are
    /// 2^56 bytes.
    fn pamt_pages(&self, tdmr: PageRange, level: PageSize) -> u64 {
        let [small, large, huge] = self.pamt_entry_size;
        let entry_size = match level {
            PageSize::Size4K => small,
            PageSize::Size2M => large,
            PageSize::Size1G => huge,
        };
        let bytes = match (level, self.pamt_4k) {
            (PageSize::Size4K, Pamt4k::Bitmap { bits }) => pamt_bitmap_bytes(tdmr.bytes(), bits.get()),
            _ => pamt_bytes(tdmr.bytes(), level, entry_size),
        };
        bytes.map_or(u64::MAX, |bytes| bytes / tdx_abi::PAGE_SIZE)
    }
}

/// Lays TDMRs out over `memory` and takes the pages of their PAMTs from `frames`.
///
/// `memory` is the usable memory, ascending, without overlap; `cmrs` are the module's CMRs,
/// ascending, without overlap (empty entries are skipped). On success `out` holds the PAMT places
/// until [`Layout::release`]; they are numbers, which no bring-up uses.
///
/// It prefers a layout that gives memory up to no layout at all. A kernel that wants all or nothing
/// looks at [`Layout::given_up_bytes`]; one that goes on must keep what [`Layout::given_up`] names
/// away from TDs.
///
/// It needs less than 8 KiB of stack (measured on x86-64, optimized) and asks `frames` for one
/// range after another.
///
/// # Errors
/// Which limit cannot be met, or which input is bad. Then `out` is empty and every page taken has
/// been given back.
pub fn build<F: Places + ?Sized>(
    memory: &[NodeRange],
    cmrs: &[PageRange],
    limits: &Limits,
    frames: &mut F,
    out: &mut Layout,
) -> Result<(), LayoutError> {
    build_with(&Fit, memory, cmrs, limits, frames, out)
}

/// As [`build`], by another algorithm.
///
/// # Errors
/// As [`build`].
pub fn build_with<A: Algorithm, F: Places + ?Sized>(
    algorithm: &A,
    memory: &[NodeRange],
    cmrs: &[PageRange],
    limits: &Limits,
    places: &mut F,
    out: &mut Layout,
) -> Result<(), LayoutError> {
    if !out.is_empty() {
        return Err(LayoutError::InUse);
    }
    let host = Host::check(memory, cmrs)?;
    for level in PageSize::ALL {
        if limits.pamt_entry_size[level as usize] == 0 {
            return Err(LayoutError::PamtEntrySize { level });
        }
    }
    let result = algorithm.lay_out(&mut Table { host, limits, places: &mut *places, out: &mut *out });
    if result.is_err() {
        out.discard(places);
    }
    result
}
