//! TDMRs, PAMTs and reserved areas: built, looked at, released.

use arrayvec::ArrayVec;
use core::ffi::c_void;
use tdx_abi::{MAX_CMRS, MAX_RESERVED_AREAS, PageRange, PageSize};
use tdx_host::layout::{Border, GiveUpReason, Layout, Limits, Pamt4k, Tdmr, build};

use crate::c_enum::c_enum;
use crate::error::{Details, TdxhError};
use crate::kernel::{FramesOf, TdxhFrames};
use crate::range::{Ranges, TdxhRange, memory_map};
use crate::result::{Outcome, TdxhResult, flat};
use crate::storage::{Fresh, OneUser, TdxhNodeRange, content, input, opaque, output};

/// Reserved areas of a TDMR.
pub const TDXH_MAX_RESERVED: usize = MAX_RESERVED_AREAS;

/// Convertible memory ranges of a module.
pub const TDXH_MAX_CMRS: usize = MAX_CMRS;

c_enum! {
    /// How to lay TDMRs out.
    pub enum TdxhAlgorithm as "tdxh_algorithm" {
        /// Comes up on every host, gives up memory if it must.
        Fit = 0, "TDXH_FIT";
    }
}

c_enum! {
    /// Why a TDMR starts where it does.
    pub enum TdxhBorder as "tdxh_border" {
        /// Memory starts there.
        Memory = 0, "TDXH_BORDER_MEMORY";
        /// Another node.
        Node = 1, "TDXH_BORDER_NODE";
        /// Too many reserved areas otherwise.
        ReservedAreas = 2, "TDXH_BORDER_RESERVED_AREAS";
        /// Too much contiguous PAMT memory otherwise.
        PamtMemory = 3, "TDXH_BORDER_PAMT_MEMORY";
    }
}

c_enum! {
    /// Why TDX does not have a usable page.
    pub enum TdxhGiveUp as "tdxh_give_up" {
        /// It lies in no CMR.
        OutsideCmrs = 0, "TDXH_GIVE_UP_OUTSIDE_CMRS";
        /// A reserved area covers it.
        ReservedAreas = 1, "TDXH_GIVE_UP_RESERVED_AREAS";
        /// More TDMRs are not allowed.
        Tdmrs = 2, "TDXH_GIVE_UP_TDMRS";
        /// There is no contiguous memory for its PAMT.
        PamtMemory = 3, "TDXH_GIVE_UP_PAMT_MEMORY";
    }
}

impl TdxhAlgorithm {
    /// There is one, so that a number says nothing but that it is known.
    pub(crate) fn read(number: u32) -> Outcome {
        match Self::from_number(number).ok_or(TdxhResult::BadValue)? {
            Self::Fit => Ok(()),
        }
    }
}

impl From<Border> for TdxhBorder {
    fn from(border: Border) -> Self {
        match border {
            Border::Memory => Self::Memory,
            Border::Node => Self::Node,
            Border::ReservedAreas => Self::ReservedAreas,
            Border::PamtMemory => Self::PamtMemory,
        }
    }
}

impl From<GiveUpReason> for TdxhGiveUp {
    fn from(reason: GiveUpReason) -> Self {
        match reason {
            GiveUpReason::OutsideCmrs => Self::OutsideCmrs,
            GiveUpReason::ReservedAreas => Self::ReservedAreas,
            GiveUpReason::Tdmrs => Self::Tdmrs,
            GiveUpReason::PamtMemory => Self::PamtMemory,
        }
    }
}

/// `struct tdxh_limits`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TdxhLimits {
    /// TDMRs that the module allows.
    pub max_tdmrs: u16,
    /// Reserved areas for each.
    pub max_reserved_per_tdmr: u16,
    /// Bytes of a PAMT entry for 4 KiB, 2 MiB and 1 GiB pages.
    pub pamt_entry_size: [u16; 3],
}

impl TdxhLimits {
    fn read(self) -> Limits {
        let Self { max_tdmrs, max_reserved_per_tdmr, pamt_entry_size } = self;
        Limits { max_tdmrs, max_reserved_per_tdmr, pamt_entry_size, pamt_4k: Pamt4k::Entries }
    }
}

impl From<Limits> for TdxhLimits {
    fn from(limits: Limits) -> Self {
        let Limits { max_tdmrs, max_reserved_per_tdmr, pamt_entry_size, .. } = limits;
        Self { max_tdmrs, max_reserved_per_tdmr, pamt_entry_size }
    }
}

