//! The two inputs, checked: the memory map and the CMRs, and the questions the algorithms ask about
//! them.

use tdx_abi::{PAGE_SIZE, Page, PageRange, TDMR_GRANULARITY, subtract};

use super::{InputList, LayoutError};
use crate::platform::{NodeId, NodeRange};

/// First page above the low megabyte, which no CMR covers and Linux leaves out.
pub(super) const ONE_MIB: Page = Page::new((1 << 20) / PAGE_SIZE);

/// Pages of a GiB.
pub(super) const GIB_PAGES: u64 = TDMR_GRANULARITY / PAGE_SIZE;

/// Physical addresses end here (MAXPA is 52).
const LAST_PAGE: Page = Page::new(1 << 40);

/// Memory map and CMRs, both ascending and without overlap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host<'a> {
    pub(super) memory: &'a [NodeRange],
    pub(super) cmrs: &'a [PageRange],
}

fn check_order(list: InputList, ranges: impl Iterator<Item = PageRange>) -> Result<(), LayoutError> {
    let mut at = Page::new(0);
    for range in ranges {
        if range.start() < at {
            return Err(LayoutError::Unordered { list, range });
        }
        if range.end() > LAST_PAGE {
            return Err(LayoutError::TooHigh { list, range });
        }
        at = range.end();
    }
    Ok(())
}

impl<'a> Host<'a> {
    /// Checks the order of both lists. Empty CMRs are unused entries and may stand anywhere.
    pub(super) fn check(memory: &'a [NodeRange], cmrs: &'a [PageRange]) -> Result<Self, LayoutError> {
        check_order(InputList::Memory, memory.iter().map(|part| part.range))?;
        check_order(InputList::Cmrs, cmrs.iter().copied().filter(|cmr| !cmr.is_empty()))?;
        Ok(Self { memory, cmrs })
    }

    /// The memory map; ranges of one node that touch are one range, as in memblock.
    pub(super) fn memory(&self) -> Joined<impl Iterator<Item = (PageRange, NodeId)> + Clone + use<'a>> {
        joined(self.memory.iter().map(|part| (part.range, part.node)))
    }

    /// Usable memory inside CMRs: what TDX can have. Maximal ranges of one node.
    pub(super) fn usable(&self, within: PageRange) -> Joined<Usable<'a>> {
        let first = self.memory.partition_point(|part| part.range.end() <= within.start());
        let memory = self.memory.get(first..).unwrap_or_default();
        joined(Usable { memory, cmrs: self.cmrs, rest: within })
    }

    /// Pages of [`Host::usable`].
    pub(super) fn usable_pages(&self, within: PageRange) -> u64 {
        self.usable(within).map(|(range, _)| range.pages()).sum()
    }

    /// What lies in no CMR: the module must never use it. Maximal ranges; CMRs that touch leave no
    /// hole.
    pub(super) fn holes(&self, within: PageRange) -> impl Iterator<Item = PageRange> + use<'a> {
        let first = self.cmrs.iter().position(|cmr| cmr.end() > within.start()).unwrap_or(self.cmrs.len());
        let cmrs = self.cmrs.get(first..).unwrap_or_default();
        let used = cmrs.iter().copied().filter(|cmr| !cmr.is_empty());
        subtract([within], used.take_while(move |cmr| cmr.start() < within.end()))
    }
}

/// Iterator of [`Host::usable`], before neighbors are joined.
#[derive(Clone, Debug)]
pub(super) struct Usable<'a> {
    memory: &'a [NodeRange],
    cmrs: &'a [PageRange],
    rest: PageRange,
}

impl Iterator for Usable<'_> {
    type Item = (PageRange, NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let at = self.rest.start();
            let (part, memory) = self.memory.split_first()?;
            if part.range.end() <= at {
                self.memory = memory;
                continue;
            }
            let (cmr, cmrs) = self.cmrs.split_first()?;
            if cmr.is_empty() || cmr.end() <= at {
                self.cmrs = cmrs;
                continue;
            }
            let start = at.max(part.range.start()).max(cmr.start());
            if start >= self.rest.end() {
                return None;
            }
            let piece = part.range.intersection(*cmr).intersection(self.rest);
            self.rest = PageRange::new(start.max(piece.end()), self.rest.end());
            if !piece.is_empty() {
                return Some((piece, part.node));
            }
        }
    }
}

/// Whole GiB of a TDMR in which there is no usable memory; maximal ranges.
pub(super) fn gaps<'a>(host: &Host<'a>, tdmr: PageRange) -> impl Iterator<Item = PageRange> + use<'a> {
    let gibs = host.usable(tdmr).filter_map(|(range, _)| range.align_outward(TDMR_GRANULARITY));
    subtract([tdmr], gibs)
}

/// Joins neighbors of one node that touch, and drops empty ranges.
pub(super) fn joined<I: Iterator<Item = (PageRange, NodeId)>>(parts: I) -> Joined<I> {
    Joined { parts, next: None }
}

/// Iterator of [`joined`].
#[derive(Clone, Debug)]
pub(super) struct Joined<I> {
    parts: I,
    next: Option<(PageRange, NodeId)>,
}

impl<I: Iterator<Item = (PageRange, NodeId)>> Iterator for Joined<I> {
    type Item = (PageRange, NodeId);

    fn next(&mut self) -> Option<Self::Item> {
        let mut current = self.next.take();
        for (range, node) in self.parts.by_ref() {
            if range.is_empty() {
                continue;
            }
            match current {
                None => current = Some((range, node)),
                Some((head, head_node)) if head.end() == range.start() && head_node == node => {
                    current = Some((PageRange::new(head.start(), range.end()), node));
                }
                Some(_) => {
                    self.next = Some((range, node));
                    break;
                }
            }
        }
        current
    }
}
