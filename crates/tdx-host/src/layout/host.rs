//! The two inputs, checked: the memory map and the CMRs, and the questions the algorithms ask about them.

use tdx_abi::{PAGE_SIZE, Page, PageRange};

use super::{InputList, LayoutError};
use crate::platform::{NodeId, NodeRange};

/// First page above the low megabyte, which no CMR covers and Linux leaves out.
pub(super) const ONE_MIB: Page = Page::new((1 << 20) / PAGE_SIZE);

/// Physical addresses end here (MAXPA is 52).
const LAST_PAGE: Page = Page::new(1 << 40);

/// Memory map and CMRs, both ascending and without overlap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host<'a> {
    memory: &'a [NodeRange],
    cmrs: &'a [PageRange],
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
}

/// Joins neighbours of one node that touch, and drops empty ranges.
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
