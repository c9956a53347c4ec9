//! The TDMR layout of Linux, to predict its result and its failures, and the layouts by name.
//!
//! Source: Linux `arch/x86/virt/vmx/tdx/tdx.c`: `build_tdx_memlist`, `fill_out_tdmrs`,
//! `tdmr_set_up_pamt`, `tdmr_populate_rsvd_areas`; the same from v6.8 to v7.2. Linux takes holes
//! from its memory map and never looks at CMRs, so SYS.CONFIG may refuse what this returns. Only
//! the place of a PAMT is not Linux's own: there it depends on what else is in use, here the
//! [`Places`] of the caller decide.

use tdx_abi::{Page, PageRange, PageSize, TDMR_GRANULARITY, subtract};
use tdx_host::layout::{Algorithm, Fit, LayoutError, Places, Table, Tdmr};
use tdx_host::platform::NodeId;

/// A layout, by its name on the command line.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LayoutName {
    /// `fit`: the product's.
    #[default]
    Fit,
    /// `linux`: what Linux does.
    Linux,
}

impl LayoutName {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fit => "fit",
            Self::Linux => "linux",
        }
    }
}

impl Algorithm for LayoutName {
    fn lay_out<P: Places + ?Sized>(&self, table: &mut Table<'_, P>) -> Result<(), LayoutError> {
        match self {
            Self::Fit => Fit.lay_out(table),
            Self::Linux => Linux.lay_out(table),
        }
    }
}

/// What Linux does, step by step, its failures included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Linux;

impl Algorithm for Linux {
    fn lay_out<P: Places + ?Sized>(&self, table: &mut Table<'_, P>) -> Result<(), LayoutError> {
        let memory = memory_list(table.memory());
        fill_tdmrs(table, &memory)?;
        for index in 0..table.tdmrs().len() {
            table.take_pamt(index)?;
        }
        for index in 0..table.tdmrs().len() {
            set_up_reserved_areas(table, &memory, index)?;
        }
        Ok(())
    }
}

/// First page above the low megabyte, which Linux leaves out.
const ONE_MIB: Page = Page::new((1 << 20) / tdx_abi::PAGE_SIZE);

/// The memory list: start clipped to 1 MiB, empty ranges skipped.
fn memory_list(memory: impl Iterator<Item = (PageRange, NodeId)>) -> Vec<(PageRange, NodeId)> {
    memory
        .map(|(range, node)| (PageRange::new(range.start().max(ONE_MIB), range.end()), node))
        .filter(|(range, _)| !range.is_empty())
        .collect()
}

/// The TDMRs Linux would make, however many: aligned to 1 GiB, what the last one covers skipped,
/// never merged.
///
/// Each comes with the node of the first memory range that ends after its base. That is the range
/// the TDMR was made for: every earlier range ends inside an earlier TDMR, and this one does not.
fn tdmr_ranges(memory: &[(PageRange, NodeId)]) -> Vec<(PageRange, NodeId)> {
    let mut covered = Page::new(0);
    let tdmr = |&(range, node): &(PageRange, NodeId)| {
        let aligned = range.align_outward(TDMR_GRANULARITY)?;
        if aligned.end() <= covered {
            return None;
        }
        let tdmr = PageRange::new(aligned.start().max(covered), aligned.end());
        covered = aligned.end();
        Some((tdmr, node))
    };
    memory.iter().filter_map(tdmr).collect()
}

fn fill_tdmrs<P: Places + ?Sized>(table: &mut Table<'_, P>, memory: &[(PageRange, NodeId)]) -> Result<(), LayoutError> {
    let ranges = tdmr_ranges(memory);
    for (tdmr, node) in &ranges {
        if !table.add_tdmr(*tdmr, *node) {
            let (needed, allowed) = (ranges.len() as u64, table.limits().tdmrs() as u64);
            return Err(LayoutError::TdmrsExhausted { tdmr: *tdmr, needed, allowed });
        }
    }
    if ranges.is_empty() { Err(LayoutError::NoMemory) } else { Ok(()) }
}

/// The holes of the memory map first, then the PAMTs of every TDMR, each an area of its own.
fn set_up_reserved_areas<P: Places + ?Sized>(
    table: &mut Table<'_, P>,
    memory: &[(PageRange, NodeId)],
    index: usize,
) -> Result<(), LayoutError> {
    let Some(tdmr) = table.tdmrs().get(index).map(Tdmr::range) else { return Ok(()) };
    let holes = subtract([tdmr], memory.iter().map(|(range, _)| *range));
    // The three levels of a PAMT are one piece here.
    let pamt = |other: &Tdmr| {
        PageRange::new(other.pamt(PageSize::Size4K).start(), other.pamt(PageSize::Size1G).end()).intersection(tdmr)
    };
    let pamts = table.tdmrs().iter().map(pamt).filter(|pamt| !pamt.is_empty());
    let areas: Vec<PageRange> = holes.chain(pamts).collect();
    let (needed, allowed) = (areas.len() as u64, table.limits().reserved_areas() as u64);
    if table.set_reserved(index, areas) {
        Ok(())
    } else {
        Err(LayoutError::ReservedAreasExhausted { tdmr, needed, allowed })
    }
}
