//! The hosts of `fixtures/`: what the logs say, and that `fit` brings all of them up.

use std::num::NonZero;

use tdx_abi::PageSize;
use tdx_host::layout::{Border, Fit, LayoutError, Limits, MapFrames, Note, Pamt4k};
use tdx_operator::layout::{LayoutName, Linux};

use crate::hosts::{self, GIB, Host, from_cmrs, on_node, range, ranges};
use crate::support::{build, build_with, check_fit, sys_config};

const LIMITS: Limits = Limits::MODULE_1_5;

#[test]
fn linux_takes_the_kilobytes_of_the_logs() {
    for (name, cmrs, kb) in hosts::LOGGED {
        let (result, layout) = build(&Linux, &from_cmrs(cmrs), &LIMITS);
        assert_eq!(result, Ok(()), "{name}");
        assert_eq!(layout.pamt_kb(), *kb, "{name}");
        assert_eq!(layout.tdmr_count(), cmrs.len(), "{name}");
    }
}

#[test]
fn linux_splits_at_a_node_border_inside_a_cmr() {
    let host = hosts::node_border_in_cmr();
    let (result, layout) = build(&Linux, &host, &LIMITS);
    assert_eq!(result, Ok(()));
    assert_eq!(layout.pamt_kb(), 1050644);
    assert_eq!(layout.tdmr_count(), 5);
    let (_, without_border) = build(&Linux, &from_cmrs(&ranges_of(&host)), &LIMITS);
    assert_eq!(without_border.pamt_kb(), 1050640);
}

fn ranges_of(host: &Host) -> Vec<(u64, u64)> {
    host.cmrs.iter().map(|cmr| (cmr.base().get(), cmr.limit().get())).collect()
}

#[test]
fn linux_runs_out_of_reserved_areas_on_fine_e820() {
    let host = hosts::emr_fail28();
    let (result, layout) = build(&Linux, &host, &LIMITS);
    let error = result.unwrap_err();
    let tdmr = range(0, 0x80000000);
    assert_eq!(error, LayoutError::ReservedAreasExhausted { tdmr, needed: 17, allowed: 16 });
    assert_eq!(error.errno(), -28);
    assert!(error.to_string().contains("TDMR [0x0, 0x80000000): reserved areas exhausted"), "{error}");
    assert!(layout.is_empty());
}

#[test]
fn fit_brings_up_what_linux_cannot() {
    let host = hosts::emr_fail28();
    let (result, layout) = build(&Fit, &host, &LIMITS);
    assert_eq!(result, Ok(()));
    check_fit(&host, &LIMITS, &layout);
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
    // The two holes that are no CMR: the low megabyte and the top. Firmware ranges inside the CMR
    // stay convertible.
    assert_eq!(layout.tdmrs()[0].reserved().len(), 2);
    assert_eq!(layout.pamt_kb(), 1050644);
}

/// Fixture 20 published no memory map: [1 GiB, 2 GiB) with more than 16 holes, behind a first range
/// that ends in GiB 0.
#[test]
fn fit_brings_up_a_second_gib_full_of_holes() {
    let mut parts = vec![(0x100000, 0x3f000000)];
    parts.extend((0..20).map(|hole| (0x4000_0000 + hole * 0x200_0000, 0x4000_0000 + hole * 0x200_0000 + 0x1ff_f000)));
    parts.push((4 * GIB, 256 * GIB));
    let host = Host { memory: hosts::memory(&parts), cmrs: ranges(&[(0x100000, 0x77800000), (4 * GIB, 256 * GIB)]) };
    let (result, _) = build(&Linux, &host, &LIMITS);
    let tdmr = range(0x40000000, 0x80000000);
    assert!(matches!(result, Err(LayoutError::ReservedAreasExhausted { tdmr: at, .. }) if at == tdmr), "{result:?}");
    let (result, layout) = build(&Fit, &host, &LIMITS);
    assert_eq!(result, Ok(()));
    check_fit(&host, &LIMITS, &layout);
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
}

#[test]
fn fit_brings_up_every_other_host_without_loss() {
    let big = [hosts::node_border_in_cmr(), hosts::superdome_12tib(), hosts::uv_16_nodes(), hosts::fragmented()];
    let logged = hosts::LOGGED.iter().map(|(_, cmrs, _)| from_cmrs(cmrs));
    for host in logged.chain(big) {
        let (result, layout) = build(&Fit, &host, &LIMITS);
        assert_eq!(result, Ok(()));
        check_fit(&host, &LIMITS, &layout);
        assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
        for tdmr in layout.tdmrs() {
            let pamt = tdmr.pamt(PageSize::Size4K);
            let home = host.memory.iter().find(|part| part.range.contains(pamt.start())).expect("usable");
            assert_eq!(home.node, tdmr.node(), "PAMT of {} is local", tdmr.range());
        }
    }
}

