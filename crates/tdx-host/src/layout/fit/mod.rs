//! The default algorithm: cover all usable memory inside CMRs, place the PAMTs, reserve what must
//! be reserved; where a limit stands in the way, try what costs nothing first and give up memory
//! last.
//!
//! In order: (1) [`cover`] makes the TDMRs; (2) [`place`] finds room for the PAMTs; if there is
//! none, the TDMR is cut in two, since half of it needs half the contiguous memory, and if that
//! makes too many TDMRs, the one with the fewest usable bytes goes; (3) [`areas`] lists what each
//! TDMR reserves. It fails only if not a single GiB can be had.

mod areas;
mod cover;
mod place;

use tdx_abi::{MAX_RESERVED_AREAS, PAGE_SIZE, Page, PageRange, PageSize};

use super::host::{GIB_PAGES, Host, gaps};
use super::span::Span;
use super::{Border, FrameRequest, GiveUpReason, Layout, LayoutError, Limits, Places, Tdmr};
use areas::areas;
use cover::Cover;
use place::Placer;

pub(super) fn build<F: Places + ?Sized>(
    host: &Host<'_>,
    limits: &Limits,
    frames: &mut F,
    out: &mut Layout,
) -> Result<(), LayoutError> {
    attempt(host, limits, frames, out, 0)?;
    let lost = given_up_pages(host, out);
    if lost == 0 {
        return Ok(());
    }
    // TDMRs that keep one reserved area free for PAMTs may do better.
    out.discard(frames);
    if attempt(host, limits, frames, out, 1).is_ok() && given_up_pages(host, out) < lost {
        return Ok(());
    }
    out.discard(frames);
    attempt(host, limits, frames, out, 0)
}

/// Usable pages that the module's limits or the lack of PAMT memory cost.
fn given_up_pages(host: &Host<'_>, out: &Layout) -> u64 {
    if out.dropped.is_empty() && out.spans.iter().all(|span| span.given_up == 0) {
        return 0;
    }
    let lost = out.given_up(host.memory, host.cmrs).filter(|lost| lost.reason != GiveUpReason::OutsideCmrs);
    lost.map(|lost| lost.range.pages()).sum()
}

fn attempt<F: Places + ?Sized>(
    host: &Host<'_>,
    limits: &Limits,
    frames: &mut F,
    out: &mut Layout,
    spare: usize,
) -> Result<(), LayoutError> {
    let sizes = host.usable(FrameRequest::ANYWHERE).map(|(range, _)| range.pages());
    let largest = sizes.max().ok_or(LayoutError::NoMemory)?;
    let Layout { spans, dropped, .. } = &mut *out;
    Cover { host, limits, spare, largest, spans, dropped }.run();
    if out.spans.is_empty() {
        return Err(nothing_covered(host, limits));
    }
    let mut hopeless = u64::MAX;
    loop {
        for span in &out.spans {
            let _ = out.tdmrs.try_push(Tdmr::new(span.range, span.node, span.border));
        }
        let placed = Placer { host, limits, frames: &mut *frames, out: &mut *out, hopeless: &mut hopeless }.run();
        match placed {
            Ok(()) => return reserve(host, limits, out),
            Err(index) => {
                out.release_pamts(frames);
                for span in &mut out.spans {
                    *span = Span::new(host, limits, span.range, span.border).unwrap_or(*span);
                }
                relieve(host, limits, out, index)?;
            }
        }
    }
}

/// Why not one span could be made: the module allows no TDMR, or no reserved area where every GiB
/// needs one.
fn nothing_covered(host: &Host<'_>, limits: &Limits) -> LayoutError {
    let first = host.usable(FrameRequest::ANYWHERE).next().map_or(0, |(range, _)| range.start().index());
    let start = first / GIB_PAGES * GIB_PAGES;
    let tdmr = PageRange::new(Page::new(start), Page::new(start + GIB_PAGES));
    if limits.tdmrs() == 0 {
        return LayoutError::TdmrsExhausted { tdmr, needed: 1, allowed: 0 };
    }
    let needed = areas(host, tdmr, core::iter::empty(), MAX_RESERVED_AREAS).map_or(1, |areas| areas.natural);
    LayoutError::ReservedAreasExhausted { tdmr, needed, allowed: limits.reserved_areas() as u64 }
}

/// Makes the PAMTs smaller or fewer after that of span `index` found no place.
fn relieve(host: &Host<'_>, limits: &Limits, out: &mut Layout, index: usize) -> Result<(), LayoutError> {
    let Some(span) = out.spans.get(index).copied() else { return Err(LayoutError::NoMemory) };
    if let Some((left, right)) = halves(host, limits, &span) {
        // There is room: a list of spans that has been reduced has one place more than it may fill.
        let _ = out.spans.try_insert(index + 1, right);
        if let Some(span) = out.spans.get_mut(index) {
            *span = left;
        }
        if out.spans.len() <= limits.tdmrs() {
            return Ok(());
        }
    } else if out.spans.len() == 1 {
        return Err(no_place(limits, &span));
    }
    let fewest = out.spans.iter().enumerate().min_by_key(|(_, span)| span.usable).map(|(index, _)| index);
    if let Some(dropped) = fewest.and_then(|index| out.spans.pop_at(index)) {
        out.dropped.add(dropped.range, GiveUpReason::PamtMemory);
    }
    Ok(())
}

/// Why the last GiB that was tried has no PAMT.
fn no_place(limits: &Limits, span: &Span) -> LayoutError {
    let (tdmr, node) = (span.range, span.node);
    if limits.reserved_areas() == 0 {
        return LayoutError::ReservedAreasExhausted { tdmr, needed: 1, allowed: 0 };
    }
    let pages: u64 = PageSize::ALL.iter().map(|level| limits.pamt_pages(tdmr, *level)).sum();
    LayoutError::NoPamtMemory { tdmr, bytes: pages * PAGE_SIZE, node }
}

/// A span cut at its largest gap, which is then in no TDMR any more, or in the middle; `None` if it
/// is a single GiB.
fn halves(host: &Host<'_>, limits: &Limits, span: &Span) -> Option<(Span, Span)> {
    let (range, gibs) = (span.range, span.gibs());
    if gibs < 2 {
        return None;
    }
    let gap = gaps(host, range).max_by_key(|gap| gap.pages());
    let middle = Page::new(range.start().index() + gibs / 2 * GIB_PAGES);
    let (left_end, right_start, border) = match gap {
        Some(gap) => (gap.start(), gap.end(), Border::Memory),
        None => (middle, middle, Border::PamtMemory),
    };
    let left = Span::new(host, limits, PageRange::new(range.start(), left_end), span.border)?;
    let right = Span::new(host, limits, PageRange::new(right_start, range.end()), border)?;
    Some((left, right))
}

/// Sets the reserved areas of every TDMR, now that all PAMTs have their place.
fn reserve(host: &Host<'_>, limits: &Limits, out: &mut Layout) -> Result<(), LayoutError> {
    let allowed = limits.reserved_areas();
    let Layout { tdmrs, pamts, .. } = &mut *out;
    for tdmr in tdmrs {
        let exhausted = LayoutError::ReservedAreasExhausted { tdmr: tdmr.range, needed: 1, allowed: allowed as u64 };
        tdmr.reserved = areas(host, tdmr.range, pamts.iter().copied(), allowed).ok_or(exhausted)?.list;
    }
    Ok(())
}
