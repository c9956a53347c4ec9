//! The layout of Linux against a second rendering of the kernel's functions, loop by loop on bare
//! numbers, on random hosts.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use tdx_abi::PageRange;
use tdx_host::layout::{FrameRequest, LayoutError, Limits, MapFrames, Pamt4k, Places};
use tdx_host::platform::NodeId;
use tdx_operator::layout::Linux;

use crate::generate;
use crate::hosts::{GIB, Host, from_cmrs, memory, on_node, range};
use crate::support::{build, build_with};

const ENOMEM: i32 = -12;
const EINVAL: i32 = -22;
const ENOSPC: i32 = -28;

/// A frame source that writes down what was asked and what was given.
struct Recorder<'a> {
    inner: MapFrames<'a>,
    log: Vec<(FrameRequest, Option<PageRange>)>,
}

impl Places for Recorder<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange> {
        let answer = self.inner.allocate(request);
        self.log.push((request, answer));
        answer
    }

    fn free(&mut self, range: PageRange) {
        self.inner.free(range);
    }
}

/// `struct tdx_memblock`: start, end, node.
type Block = (u64, u64, u32);

/// `struct tdmr_info`, as far as it is filled.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tdmr {
    base: u64,
    size: u64,
    nid: u32,
    pamt: (u64, u64),
    pamt_sizes: [u64; 3],
    reserved: Vec<(u64, u64)>,
}

/// memblock joins neighbors of one node that touch; `build_tdx_memlist` clips to 1 MiB.
fn build_tdx_memlist(host: &Host) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for part in &host.memory {
        let (start, end, nid) = (part.range.base().get(), part.range.limit().get(), part.node.0);
        match blocks.last_mut() {
            _ if start == end => {}
            Some(last) if last.1 == start && last.2 == nid => last.1 = end,
            _ => blocks.push((start, end, nid)),
        }
    }
    blocks.into_iter().map(|(start, end, nid)| (start.max(1 << 20), end, nid)).filter(|b| b.0 < b.1).collect()
}

fn fill_out_tdmrs(blocks: &[Block], max: usize) -> Result<Vec<Tdmr>, i32> {
    let mut tdmrs = vec![Tdmr::default()];
    for block in blocks {
        let mut start = block.0 / GIB * GIB;
        let end = block.1.div_ceil(GIB) * GIB;
        let current = tdmrs.last().unwrap();
        if current.size != 0 {
            let current_end = current.base + current.size;
            if end <= current_end {
                continue;
            }
            if start < current_end {
                start = current_end;
            }
            if tdmrs.len() >= max {
                return Err(ENOSPC);
            }
            tdmrs.push(Tdmr::default());
        }
        let current = tdmrs.last_mut().unwrap();
        (current.base, current.size) = (start, end - start);
    }
    Ok(tdmrs)
}

fn tdmr_get_nid(tdmr: &Tdmr, blocks: &[Block]) -> u32 {
    blocks.iter().find(|block| block.1 > tdmr.base).map_or(0, |block| block.2)
}

fn populate_reserved(tdmrs: &mut [Tdmr], index: usize, blocks: &[Block], max: usize) -> Result<(), i32> {
    let tdmr_base = tdmrs[index].base;
    let tdmr_end = tdmr_base + tdmrs[index].size;
    let mut areas: Vec<(u64, u64)> = Vec::new();
    let mut add = |addr: u64, size: u64| {
        if areas.len() >= max {
            return Err(ENOSPC);
        }
        areas.push((addr - tdmr_base, size));
        Ok(())
    };
    let mut prev_end = tdmr_base;
    for &(start, end, _) in blocks {
        if start >= tdmr_end {
            break;
        }
        if end < tdmr_base {
            continue;
        }
        if start <= prev_end {
            prev_end = end;
            continue;
        }
        add(prev_end, start - prev_end)?;
        prev_end = end;
    }
    if prev_end < tdmr_end {
        add(prev_end, tdmr_end - prev_end)?;
    }
    for other in tdmrs.iter() {
        let (start, end) = (other.pamt.0, other.pamt.0 + other.pamt.1);
        if start >= tdmr_end || end <= tdmr_base {
            continue;
        }
        add(start.max(tdmr_base), end.min(tdmr_end) - start.max(tdmr_base))?;
    }
    areas.sort_unstable();
    tdmrs[index].reserved = areas;
    Ok(())
}

