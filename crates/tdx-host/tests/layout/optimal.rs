//! Small cases of `fit` against brute force and by hand: it loses the fewest bytes, merges the
//! smallest gaps, cuts where it must.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tdx_abi::PageRange;
use tdx_host::layout::{Border, Fit, GiveUpReason, Limits, Note};

use crate::hosts::{GIB, Host, from_cmrs, memory, on_node, range};
use crate::support::{build, check_fit, minus, pages, set};

const GIB_PAGES: u64 = 1 << 18;
/// PAMT of one GiB with 16-byte entries: 4 MiB, 8 KiB, 4 KiB.
const PAMT_PAGES: u64 = 1024 + 2 + 1;

/// One GiB whose CMRs are `parts` (start, pages), all of it memory.
fn one_gib(parts: &[(u64, u64)]) -> Host {
    let mut at = 4 * GIB_PAGES;
    let mut cmrs: Vec<PageRange> = Vec::new();
    for (hole, length) in parts {
        cmrs.push(pages(at + hole, at + hole + length));
        at += hole + length;
    }
    let memory = cmrs.iter().map(|cmr| on_node(cmr.base().get(), cmr.limit().get(), 0)).collect();
    Host { memory, cmrs }
}

/// The fewest pages that must be given up in GiB 4 with these usable pieces and `areas` reserved
/// areas: tries places for the PAMT all over each piece, and for each every set of gaps between
/// reserved runs to close. `None` if it fits nowhere.
fn brute_force(pieces: &[PageRange], areas: usize) -> Option<u64> {
    let gib = set([pages(4 * GIB_PAGES, 5 * GIB_PAGES)]);
    let holes = minus(&gib, &set(pieces.iter().copied()));
    let room = |piece: &PageRange| Some((piece.start().index(), piece.pages().checked_sub(PAMT_PAGES)?));
    let places = pieces.iter().filter_map(room).flat_map(|(start, room)| (0..=4).map(move |at| start + room * at / 4));
    places
        .filter_map(|place| {
            let mut reserved = holes.clone();
            reserved.insert(place..place + PAMT_PAGES);
            let runs: Vec<_> = reserved.iter().cloned().collect();
            let gaps: Vec<_> = runs.windows(2).map(|pair| pair[1].start - pair[0].end).collect();
            let closed = (0u32..1 << gaps.len()).filter(|set| runs.len() - set.count_ones() as usize <= areas);
            let lost = |set: u32| gaps.iter().enumerate().filter(|(i, _)| set >> i & 1 == 1).map(|(_, gap)| gap).sum();
            closed.map(lost).min()
        })
        .min()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        rng_seed: RngSeed::Fixed(4),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn one_gib_loses_as_little_as_possible(
        parts in prop::collection::vec((1..50u64, 1..4000u64), 1..8),
        areas in 1..6u16,
    ) {
        let host = one_gib(&parts);
        let limits = Limits { max_reserved_per_tdmr: areas, ..Limits::MODULE_1_5 };
                let (result, layout) = build(&Fit, &host, &limits);
        match brute_force(&host.cmrs, usize::from(areas)) {
            Some(lost) => {
                prop_assert_eq!(result, Ok(()));
                check_fit(&host, &limits, &layout);
                prop_assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), lost * 4096);
            }
            // The three levels may still find room apart.
            None => if result.is_ok() {
                check_fit(&host, &limits, &layout);
            },
        }
    }

    /// Units of one GiB: the gaps that are merged are the smallest, so PAMT is as small as it can
    /// be.
    #[test]
    fn smallest_gaps_are_merged(gaps in prop::collection::vec(1..15u64, 1..12), max in 1..8u16) {
        let mut at = 4 * GIB;
        let mut parts = vec![(at, at + GIB)];
        for gap in &gaps {
            at += (1 + gap) * GIB;
            parts.push((at, at + GIB));
        }
        let host = from_cmrs(&parts);
        let host = Host { cmrs: vec![range(0, at + GIB)], ..host };
        let limits = Limits { max_tdmrs: max, ..Limits::MODULE_1_5 };
        let (result, layout) = build(&Fit, &host, &limits);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
        let mut sorted = gaps.clone();
        sorted.sort_unstable();
        let merged = parts.len().saturating_sub(usize::from(max));
        let covered: u64 = layout.tdmrs().iter().map(|tdmr| tdmr.range().bytes() / GIB).sum();
        prop_assert_eq!(covered, parts.len() as u64 + sorted[..merged].iter().sum::<u64>());
    }
}

#[test]
fn holes_of_the_memory_map_inside_a_cmr_are_not_reserved() {
    let host = Host {
        memory: memory(&[(4 * GIB, 4 * GIB + 0x100_0000), (4 * GIB + 0x200_0000, 5 * GIB)]),
        cmrs: vec![range(4 * GIB, 5 * GIB)],
    };
    let (_, layout) = build(&Fit, &host, &Limits::MODULE_1_5);
    check_fit(&host, &Limits::MODULE_1_5, &layout);
    let pamts: Vec<_> = layout.pamt_ranges().collect();
    assert_eq!(layout.tdmrs()[0].reserved(), pamts, "the PAMT and nothing else");
    assert_eq!(layout.notes(&host.memory, &host.cmrs).count(), 0);
}

