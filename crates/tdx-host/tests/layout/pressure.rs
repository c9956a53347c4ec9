//! `fit` when a limit presses: each case has one right answer, worked out by hand.

use tdx_abi::PageRange;
use tdx_host::layout::{Border, Fit, GiveUpReason, Layout, Limits, MapFrames, Note, Tdmr};
use tdx_host::platform::NodeRange;

use crate::hosts::{GIB, Host, from_cmrs, memory, on_node, range};
use crate::support::{OnlyChoice, build, build_with, check_fit};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

fn limits(max_tdmrs: u16, max_reserved_per_tdmr: u16) -> Limits {
    Limits { max_tdmrs, max_reserved_per_tdmr, ..Limits::MODULE_1_5 }
}

/// The layout, checked.
fn fit(host: &Host, limits: &Limits) -> Box<Layout> {
    let (result, layout) = build(&Fit, host, limits);
    assert_eq!(result, Ok(()));
    check_fit(host, limits, &layout);
    layout
}

fn ranges_of(layout: &Layout) -> Vec<PageRange> {
    layout.tdmrs().iter().map(Tdmr::range).collect()
}

/// A GiB of memory with a hole at `hole` MiB in it; on both sides of the hole 1 MiB of memory too
/// small for a PAMT, cut off by a page of firmware. So a PAMT costs an area, and joining it with
/// the hole costs a MiB.
fn awkward_gib(base: u64, hole: u64, node: u32) -> (Vec<NodeRange>, [PageRange; 2]) {
    let at = base + hole * MIB;
    let memory = vec![
        on_node(base, at - MIB - PAGE, node),
        on_node(at - MIB, at, node),
        on_node(at + MIB, at + 2 * MIB, node),
        on_node(at + 2 * MIB + PAGE, base + GIB, node),
    ];
    (memory, [range(base, at), range(at + MIB, base + GIB)])
}

#[test]
fn another_node_is_better_than_a_loss() {
    let (awkward, cmrs) = awkward_gib(5 * GIB, 512, 1);
    let memory = [vec![on_node(4 * GIB, 5 * GIB, 0)], awkward].concat();
    let host = Host { memory, cmrs: [vec![range(4 * GIB, 5 * GIB)], cmrs.to_vec()].concat() };
    let limits = limits(64, 1);
    let layout = fit(&host, &limits);
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
    let is_remote = |note| matches!(note, Note::RemotePamt { node, .. } if node.0 == 0);
    assert!(layout.notes(&host.memory, &host.cmrs).any(is_remote));

    // The same where the source chooses the place.
    let mut frames = OnlyChoice { inner: MapFrames::new(&host.memory), requests: 0 };
    let (result, layout) = build_with(&Fit, &host, &limits, &mut frames);
    assert_eq!(result, Ok(()));
    check_fit(&host, &limits, &layout);
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
}

/// Two GiB with a hole each need two areas, which are allowed; with the PAMT it is three. Cut in
/// two, each has one to spare.
#[test]
fn tdmrs_are_cut_earlier_when_the_pamt_needs_an_area() {
    let (first, first_cmrs) = awkward_gib(4 * GIB, 512, 0);
    let (second, second_cmrs) = awkward_gib(5 * GIB, 512, 0);
    let host = Host { memory: [first, second].concat(), cmrs: [first_cmrs, second_cmrs].concat() };
    let layout = fit(&host, &limits(64, 2));
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
    assert_eq!(ranges_of(&layout), [range(4 * GIB, 5 * GIB), range(5 * GIB, 6 * GIB)]);
    // One TDMR is all there may be: then a MiB goes, and it is named.
    let layout = fit(&host, &limits(1, 2));
    let lost: Vec<_> = layout.given_up(&host.memory, &host.cmrs).collect();
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].range.bytes(), lost[0].reason), (MIB, GiveUpReason::ReservedAreas));
}

