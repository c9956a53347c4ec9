//! Memory as a picture, twice: all of it to scale, where a page is no more than a line, and below
//! that what is private in the order of addresses, wide enough to be seen and no longer to scale.
//! Under both, every range in a table.

use core::fmt::{self, Write};

use super::text::Text;
use crate::report::MapPiece;
use tdx_operator::size;

/// How a kind is drawn: its style, and the letter that tells it from others without color.
struct Look {
    style: &'static str,
    letter: &'static str,
}

/// A block narrower than this has no letter in it, in percent.
const LETTERED: f64 = 1.9;

fn look(kind: &str) -> Look {
    let (style, letter) = match kind {
        "memory" => ("k-memory", ""),
        "TDMR" => ("k-tdmr", ""),
        "PAMT_4K" => ("k-pamt", "4"),
        "PAMT_2M" => ("k-pamt", "2"),
        "PAMT_1G" => ("k-pamt", "1"),
        "TDR" => ("k-tdr", "R"),
        "TDCX" => ("k-control", "C"),
        "TDVPR" => ("k-vcpu", "V"),
        "SEPT" => ("k-sept", "S"),
        "guest page" => ("k-guest", "G"),
        "PAMT page pair" => ("k-pair", "P"),
        _ => ("k-pair", "?"),
    };
    Look { style, letter }
}

fn base(piece: &MapPiece) -> u64 {
    piece.span.base.0.get()
}

fn end(piece: &MapPiece) -> u64 {
    piece.span.end.0.get()
}

pub(super) fn draw(out: &mut String, pieces: &[MapPiece]) -> fmt::Result {
    let low = pieces.iter().map(base).min();
    let high = pieces.iter().map(end).max();
    let (Some(low), Some(high)) = (low, high) else { return Ok(()) };
    let mut private: Vec<&MapPiece> = pieces.iter().filter(|piece| !matches!(piece.kind, "memory" | "TDMR")).collect();
    private.sort_by_key(|piece| base(piece));
    let tdmrs: Vec<&MapPiece> = pieces.iter().filter(|piece| piece.kind == "TDMR").collect();
    writeln!(out, "<h4>Memory</h4>")?;
    to_scale(out, pieces, &tdmrs, low, high)?;
    in_order(out, &private, &tdmrs)?;
    legend(out, pieces)?;
    table(out, pieces)
}

fn to_scale(out: &mut String, pieces: &[MapPiece], tdmrs: &[&MapPiece], low: u64, high: u64) -> fmt::Result {
    let scale = 100.0 / (high - low).max(1) as f64;
    let at = |address: u64| (address - low) as f64 * scale;
    writeln!(out, "<svg class=\"memory\" role=\"img\">\n<title>Memory to scale, [{low:#x}, {high:#x})</title>")?;
    // What is private lies in a TDMR, and that in memory; the report has them in this order.
    for piece in pieces {
        let (y, height) = match piece.kind {
            "memory" => (0, 34),
            "TDMR" => (4, 26),
            _ => (10, 14),
        };
        writeln!(
            out,
            "<rect class=\"{}\" x=\"{:.3}%\" y=\"{y}\" width=\"{:.3}%\" height=\"{height}\"><title>{} {}</title></rect>",
            look(piece.kind).style,
            at(base(piece)),
            piece.span.size as f64 * scale,
            Text(piece.kind),
            piece.span
        )?;
    }
    for (number, tdmr) in tdmrs.iter().enumerate().filter(|(_, tdmr)| tdmr.span.size as f64 * scale > 20.0) {
        let middle = at(base(tdmr)) + tdmr.span.size as f64 * scale / 2.0;
        writeln!(out, "<text x=\"{middle:.2}%\" y=\"21\">TDMR {number}</text>")?;
    }
    writeln!(
        out,
        "</svg>\n<p class=\"ends\"><span class=\"mono\">{low:#x}</span> <span>to scale</span> <span class=\"mono\">{high:#x}</span></p>"
    )
}

/// Pages count for one, and every doubling of size for a half: a PAMT of 4 MiB is six pages wide.
fn weight(piece: &MapPiece) -> f64 {
    1.0 + ((piece.span.size / 4096).max(1) as f64).log2() / 2.0
}

