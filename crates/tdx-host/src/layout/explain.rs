//! A layout explains itself: what it gave up and why, and where it is not what one would expect.
//! Computed from the result and the inputs, so it cannot disagree with them; data, not text.

use tdx_abi::{PageRange, PageSize, intersect, subtract};

use super::{
    Border, GiveUpReason, GivenUp, Layout, Tdmr,
    given_up::Dropped,
    host::{Host, gaps},
};
use crate::platform::{NodeId, NodeRange};

/// Something about a layout that a person may want to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Note {
    /// This TDMR and the one in front of it could have been one.
    Split {
        /// The TDMR.
        tdmr: PageRange,
        /// Why it starts where it does; never [`Border::Memory`].
        border: Border,
    },
    /// The TDMR spans whole GiB in which there is no usable memory, because there would be too many
    /// TDMRs otherwise.
    Merged {
        /// The TDMR.
        tdmr: PageRange,
        /// The GiB without usable memory.
        gap: PageRange,
        /// Bytes of PAMT for 4 KiB pages that the gap costs.
        pamt_bytes: u64,
    },
    /// Convertible memory is reserved that could not be used anyway: the memory map has no memory
    /// there.
    ReservedConvertible {
        /// The TDMR.
        tdmr: PageRange,
        /// What is reserved.
        range: PageRange,
    },
    /// A part of the TDMR is neither reserved nor convertible: SYS.CONFIG will refuse it
    /// (TDX_TDMR_OUTSIDE_CMRS).
    NotConvertible {
        /// The TDMR.
        tdmr: PageRange,
        /// The part.
        range: PageRange,
    },
    /// The PAMT, or a part of it, is on another node than the TDMR's memory.
    RemotePamt {
        /// The TDMR.
        tdmr: PageRange,
        /// Where the PAMT is.
        pamt: PageRange,
        /// The node of that memory.
        node: NodeId,
    },
    /// There was no room for the PAMT in one piece; its three levels lie apart.
    PamtInPieces {
        /// The TDMR.
        tdmr: PageRange,
    },
    /// Usable memory that TDX does not have.
    GivenUp(GivenUp),
}

impl Layout {
    /// Each usable page that TDX does not have, and why. `memory` and `cmrs` are those the layout
    /// was built from.
    pub fn given_up<'a>(
        &'a self,
        memory: &'a [NodeRange],
        cmrs: &'a [PageRange],
    ) -> impl Iterator<Item = GivenUp> + use<'a> {
        let pieces = memory.iter().flat_map(move |part| Pieces { layout: self, cmrs, rest: part.range });
        JoinGivenUp { pieces, next: None }
    }

    /// Usable bytes that TDX could have by the CMRs and does not have: [`Layout::given_up`] without
    /// what lies in no CMR.
    pub fn given_up_bytes(&self, memory: &[NodeRange], cmrs: &[PageRange]) -> u64 {
        let given_up = self.given_up(memory, cmrs).filter(|part| part.reason != GiveUpReason::OutsideCmrs);
        given_up.map(|part| part.range.bytes()).sum()
    }

    /// What is worth knowing, TDMR by TDMR, then what was given up.
    pub fn notes<'a>(&'a self, memory: &'a [NodeRange], cmrs: &'a [PageRange]) -> impl Iterator<Item = Note> + use<'a> {
        let host = Host { memory, cmrs };
        let notes = self.tdmrs.iter().flat_map(move |tdmr| self.tdmr_notes(host, tdmr));
        notes.chain(self.given_up(memory, cmrs).map(Note::GivenUp))
    }

    fn tdmr_notes<'a>(&'a self, host: Host<'a>, tdmr: &'a Tdmr) -> impl Iterator<Item = Note> + use<'a> {
        let range = tdmr.range;
        let memory = host.memory.iter().map(|part| part.range);
        let cmrs = host.cmrs.iter().copied();
        let reserved = tdmr.reserved.iter().copied();
        let bytes_per_page = tdmr.pamt(PageSize::Size4K).bytes() / range.pages().max(1);

        let split = (tdmr.border != Border::Memory).then_some(Note::Split { tdmr: range, border: tdmr.border });
        let merged = gaps(&host, range).map(move |gap| Note::Merged {
            tdmr: range,
            gap,
            pamt_bytes: gap.pages() * bytes_per_page,
        });
        let pamts = self.pamts.iter().copied();
        let convertible = subtract(subtract(intersect(reserved.clone(), cmrs.clone()), memory), pamts)
            .map(move |part| Note::ReservedConvertible { tdmr: range, range: part });
        let outside = subtract(subtract([range], reserved), cmrs)
            .map(move |part| Note::NotConvertible { tdmr: range, range: part });
        let remote = tdmr.chunks().filter_map(move |pamt| {
            let place = host.memory.iter().find(|part| part.range.contains(pamt.start()))?;
            (place.node != tdmr.node).then_some(Note::RemotePamt { tdmr: range, pamt, node: place.node })
        });
        let pieces = (!tdmr.one_chunk).then_some(Note::PamtInPieces { tdmr: range });
        split.into_iter().chain(merged).chain(convertible).chain(outside).chain(remote).chain(pieces)
    }

    /// The longest part at the start of `rest` of which one thing is true: why it is given up, or
    /// that it is not.
    fn fate(&self, cmrs: &[PageRange], rest: PageRange) -> (PageRange, Option<GiveUpReason>) {
        let (part, pamt) = cut(rest, self.pamts.iter().copied());
        if pamt {
            return (part, None);
        }
        let (part, convertible) = cut(part, cmrs.iter().copied());
        if !convertible {
            return (part, Some(GiveUpReason::OutsideCmrs));
        }
        let (part, covered) = cut(part, self.tdmrs.iter().map(Tdmr::range));
        if !covered {
            return self.dropped.reason(part);
        }
        let (part, reserved) = cut(part, self.tdmrs.iter().flat_map(|tdmr| tdmr.reserved.iter().copied()));
        (part, reserved.then_some(GiveUpReason::ReservedAreas))
    }
}