/// GiB 4 and GiB 6 need all areas for holes, and a PAMT in them would cost a MiB. GiB 5 between
/// them has none to spare only as long as it is in one TDMR with a neighbor: cut out, it takes all
/// three PAMTs.
#[test]
fn a_tdmr_between_two_full_ones_takes_the_pamts() {
    let (start, end) = (4 * GIB, 7 * GIB);
    let memory = memory(&[
        (start + MIB, start + 2 * MIB),
        (start + 3 * MIB, start + 4 * MIB),
        (start + 4 * MIB + PAGE, end - 4 * MIB - PAGE),
        (end - 4 * MIB, end - 3 * MIB),
        (end - 2 * MIB, end - MIB),
    ]);
    let cmrs = [(start + MIB, start + 2 * MIB), (start + 3 * MIB, end - 3 * MIB), (end - 2 * MIB, end - MIB)];
    let host = Host { memory, cmrs: cmrs.iter().map(|&(start, end)| range(start, end)).collect() };
    let layout = fit(&host, &limits(64, 2));
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
    let middle = range(5 * GIB, 6 * GIB);
    assert_eq!(ranges_of(&layout), [range(4 * GIB, 5 * GIB), middle, range(6 * GIB, 7 * GIB)]);
    assert!(layout.pamt_ranges().all(|pamt| middle.contains_range(pamt)));
}

/// Memory is lost in GiB 4 whatever one does; still the PAMT of node 1 stays at home, though on
/// node 0 it could stand next to a hole and cost no area.
#[test]
fn home_is_better_than_a_saved_area() {
    let parts = (0..40).map(|i| (4 * GIB + i * 16 * MIB, 4 * GIB + i * 16 * MIB + (i + 1) * MIB / 16));
    let mut host = from_cmrs(&parts.collect::<Vec<_>>());
    host.memory.push(on_node(6 * GIB, 7 * GIB - MIB, 0));
    host.memory.push(on_node(8 * GIB, 9 * GIB, 1));
    host.cmrs.extend([range(6 * GIB, 7 * GIB - MIB), range(8 * GIB, 9 * GIB)]);
    let layout = fit(&host, &Limits::MODULE_1_5);
    let tdmr = layout.tdmrs().last().expect("three");
    assert!(range(8 * GIB, 9 * GIB).contains_range(tdmr.pamt(tdx_abi::PageSize::Size4K)));
}

/// Merging the first two would swallow 400 MiB between two holes; the third unit is 1 MiB. It goes.
#[test]
fn a_small_unit_goes_before_a_merge_that_loses_more() {
    let host = from_cmrs(&[
        (4 * GIB, 5 * GIB),
        (6 * GIB, 6 * GIB + 400 * MIB),
        (6 * GIB + 500 * MIB, 7 * GIB),
        (10 * GIB, 10 * GIB + MIB),
    ]);
    let layout = fit(&host, &limits(2, 1));
    let lost: Vec<_> = layout.given_up(&host.memory, &host.cmrs).map(|lost| (lost.range, lost.reason)).collect();
    assert_eq!(lost, [(range(10 * GIB, 10 * GIB + MIB), GiveUpReason::Tdmrs)]);
}

/// The same, but what the merge swallows is no more than the unit is: then it is merged, and more
/// stays covered later.
#[test]
fn a_merge_that_loses_no_more_than_the_unit_is_made() {
    let host = from_cmrs(&[(4 * GIB, 5 * GIB), (6 * GIB, 6 * GIB + 2 * PAGE)]);
    let layout = fit(&host, &limits(1, 1));
    assert_eq!(ranges_of(&layout), [range(4 * GIB, 7 * GIB)]);
}

#[test]
fn neighbors_of_many_nodes_are_merged_evenly() {
    let memory: Vec<_> = (0..128u64).map(|i| on_node((4 + i) * GIB, (5 + i) * GIB, u32::from(i % 2 == 1))).collect();
    let host = Host { memory, cmrs: vec![range(4 * GIB, 132 * GIB)] };
    let layout = fit(&host, &Limits::MODULE_1_5);
    assert_eq!(layout.tdmr_count(), 64);
    let longest = layout.tdmrs().iter().map(|tdmr| tdmr.range().bytes() / GIB).max();
    assert_eq!(longest, Some(2));
}

