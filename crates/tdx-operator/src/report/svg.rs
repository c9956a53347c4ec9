//! SVG memory map of a plan: an overview of all addresses, the TDMR at which Linux fails, then a
//! row for each TDMR. One file without script, for light and dark pages, wide and narrow: places
//! are in percent of the width, texts keep their size.

use std::fmt::Write;

use super::{PlanReport, Span, TdmrReport};
use crate::{size, words};

/// Width that a page without one of its own gives the picture.
const WIDTH: u32 = 1160;
/// Pixels of the widest row of a narrow picture, and of a wide one; a label is shown only where it
/// has room, so that none covers another.
const NARROW: f64 = 360.0;
const WIDE: f64 = 760.0;
/// Pixels of a character of a label, at most.
const CHARACTER: f64 = 7.5;
const ROW: f64 = 62.0;
const BAR: f64 = 20.0;
/// Rows at most; a host with more TDMRs gets the rest in words.
const ROWS: usize = 64;
/// Characters of a line of text that fit a phone.
const LINE: usize = 52;

const STYLE: &str = "\
svg{font:12px system-ui,sans-serif;background:#fff}.root{width:100%;max-width:1160px;display:block;margin:0 auto}\
text{fill:#1a1a1a}.dim{fill:#5c5c5c}.head{font-weight:600}.bad{fill:#a8231b;font-weight:600}\
.in{text-anchor:middle;fill:#10202e;pointer-events:none}.end{text-anchor:end}\
.cmr{fill:#dfe7ef}.memory{fill:#8fb3d9}.tdmr{fill:none;stroke:#1a1a1a;stroke-width:1}\
.reserved{fill:#c9c9c9}.pamt{fill:#7a4fb5}.given,.hole{fill:#e0707c}.wide{display:none}\
@media(min-width:800px){.wide{display:inline}}\
@media(prefers-color-scheme:dark){svg{background:#161616}text{fill:#eee}.dim{fill:#aaa}.bad{fill:#ff8f84}.in{fill:#fff}\
.cmr{fill:#33475a}.memory{fill:#3f6d9b}.tdmr{stroke:#eee}.reserved{fill:#5a5a5a}.pamt{fill:#b08ae6}.given,.hole{fill:#c04a58}}";

/// Text that XML takes.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A stretch of addresses drawn over the whole width.
struct Scale {
    base: u64,
    bytes: f64,
}

impl Scale {
    fn of(base: u64, bytes: u64) -> Self {
        Self { base, bytes: bytes.max(1) as f64 }
    }

    /// Percent of the width.
    fn at(&self, address: u64) -> f64 {
        (address.saturating_sub(self.base) as f64 / self.bytes).min(1.0) * 100.0
    }

    /// Start and end of the part that is in sight, in percent.
    fn seen(&self, (start, end): (u64, u64)) -> Option<(f64, f64)> {
        let out = end <= self.base || start as f64 >= self.base as f64 + self.bytes;
        (!out).then(|| (self.at(start), self.at(end)))
    }

    /// A bar for the part of `[start, end)` that is in sight, a little of the width at least. Its
    /// title is shown where the mouse is.
    fn bar(&self, out: &mut String, class: &str, y: f64, height: f64, range: (u64, u64), title: &str) {
        let Some((from, to)) = self.seen(range) else { return };
        // Writing to a string never fails.
        let _ = writeln!(
            out,
            r#"<rect class="{class}" x="{from:.3}%" y="{y:.1}" width="{:.3}%" height="{height:.1}"><title>{}</title></rect>"#,
            (to - from).max(0.12),
            escape(title)
        );
    }

    /// A label in the middle of a bar, where it has room.
    fn label(&self, out: &mut String, y: f64, range: (u64, u64), texts: &[&str]) {
        let Some((from, to)) = self.seen(range) else { return };
        let fits =
            |text: &str, width: f64| (to - from) / 100.0 * width >= text.chars().count() as f64 * CHARACTER + 6.0;
        let narrow = texts.iter().find(|text| fits(text, NARROW));
        let wide = texts.iter().find(|text| fits(text, WIDE));
        let mut put = |class: &str, text: &str| {
            let _ = writeln!(
                out,
                r#"<text class="{class}" x="{:.3}%" y="{y:.1}">{}</text>"#,
                f64::midpoint(from, to),
                escape(text)
            );
        };
        match (narrow, wide) {
            (Some(narrow), _) => put("in", narrow),
            (None, Some(wide)) => put("in wide", wide),
            (None, None) => {}
        }
    }
}