/// Eight holes in each of three GiB, one node: 16 areas allow two GiB, three need a cut. The PAMT
/// costs nothing.
#[test]
fn splits_where_the_areas_run_out() {
    let parts: Vec<_> = (0..24).map(|i| (4 * GIB + i * GIB / 8 + 0x10_0000, 4 * GIB + (i + 1) * GIB / 8)).collect();
    let host = from_cmrs(&parts);
    let (result, layout) = build(&Fit, &host, &Limits::MODULE_1_5);
    assert_eq!(result, Ok(()));
    check_fit(&host, &Limits::MODULE_1_5, &layout);
    let tdmrs: Vec<_> = layout.tdmrs().iter().map(|tdmr| (tdmr.range(), tdmr.border())).collect();
    let expected = [(range(4 * GIB, 6 * GIB), Border::Memory), (range(6 * GIB, 7 * GIB), Border::ReservedAreas)];
    assert_eq!(tdmrs, expected);
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
}

/// Firmware ranges between two holes: the two become one area before anything is split or given up.
#[test]
fn areas_join_over_unusable_memory() {
    let host = Host {
        memory: memory(&[(4 * GIB, 4 * GIB + 0x1000_0000), (4 * GIB + 0x1100_0000, 5 * GIB)]),
        cmrs: vec![
            range(4 * GIB, 4 * GIB + 0x1010_0000),
            range(4 * GIB + 0x1020_0000, 4 * GIB + 0x1030_0000),
            range(4 * GIB + 0x1040_0000, 5 * GIB),
        ],
    };
    let limits = Limits { max_reserved_per_tdmr: 1, ..Limits::MODULE_1_5 };
    let (result, layout) = build(&Fit, &host, &limits);
    assert_eq!(result, Ok(()));
    check_fit(&host, &limits, &layout);
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
    let is_joined = |note| matches!(note, Note::ReservedConvertible { .. });
    assert!(layout.notes(&host.memory, &host.cmrs).any(is_joined));
}

/// 65 small units 1 TiB apart: merging two would need 4 GiB of PAMT in one piece. The smallest unit
/// goes, by name.
#[test]
fn a_unit_goes_when_merging_cannot_be_paid() {
    let unit = |i: u64| 0x800_0000 - if i == 40 { 0x1000 } else { 0 };
    let parts: Vec<_> = (1..=65u64).map(|i| (i << 40, (i << 40) + unit(i))).collect();
    let host = from_cmrs(&parts);
    let (result, layout) = build(&Fit, &host, &Limits::MODULE_1_5);
    assert_eq!(result, Ok(()));
    check_fit(&host, &Limits::MODULE_1_5, &layout);
    let lost: Vec<_> = layout.given_up(&host.memory, &host.cmrs).collect();
    assert_eq!(lost.len(), 1);
    assert_eq!((lost[0].range, lost[0].reason), (range(parts[39].0, parts[39].1), GiveUpReason::Tdmrs));
    assert_eq!(layout.tdmr_count(), 64);
}

/// No piece of memory is long enough for the PAMT of the whole: the TDMR is halved until it is.
#[test]
fn a_large_tdmr_is_split_when_its_pamt_finds_no_room() {
    // 64 GiB in pieces of 64 MiB, a firmware page between them: 256 MiB of PAMT in one piece is not
    // there.
    let parts: Vec<_> =
        (0..1024).map(|i| (4 * GIB + i * 0x400_0000 + 0x1000, 4 * GIB + (i + 1) * 0x400_0000)).collect();
    let host = Host { memory: memory(&parts), cmrs: vec![range(4 * GIB, 68 * GIB)] };
    let (result, layout) = build(&Fit, &host, &Limits::MODULE_1_5);
    assert_eq!(result, Ok(()));
    check_fit(&host, &Limits::MODULE_1_5, &layout);
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
    assert!(layout.tdmr_count() > 4 && layout.tdmr_count() <= 64, "{}", layout.tdmr_count());
    assert!(layout.tdmrs().iter().skip(1).all(|tdmr| tdmr.border() == Border::PamtMemory));
}

/// The three levels fit only apart: 4 MiB here, 12 KiB there.
#[test]
fn pamt_in_pieces_when_one_piece_is_too_long() {
    let host = Host {
        memory: memory(&[(4 * GIB, 4 * GIB + 0x40_0000), (4 * GIB + 0x100_0000, 4 * GIB + 0x100_4000)]),
        cmrs: vec![range(4 * GIB, 5 * GIB)],
    };
    let (result, layout) = build(&Fit, &host, &Limits::MODULE_1_5);
    assert_eq!(result, Ok(()));
    check_fit(&host, &Limits::MODULE_1_5, &layout);
    let tdmr = range(4 * GIB, 5 * GIB);
    assert!(layout.notes(&host.memory, &host.cmrs).any(|note| note == Note::PamtInPieces { tdmr }));
}

/// Node 1 has no room for its PAMT: node 0 helps out, and a note says so.
#[test]
fn pamt_on_another_node_is_better_than_none() {
    let host = Host {
        memory: vec![on_node(4 * GIB, 5 * GIB, 0), on_node(5 * GIB, 5 * GIB + 0x10_0000, 1)],
        cmrs: vec![range(4 * GIB, 6 * GIB)],
    };
    let (result, layout) = build(&Fit, &host, &Limits::MODULE_1_5);
    assert_eq!(result, Ok(()));
    check_fit(&host, &Limits::MODULE_1_5, &layout);
    let remote: Vec<_> = layout
        .notes(&host.memory, &host.cmrs)
        .filter_map(|note| match note {
            Note::RemotePamt { tdmr, node, .. } => Some((tdmr, node.0)),
            _ => None,
        })
        .collect();
    assert_eq!(remote, [(range(5 * GIB, 6 * GIB), 0)]);
}
