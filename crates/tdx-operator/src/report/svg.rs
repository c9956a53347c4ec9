//! SVG memory map of a plan: an overview of all addresses, then a row for each TDMR. One file
//! without script, for light and dark pages.

use std::fmt::Write;

use super::{PlanReport, Span, TdmrReport};
use crate::{size, words};

const WIDTH: f64 = 1160.0;
const LEFT: f64 = 20.0;
const LABEL: f64 = 250.0;
const ROW: f64 = 34.0;
const BAR: f64 = 20.0;
/// Rows at most; a host with more TDMRs gets the rest in words.
const ROWS: usize = 64;

const STYLE: &str = "\
svg{font:13px system-ui,sans-serif;background:#fff}\
text{fill:#1a1a1a}.dim{fill:#666}\
.cmr{fill:#dfe7ef}.memory{fill:#8fb3d9}.tdmr{fill:none;stroke:#1a1a1a;stroke-width:1}\
.reserved{fill:#c9c9c9}.pamt{fill:#7a4fb5}.given{fill:#d1495b}\
@media(prefers-color-scheme:dark){svg{background:#161616}text{fill:#eee}.dim{fill:#aaa}\
.cmr{fill:#26333f}.memory{fill:#4775a3}.tdmr{stroke:#eee}.reserved{fill:#5a5a5a}.pamt{fill:#b08ae6}.given{fill:#ef6f7f}}";

/// Text that XML takes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A stretch of addresses drawn over a stretch of the picture.
struct Scale {
    base: u64,
    bytes: f64,
    x: f64,
    width: f64,
}

impl Scale {
    fn x(&self, address: u64) -> f64 {
        self.x + (address.saturating_sub(self.base) as f64 / self.bytes).min(1.0) * self.width
    }

    /// A bar for the part of `[start, end)` that is in sight, one pixel wide at least. Its title is
    /// shown where the mouse is.
    fn bar(&self, out: &mut String, class: &str, y: f64, height: f64, range: (u64, u64), title: &str) {
        let end_of_sight = self.base as f64 + self.bytes;
        if range.1 <= self.base || range.0 as f64 >= end_of_sight {
            return;
        }
        let (from, to) = (self.x(range.0), self.x(range.1));
        // Writing to a string never fails.
        let _ = writeln!(
            out,
            r#"<rect class="{class}" x="{from:.2}" y="{y:.1}" width="{:.2}" height="{height:.1}"><title>{}</title></rect>"#,
            (to - from).max(1.0),
            escape(title)
        );
    }
}

