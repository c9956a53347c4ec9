//! What every layout test asks of a result, whatever the input.

use rangemap::RangeSet;
use tdx_abi::{PageRange, PageSize};
use tdx_host::layout::{
    self, Algorithm, FrameRequest, GiveUpReason, Layout, LayoutError, Limits, MapFrames, Note, Pamt4k, Places,
};
use tdx_host::platform::NodeRange;

use crate::hosts::Host;
use crate::sys_config::Module;

const GIB_PAGES: u64 = 1 << 18;

pub type Pages = RangeSet<u64>;

pub fn set(ranges: impl IntoIterator<Item = PageRange>) -> Pages {
    ranges.into_iter().filter(|r| !r.is_empty()).map(|r| r.start().index()..r.end().index()).collect()
}

pub fn count(pages: &Pages) -> u64 {
    pages.iter().map(|range| range.end - range.start).sum()
}

pub fn minus(from: &Pages, what: &Pages) -> Pages {
    let mut left = from.clone();
    what.iter().for_each(|range| left.remove(range.clone()));
    left
}

pub fn both(a: &Pages, b: &Pages) -> Pages {
    a.intersection(b).collect()
}

/// Builds a layout with all memory of the host free.
pub fn build(algorithm: &impl Algorithm, host: &Host, limits: &Limits) -> (Result<(), LayoutError>, Box<Layout>) {
    let mut frames = MapFrames::new(&host.memory);
    build_with(algorithm, host, limits, &mut frames)
}

pub fn build_with<F: Places>(
    algorithm: &impl Algorithm,
    host: &Host,
    limits: &Limits,
    frames: &mut F,
) -> (Result<(), LayoutError>, Box<Layout>) {
    let mut layout = Box::new(Layout::new());
    let result = layout::build_with(algorithm, &host.memory, &host.cmrs, limits, frames, &mut layout);
    (result, layout)
}

/// RAX of SYS.CONFIG for this layout, by the independent checker.
pub fn sys_config(layout: &Layout, cmrs: &[PageRange], limits: &Limits) -> Result<(), u64> {
    let table: Vec<_> = layout.tdmrs().iter().map(layout::Tdmr::to_tdmr_info).collect();
    let cmrs: Vec<_> = cmrs.iter().map(|cmr| (cmr.base().get(), cmr.bytes())).collect();
    let bitmap = limits.pamt_4k != Pamt4k::Entries;
    Module { cmrs: &cmrs, keyid_start: 52, entry_size: limits.pamt_entry_size.map(u64::from), bitmap }.check(&table)
}

/// Everything that must hold for a layout that `fit` returned.
pub fn check_fit(host: &Host, limits: &Limits, layout: &Layout) {
    assert_eq!(sys_config(layout, &host.cmrs, limits), Ok(()), "{:#?}", layout.tdmrs());
    assert!(!layout.tdmrs().is_empty() && layout.tdmrs().len() <= usize::from(limits.max_tdmrs));

    let memory = set(host.memory.iter().map(|part| part.range));
    let cmrs = set(host.cmrs.iter().copied());
    let convertible = both(&memory, &cmrs);
    let pamts = set(layout.pamt_ranges());
    let open = minus(
        &set(layout.tdmrs().iter().map(layout::Tdmr::range)),
        &set(layout.tdmrs().iter().flat_map(|tdmr| tdmr.reserved().to_vec())),
    );

    // PAMT lies in usable, convertible memory; no two overlap; its size is counted.
    assert_eq!(both(&pamts, &convertible), pamts);
    let pamt_pages: u64 = layout.tdmrs().iter().flat_map(|t| PageSize::ALL.map(|level| t.pamt(level).pages())).sum();
    assert_eq!(count(&pamts), pamt_pages);
    assert_eq!(layout.pamt_bytes(), pamt_pages * 4096);
    assert_eq!(layout.pamt_kb(), pamt_pages * 4);

    // Every usable page is open to TDX, PAMT, or given up by name with the right reason; nothing is
    // named twice.
    let named: Vec<_> = layout.given_up(&host.memory, &host.cmrs).collect();
    let given_up = set(named.iter().map(|part| part.range));
    assert_eq!(count(&given_up), named.iter().map(|part| part.range.pages()).sum::<u64>());
    assert_eq!(given_up, minus(&minus(&memory, &both(&open, &cmrs)), &pamts));
    let outside = set(named.iter().filter(|part| part.reason == GiveUpReason::OutsideCmrs).map(|part| part.range));
    assert_eq!(outside, minus(&memory, &cmrs));
    let bytes = (count(&given_up) - count(&outside)) * 4096;
    assert_eq!(layout.given_up_bytes(&host.memory, &host.cmrs), bytes);

    for tdmr in layout.tdmrs() {
        assert!(tdmr.reserved().len() <= usize::from(limits.max_reserved_per_tdmr));
        for pair in tdmr.reserved().windows(2) {
            assert!(pair[0].end() < pair[1].start(), "areas that touch are one: {pair:?}");
        }
    }
    check_notes(host, layout, &convertible, &cmrs);
}