#[test]
fn pamts_cost_no_reserved_area_where_there_is_a_hole() {
    let host = from_cmrs(hosts::LOGGED[0].1);
    let (result, layout) = build(&Fit, &host, &LIMITS);
    assert_eq!(result, Ok(()));
    let counts: Vec<_> = layout.tdmrs().iter().map(|tdmr| tdmr.reserved().len()).collect();
    // Holes: [0, 1 MiB) and the top of 2 GiB; the end of the memory of socket 0; socket 1 ends at a
    // whole GiB.
    assert_eq!(counts, [2, 1, 0]);
    assert_eq!(layout.pamt_ranges().count(), 1, "one node: one stretch of PAMT");
    assert!(layout.pamt_ranges().all(|pamt| pamt.base().get() >= 4 * GIB));
}

#[test]
fn sixteen_nodes_have_a_tdmr_each() {
    let host = hosts::superdome_12tib();
    let (_, layout) = build(&Fit, &host, &LIMITS);
    // Node 0 has two: below and above the hole in front of 4 GiB.
    assert_eq!(layout.tdmr_count(), 17);
    let splits = layout.notes(&host.memory, &host.cmrs);
    let splits = splits.filter(|note| matches!(note, Note::Split { border: Border::Node, .. })).count();
    assert_eq!(splits, 14, "node 1 starts after a gap, nodes 2 to 15 at a border");
}

#[test]
fn more_than_64_units_are_merged() {
    let host = hosts::many_units(100);
    let (result, _) = build(&Linux, &host, &LIMITS);
    let Err(error @ LayoutError::TdmrsExhausted { tdmr, needed: 100, allowed: 64 }) = result else {
        panic!("{result:?}")
    };
    assert_eq!(tdmr.base().get(), (4 + 8 * 64) * GIB, "the 65th");
    assert_eq!(error.errno(), -28);
    let (result, layout) = build(&Fit, &host, &LIMITS);
    assert_eq!(result, Ok(()));
    check_fit(&host, &LIMITS, &layout);
    assert_eq!(layout.tdmr_count(), 64);
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
    let merged = layout.notes(&host.memory, &host.cmrs).filter_map(|note| match note {
        Note::Merged { gap, pamt_bytes, .. } => Some((gap.bytes() / GIB, pamt_bytes >> 20)),
        _ => None,
    });
    assert_eq!(merged.collect::<Vec<_>>(), vec![(5, 20); 36]);
}

/// Linux does not look at CMRs: what it builds on this host, SYS.CONFIG refuses; `fit` names the
/// memory and goes on.
#[test]
fn memory_outside_every_cmr() {
    let host = Host {
        memory: vec![on_node(4 * GIB, 8 * GIB, 0), on_node(8 * GIB, 12 * GIB, 1)],
        cmrs: ranges(&[(4 * GIB, 9 * GIB)]),
    };
    let (result, linux) = build(&Linux, &host, &LIMITS);
    assert_eq!(result, Ok(()));
    assert!(sys_config(&linux, &host.cmrs, &LIMITS).is_err());
    let part = range(9 * GIB, 12 * GIB);
    let refused = |note| matches!(note, Note::NotConvertible { range, .. } if part.contains_range(range));
    assert!(linux.notes(&host.memory, &host.cmrs).any(refused));

    let (result, fit) = build(&Fit, &host, &LIMITS);
    assert_eq!(result, Ok(()));
    check_fit(&host, &LIMITS, &fit);
    let named: Vec<_> = fit.given_up(&host.memory, &host.cmrs).map(|lost| lost.range).collect();
    assert_eq!(named, [part]);
    assert_eq!(fit.given_up_bytes(&host.memory, &host.cmrs), 0);
}

/// Fixture 33, the example in Linux's documentation of dynamic PAMT: 252 GiB in three TDMRs, "10092
/// KB allocated for PAMT".
#[test]
fn linux_with_dynamic_pamt() {
    let memory = [(1, 2), (4, 127), (128, 256)].map(|(start, end)| on_node(start * GIB, end * GIB, 0));
    let host = Host { memory: memory.to_vec(), cmrs: memory.map(|part| part.range).to_vec() };
    let bits = NonZero::new(1).unwrap();
    let limits = Limits { pamt_4k: Pamt4k::Bitmap { bits }, ..Limits::MODULE_1_5 };
    for algorithm in [LayoutName::Linux, LayoutName::Fit] {
        let mut frames = MapFrames::new(&host.memory);
        let (result, layout) = build_with(&algorithm, &host, &limits, &mut frames);
        result.unwrap();
        assert_eq!((layout.tdmr_count(), layout.pamt_kb()), (3, 10092), "{algorithm:?}");
        assert_eq!(sys_config(&layout, &host.cmrs, &limits), Ok(()));
    }
}