/// `construct_tdmrs`, with the PAMT places that the recorder saw.
fn construct_tdmrs(host: &Host, limits: &Limits, log: &[(FrameRequest, Option<PageRange>)]) -> Result<Vec<Tdmr>, i32> {
    let blocks = build_tdx_memlist(host);
    if blocks.is_empty() {
        return Err(EINVAL);
    }
    if limits.max_tdmrs == 0 {
        return Err(ENOSPC);
    }
    let mut tdmrs = fill_out_tdmrs(&blocks, usize::from(limits.max_tdmrs))?;
    for (index, tdmr) in tdmrs.iter_mut().enumerate() {
        tdmr.nid = tdmr_get_nid(tdmr, &blocks);
        for (level, size) in tdmr.pamt_sizes.iter_mut().enumerate() {
            let entries = tdmr.size >> (12 + 9 * level);
            let bytes = match limits.pamt_4k {
                Pamt4k::Bitmap { bits } if level == 0 => (entries * u64::from(bits.get())).div_ceil(8),
                _ => entries * u64::from(limits.pamt_entry_size[level]),
            };
            *size = bytes.div_ceil(4096) * 4096;
        }
        let pages = tdmr.pamt_sizes.iter().sum::<u64>() / 4096;
        let (request, answer) = log[index];
        assert_eq!(request, FrameRequest::anywhere(pages, Some(NodeId(tdmr.nid))), "the {index}th request");
        let chunk = answer.ok_or(ENOMEM)?;
        tdmr.pamt = (chunk.base().get(), chunk.bytes());
    }
    for index in 0..tdmrs.len() {
        populate_reserved(&mut tdmrs, index, &blocks, usize::from(limits.max_reserved_per_tdmr))?;
    }
    Ok(tdmrs)
}

fn compare(host: &Host, limits: &Limits) {
    let mut frames = Recorder { inner: MapFrames::new(&host.memory), log: Vec::new() };
    let (result, mut layout) = build_with(&Linux, host, limits, &mut frames);
    match (construct_tdmrs(host, limits, &frames.log), result) {
        (Ok(expected), Ok(())) => {
            let got: Vec<Tdmr> = layout
                .tdmrs()
                .iter()
                .map(|tdmr| {
                    let info = tdmr.to_tdmr_info();
                    let used = info.reserved.iter().take(tdmr.reserved().len());
                    assert_eq!(info.pamt_2m_base, info.pamt_4k_base + info.pamt_4k_size);
                    assert_eq!(info.pamt_1g_base, info.pamt_2m_base + info.pamt_2m_size);
                    Tdmr {
                        base: info.base,
                        size: info.size,
                        nid: tdmr.node().0,
                        pamt: (info.pamt_4k_base, tdmr.pamt_bytes()),
                        pamt_sizes: [info.pamt_4k_size, info.pamt_2m_size, info.pamt_1g_size],
                        reserved: used.map(|area| (area.offset, area.size)).collect(),
                    }
                })
                .collect();
            assert_eq!(got, expected);
            let kb: u64 = expected.iter().map(|tdmr| tdmr.pamt.1).sum::<u64>() / 1024;
            assert_eq!(layout.pamt_kb(), kb);
        }
        (Err(errno), Err(error)) => {
            assert_eq!(error.errno(), errno, "{error}");
            assert!(layout.is_empty());
        }
        (expected, got) => panic!("expected {expected:?}, got {got:?}"),
    }
    layout.release(&mut frames).unwrap();
    assert_eq!(frames.inner.taken(), [], "everything came back");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        rng_seed: RngSeed::Fixed(5),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn same_as_the_kernel(host in generate::host(), limits in generate::limits()) {
        compare(&host, &limits);
    }

    #[test]
    fn same_as_the_kernel_with_many_holes(host in generate::many_holes(), limits in generate::limits()) {
        compare(&host, &limits);
    }

    #[test]
    fn same_as_the_kernel_with_many_units(host in generate::many_units(), limits in generate::limits()) {
        compare(&host, &limits);
    }
}

