//! A map from indexes to small values, kept by uniform regions: a radix tree whose nodes are shared
//! between clones.
//!
//! A clone costs one reference count, an update copies only the nodes on its path that a clone
//! still uses. A range of any length with one value costs a handful of nodes, so a memory of 12 TiB
//! in its normal state costs nothing.

use alloc::sync::Arc;
use core::ops::ControlFlow;

/// Children of a node: 64, so that one node is the 64 lines of a page.
const FANOUT_BITS: u32 = 6;
const FANOUT: usize = 1 << FANOUT_BITS;
/// Levels of nodes below the root.
const LEVELS: u32 = 8;
/// Indexes are below this: 2^48 lines are 2^54 bytes, more than 52 address bits can name.
pub(crate) const LIMIT: u64 = 1 << (FANOUT_BITS * LEVELS);

#[derive(Clone, Debug)]
enum Child<V> {
    Uniform(V),
    Node(Arc<Node<V>>),
}

#[derive(Clone, Debug)]
struct Node<V> {
    children: [Child<V>; FANOUT],
}

/// The map. Every index below [`LIMIT`] has a value.
#[derive(Clone, Debug)]
pub(crate) struct Tree<V> {
    root: Child<V>,
}

impl<V: Copy + Eq> Tree<V> {
    /// Every index has this value.
    pub(crate) const fn new(value: V) -> Self {
        Self { root: Child::Uniform(value) }
    }

    /// The value at an index.
    pub(crate) fn get(&self, index: u64) -> V {
        let mut child = &self.root;
        let mut shift = FANOUT_BITS * LEVELS;
        loop {
            match child {
                Child::Uniform(value) => return *value,
                Child::Node(node) => {
                    shift -= FANOUT_BITS;
                    child = &node.children[slot(index, shift)];
                }
            }
        }
    }

    /// Sets every index of `[start, end)`.
    pub(crate) fn set(&mut self, start: u64, end: u64, value: V) {
        self.update(start, end, |_, _, _| value);
    }

    /// Replaces the values of `[start, end)`. The function sees each piece `[start, end)` of one
    /// value exactly once, in ascending order; neighboring pieces may have the same value.
    pub(crate) fn update(&mut self, start: u64, end: u64, mut function: impl FnMut(u64, u64, V) -> V) {
        let end = end.min(LIMIT);
        if start < end {
            update(&mut self.root, FANOUT_BITS * LEVELS, 0, start, end, &mut function);
        }
    }

    /// Calls the function with each maximal run `[start, end)` of one value in `[start, end)`,
    /// ascending, until it breaks.
    pub(crate) fn runs<B>(
        &self,
        start: u64,
        end: u64,
        mut function: impl FnMut(u64, u64, V) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let end = end.min(LIMIT);
        if start >= end {
            return ControlFlow::Continue(());
        }
        let mut run: Option<(u64, u64, V)> = None;
        let mut join = |from: u64, to: u64, value: V| {
            if let Some((_, run_end, run_value)) = &mut run
                && *run_value == value
            {
                *run_end = to;
                return ControlFlow::Continue(());
            }
            match run.replace((from, to, value)) {
                Some((from, to, value)) => function(from, to, value),
                None => ControlFlow::Continue(()),
            }
        };
        visit(&self.root, FANOUT_BITS * LEVELS, 0, start, end, &mut join)?;
        match run {
            Some((from, to, value)) => function(from, to, value),
            None => ControlFlow::Continue(()),
        }
    }
}

/// Which child of a node holds the index, if the node's children span `1 << shift` indexes each.
const fn slot(index: u64, shift: u32) -> usize {
    (index >> shift) as usize & (FANOUT - 1)
}

fn visit<V: Copy, B>(
    child: &Child<V>,
    shift: u32,
    base: u64,
    start: u64,
    end: u64,
    function: &mut impl FnMut(u64, u64, V) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let from = start.max(base);
    let to = end.min(base + (1 << shift));
    match child {
        Child::Uniform(value) => function(from, to, *value),
        Child::Node(node) => {
            let shift = shift - FANOUT_BITS;
            for number in slot(from, shift)..=slot(to - 1, shift) {
                visit(&node.children[number], shift, base + ((number as u64) << shift), from, to, function)?;
            }
            ControlFlow::Continue(())
        }
    }
}