/// The room that is left where addresses are left out.
const GAP: f64 = 0.75;

fn in_order(out: &mut String, private: &[&MapPiece], tdmrs: &[&MapPiece]) -> fmt::Result {
    let (Some(first), Some(last)) = (private.first(), private.last()) else { return Ok(()) };
    let mut x = Vec::with_capacity(private.len());
    let mut total = 0.0;
    let mut before = base(first);
    for piece in private {
        if base(piece) > before {
            total += GAP;
        }
        x.push(total);
        total += weight(piece);
        before = end(piece);
    }
    let scale = 100.0 / total;
    writeln!(
        out,
        "<svg class=\"pages\" role=\"img\">\n<title>Private memory in the order of addresses, not to scale; where addresses are left out \
         there is a gap</title>"
    )?;
    for (piece, x) in private.iter().zip(&x) {
        let Look { style, letter } = look(piece.kind);
        let (left, width) = (x * scale, weight(piece) * scale);
        writeln!(
            out,
            "<rect class=\"{style}\" x=\"{left:.2}%\" y=\"0\" width=\"{width:.2}%\" height=\"26\"><title>{} {}, {}</title></rect>",
            Text(piece.kind),
            piece.span,
            size::human(piece.span.size)
        )?;
        if width >= LETTERED {
            writeln!(out, "<text x=\"{:.2}%\" y=\"17\">{letter}</text>", left + width / 2.0)?;
        }
    }
    for (number, tdmr) in tdmrs.iter().enumerate() {
        let inside = |piece: &&MapPiece| base(piece) >= base(tdmr) && end(piece) <= end(tdmr);
        let mut of = private.iter().zip(&x).filter(|(piece, _)| inside(piece));
        let Some((piece, left)) = of.next() else { continue };
        let (piece, right) = of.next_back().unwrap_or((piece, left));
        let (left, right) = (left * scale, (right + weight(piece)) * scale);
        writeln!(
            out,
            "<rect class=\"bracket\" x=\"{left:.2}%\" y=\"30\" width=\"{:.2}%\" height=\"2\"/>\n\
             <text class=\"under\" x=\"{:.2}%\" y=\"44\">TDMR {number}</text>",
            right - left,
            f64::midpoint(left, right)
        )?;
    }
    writeln!(
        out,
        "</svg>\n<p class=\"ends\"><span class=\"mono\">{:#x}</span> <span>in order, not to scale</span> <span class=\"mono\">{:#x}</span></p>",
        base(first),
        end(last)
    )
}

/// The kinds that there are, each once, with all of its bytes.
fn legend(out: &mut String, pieces: &[MapPiece]) -> fmt::Result {
    writeln!(out, "<ul class=\"legend\">")?;
    for (index, piece) in pieces.iter().enumerate() {
        let alike = |other: &&MapPiece| other.kind == piece.kind;
        if pieces.iter().take(index).any(|other| alike(&other)) {
            continue;
        }
        let bytes: u64 = pieces.iter().filter(alike).map(|piece| piece.span.size).sum();
        let Look { style, letter } = look(piece.kind);
        writeln!(
            out,
            "<li><i class=\"{style}\" aria-hidden=\"true\">{letter}</i>{} <span class=\"soft\">{}</span></li>",
            Text(piece.kind),
            size::human(bytes)
        )?;
    }
    writeln!(out, "</ul>")
}

fn table(out: &mut String, pieces: &[MapPiece]) -> fmt::Result {
    writeln!(
        out,
        "<details class=\"more\">\n<summary>Every range</summary>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-label=\"Every range\">\n<table>\n<thead><tr><th scope=\"col\">kind</th><th scope=\"col\">range</th>\
         <th scope=\"col\" class=\"n\">size</th></tr></thead>\n<tbody>"
    )?;
    for piece in pieces {
        writeln!(
            out,
            "<tr><td class=\"name\">{}</td><td class=\"name mono\">{}</td><td class=\"n\">{}</td></tr>",
            Text(piece.kind),
            piece.span,
            size::human(piece.span.size)
        )?;
    }
    writeln!(out, "</tbody>\n</table>\n</div>\n</details>")
}
