//! `Algorithm` and `Table`: how an algorithm outside this crate fills a layout.

use arrayvec::ArrayVec;
use tdx_abi::{MAX_RESERVED_AREAS, PAGE_SIZE, PageRange, PageSize};

use super::host::Host;
use super::table::cut_chunk;
use super::{Border, FrameRequest, Layout, LayoutError, Limits, Places, Tdmr, fit, frames};
use crate::platform::NodeId;

/// An algorithm that lays TDMRs out. [`Fit`] is the one to use.
///
/// Another one predicts another kernel, or tries something new. Whatever it does, the PAMTs are
/// places that the [`Places`] of the caller hands out, and the module checks the table.
pub trait Algorithm {
    /// Fills the table, which is empty. If it fails, the caller empties it again.
    ///
    /// # Errors
    /// [`LayoutError`]: there is no layout.
    fn lay_out<P: Places + ?Sized>(&self, table: &mut Table<'_, P>) -> Result<(), LayoutError>;
}

/// Takes holes from the CMRs; splits and merges TDMRs to stay inside the module's limits; gives up
/// memory only when nothing else is left, and names it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Fit;

impl Algorithm for Fit {
    fn lay_out<P: Places + ?Sized>(&self, table: &mut Table<'_, P>) -> Result<(), LayoutError> {
        fit::build(&table.host, table.limits, table.places, table.out)
    }
}

/// A layout while an algorithm fills it: first TDMRs, then their PAMTs, then reserved areas.
pub struct Table<'t, P: ?Sized> {
    pub(super) host: Host<'t>,
    pub(super) limits: &'t Limits,
    pub(super) places: &'t mut P,
    pub(super) out: &'t mut Layout,
}

impl<'t, P: Places + ?Sized> Table<'t, P> {
    /// The memory map, ascending; ranges of one node that touch are one range.
    pub fn memory(&self) -> impl Iterator<Item = (PageRange, NodeId)> + Clone + use<'t, P> {
        self.host.memory()
    }

    /// The module's CMRs, ascending; unused entries are empty.
    pub fn cmrs(&self) -> &'t [PageRange] {
        self.host.cmrs
    }

    /// What the module allows.
    pub fn limits(&self) -> &'t Limits {
        self.limits
    }

    /// The TDMRs so far, in the order in which they were added.
    pub fn tdmrs(&self) -> &[Tdmr] {
        self.out.tdmrs()
    }

    /// Adds a TDMR. `node` is where its PAMT is wanted. False if the module allows no more, or if
    /// the range does not lie above the last one.
    pub fn add_tdmr(&mut self, range: PageRange, node: NodeId) -> bool {
        let above = self.tdmrs().last().is_none_or(|last| last.range.end() <= range.start());
        above
            && !range.is_empty()
            && self.tdmrs().len() < self.limits.tdmrs()
            && self.out.tdmrs.try_push(Tdmr::new(range, node, Border::Memory)).is_ok()
    }

    /// Takes the PAMT of a TDMR in one piece, the levels for 4 KiB, 2 MiB and 1 GiB in this order,
    /// on its node if possible. A TDMR that has its PAMT, or does not exist, stays as it is.
    ///
    /// # Errors
    /// [`LayoutError::NoPamtMemory`].
    pub fn take_pamt(&mut self, index: usize) -> Result<(), LayoutError> {
        let Some(tdmr) = self.out.tdmrs.get(index).filter(|tdmr| tdmr.pamt_bytes() == 0) else { return Ok(()) };
        let (range, node) = (tdmr.range, tdmr.node);
        let sizes = PageSize::ALL.map(|level| self.limits.pamt_pages(range, level));
        let pages = sizes.iter().fold(0u64, |sum, size| sum.saturating_add(*size));
        let bytes = pages.saturating_mul(PAGE_SIZE);
        let chunk = frames::allocate(self.places, FrameRequest::anywhere(pages, Some(node)))
            .ok_or(LayoutError::NoPamtMemory { tdmr: range, bytes, node })?;
        if !self.out.add_pamt(chunk) {
            // Memory that no list names must not become PAMT.
            self.places.free(chunk);
            return Err(LayoutError::NoPamtMemory { tdmr: range, bytes, node });
        }
        if let Some(tdmr) = self.out.tdmrs.get_mut(index) {
            tdmr.pamt = cut_chunk(chunk, sizes);
        }
        Ok(())
    }

    /// Sets the areas that a TDMR reserves, in any order. False if there is no such TDMR, if an
    /// area does not lie inside it, or if the module allows fewer.
    pub fn set_reserved(&mut self, index: usize, areas: impl IntoIterator<Item = PageRange>) -> bool {
        let Some(tdmr) = self.out.tdmrs.get_mut(index) else { return false };
        let mut list = ArrayVec::<PageRange, MAX_RESERVED_AREAS>::new();
        for area in areas {
            // Insertion keeps the order; core's sort has a path that panics.
            let at = list.partition_point(|other| *other < area);
            let inside = tdmr.range.contains_range(area);
            if !inside || list.len() >= self.limits.reserved_areas() || list.try_insert(at, area).is_err() {
                return false;
            }
        }
        tdmr.reserved = list;
        true
    }
}
