//! Memory as a picture: all of it to scale, and under it the part where private memory lies, enlarged. A piece that would be thinner
//! than a line is drawn as a line.

use core::fmt::{self, Write};

use super::text::Text;
use crate::report::MapPiece;
use crate::size;

/// Units of the drawing.
const WIDTH: f64 = 1000.0;
/// Nothing is thinner.
const THINNEST: f64 = 1.5;

/// Kinds in the order in which they are drawn, and their style.
const KINDS: [(&str, &str); 11] = [
    ("memory", "k-memory"),
    ("TDMR", "k-tdmr"),
    ("PAMT_4K", "k-pamt"),
    ("PAMT_2M", "k-pamt"),
    ("PAMT_1G", "k-pamt"),
    ("TDR", "k-tdr"),
    ("TDCX", "k-control"),
    ("TDVPR", "k-control"),
    ("SEPT", "k-sept"),
    ("guest page", "k-guest"),
    ("PAMT page pair", "k-pair"),
];

fn is_private(piece: &MapPiece) -> bool {
    !matches!(piece.kind, "memory" | "TDMR")
}

/// First and last byte, as numbers to draw with.
fn ends<'a>(pieces: impl Iterator<Item = &'a MapPiece>) -> Option<(u64, u64)> {
    pieces.fold(None, |ends, piece| {
        let (base, end) = (piece.span.base.0.get(), piece.span.end.0.get());
        Some(ends.map_or((base, end), |(low, high): (u64, u64)| (low.min(base), high.max(end))))
    })
}

pub(super) fn draw(out: &mut String, name: &str, pieces: &[MapPiece]) -> fmt::Result {
    let Some(all) = ends(pieces.iter()) else { return Ok(()) };
    strip(out, &format!("Memory of {name}, to scale"), pieces, all)?;
    // Private pages lie close together: enlarged, from the first to the last that is not a whole PAMT_4K away.
    let private = ends(pieces.iter().filter(|piece| is_private(piece) && piece.kind != "PAMT_4K"));
    if let Some(part) = private.filter(|part| part.1 - part.0 < (all.1 - all.0) / 4) {
        strip(out, "The same, enlarged where TDs have their pages", pieces, part)?;
    }
    writeln!(out, "<ul class=\"legend\">")?;
    for (kind, style) in KINDS {
        let bytes: u64 = pieces.iter().filter(|piece| piece.kind == kind).map(|piece| piece.span.size).sum();
        if bytes > 0 {
            writeln!(out, "<li><i class=\"{style}\"></i>{} {}</li>", Text(kind), size::human(bytes))?;
        }
    }
    writeln!(out, "</ul>")
}

fn strip(out: &mut String, title: &str, pieces: &[MapPiece], (low, high): (u64, u64)) -> fmt::Result {
    let scale = WIDTH / (high - low).max(1) as f64;
    writeln!(
        out,
        "<svg viewBox=\"0 0 1000 64\" role=\"img\" preserveAspectRatio=\"none\">\n<title>{}: [{low:#x}, {high:#x})</title>",
        Text(title)
    )?;
    // Wide things first, so that what is small is drawn over them.
    for (kind, style) in KINDS {
        for piece in pieces.iter().filter(|piece| piece.kind == kind) {
            let (base, end) = (piece.span.base.0.get().max(low), piece.span.end.0.get().min(high));
            if base >= end {
                continue;
            }
            let x = (base - low) as f64 * scale;
            let width = ((end - base) as f64 * scale).max(THINNEST).min(WIDTH - x.min(WIDTH - THINNEST));
            let (y, height) = match kind {
                "memory" => (2, 60),
                "TDMR" => (10, 44),
                _ => (18, 28),
            };
            let x = x.min(WIDTH - THINNEST);
            writeln!(
                out,
                "<rect class=\"{style}\" x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{height}\"><title>{} {}</title></rect>",
                Text(piece.kind),
                piece.span
            )?;
        }
    }
    writeln!(out, "</svg>\n<p class=\"soft mono\">[{low:#x}, {high:#x})</p>")
}
