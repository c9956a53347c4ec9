//! NUMA node of each memory range.

use tdx_abi::{PAGE_SIZE, Page, PageRange, PhysAddr};
use tdx_host::platform::{NodeId, NodeRange};

use super::memory::normal;
use crate::{
    bootlog::NodeRow,
    input::{At, Rule},
};

/// Cuts the memory at the borders of the rows. Memory in no row goes to node 0; its bytes come
/// second.
pub(super) fn from_rows(memory: &[PageRange], rows: &[At<NodeRow>]) -> (Vec<NodeRange>, u64) {
    let mut nodes: Vec<NodeId> = rows.iter().map(|row| row.value.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    let mut pieces = Vec::new();
    for &node in &nodes {
        let of_node = rows.iter().filter(|row| row.value.node == node).map(|row| row.value.range.pages());
        let spans = normal(of_node.collect());
        pieces.extend(tdx_abi::intersect(memory.iter().copied(), spans).map(|range| NodeRange { range, node }));
    }
    pieces.sort_unstable_by_key(|piece| piece.range);
    let covered: Vec<PageRange> = pieces.iter().map(|piece| piece.range).collect();
    let rest: Vec<PageRange> = tdx_abi::subtract(memory.iter().copied(), covered).collect();
    let outside = rest.iter().map(|range| range.bytes()).sum();
    pieces.extend(rest.into_iter().map(|range| NodeRange { range, node: NodeId(0) }));
    (join(pieces), outside)
}

/// Cuts the memory at each border: below the first is node 0, from it on node 1, and so on.
pub(super) fn from_borders(memory: &[PageRange], borders: &[PhysAddr]) -> Vec<NodeRange> {
    let mut pieces = Vec::new();
    let mut from = Page::new(0);
    let ends = borders.iter().map(|border| border.page()).chain([Page::new(1 << 52)]);
    for (node, end) in (0..).zip(ends) {
        let span = PageRange::new(from, end);
        let inside = tdx_abi::intersect(memory.iter().copied(), [span]);
        pieces.extend(inside.map(|range| NodeRange { range, node: NodeId(node) }));
        from = end;
    }
    pieces
}

/// Checks borders that a person gave.
pub(super) fn check_borders(memory: &[PageRange], borders: &[PhysAddr]) -> Result<(), Rule> {
    let (Some(first), Some(last)) = (memory.first(), memory.last()) else { return Ok(()) };
    let mut from = first.base();
    for &border in borders {
        if !border.is_aligned(PAGE_SIZE) || border <= from || border >= last.limit() {
            return Err(Rule::NodeBorder { border });
        }
        from = border;
    }
    Ok(())
}

/// Borders that CMRs or usable ranges suggest: above 4 GiB firmware makes one for each node, with a
/// gap before the next (`fixtures/INDEX.md`), so each long one but the first starts a node.
pub(super) fn borders_of(ranges: &[PageRange]) -> Vec<PhysAddr> {
    const FOUR_GIB: PhysAddr = PhysAddr::new(4 << 30);
    let long = |range: &&PageRange| range.base() >= FOUR_GIB && range.bytes() >= 1 << 30;
    ranges.iter().filter(long).map(|range| range.base()).skip(1).collect()
}

/// Ascending, with touching ranges of one node made one.
pub(super) fn join(mut pieces: Vec<NodeRange>) -> Vec<NodeRange> {
    pieces.sort_unstable_by_key(|piece| piece.range);
    let mut joined: Vec<NodeRange> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if last.node == piece.node && last.range.end() == piece.range.start() => {
                last.range = PageRange::new(last.range.start(), piece.range.end());
            }
            _ => joined.push(piece),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bootlog::ByteRange;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::from_addresses(PhysAddr::new(start), PhysAddr::new(end)).unwrap()
    }

    fn show(pieces: &[NodeRange]) -> Vec<String> {
        pieces.iter().map(|piece| format!("{} {}", piece.range, piece.node.0)).collect()
    }

    fn row(node: u32, start: u64, end: u64) -> At<NodeRow> {
        let range = ByteRange { start: PhysAddr::new(start), end: PhysAddr::new(end) };
        At { line: 1, value: NodeRow { node: NodeId(node), range } }
    }

    #[test]
    fn rows_cut_memory() {
        let memory = [range(0x10_0000, 0x8000_0000), range(0x1_0000_0000, 0x4_0000_0000)];
        let rows = [row(0, 0, 0x8000_0000), row(0, 0x1_0000_0000, 0x2_0000_0000), row(1, 0x2_0000_0000, 0x3_0000_0000)];
        let (pieces, outside) = from_rows(&memory, &rows);
        assert_eq!(outside, 0x1_0000_0000);
        assert_eq!(
            show(&pieces),
            [
                "[0x100000, 0x80000000) 0",
                "[0x100000000, 0x200000000) 0",
                "[0x200000000, 0x300000000) 1",
                "[0x300000000, 0x400000000) 0",
            ]
        );
    }

    #[test]
    fn borders_cut_memory() {
        let memory = [range(0x10_0000, 0x8000_0000), range(0x1_0000_0000, 0x4_0000_0000)];
        let border = PhysAddr::new(0x2_0000_0000);
        assert_eq!(
            show(&from_borders(&memory, &[border])),
            ["[0x100000, 0x80000000) 0", "[0x100000000, 0x200000000) 0", "[0x200000000, 0x400000000) 1",]
        );
        assert_eq!(check_borders(&memory, &[border]), Ok(()));
        for bad in [0, 0x10_0000, 0x2_0000_0001, 0x4_0000_0000] {
            assert!(check_borders(&memory, &[PhysAddr::new(bad)]).is_err(), "{bad:#x}");
        }
        assert!(check_borders(&memory, &[border, border]).is_err(), "borders ascend");
    }
}