/// The longest part at the start of `rest` that lies wholly in one of the ascending ranges, or
/// wholly outside them all.
fn cut(rest: PageRange, mut ranges: impl Iterator<Item = PageRange>) -> (PageRange, bool) {
    match ranges.find(|range| range.end() > rest.start() && !range.is_empty()) {
        None => (rest, false),
        Some(range) if range.contains(rest.start()) => (rest.intersection(range), true),
        Some(range) => (PageRange::new(rest.start(), rest.end().min(range.start())), false),
    }
}

/// Given-up parts of one range.
struct Pieces<'a> {
    layout: &'a Layout,
    cmrs: &'a [PageRange],
    rest: PageRange,
}

impl Iterator for Pieces<'_> {
    type Item = GivenUp;

    fn next(&mut self) -> Option<GivenUp> {
        while !self.rest.is_empty() {
            let (range, reason) = self.layout.fate(self.cmrs, self.rest);
            self.rest = PageRange::new(range.end(), self.rest.end());
            if let Some(reason) = reason {
                return Some(GivenUp { range, reason });
            }
        }
        None
    }
}

/// Joins neighbors with the same reason.
struct JoinGivenUp<I> {
    pieces: I,
    next: Option<GivenUp>,
}

impl<I: Iterator<Item = GivenUp>> Iterator for JoinGivenUp<I> {
    type Item = GivenUp;

    fn next(&mut self) -> Option<GivenUp> {
        let mut current = self.next.take();
        for piece in self.pieces.by_ref() {
            match &mut current {
                None => current = Some(piece),
                Some(last) if last.range.end() == piece.range.start() && last.reason == piece.reason => {
                    last.range = PageRange::new(last.range.start(), piece.range.end());
                }
                Some(_) => {
                    self.next = Some(piece);
                    break;
                }
            }
        }
        current
    }
}

impl Dropped {
    /// The longest part at the start of `rest` that was dropped for one reason. Only Linux leaves
    /// memory out without a word.
    fn reason(&self, rest: PageRange) -> (PageRange, Option<GiveUpReason>) {
        let (part, _) = cut(rest, self.list.iter().map(|part| part.range));
        let found = self.list.iter().find(|dropped| dropped.range.contains(part.start()));
        (part, Some(found.map_or(GiveUpReason::Tdmrs, |dropped| dropped.reason)))
    }
}
