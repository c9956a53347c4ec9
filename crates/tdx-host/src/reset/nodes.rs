//! Which NUMA node memory belongs to, for a reset that begins near each CPU.

use arrayvec::ArrayVec;
use tdx_abi::PageRange;

use crate::platform::{NodeId, NodeRange};

/// NUMA nodes that have a part of their own in a reset. Memory of further ones, and memory of
/// which no node is known, is one part more.
pub const MAX_NODES: usize = 32;

/// Parts of a reset at most.
pub(super) const MAX_PARTS: usize = MAX_NODES + 1;

/// Which NUMA node memory belongs to. It decides in which order memory is reset, and never whether:
/// a map that is wrong makes a reset slower.
#[derive(Clone, Debug, Default)]
pub struct NodeMap<'n> {
    ranges: &'n [NodeRange],
    /// In the order in which the map names them first.
    nodes: ArrayVec<NodeId, MAX_NODES>,
}

impl<'n> NodeMap<'n> {
    /// From ranges in ascending order. Empty: all memory is one part.
    pub fn new(ranges: &'n [NodeRange]) -> Self {
        let mut nodes = ArrayVec::new_const();
        for range in ranges {
            if !nodes.contains(&range.node) && nodes.try_push(range.node).is_err() {
                break;
            }
        }
        Self { ranges, nodes }
    }

    /// Number of parts: one for each node, and one for memory of no node. At least 1.
    pub(super) fn parts(&self) -> usize {
        self.nodes.len() + 1
    }

    /// The part of a node's memory.
    pub(super) fn part_of(&self, node: Option<NodeId>) -> usize {
        let known = node.and_then(|node| self.nodes.iter().position(|other| *other == node));
        known.unwrap_or(self.nodes.len())
    }

    /// The pages at the beginning of `range` that are in one part, and which. Not empty unless
    /// `range` is.
    ///
    /// The same for the same `range`, whatever the map says: so CPUs that cut the same ranges cut
    /// them into the same pieces.
    pub(super) fn first_piece(&self, range: PageRange) -> (usize, PageRange) {
        let start = range.start();
        let next = self.ranges.partition_point(|known| known.range.end() <= start);
        let (node, end) = match self.ranges.get(next) {
            Some(known) if known.range.start() <= start => (Some(known.node), known.range.end()),
            Some(known) => (None, known.range.start()),
            None => (None, range.end()),
        };
        // A map that is not ascending may name an end that is not behind the start.
        let end = if end > start { end.min(range.end()) } else { range.end() };
        (self.part_of(node), PageRange::new(start, end))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::vec::Vec;
    use tdx_abi::Page;

    const fn range(start: u64, end: u64) -> PageRange {
        PageRange::new(Page::new(start), Page::new(end))
    }

    fn known(start: u64, end: u64, node: u32) -> NodeRange {
        NodeRange { range: range(start, end), node: NodeId(node) }
    }

    fn pieces(map: &NodeMap<'_>, all: PageRange) -> Vec<(usize, PageRange)> {
        let mut rest = all;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (part, piece) = map.first_piece(rest);
            assert!(!piece.is_empty() && piece.start() == rest.start() && piece.end() <= rest.end());
            pieces.push((part, piece));
            rest = PageRange::new(piece.end(), rest.end());
        }
        pieces
    }

    #[test]
    fn ranges_are_cut_where_the_node_changes() {
        let ranges = [known(10, 20, 7), known(20, 30, 3), known(40, 50, 7)];
        let map = NodeMap::new(&ranges);
        assert_eq!(map.parts(), 3);
        assert_eq!(
            pieces(&map, range(0, 60)),
            [
                (2, range(0, 10)),
                (0, range(10, 20)),
                (1, range(20, 30)),
                (2, range(30, 40)),
                (0, range(40, 50)),
                (2, range(50, 60)),
            ]
        );
        assert_eq!((map.part_of(Some(NodeId(3))), map.part_of(Some(NodeId(4))), map.part_of(None)), (1, 2, 2));
    }

    #[test]
    fn without_a_map_all_is_one_part() {
        let map = NodeMap::default();
        assert_eq!((map.parts(), map.part_of(Some(NodeId(0)))), (1, 0));
        assert_eq!(pieces(&map, range(5, 9)), [(0, range(5, 9))]);
    }

    #[test]
    fn more_nodes_than_there_is_room_for_share_a_part() {
        let ranges: Vec<_> = (0..40).map(|node| known(u64::from(node), u64::from(node) + 1, node)).collect();
        let map = NodeMap::new(&ranges);
        assert_eq!(map.parts(), MAX_PARTS);
        assert_eq!(map.first_piece(range(31, 40)), (31, range(31, 32)));
        assert_eq!(map.first_piece(range(32, 40)), (MAX_NODES, range(32, 33)));
    }
}