fn update<V: Copy + Eq>(
    child: &mut Child<V>,
    shift: u32,
    base: u64,
    start: u64,
    end: u64,
    function: &mut impl FnMut(u64, u64, V) -> V,
) {
    let from = start.max(base);
    let to = end.min(base + (1 << shift));
    match child {
        Child::Uniform(value) => {
            let new = function(from, to, *value);
            if new != *value {
                fill(child, shift, base, from, to, new);
            }
        }
        Child::Node(node) => {
            let shift = shift - FANOUT_BITS;
            let node = Arc::make_mut(node);
            for number in slot(from, shift)..=slot(to - 1, shift) {
                update(&mut node.children[number], shift, base + ((number as u64) << shift), from, to, function);
            }
            if let Some(value) = uniform(node) {
                *child = Child::Uniform(value);
            }
        }
    }
}

/// Sets `[from, to)` of a uniform child to a different value.
fn fill<V: Copy + Eq>(child: &mut Child<V>, shift: u32, base: u64, from: u64, to: u64, new: V) {
    let Child::Uniform(old) = *child else { return };
    if from == base && to == base + (1 << shift) {
        *child = Child::Uniform(new);
        return;
    }
    let mut node = Node { children: core::array::from_fn(|_| Child::Uniform(old)) };
    let shift = shift - FANOUT_BITS;
    for number in slot(from, shift)..=slot(to - 1, shift) {
        let base = base + ((number as u64) << shift);
        fill(&mut node.children[number], shift, base, from.max(base), to.min(base + (1 << shift)), new);
    }
    *child = Child::Node(Arc::new(node));
}

/// The value of all children, if they have one.
fn uniform<V: Copy + Eq>(node: &Node<V>) -> Option<V> {
    let (Some(Child::Uniform(first)), Some(Child::Uniform(last))) = (node.children.first(), node.children.last())
    else {
        return None;
    };
    let same = first == last
        && node.children.iter().all(|child| match child {
            Child::Uniform(value) => value == first,
            Child::Node(_) => false,
        });
    same.then_some(*first)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::{vec, vec::Vec};

    fn all_runs(tree: &Tree<u8>, start: u64, end: u64) -> Vec<(u64, u64, u8)> {
        let mut runs = Vec::new();
        let _ = tree.runs(start, end, |from, to, value| {
            runs.push((from, to, value));
            ControlFlow::<()>::Continue(())
        });
        runs
    }

    proptest! {
        /// Random sets on a few thousand indexes, against an array; clones stay as they were.
        #[test]
        fn like_an_array(steps in prop::collection::vec((0u64..9000, 0u64..5000, 0u8..3), 1..40)) {
            let mut tree = Tree::new(0);
            let mut array = vec![0u8; 16384];
            let mut snapshots = Vec::new();
            for (start, length, value) in steps {
                snapshots.push((tree.clone(), array.clone()));
                let mut seen = 0;
                tree.update(start, start + length, |from, to, _| {
                    seen += to - from;
                    value
                });
                prop_assert_eq!(seen, length, "each index is seen once");
                array[start as usize..(start + length) as usize].fill(value);
            }
            snapshots.push((tree, array));
            for (tree, array) in &snapshots {
                for (index, value) in array.iter().enumerate() {
                    prop_assert_eq!(tree.get(index as u64), *value);
                }
                let runs = all_runs(tree, 100, 16000);
                prop_assert_eq!(runs.first().map(|r| r.0), Some(100));
                prop_assert_eq!(runs.last().map(|r| r.1), Some(16000));
                for pair in runs.windows(2) {
                    prop_assert_eq!(pair[0].1, pair[1].0);
                    prop_assert_ne!(pair[0].2, pair[1].2, "runs are maximal");
                }
                for (from, to, value) in runs {
                    prop_assert!(array[from as usize..to as usize].iter().all(|v| *v == value));
                }
            }
        }
    }

    #[test]
    fn pieces_of_one_value_are_one_node() {
        let mut tree = Tree::new(0u8);
        tree.set(5, LIMIT, 1);
        tree.set(0, 5, 1);
        assert!(matches!(tree.root, Child::Uniform(1)));
        tree.set(LIMIT - 1, u64::MAX, 2);
        assert_eq!((tree.get(LIMIT - 1), tree.get(LIMIT - 2)), (2, 1));
        tree.set(7, 7, 9);
        assert_eq!(tree.get(7), 1);
    }
}
