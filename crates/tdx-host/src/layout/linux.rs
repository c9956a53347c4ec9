//! What Linux does, step by step, so that its result and its failures can be predicted.
//!
//! Source: Linux `arch/x86/virt/vmx/tdx/tdx.c`: `build_tdx_memlist`, `fill_out_tdmrs`,
//! `tdmr_set_up_pamt`, `tdmr_populate_rsvd_areas`; the same from v6.8 to v7.2. Linux takes holes
//! from its memory map and never looks at CMRs, so SYS.CONFIG may refuse what this returns. Only
//! the place of a PAMT is not Linux's own: there it depends on what else is in use, here the
//! [`Places`] decides.

use arrayvec::ArrayVec;
use tdx_abi::{MAX_RESERVED_AREAS, PAGE_SIZE, Page, PageRange, PageSize, TDMR_GRANULARITY, subtract};

use super::{
    Border, FrameRequest, Layout, LayoutError, Limits, Places, Tdmr, frames as source,
    host::{Host, ONE_MIB},
    table::cut_chunk,
};
use crate::platform::NodeId;

pub(super) fn build<F: Places + ?Sized>(
    host: &Host<'_>,
    limits: &Limits,
    frames: &mut F,
    out: &mut Layout,
) -> Result<(), LayoutError> {
    fill_tdmrs(host, limits, out)?;
    for index in 0..out.tdmr_count() {
        set_up_pamt(limits, frames, out, index)?;
    }
    for index in 0..out.tdmr_count() {
        set_up_reserved_areas(host, limits, out, index)?;
    }
    Ok(())
}

/// The memory list: start clipped to 1 MiB, empty ranges skipped.
fn memory_list<'a>(host: &Host<'a>) -> impl Iterator<Item = (PageRange, NodeId)> + use<'a> {
    host.memory()
        .map(|(range, node)| (PageRange::new(range.start().max(ONE_MIB), range.end()), node))
        .filter(|(range, _)| !range.is_empty())
}

/// The TDMRs Linux would make, however many: aligned to 1 GiB, what the last one covers skipped,
/// never merged.
///
/// Each comes with the node of the first memory range that ends after its base. That is the range
/// the TDMR was made for: every earlier range ends inside an earlier TDMR, and this one does not.
fn tdmr_ranges<'a>(host: &Host<'a>) -> impl Iterator<Item = (PageRange, NodeId)> + use<'a> {
    let mut covered = Page::new(0);
    memory_list(host).filter_map(move |(range, node)| {
        let aligned = range.align_outward(TDMR_GRANULARITY)?;
        if aligned.end() <= covered {
            return None;
        }
        let tdmr = PageRange::new(aligned.start().max(covered), aligned.end());
        covered = aligned.end();
        Some((tdmr, node))
    })
}

fn fill_tdmrs(host: &Host<'_>, limits: &Limits, out: &mut Layout) -> Result<(), LayoutError> {
    for (tdmr, node) in tdmr_ranges(host) {
        if out.tdmr_count() >= limits.tdmrs() || out.tdmrs.try_push(Tdmr::new(tdmr, node, Border::Memory)).is_err() {
            let needed = tdmr_ranges(host).count() as u64;
            return Err(LayoutError::TdmrsExhausted { tdmr, needed, allowed: limits.tdmrs() as u64 });
        }
    }
    if out.is_empty() { Err(LayoutError::NoMemory) } else { Ok(()) }
}

/// One contiguous chunk in the order 4K, 2M, 1G, from the TDMR's node if possible.
fn set_up_pamt<F: Places + ?Sized>(
    limits: &Limits,
    frames: &mut F,
    out: &mut Layout,
    index: usize,
) -> Result<(), LayoutError> {
    let Some(tdmr) = out.tdmrs.get(index) else { return Ok(()) };
    let (range, node) = (tdmr.range, tdmr.node);
    let sizes = PageSize::ALL.map(|level| limits.pamt_pages(range, level));
    let pages = sizes.iter().sum();
    let no_memory = LayoutError::NoPamtMemory { tdmr: range, bytes: pages * PAGE_SIZE, node };
    let request = FrameRequest::anywhere(pages, Some(node));
    let chunk = source::allocate(frames, request).ok_or(no_memory)?;
    match out.tdmrs.get_mut(index) {
        Some(tdmr) => tdmr.pamt = cut_chunk(chunk, sizes),
        None => frames.free(chunk),
    }
    out.add_pamt(chunk);
    Ok(())
}

/// The holes of the memory map first, then the PAMTs of every TDMR, each an area of its own;
/// ascending.
fn set_up_reserved_areas(host: &Host<'_>, limits: &Limits, out: &mut Layout, index: usize) -> Result<(), LayoutError> {
    let tdmrs = &mut out.tdmrs;
    let Some(range) = tdmrs.get(index).map(Tdmr::range) else { return Ok(()) };
    let holes = subtract([range], memory_list(host).map(|(range, _)| range));
    let mut areas = ArrayVec::<PageRange, MAX_RESERVED_AREAS>::new();
    let allowed = limits.reserved_areas() as u64;
    let mut needed = 0;
    let pamts = tdmrs.iter().map(|other| other.pamt_hull().intersection(range)).filter(|pamt| !pamt.is_empty());
    for area in holes.chain(pamts) {
        needed += 1;
        if needed <= allowed {
            // Insertion keeps the order; core's sort has a path that panics.
            let at = areas.partition_point(|other| *other < area);
            let _ = areas.try_insert(at, area);
        }
    }
    if needed > allowed {
        return Err(LayoutError::ReservedAreasExhausted { tdmr: range, needed, allowed });
    }
    if let Some(tdmr) = tdmrs.get_mut(index) {
        tdmr.reserved = areas;
    }
    Ok(())
}
