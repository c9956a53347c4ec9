//! Bad input, the frame source over a memory map, and a layout that is in use.

use tdx_abi::{PageRange, PageSize};
use tdx_host::layout::{FrameRequest, InputList, Layout, LayoutError, Limits, MapFrames, Places, build};
use tdx_host::platform::NodeId;

use crate::hosts::{GIB, from_cmrs, on_node, range};
use crate::support::pages;

fn result_of(memory: &[(u64, u64)], cmrs: &[PageRange], limits: &Limits) -> Result<(), LayoutError> {
    let memory: Vec<_> = memory.iter().map(|&(start, end)| on_node(start, end, 0)).collect();
    let mut frames = MapFrames::new(&memory);
    let mut layout = Box::new(Layout::new());
    let result = build(&memory, cmrs, limits, &mut frames, &mut layout);
    if result.is_err() {
        assert!(layout.is_empty() && frames.taken().is_empty());
    }
    result
}

#[test]
fn bad_lists_are_named() {
    let (good, module) = ([range(4 * GIB, 8 * GIB)], Limits::MODULE_1_5);
    let unordered = |list, range| Err(LayoutError::Unordered { list, range });
    let overlap = [(4 * GIB, 6 * GIB), (5 * GIB, 8 * GIB)];
    assert_eq!(result_of(&overlap, &good, &module), unordered(InputList::Memory, range(5 * GIB, 8 * GIB)));
    let swapped = [range(6 * GIB, 8 * GIB), range(4 * GIB, 6 * GIB)];
    assert_eq!(result_of(&[(4 * GIB, 8 * GIB)], &swapped, &module), unordered(InputList::Cmrs, swapped[1]));
    let high = pages((1 << 40) - 1, (1 << 40) + 1);
    let error = result_of(&[(4 * GIB, 8 * GIB)], &[good[0], high], &module);
    assert_eq!(error, Err(LayoutError::TooHigh { list: InputList::Cmrs, range: high }));
    assert_eq!(result_of(&[], &good, &module), Err(LayoutError::NoMemory));
    assert_eq!(result_of(&[(4 * GIB, 8 * GIB)], &[], &module), Err(LayoutError::NoMemory));
    let no_entry = Limits { pamt_entry_size: [16, 0, 16], ..module };
    let error = result_of(&[(4 * GIB, 8 * GIB)], &good, &no_entry);
    assert_eq!(error, Err(LayoutError::PamtEntrySize { level: PageSize::Size2M }));
    assert_eq!(error.map_err(|error| error.errno()), Err(-22));
}

#[test]
fn limits_of_zero() {
    let good = [range(4 * GIB, 8 * GIB)];
    let error = |limits| result_of(&[(4 * GIB, 8 * GIB)], &good, &limits).unwrap_err();
    let tdmr = range(4 * GIB, 5 * GIB);
    let no_tdmr = error(Limits { max_tdmrs: 0, ..Limits::MODULE_1_5 });
    assert_eq!(no_tdmr, LayoutError::TdmrsExhausted { tdmr, needed: 1, allowed: 0 });
    assert_eq!(no_tdmr.errno(), -28);
    // Without reserved areas a PAMT must lie outside every TDMR: one GiB goes, the rest is used.
    assert_eq!(
        result_of(&[(4 * GIB, 8 * GIB)], &good, &Limits { max_reserved_per_tdmr: 0, ..Limits::MODULE_1_5 }),
        Ok(())
    );
    let one = error_of_one_gib();
    assert_eq!(one, LayoutError::ReservedAreasExhausted { tdmr, needed: 1, allowed: 0 });
}

fn error_of_one_gib() -> LayoutError {
    let limits = Limits { max_reserved_per_tdmr: 0, ..Limits::MODULE_1_5 };
    result_of(&[(4 * GIB, 5 * GIB)], &[range(4 * GIB, 5 * GIB)], &limits).unwrap_err()
}

/// A module that allows more than TDMR_INFO has room for gets no more than that.
#[test]
fn limits_beyond_the_structures() {
    let host = from_cmrs(&(1..=100u64).map(|i| (2 * i * GIB, (2 * i + 1) * GIB)).collect::<Vec<_>>());
    let limits = Limits { max_tdmrs: u16::MAX, max_reserved_per_tdmr: u16::MAX, ..Limits::MODULE_1_5 };
    let mut frames = MapFrames::new(&host.memory);
    let mut layout = Box::new(Layout::new());
    let result = build(&host.memory, &host.cmrs, &limits, &mut frames, &mut layout);
    assert_eq!((result, layout.tdmr_count()), (Ok(()), 64));
}