/// 6 MiB and 7 MiB hold a PAMT of 4 MiB each; there is no third place. The smallest unit goes.
#[test]
fn the_smallest_unit_goes_when_pamt_memory_runs_out() {
    let unit = |gib: u64, mib: u64| (gib * GIB, gib * GIB + mib * MIB);
    let host = from_cmrs(&[unit(4, 6), unit(6, 1), unit(8, 7)]);
    let layout = fit(&host, &Limits::MODULE_1_5);
    let lost: Vec<_> = layout.given_up(&host.memory, &host.cmrs).map(|lost| (lost.range, lost.reason)).collect();
    assert_eq!(lost, [(range(6 * GIB, 6 * GIB + MIB), GiveUpReason::PamtMemory)]);
    assert_eq!(layout.tdmr_count(), 2);
}

/// Merged over 95 GiB, the PAMT would be 388 MiB; only 200 MiB in one piece are free. The merge is
/// undone at its gap.
#[test]
fn a_merge_is_undone_when_its_pamt_finds_no_room() {
    let host = from_cmrs(&[(4 * GIB, 5 * GIB), (100 * GIB, 101 * GIB), (1000 * GIB, 1000 * GIB + 512 * MIB)]);
    let mut frames = MapFrames::new(&host.memory);
    for (start, end) in [(4 * GIB + 200 * MIB, 5 * GIB), (100 * GIB + 100 * MIB, 101 * GIB), (1000 * GIB, 1001 * GIB)] {
        assert!(frames.reserve(range(start, end)));
    }
    let limits = limits(2, 16);
    let (result, layout) = build_with(&Fit, &host, &limits, &mut frames);
    assert_eq!(result, Ok(()));
    check_fit(&host, &limits, &layout);
    assert_eq!(ranges_of(&layout), [range(4 * GIB, 5 * GIB), range(100 * GIB, 101 * GIB)]);
    let lost: Vec<_> = layout.given_up(&host.memory, &host.cmrs).map(|lost| (lost.range, lost.reason)).collect();
    assert_eq!(lost, [(range(1000 * GIB, 1000 * GIB + 512 * MIB), GiveUpReason::PamtMemory)]);
}

/// A GiB with more holes than areas stands alone: its neighbors do not pay for it.
#[test]
fn a_bad_gib_is_isolated() {
    let mut parts = vec![(4 * GIB, 6 * GIB)];
    parts.extend((0..40).map(|i| (6 * GIB + i * 16 * MIB, 6 * GIB + i * 16 * MIB + (i + 1) * MIB / 16)));
    parts.push((7 * GIB, 9 * GIB));
    let host = from_cmrs(&parts);
    let layout = fit(&host, &Limits::MODULE_1_5);
    let tdmrs: Vec<_> = layout.tdmrs().iter().map(|tdmr| (tdmr.range(), tdmr.border())).collect();
    assert_eq!(
        tdmrs,
        [
            (range(4 * GIB, 6 * GIB), Border::Memory),
            (range(6 * GIB, 7 * GIB), Border::ReservedAreas),
            (range(7 * GIB, 9 * GIB), Border::ReservedAreas),
        ]
    );
    // 40 holes, the last one open to the end: 40 areas, 24 too many. The 24 smallest pieces in
    // between are 2 to 25 sixteenths of a MiB; the first piece is at the edge and costs nothing to
    // keep.
    let lost = layout.given_up_bytes(&host.memory, &host.cmrs);
    assert_eq!(lost, (2..=25).sum::<u64>() * MIB / 16);
}

/// Memory of the last page below 2^52, and of the first.
#[test]
fn the_ends_of_the_address_space() {
    let top = 1u64 << 52;
    let host = Host {
        memory: memory(&[(0, 64 * MIB), (top - 64 * MIB, top)]),
        cmrs: vec![range(0, 64 * MIB), range(top - 64 * MIB, top)],
    };
    let layout = fit(&host, &Limits::MODULE_1_5);
    assert_eq!(ranges_of(&layout), [range(0, GIB), range(top - GIB, top)]);
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
}