/// `struct tdxh_layout_info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct TdxhLayoutInfo {
    /// TDMRs.
    pub tdmrs: u32,
    /// 0.
    pub reserved: u32,
    /// Bytes of PAMT, all TDMRs.
    pub pamt_bytes: u64,
}

/// `struct tdxh_tdmr`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TdxhTdmr {
    /// The region.
    pub range: TdxhRange,
    /// Its PAMTs for 4 KiB, 2 MiB and 1 GiB pages.
    pub pamt: [TdxhRange; 3],
    /// The node that its PAMT was wanted on.
    pub node: u32,
    /// [`TdxhBorder`].
    pub border: u32,
    /// Reserved areas.
    pub reserved_count: u32,
    /// 0.
    pub padding: u32,
    /// The parts that the module must not use, ascending.
    pub reserved: [TdxhRange; TDXH_MAX_RESERVED],
}

/// `struct tdxh_given_up`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct TdxhGivenUp {
    /// The pages.
    pub range: TdxhRange,
    /// [`TdxhGiveUp`].
    pub reason: u32,
    /// 0.
    pub reserved: u32,
}

impl From<&Tdmr> for TdxhTdmr {
    fn from(tdmr: &Tdmr) -> Self {
        let mut reserved = [TdxhRange::default(); TDXH_MAX_RESERVED];
        for (place, area) in reserved.iter_mut().zip(tdmr.reserved()) {
            *place = (*area).into();
        }
        Self {
            range: tdmr.range().into(),
            pamt: PageSize::ALL.map(|level| tdmr.pamt(level).into()),
            node: tdmr.node().0,
            border: TdxhBorder::from(tdmr.border()) as u32,
            reserved_count: tdmr.reserved().len() as u32,
            padding: 0,
            reserved,
        }
    }
}

opaque! {
    /// `struct tdxh_layout`.
    TdxhLayout: 32768 bytes, align 8, OneUser<LayoutObject>;
}

/// A plan of the caller's, or the layout of a host.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it lies in storage of C, and nothing here allocates")]
pub enum LayoutObject {
    /// A plan.
    Plan(Layout),
    /// That of a host whose bring-up filled this.
    OfHost(&'static tdx_host::Host<'static>),
}

impl LayoutObject {
    /// The table, if there is one: a host that starts over has none.
    pub(crate) fn get(&self) -> Outcome<&Layout> {
        match self {
            Self::Plan(layout) => Ok(layout),
            Self::OfHost(host) => host.layout().ok_or(TdxhResult::NotInitialized),
        }
    }

    /// For a bring-up, which puts the host's layout here.
    pub(crate) fn check_empty(&self) -> Outcome {
        match self {
            Self::Plan(layout) if !layout.is_empty() => Err(TdxhResult::LayoutInUse),
            _ => Ok(()),
        }
    }
}

/// The layout object, made empty if it is fresh.
///
/// # Safety
/// As [`content`].
pub(crate) unsafe fn layout_to_fill<'l>(layout: *mut TdxhLayout) -> Outcome<&'l OneUser<LayoutObject>> {
    static EMPTY: Fresh<LayoutObject> = Fresh::new(LayoutObject::Plan(Layout::new()));
    // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that this
    // library has filled.
    let layout = unsafe { content(layout) }?;
    layout.ensure(&EMPTY);
    Ok(layout)
}

fn cmr_list(cmrs: Ranges<'_>) -> Outcome<ArrayVec<PageRange, MAX_CMRS>> {
    let mut list = ArrayVec::new();
    for cmr in cmrs.iter() {
        list.try_push(cmr).map_err(|_| TdxhResult::BadValue)?;
    }
    Ok(list)
}

