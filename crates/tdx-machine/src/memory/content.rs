//! Bytes of shared memory, kept only for pages that were written. Private lines have no bytes here:
//! nobody outside SEAM could read them, and the emulated module keeps its own state.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use tdx_abi::{LineRange, PAGE_SIZE, PhysAddr};

const PAGE: usize = PAGE_SIZE as usize;

/// Page number to bytes; a page that is not there is all zeros.
#[derive(Clone, Debug, Default)]
pub(crate) struct Content {
    pages: Arc<BTreeMap<u64, Arc<[u8; PAGE]>>>,
}

impl Content {
    /// Copies out `[address, address + buffer.len())`.
    pub(crate) fn read(&self, address: PhysAddr, buffer: &mut [u8]) {
        let mut at = address.get();
        let mut rest = buffer;
        while !rest.is_empty() {
            let offset = (at % PAGE_SIZE) as usize;
            let (piece, after) = rest.split_at_mut(rest.len().min(PAGE - offset));
            match self.pages.get(&(at / PAGE_SIZE)) {
                Some(page) => piece.copy_from_slice(&page[offset..offset + piece.len()]),
                None => piece.fill(0),
            }
            at = at.wrapping_add(piece.len() as u64);
            rest = after;
        }
    }

    /// Copies in.
    pub(crate) fn write(&mut self, address: PhysAddr, bytes: &[u8]) {
        let mut at = address.get();
        let mut rest = bytes;
        let pages = Arc::make_mut(&mut self.pages);
        while !rest.is_empty() {
            let offset = (at % PAGE_SIZE) as usize;
            let (piece, after) = rest.split_at(rest.len().min(PAGE - offset));
            let page = pages.entry(at / PAGE_SIZE).or_insert_with(|| Arc::new([0; PAGE]));
            Arc::make_mut(page)[offset..offset + piece.len()].copy_from_slice(piece);
            at = at.wrapping_add(piece.len() as u64);
            rest = after;
        }
    }

    /// These lines were overwritten by zeros, or by data nobody outside SEAM can read.
    pub(crate) fn clear(&mut self, lines: LineRange) {
        let (first, end) = (lines.start().page().index(), lines.pages().end().index());
        if self.pages.range(first..end).next().is_none() {
            return;
        }
        let (start, stop) = (lines.start().start().get(), lines.end().start().get());
        let pages = Arc::make_mut(&mut self.pages);
        let touched: Vec<u64> = pages.range(first..end).map(|(page, _)| *page).collect();
        for page in touched {
            let base = page * PAGE_SIZE;
            let from = start.max(base) - base;
            let to = stop.min(base + PAGE_SIZE) - base;
            if from == 0 && to == PAGE_SIZE {
                pages.remove(&page);
            } else if let Some(bytes) = pages.get_mut(&page) {
                Arc::make_mut(bytes)[from as usize..to as usize].fill(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::range;

    #[test]
    fn bytes_across_pages() {
        let mut content = Content::default();
        content.write(PhysAddr::new(0x1ffe), &[1, 2, 3, 4]);
        let before = content.clone();
        let mut bytes = [9; 6];
        content.read(PhysAddr::new(0x1ffd), &mut bytes);
        assert_eq!(bytes, [0, 1, 2, 3, 4, 0]);
        content.clear(range(0x2000 / 64, 0x2040 / 64));
        content.read(PhysAddr::new(0x1ffd), &mut bytes);
        assert_eq!(bytes, [0, 1, 2, 0, 0, 0]);
        content.clear(range(0, 1 << 40));
        assert!(content.pages.is_empty());
        before.read(PhysAddr::new(0x1ffd), &mut bytes);
        assert_eq!(bytes, [0, 1, 2, 3, 4, 0], "a clone keeps its own bytes");
    }
}