fn text(out: &mut String, class: &str, x: f64, y: f64, content: &str) {
    let _ = writeln!(out, r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{}</text>"#, escape(content));
}

fn ends(span: &Span) -> (u64, u64) {
    (span.base.0.get(), span.end.0.get())
}

fn titled(what: &str, span: &Span) -> String {
    format!("{what} {span}, {}", size::human(span.size))
}

fn pamts(tdmr: &TdmrReport) -> [(&'static str, &Span); 3] {
    [("PAMT_4K", &tdmr.pamt.small), ("PAMT_2M", &tdmr.pamt.large), ("PAMT_1G", &tdmr.pamt.huge)]
}

/// Draws the map.
pub fn memory_map(report: &PlanReport) -> String {
    let tdmrs = &report.layout.tdmrs;
    let rows = tdmrs.len().min(ROWS);
    let height = 150.0 + ROW * rows as f64 + 40.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1200 {height:.0}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n",
        escape(&format!("TDX memory of {}", report.host.name))
    );
    let pamt = report.layout.pamt_kb.map_or("no layout".to_owned(), |kb| format!("{kb} KB for PAMT"));
    let given_up = size::human(report.layout.given_up_bytes);
    text(
        &mut out,
        "head",
        LEFT,
        24.0,
        &format!(
            "{}: {} usable, {} (`{}`), {pamt}, {given_up} given up",
            report.host.name,
            size::human(report.host.memory_bytes),
            words::count(tdmrs.len() as u64, "TDMR"),
            report.layout.layout
        ),
    );
    legend(&mut out, 46.0);
    overview(&mut out, report, 66.0);
    let mut y = 150.0;
    for tdmr in &tdmrs[..rows] {
        row(&mut out, report, tdmr, y);
        y += ROW;
    }
    if tdmrs.len() > rows {
        text(&mut out, "dim", LEFT, y + 15.0, &format!("and {} more TDMRs", tdmrs.len() - rows));
    } else if let Some(error) = &report.layout.error {
        text(&mut out, "dim", LEFT, y + 15.0, error);
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String, y: f64) {
    let entries = [
        ("cmr", "CMR"),
        ("memory", "usable memory in a TDMR"),
        ("reserved", "reserved area"),
        ("pamt", "PAMT"),
        ("given", "given up"),
    ];
    let mut x = LEFT;
    for (class, name) in entries {
        let _ = writeln!(out, r#"<rect class="{class}" x="{x:.1}" y="{:.1}" width="12" height="12"/>"#, y - 10.0);
        text(out, "dim", x + 17.0, y, name);
        x += 40.0 + 7.5 * name.len() as f64;
    }
}

/// All addresses in one bar.
fn overview(out: &mut String, report: &PlanReport, y: f64) {
    let spans = report.host.cmrs.iter().chain(report.layout.tdmrs.iter().map(|tdmr| &tdmr.range));
    let end = spans.map(|span| span.end.0.get()).max().unwrap_or(1);
    let scale = Scale { base: 0, bytes: end.max(1) as f64, x: LEFT, width: WIDTH };
    for cmr in &report.host.cmrs {
        scale.bar(out, "cmr", y, 36.0, ends(cmr), &titled("CMR", cmr));
    }
    for tdmr in &report.layout.tdmrs {
        let title = titled(&format!("TDMR {}", tdmr.index), &tdmr.range);
        scale.bar(out, "memory", y + 8.0, BAR, ends(&tdmr.range), &title);
        for reserved in &tdmr.reserved {
            scale.bar(out, "reserved", y + 8.0, BAR, ends(reserved), &titled("reserved", reserved));
        }
        for (name, pamt) in pamts(tdmr) {
            scale.bar(out, "pamt", y + 8.0, BAR, ends(pamt), &titled(&format!("{name} of TDMR {}", tdmr.index), pamt));
        }
        scale.bar(out, "tdmr", y + 8.0, BAR, ends(&tdmr.range), &title);
    }
    for given in &report.layout.given_up {
        scale.bar(
            out,
            "given",
            y,
            36.0,
            ends(&given.range),
            &titled(&format!("given up ({})", given.reason), &given.range),
        );
    }
    text(out, "dim", LEFT, y + 52.0, "0");
    let last = size::human(end);
    text(out, "dim", LEFT + WIDTH - 8.0 * last.len() as f64, y + 52.0, &last);
}

/// One TDMR, its whole range over the width.
fn row(out: &mut String, report: &PlanReport, tdmr: &TdmrReport, y: f64) {
    let name = format!("{} {} node {}", tdmr.index, tdmr.range, tdmr.node);
    text(out, "head", LEFT, y + 9.0, &name);
    let facts = format!("{}, {} reserved", size::human(tdmr.range.size), tdmr.reserved_count);
    text(out, "dim", LEFT, y + 22.0, &facts);
    let scale = Scale {
        base: tdmr.range.base.0.get(),
        bytes: tdmr.range.size.max(1) as f64,
        x: LEFT + LABEL + 60.0,
        width: WIDTH - LABEL - 60.0,
    };
    scale.bar(out, "memory", y, BAR, ends(&tdmr.range), &titled("TDMR", &tdmr.range));
    for reserved in &tdmr.reserved {
        scale.bar(out, "reserved", y, BAR, ends(reserved), &titled("reserved", reserved));
    }
    for owner in &report.layout.tdmrs {
        for (kind, pamt) in pamts(owner) {
            scale.bar(out, "pamt", y, BAR, ends(pamt), &titled(&format!("{kind} of TDMR {}", owner.index), pamt));
        }
    }
    for given in &report.layout.given_up {
        scale.bar(
            out,
            "given",
            y,
            BAR,
            ends(&given.range),
            &titled(&format!("given up ({})", given.reason), &given.range),
        );
    }
    scale.bar(out, "tdmr", y, BAR, ends(&tdmr.range), &titled("TDMR", &tdmr.range));
}