#[test]
fn a_layout_in_use_is_not_built_over() {
    let host = from_cmrs(&[(4 * GIB, 8 * GIB)]);
    let mut frames = MapFrames::new(&host.memory);
    let mut layout = Box::new(Layout::new());
    let again = |layout: &mut Layout, frames: &mut MapFrames<'_>| {
        build(&host.memory, &host.cmrs, &Limits::MODULE_1_5, frames, layout)
    };
    assert_eq!(again(&mut layout, &mut frames), Ok(()));
    let taken = frames.taken().to_vec();
    assert_eq!(again(&mut layout, &mut frames), Err(LayoutError::InUse));
    assert_eq!(frames.taken(), taken, "nothing was lost");
    layout.release(&mut frames).unwrap();
    assert_eq!(frames.taken(), []);
    assert_eq!(again(&mut layout, &mut frames), Ok(()));
}

#[test]
fn map_frames_takes_the_lowest_place_above_4_gib_of_the_node() {
    let memory = [on_node(0, GIB, 0), on_node(4 * GIB, 5 * GIB, 0), on_node(6 * GIB, 7 * GIB, 1)];
    let mut frames = MapFrames::new(&memory);
    let gib = 1 << 18;
    let mut take = |pages, node: u32| frames.allocate(FrameRequest::anywhere(pages, Some(NodeId(node))));
    assert_eq!(take(1, 0), Some(pages(4 * gib, 4 * gib + 1)));
    assert_eq!(take(2, 0), Some(pages(4 * gib + 1, 4 * gib + 3)));
    assert_eq!(take(gib, 1), Some(pages(6 * gib, 7 * gib)));
    assert_eq!(take(gib - 3, 1), Some(pages(4 * gib + 3, 5 * gib)), "another node is better than none");
    assert_eq!(take(gib - 256, 1), Some(pages(256, gib)), "below 4 GiB last, and never in the low megabyte");
    assert_eq!(take(1, 1), None);
    assert_eq!(take(0, 0), None);
}

#[test]
fn map_frames_stays_in_the_window_and_takes_back() {
    let memory = [on_node(4 * GIB, 5 * GIB, 0)];
    let mut frames = MapFrames::new(&memory);
    let gib = 1 << 18;
    let window = pages(4 * gib + 10, 4 * gib + 20);
    let request = |pages| FrameRequest { pages, node: None, within: window };
    assert!(frames.reserve(pages(4 * gib + 12, 4 * gib + 13)));
    assert!(!frames.reserve(pages(4 * gib + 11, 4 * gib + 14)), "overlaps what is in use");
    assert_eq!(frames.allocate(request(8)), None);
    let seven = frames.allocate(request(7));
    assert_eq!(seven, Some(pages(4 * gib + 13, 4 * gib + 20)));
    assert_eq!(frames.allocate_any(gib), None);
    assert!(!frames.reserve(pages(4 * gib + 15, 4 * gib + 16)), "inside what is in use");
    assert!(!frames.reserve(pages(4 * gib + 19, 4 * gib + 21)), "overlaps the end of what is in use");
    frames.free(pages(4 * gib + 13, 4 * gib + 15));
    assert_eq!(frames.allocate(request(7)), None, "a range goes back as it came");
    frames.free(seven.expect("taken above"));
    assert_eq!(frames.allocate(request(7)), seven);
}

#[test]
fn map_frames_sees_one_range_where_two_of_a_node_touch() {
    let memory = [on_node(4 * GIB, 5 * GIB, 0), on_node(5 * GIB, 6 * GIB, 0), on_node(6 * GIB, 7 * GIB, 1)];
    let gib = 1 << 18;
    assert_eq!(MapFrames::new(&memory).allocate_any(2 * gib), Some(pages(4 * gib, 6 * gib)));
    assert_eq!(MapFrames::new(&memory).allocate_any(3 * gib), None, "nodes are not mixed");
}

#[test]
fn map_frames_refuses_when_its_list_is_full() {
    let memory = [on_node(4 * GIB, 5 * GIB, 0)];
    let mut frames = MapFrames::new(&memory);
    let taken = core::iter::from_fn(|| frames.allocate_any(1)).count();
    assert_eq!(taken, 256);
    let first = frames.taken()[0];
    frames.free(first);
    assert_eq!(frames.allocate_any(1), Some(first));
}