/// Lays TDMRs out. See the header.
///
/// # Safety
/// `layout` is storage as [`crate::Opaque`] wants it; `memory`, `cmrs` and `limits` are valid for
/// reads of what their counts say; the functions of `frames` do what the header says; `error` is
/// null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_layout_build(
    layout: *mut TdxhLayout,
    algorithm: u32,
    memory: *const TdxhNodeRange,
    memory_count: usize,
    cmrs: *const TdxhRange,
    cmr_count: usize,
    limits: *const TdxhLimits,
    frames: *const TdxhFrames,
    error: *mut TdxhError,
) -> TdxhResult {
    let build_it = || -> Outcome {
        // SAFETY: as the caller has promised, the layout is storage that was zeroed or that this
        // library has filled, arrays are as long as their counts say, the memory map is as long as
        // its count says, inputs can be read, the functions do what the header asks for and the
        // place for details is null or can be written.
        let (layout, memory, cmrs, limits, mut frames, details) = unsafe {
            let layout = layout_to_fill(layout)?;
            let memory = memory_map(memory, memory_count)?;
            let cmrs = cmr_list(Ranges::new(cmrs, cmr_count)?)?;
            (layout, memory, cmrs, input(limits)?.read(), FramesOf::new(input(frames)?)?, Details::new(error))
        };
        TdxhAlgorithm::read(algorithm)?;
        let mut layout = layout.take()?;
        let LayoutObject::Plan(layout) = &mut *layout else { return Err(TdxhResult::LayoutInUse) };
        build(memory, &cmrs, &limits, &mut frames, layout).map_err(|error| details.fill((&error).into(), &error))
    };
    flat(build_it())
}

/// How large a layout is. See the header.
///
/// # Safety
/// `layout` as in [`tdxh_layout_build`]; `info` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_layout_get(layout: *mut TdxhLayout, info: *mut TdxhLayoutInfo) -> TdxhResult {
    let get = || -> Outcome {
        // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that
        // this library has filled.
        let object = unsafe { content(layout) }?.take()?;
        let layout = object.get()?;
        let found = TdxhLayoutInfo { tdmrs: layout.tdmr_count() as u32, reserved: 0, pamt_bytes: layout.pamt_bytes() };
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { output(info, found) }
    };
    flat(get())
}

/// One TDMR. See the header.
///
/// # Safety
/// `layout` as in [`tdxh_layout_build`]; `tdmr` is null or valid for a write.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_layout_tdmr(layout: *mut TdxhLayout, index: u32, tdmr: *mut TdxhTdmr) -> TdxhResult {
    let get = || -> Outcome {
        // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that
        // this library has filled.
        let object = unsafe { content(layout) }?.take()?;
        let found = object.get()?.tdmrs().get(index as usize).ok_or(TdxhResult::BadValue)?;
        // SAFETY: as the caller has promised, the place for the result is null or can be written.
        unsafe { output(tdmr, found.into()) }
    };
    flat(get())
}

/// Walks what the layout gave up. See the header.
///
/// # Safety
/// `layout`, `memory` and `cmrs` as in [`tdxh_layout_build`]; `visit` may be called with `context`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_layout_walk_given_up(
    layout: *mut TdxhLayout,
    memory: *const TdxhNodeRange,
    memory_count: usize,
    cmrs: *const TdxhRange,
    cmr_count: usize,
    visit: Option<unsafe extern "C" fn(context: *mut c_void, given_up: *const TdxhGivenUp) -> i32>,
    context: *mut c_void,
) -> TdxhResult {
    let walk = || -> Outcome {
        // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that
        // this library has filled, arrays are as long as their counts say and the memory map is as
        // long as its count says.
        let (layout, memory, cmrs) = unsafe {
            let cmrs = cmr_list(Ranges::new(cmrs, cmr_count)?)?;
            (content(layout)?.take()?, memory_map(memory, memory_count)?, cmrs)
        };
        let visit = visit.ok_or(TdxhResult::Null)?;
        for part in layout.get()?.given_up(memory, &cmrs) {
            let given_up =
                TdxhGivenUp { range: part.range.into(), reason: TdxhGiveUp::from(part.reason) as u32, reserved: 0 };
            // SAFETY: by the contract of this function; the struct lives through the call.
            if unsafe { visit(context, &raw const given_up) } != 0 {
                return Err(TdxhResult::Stopped);
            }
        }
        Ok(())
    };
    flat(walk())
}

/// Gives the PAMT pages back. See the header.
///
/// # Safety
/// `layout` and `frames` as in [`tdxh_layout_build`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tdxh_layout_release(layout: *mut TdxhLayout, frames: *const TdxhFrames) -> TdxhResult {
    let release = || -> Outcome {
        // SAFETY: as the caller has promised, opaque objects are storage that was zeroed or that
        // this library has filled, inputs can be read and the functions do what the header asks
        // for.
        let (layout, mut frames) = unsafe { (content(layout)?, FramesOf::new(input(frames)?)?) };
        match &mut *layout.take()? {
            LayoutObject::Plan(layout) => layout.release(&mut frames).map_err(|error| (&error).into()),
            LayoutObject::OfHost(_) => Err(TdxhResult::LayoutPrivate),
        }
    };
    flat(release())
}
