//! Circles in a directed graph: its strongly connected components of more than one node.

use std::collections::{BTreeMap, BTreeSet};

use super::resolve::Edge;
use super::source::Path;

/// A circle.
pub(super) struct Circle {
    /// Its modules, ascending.
    pub(super) modules: BTreeSet<Path>,
    /// Imports among them.
    pub(super) edges: Vec<Edge>,
}

type Next<'e> = BTreeMap<&'e Path, BTreeSet<&'e Path>>;

/// Nodes that can be reached from a node.
fn reachable<'e>(next: &Next<'e>, from: &'e Path) -> BTreeSet<&'e Path> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from];
    while let Some(node) = open.pop() {
        for to in next.get(node).into_iter().flatten() {
            if seen.insert(*to) {
                open.push(to);
            }
        }
    }
    seen
}

/// All circles, each once.
pub(super) fn circles(edges: &[Edge]) -> Vec<Circle> {
    let mut next = Next::new();
    for edge in edges {
        next.entry(&edge.from).or_default().insert(&edge.to);
    }
    let reach: Next = next.keys().map(|node| (*node, reachable(&next, node))).collect();
    let mut circles: Vec<Circle> = Vec::new();
    for (node, reached) in reach.iter().filter(|(node, reached)| reached.contains(*node)) {
        if circles.iter().any(|circle| circle.modules.contains(*node)) {
            continue;
        }
        let is_back = |other: &&&Path| reach.get(*other).is_some_and(|reached| reached.contains(node));
        let modules: BTreeSet<Path> = reached.iter().filter(is_back).copied().cloned().collect();
        let is_inside = |edge: &&Edge| modules.contains(&edge.from) && modules.contains(&edge.to);
        let edges = edges.iter().filter(is_inside).cloned().collect();
        circles.push(Circle { modules, edges });
    }
    circles
}