fn text(out: &mut String, class: &str, x: &str, y: f64, content: &str) {
    let _ = writeln!(out, r#"<text class="{class}" x="{x}" y="{y:.1}">{}</text>"#, escape(content));
}

/// A text in lines that fit a phone; the place of the line after it.
fn lines(out: &mut String, class: &str, mut y: f64, content: &str) -> f64 {
    let mut row = String::new();
    let mut rows = Vec::new();
    for word in content.split(' ') {
        if !row.is_empty() && row.chars().count() + 1 + word.chars().count() > LINE {
            rows.push(std::mem::take(&mut row));
        }
        if !row.is_empty() {
            row.push(' ');
        }
        row.push_str(word);
    }
    rows.push(row);
    for row in rows {
        text(out, class, "0", y, &row);
        y += 17.0;
    }
    y
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
    let rows = tdmrs.get(..ROWS).unwrap_or(tdmrs);
    let mut body = String::new();
    let mut y = head(&mut body, report, 20.0);
    y = legend(&mut body, y + 4.0);
    y = overview(&mut body, report, y + 6.0);
    y = failure(&mut body, report, y + 12.0);
    for tdmr in rows {
        row(&mut body, report, tdmr, y);
        y += ROW;
    }
    if tdmrs.len() > rows.len() {
        text(&mut body, "dim", "0", y, &format!("and {} more TDMRs", tdmrs.len() - rows.len()));
        y += 17.0;
    } else if let Some(error) = &report.layout.error {
        y = lines(&mut body, "dim", y, error);
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"root\" width=\"{WIDTH}\" height=\"{:.0}\" role=\"img\">\n<title>{}</title>\n\
         <style>{STYLE}</style>\n<svg x=\"1%\" width=\"98%\" overflow=\"visible\">\n{body}</svg>\n</svg>\n",
        y + 12.0,
        escape(&format!("TDX memory of {}", report.host.name))
    )
}

/// A name that fits a phone: of a long one the end, where a path has its file. The title of the
/// picture has it whole.
fn end_of(name: &str) -> String {
    match name.chars().count().checked_sub(LINE - 8) {
        Some(more @ 1..) => format!("...{}", name.chars().skip(more + 3).collect::<String>()),
        _ => name.to_owned(),
    }
}

/// The host's name, and what the plan comes to.
fn head(out: &mut String, report: &PlanReport, y: f64) -> f64 {
    let pamt = report.layout.pamt_kb.map_or("no layout".to_owned(), |kb| format!("{kb} KB for PAMT"));
    let given_up = size::human(report.layout.given_up_bytes);
    let y = lines(out, "head", y, &end_of(&report.host.name));
    let facts = format!(
        "{} usable, {} (`{}`), {pamt}, {given_up} given up",
        size::human(report.host.memory_bytes),
        words::count(report.layout.tdmrs.len() as u64, "TDMR"),
        report.layout.layout
    );
    lines(out, "dim", y, &facts)
}

fn legend(out: &mut String, mut y: f64) -> f64 {
    let rows: [&[(&str, &str)]; 2] = [
        &[("cmr", "CMR"), ("memory", "usable memory in a TDMR")],
        &[("reserved", "reserved area"), ("pamt", "PAMT"), ("given", "given up, or a hole")],
    ];
    for entries in rows {
        let mut x = 0.0;
        for (class, name) in entries {
            let _ = writeln!(out, r#"<rect class="{class}" x="{x:.1}" y="{:.1}" width="12" height="12"/>"#, y - 10.0);
            text(out, "dim", &format!("{:.1}", x + 17.0), y, name);
            x += 34.0 + 6.8 * name.len() as f64;
        }
        y += 18.0;
    }
    y
}

/// All addresses in one bar.
fn overview(out: &mut String, report: &PlanReport, y: f64) -> f64 {
    let spans = report.host.cmrs.iter().chain(report.layout.tdmrs.iter().map(|tdmr| &tdmr.range));
    let end = spans.map(|span| span.end.0.get()).max().unwrap_or(1);
    let scale = Scale::of(0, end);
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
        let title = titled(&format!("given up ({})", given.reason), &given.range);
        scale.bar(out, "given", y, 36.0, ends(&given.range), &title);
    }
    if report.layout.tdmrs.is_empty() {
        for cmr in &report.host.cmrs {
            scale.label(out, y + 22.0, ends(cmr), &[&size::human(cmr.size)]);
        }
    }
    for tdmr in &report.layout.tdmrs {
        let size = size::human(tdmr.range.size);
        let long = format!("TDMR {}: {size}", tdmr.index);
        scale.label(out, y + 22.0, ends(&tdmr.range), &[&long, &size, &tdmr.index.to_string()]);
    }
    text(out, "dim", "0", y + 51.0, "0");
    text(out, "dim end", "100%", y + 51.0, &size::human(end));
    y + 62.0
}

/// The TDMR at which Linux fails, with what needs a reserved area in it.
fn failure(out: &mut String, report: &PlanReport, y: f64) -> f64 {
    let linux = &report.linux;
    let Some(tdmr) = linux.tdmr.filter(|_| !linux.holes.is_empty()) else { return y };
    let head = format!("Linux fails here ({}): {tdmr}", linux.result);
    let mut y = lines(out, "bad", y + 6.0, &head);
    if let (Some(needed), Some(allowed)) = (linux.needed, linux.allowed) {
        let holes = words::count(linux.holes.len() as u64, "hole");
        let facts =
            format!("{holes} in it, {needed} reserved areas needed, {allowed} allowed, {}", size::human(tdmr.size));
        y = lines(out, "dim", y, &facts);
    }
    let y = y - 8.0;
    let scale = Scale::of(tdmr.base.0.get(), tdmr.size);
    scale.bar(out, "memory", y, BAR, ends(&tdmr), &titled("TDMR", &tdmr));
    for (number, hole) in (1..).zip(&linux.holes) {
        scale.bar(out, "hole", y, BAR, ends(hole), &titled(&format!("hole {number}"), hole));
    }
    scale.bar(out, "tdmr", y, BAR, ends(&tdmr), &titled("TDMR", &tdmr));
    for hole in &linux.holes {
        scale.label(out, y + 14.0, ends(hole), &[&size::human(hole.size)]);
    }
    y + BAR + 26.0
}

/// One TDMR, its whole range over the width.
fn row(out: &mut String, report: &PlanReport, tdmr: &TdmrReport, y: f64) {
    let name = format!("{} {} node {}", tdmr.index, tdmr.range, tdmr.node);
    text(out, "head", "0", y, &name);
    let facts = format!(
        "{}, {} reserved, {} of PAMT",
        size::human(tdmr.range.size),
        tdmr.reserved_count,
        size::human(tdmr.pamt_bytes)
    );
    text(out, "dim", "0", y + 15.0, &facts);
    let y = y + 21.0;
    let scale = Scale::of(tdmr.range.base.0.get(), tdmr.range.size);
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
        let title = titled(&format!("given up ({})", given.reason), &given.range);
        scale.bar(out, "given", y, BAR, ends(&given.range), &title);
    }
    scale.bar(out, "tdmr", y, BAR, ends(&tdmr.range), &titled("TDMR", &tdmr.range));
    for reserved in &tdmr.reserved {
        scale.label(out, y + 14.0, ends(reserved), &[&size::human(reserved.size)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_fit() {
        assert_eq!(end_of("boot.log"), "boot.log");
        let path = "/srv/hosts/rack-7/2026-11-30/node-0123.example.org/boot.log";
        assert_eq!(end_of(path), "...2026-11-30/node-0123.example.org/boot.log");
        assert_eq!(end_of(path).chars().count(), LINE - 8);
    }

    /// The relative luminance of a color, as WCAG defines it.
    fn luminance(color: &str) -> f64 {
        let digits: String =
            if color.len() == 3 { color.chars().flat_map(|c| [c, c]).collect() } else { color.to_owned() };
        let part = |from: usize| {
            let part = f64::from(u8::from_str_radix(&digits[from..from + 2], 16).unwrap()) / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(0) + 0.7152 * part(2) + 0.0722 * part(4)
    }

    #[test]
    fn labels_stand_out() {
        let (light, dark) = STYLE.split_once("@media(prefers-color-scheme:dark)").unwrap();
        for (name, style) in [("light", light), ("dark", dark)] {
            let fill = |class: &str| {
                let rest = style.split_once(class).unwrap_or_else(|| panic!("{class}")).1;
                let color = rest.split_once("fill:#").unwrap().1;
                luminance(&color[..color.find(|c: char| !c.is_ascii_hexdigit()).unwrap()])
            };
            let contrast = |a: f64, b: f64| (a.max(b) + 0.05) / (a.min(b) + 0.05);
            for class in [".cmr", ".memory", ".reserved", ".hole"] {
                assert!(contrast(fill(".in{"), fill(class)) >= 4.5, "{name}: a label on {class}");
            }
        }
    }
}
