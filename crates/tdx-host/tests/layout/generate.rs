//! Hosts at random: fragmented, tiny and huge, on many nodes, with CMRs that follow the memory map
//! or have nothing to do with it. Everything shrinks toward few, small, low ranges.

use std::num::NonZero;

use proptest::prelude::*;
use tdx_abi::PageRange;
use tdx_host::layout::{Limits, Pamt4k};
use tdx_host::platform::{NodeId, NodeRange};

use crate::hosts::Host;
use crate::support::pages;

const GIB_PAGES: u64 = 1 << 18;
/// Physical addresses end at 2^52.
const LAST_PAGE: u64 = 1 << 40;

/// A number of pages on one of the scales that matter: pages, PAMTs of a GiB (4 MiB and 12 KiB),
/// GiB, a huge host's holes.
fn length() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1..40u64,
        4 => 1000..3000u64,
        3 => 3000..GIB_PAGES,
        3 => (1..5u64).prop_map(|gibs| gibs * GIB_PAGES),
        1 => GIB_PAGES..100 * GIB_PAGES,
        1 => 1u64 << 20..1u64 << 30,
    ]
}

/// Ascending ranges: from a start, (gap, length) pairs; gap 0 makes neighbors that touch.
fn ascending(max: usize) -> impl Strategy<Value = Vec<PageRange>> {
    let start = prop_oneof![6 => 0..2 * GIB_PAGES, 1 => 0..LAST_PAGE];
    let gap = prop_oneof![1 => Just(0), 4 => length()];
    (start, prop::collection::vec((gap, length()), 0..max)).prop_map(|(start, parts)| {
        let mut at = start;
        let mut ranges = Vec::new();
        for (gap, length) in parts {
            let from = at + gap;
            at = (from + length).min(LAST_PAGE);
            if from < at {
                ranges.push(pages(from, at));
            }
        }
        ranges
    })
}

/// CMRs that fit a memory map: it, with some gaps closed and some ranges cut short.
fn related(memory: &[PageRange]) -> impl Strategy<Value = Vec<PageRange>> + use<> {
    let memory = memory.to_vec();
    prop::collection::vec((any::<bool>(), 0..4u64), memory.len()).prop_map(move |choices| {
        let mut cmrs: Vec<PageRange> = Vec::new();
        for (range, (join, shorter)) in memory.iter().zip(choices) {
            let end = range.end().index().saturating_sub(shorter).max(range.start().index());
            match cmrs.pop() {
                Some(last) if join => cmrs.push(pages(last.start().index(), end.max(last.end().index()))),
                Some(last) => cmrs.extend([last, pages(range.start().index(), end)]),
                None => cmrs.push(pages(range.start().index(), end)),
            }
        }
        cmrs
    })
}

fn with_nodes(ranges: Vec<PageRange>) -> impl Strategy<Value = Vec<NodeRange>> {
    let nodes = prop_oneof![Just(1u32), 1..4u32, Just(70u32)];
    (nodes, prop::collection::vec(any::<u32>(), ranges.len())).prop_map(move |(nodes, choice)| {
        let node = |(range, choice): (&PageRange, u32)| NodeRange { range: *range, node: NodeId(choice % nodes) };
        ranges.iter().zip(choice).map(node).collect()
    })
}

/// Any host.
pub fn host() -> impl Strategy<Value = Host> {
    ascending(40).prop_flat_map(|ranges| {
        let everything = Just(vec![pages(0, LAST_PAGE)]);
        let cmrs = prop_oneof![3 => related(&ranges), 2 => ascending(40), 1 => everything];
        (with_nodes(ranges), with_unused(cmrs)).prop_map(|(memory, cmrs)| Host { memory, cmrs })
    })
}

/// Unused entries between the CMRs, at any address: they mean nothing.
fn with_unused(cmrs: impl Strategy<Value = Vec<PageRange>>) -> impl Strategy<Value = Vec<PageRange>> {
    let unused = prop::collection::vec((any::<prop::sample::Index>(), 0..LAST_PAGE), 0..3);
    (cmrs, unused).prop_map(|(mut cmrs, unused)| {
        for (at, page) in unused {
            cmrs.insert(at.index(cmrs.len() + 1), pages(page, page));
        }
        cmrs
    })
}

/// A host with more units than TDMRs: `n` pieces with gaps of at least a GiB.
pub fn many_units() -> impl Strategy<Value = Host> {
    let unit = (1..6u64, prop_oneof![1..20u64, 2000..20000u64, Just(GIB_PAGES)]);
    prop::collection::vec(unit, 50..120).prop_flat_map(|units| {
        let mut at = 0;
        let mut ranges = Vec::new();
        for (gap, length) in units {
            ranges.push(pages(at, at + length));
            at = (at + length + gap * GIB_PAGES).next_multiple_of(GIB_PAGES);
        }
        (related(&ranges), with_nodes(ranges)).prop_map(|(cmrs, memory)| Host { memory, cmrs })
    })
}

/// One or two GiB full of holes.
pub fn many_holes() -> impl Strategy<Value = Host> {
    prop::collection::vec((1..3000u64, 1..9000u64), 10..60).prop_flat_map(|parts| {
        let mut at = 0;
        let mut ranges = Vec::new();
        for (gap, length) in parts {
            ranges.push(pages(at + gap, at + gap + length));
            at += gap + length;
        }
        let exact = Just(ranges.clone());
        (prop_oneof![exact.boxed(), related(&ranges).boxed()], with_nodes(ranges))
            .prop_map(|(cmrs, memory)| Host { memory, cmrs })
    })
}

/// Mostly the real limits; else tight ones.
pub fn limits() -> impl Strategy<Value = Limits> {
    let tight = (0..6u16, 0..5u16, prop_oneof![Just(16u16), 1..64u16]).prop_map(|(tdmrs, areas, entry)| Limits {
        max_tdmrs: tdmrs,
        max_reserved_per_tdmr: areas,
        pamt_entry_size: [entry, 16, 16],
        ..Limits::MODULE_1_5
    });
    let bitmap = (1..4u16).prop_filter_map("not zero", NonZero::new);
    let dynamic = bitmap.prop_map(|bits| Limits { pamt_4k: Pamt4k::Bitmap { bits }, ..Limits::MODULE_1_5 });
    prop_oneof![3 => Just(Limits::MODULE_1_5), 2 => tight, 1 => dynamic]
}
