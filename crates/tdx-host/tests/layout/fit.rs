//! Properties of `fit` on random hosts: a layout that SYS.CONFIG accepts and that accounts for
//! every page, or an error that is true.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tdx_abi::{PageRange, PageSize};
use tdx_host::layout::{Fit, LayoutError, Limits, MapFrames, Pamt4k};

use crate::generate;
use crate::hosts::{self, Host};
use crate::support::{Moody, OnlyChoice, both, build_with, check_fit, convertible_pieces, minus, set};

/// Builds, checks the result whatever it is, gives the memory back and checks that too.
fn judge(host: &Host, limits: &Limits, in_use: &[PageRange], moody: Option<u64>) {
    let mut frames = MapFrames::new(&host.memory);
    for range in in_use {
        let _ = frames.reserve(*range);
    }
    let before = frames.taken().to_vec();
    let mut source = Moody { inner: frames, seed: moody.unwrap_or(0), honest: moody.is_none() };
    let (result, mut layout) = build_with(&Fit, host, limits, &mut source);
    match result {
        Ok(()) => {
            check_fit(host, limits, &layout);
            let taken = minus(&set(source.inner.taken().iter().copied()), &set(before.clone()));
            assert_eq!(set(layout.pamt_ranges()), taken, "owns exactly what it took");
        }
        Err(error) => {
            assert!(layout.is_empty());
            if moody.is_none() {
                check_claim(host, limits, &before, error);
            }
        }
    }
    layout.release(&mut source).unwrap();
    assert_eq!(source.inner.taken(), before);
    assert_eq!(layout.pamt_ranges().count(), 0);
}

/// The limit that the error names cannot be met by any layout at all.
fn check_claim(host: &Host, limits: &Limits, in_use: &[PageRange], error: LayoutError) {
    let pieces = convertible_pieces(host);
    match error {
        LayoutError::NoMemory => assert!(pieces.is_empty()),
        LayoutError::TdmrsExhausted { needed, allowed, .. } => {
            assert!(needed > allowed && limits.max_tdmrs == 0);
        }
        LayoutError::ReservedAreasExhausted { needed, allowed, .. } => {
            assert!(needed > allowed && limits.max_reserved_per_tdmr == 0);
        }
        LayoutError::NoPamtMemory { tdmr, bytes, .. } => {
            // Even the smallest TDMR, 1 GiB, alone on the machine, finds no place for its three
            // PAMTs.
            assert_eq!(tdmr.bytes(), 1 << 30);
            let mut levels = PageSize::ALL.map(|level| {
                let entry_bits = 8 * u64::from(limits.pamt_entry_size[level as usize]);
                let bits = match limits.pamt_4k {
                    Pamt4k::Bitmap { bits } if level == PageSize::Size4K => u64::from(bits.get()),
                    _ => entry_bits,
                };
                ((1 << 30) / level.bytes() * bits).div_ceil(8 * 4096)
            });
            assert_eq!(bytes, levels.iter().sum::<u64>() * 4096);
            levels.sort_unstable_by(|a, b| b.cmp(a));
            let low_megabyte = [crate::support::pages(0, 256)];
            let mut free: Vec<u64> = pieces
                .iter()
                .flat_map(|piece| {
                    let used = set(in_use.iter().chain(&low_megabyte).copied());
                    minus(&set([*piece]), &used).iter().map(|r| r.end - r.start).collect::<Vec<_>>()
                })
                .collect();
            // Best fit, largest first: exact for two sizes of a few pages and one that is far
            // larger.
            let placed = levels.iter().all(|need| {
                let best = free.iter_mut().filter(|room| **room >= *need).min_by_key(|room| **room);
                best.map(|room| *room -= need).is_some()
            });
            assert!(!placed, "there is room for the PAMT of one GiB: {free:?}");
        }
        other => panic!("not an error for good input: {other}"),
    }
}

#[test]
fn a_source_without_exact_places_is_enough() {
    for host in [hosts::superdome_12tib(), hosts::emr_fail28(), hosts::many_units(100), hosts::fragmented()] {
        let mut frames = OnlyChoice { inner: MapFrames::new(&host.memory), requests: 0 };
        let (result, layout) = build_with(&Fit, &host, &Limits::MODULE_1_5, &mut frames);
        assert_eq!(result, Ok(()));
        check_fit(&host, &Limits::MODULE_1_5, &layout);
        assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
    }
}

/// A machine without free memory: said at once, not after every place was asked for every size.
#[test]
fn a_source_that_has_nothing() {
    let host = hosts::fragmented();
    let mut frames = OnlyChoice { inner: MapFrames::new(&[]), requests: 0 };
    let (result, _) = build_with(&Fit, &host, &Limits::MODULE_1_5, &mut frames);
    let error = result.unwrap_err();
    assert!(matches!(error, LayoutError::NoPamtMemory { .. }), "{error}");
    assert_eq!(error.errno(), -12);
    assert!(frames.requests < 200_000, "{} requests", frames.requests);
}

fn in_use() -> impl Strategy<Value = Vec<PageRange>> {
    prop::collection::vec((0..4 * (1 << 18) as u64, 1..3000u64), 0..6)
        .prop_map(|parts| parts.into_iter().map(|(at, pages)| crate::support::pages(at, at + pages)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1500,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_host(host in generate::host(), limits in generate::limits(), in_use in in_use()) {
        judge(&host, &limits, &in_use, None);
    }

    #[test]
    fn any_host_with_an_allocator_that_refuses(
        host in generate::host(), limits in generate::limits(), seed in any::<u64>(),
    ) {
        judge(&host, &limits, &[], Some(seed));
    }

    #[test]
    fn a_gib_full_of_holes(host in generate::many_holes(), limits in generate::limits()) {
        judge(&host, &limits, &[], None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        rng_seed: RngSeed::Fixed(2),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn more_units_than_tdmrs(host in generate::many_units(), limits in generate::limits()) {
        judge(&host, &limits, &[], None);
    }
}

/// `true` if nothing stands in the way: every GiB needs fewer areas than allowed, there are no more
/// pieces than TDMRs, and there is room in one piece for the PAMT of the whole host.
fn is_easy(host: &Host, limits: &Limits) -> bool {
    let pieces = convertible_pieces(host);
    let gib = 1 << 18;
    let mut blocks: Vec<u64> =
        pieces.iter().flat_map(|p| p.start().index() / gib..p.end().index().div_ceil(gib)).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let convertible = set(pieces.iter().copied());
    let room = pieces.iter().map(|p| p.pages()).max().unwrap_or(0);
    let cmrs = set(host.cmrs.iter().copied());
    !blocks.is_empty()
        && blocks.len() <= usize::from(limits.max_tdmrs)
        && room > 2 * blocks.len() as u64 * 1027
        && blocks.iter().all(|block| {
            let block = set([crate::support::pages(block * gib, (block + 1) * gib)]);
            let holes = minus(&block, &cmrs).iter().count();
            let parts = both(&convertible, &block).iter().count();
            holes.min(parts + 1) + 2 <= usize::from(limits.max_reserved_per_tdmr)
        })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        rng_seed: RngSeed::Fixed(3),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn nothing_is_given_up_without_need(
        host in generate::host(), max_tdmrs in 8..65u16, max_reserved_per_tdmr in 3..17u16,
    ) {
        let limits = Limits { max_tdmrs, max_reserved_per_tdmr, ..Limits::MODULE_1_5 };
        if is_easy(&host, &limits) {
            let mut frames = MapFrames::new(&host.memory);
            let (result, layout) = build_with(&Fit, &host, &limits, &mut frames);
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), 0);
        }
    }
}