#[test]
fn sixteen_areas_are_enough_and_seventeen_are_not() {
    // `holes` pages missing inside [4 GiB, 5 GiB), one more hole at its end; the PAMTs go to [8
    // GiB, 9 GiB).
    let host = |holes: u64| {
        let mut parts: Vec<_> =
            (0..=holes).map(|i| (4 * GIB + i * 0x10_0000, 4 * GIB + i * 0x10_0000 + 0xf_f000)).collect();
        parts.push((8 * GIB, 9 * GIB));
        Host { memory: memory(&parts), cmrs: vec![range(4 * GIB, 9 * GIB)] }
    };
    let (result, layout) = build(&Linux, &host(15), &Limits::MODULE_1_5);
    assert_eq!(result, Ok(()));
    assert_eq!(layout.tdmrs()[0].reserved().len(), 16);
    let (result, _) = build(&Linux, &host(16), &Limits::MODULE_1_5);
    let tdmr = range(4 * GIB, 5 * GIB);
    assert_eq!(result, Err(LayoutError::ReservedAreasExhausted { tdmr, needed: 17, allowed: 16 }));
}

#[test]
fn the_65th_unit_is_one_too_many() {
    let host = |units: u32, nodes: u32| {
        let unit = |i: u32| on_node(u64::from(2 * i + 2) * GIB, u64::from(2 * i + 3) * GIB, i % nodes);
        Host { memory: (0..units).map(unit).collect(), cmrs: vec![range(0, 1 << 40)] }
    };
    let (result, layout) = build(&Linux, &host(64, 64), &Limits::MODULE_1_5);
    assert_eq!((result, layout.tdmr_count()), (Ok(()), 64));
    let (result, _) = build(&Linux, &host(65, 65), &Limits::MODULE_1_5);
    let tdmr = range(130 * GIB, 131 * GIB);
    assert_eq!(result, Err(LayoutError::TdmrsExhausted { tdmr, needed: 65, allowed: 64 }));
    // On one node all PAMTs lie in one TDMR, an area each though they touch: Linux has too few
    // areas for them.
    let (result, _) = build(&Linux, &host(17, 1), &Limits::MODULE_1_5);
    let tdmr = range(4 * GIB, 5 * GIB);
    assert_eq!(result, Err(LayoutError::ReservedAreasExhausted { tdmr, needed: 17, allowed: 16 }));
}

#[test]
fn pamt_comes_from_the_node_of_the_first_range_that_ends_after_the_base() {
    // Node 1 starts inside GiB 5, which TDMR 0 covers; TDMR 1 starts at 6 GiB, in node 1.
    let memory = vec![on_node(4 * GIB, 5 * GIB + 0x1000, 0), on_node(5 * GIB + 0x1000, 8 * GIB, 1)];
    let host = Host { cmrs: vec![range(4 * GIB, 8 * GIB)], memory };
    let (_, layout) = build(&Linux, &host, &Limits::MODULE_1_5);
    let nodes: Vec<_> = layout.tdmrs().iter().map(|tdmr| (tdmr.range(), tdmr.node().0)).collect();
    assert_eq!(nodes, [(range(4 * GIB, 6 * GIB), 0), (range(6 * GIB, 8 * GIB), 1)]);
}

#[test]
fn no_room_for_the_pamt_is_enomem() {
    let host = from_cmrs(&[(4 * GIB, 4 * GIB + 0x40_0000)]);
    let (result, _) = build(&Linux, &host, &Limits::MODULE_1_5);
    let error = result.unwrap_err();
    let tdmr = range(4 * GIB, 5 * GIB);
    assert_eq!(error, LayoutError::NoPamtMemory { tdmr, bytes: 0x40_3000, node: NodeId(0) });
    assert_eq!(error.errno(), ENOMEM);
}