/// The notes say what can be seen from the outside, no less and no more.
fn check_notes(host: &Host, layout: &Layout, convertible: &Pages, cmrs: &Pages) {
    let notes: Vec<_> = layout.notes(&host.memory, &host.cmrs).collect();
    let covered = set(layout.tdmrs().iter().map(layout::Tdmr::range));
    let used_gibs = convertible.iter().map(|r| r.start / GIB_PAGES * GIB_PAGES..r.end.next_multiple_of(GIB_PAGES));
    let merged = notes.iter().filter_map(|note| if let Note::Merged { gap, .. } = note { Some(*gap) } else { None });
    assert_eq!(set(merged), minus(&covered, &used_gibs.collect()));
    let joined = notes.iter().filter_map(|note| match note {
        Note::ReservedConvertible { range, .. } => Some(*range),
        _ => None,
    });
    let reserved = set(layout.tdmrs().iter().flat_map(|tdmr| tdmr.reserved().to_vec()));
    assert_eq!(set(joined), minus(&both(&reserved, cmrs), &set(host.memory.iter().map(|part| part.range))));
    let splits = notes.iter().filter(|note| matches!(note, Note::Split { .. })).count();
    assert_eq!(splits, layout.tdmrs().iter().filter(|tdmr| tdmr.border() != layout::Border::Memory).count());
    for tdmr in layout.tdmrs() {
        let home = |pamt: PageRange| host.memory.iter().find(|part| part.range.contains(pamt.start())).unwrap().node;
        let remote = PageSize::ALL.iter().any(|level| home(tdmr.pamt(*level)) != tdmr.node());
        let is_remote = |note: &Note| matches!(note, Note::RemotePamt { tdmr: at, .. } if *at == tdmr.range());
        assert_eq!(notes.iter().any(is_remote), remote);
    }
    assert!(!notes.iter().any(|note| matches!(note, Note::NotConvertible { .. })));
}

/// Usable memory inside CMRs, cut at node borders too: where a PAMT of one piece can lie.
pub fn convertible_pieces(host: &Host) -> Vec<PageRange> {
    let mut pieces = Vec::new();
    let cmrs = set(host.cmrs.iter().copied());
    let mut nodes: Vec<_> = host.memory.iter().map(|part| part.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    for node in nodes {
        let of_node = |part: &&NodeRange| part.node == node;
        let memory = set(host.memory.iter().filter(of_node).map(|part| part.range));
        pieces.extend(both(&memory, &cmrs).iter().map(|r| pages(r.start, r.end)));
    }
    pieces
}

pub fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(tdx_abi::Page::new(start), tdx_abi::Page::new(end))
}

/// A source that now and then says no, and sometimes gives pages nobody asked for.
pub struct Moody<'a> {
    pub inner: MapFrames<'a>,
    pub seed: u64,
    /// Passes everything on as it is.
    pub honest: bool,
}

impl Places for Moody<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange> {
        if self.honest {
            return self.inner.allocate(request);
        }
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let dice = self.seed >> 33;
        if dice % 8 < 3 {
            return None;
        }
        let wrong = (dice / 8).is_multiple_of(16);
        self.inner.allocate(FrameRequest { pages: request.pages + u64::from(wrong), ..request })
    }

    fn free(&mut self, range: PageRange) {
        self.inner.free(range);
    }
}

/// A source that knows no exact places: it hands out pages only where it may choose.
pub struct OnlyChoice<'a> {
    pub inner: MapFrames<'a>,
    pub requests: u64,
}

impl Places for OnlyChoice<'_> {
    fn allocate(&mut self, request: FrameRequest) -> Option<PageRange> {
        self.requests += 1;
        if request.within.pages() > request.pages { self.inner.allocate(request) } else { None }
    }

    fn free(&mut self, range: PageRange) {
        self.inner.free(range);
    }
}
