//! Text output for people: aligned tables, sizes with units, one verdict line. Color only on a
//! terminal.

pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod explore;
pub(crate) mod fleet;
pub(crate) mod kexec;
pub(crate) mod plan;
mod table;
pub(crate) mod width;

use std::io::{self, Write};

use clap::builder::styling::{AnsiColor, Style};
pub(crate) use tdx_operator::words::grouped;
use tdx_operator::{report::HostReport, size, words};

pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Columns of a label.
const LABEL: usize = 10;
/// Indentation where there is no room beside a head, and the columns that are too few for text.
const NARROW: usize = 4;
const NARROW_TEXT: usize = 28;

/// `label     text`, label in a column of its own, text broken between words.
pub(crate) fn line(out: &mut impl Write, label: &str, text: &str) -> io::Result<()> {
    wrapped(out, &format!("{label:<LABEL$}"), LABEL, text)
}

/// `head` and then the text, broken between words; its later rows begin at column `indent`.
fn wrapped(out: &mut impl Write, head: &str, indent: usize, text: &str) -> io::Result<()> {
    let columns = width::columns();
    // Of a narrow terminal the head has a row of its own.
    if indent > NARROW && columns.saturating_sub(indent) < NARROW_TEXT {
        let inside = " ".repeat(NARROW);
        let title = head.trim();
        let margin = " ".repeat((head.len() - head.trim_start().len()).min(NARROW));
        let begin = if title.is_empty() { inside.clone() } else { format!("{margin}{title}\n{inside}") };
        let mut begin = begin.as_str();
        for row in width::rows(text, columns.saturating_sub(NARROW)) {
            writeln!(out, "{begin}{row}")?;
            begin = &inside;
        }
        return Ok(());
    }
    let blanks = " ".repeat(indent);
    let mut head = head;
    for row in width::rows(text, width::columns().saturating_sub(indent)) {
        writeln!(out, "{head}{row}")?;
        head = &blanks;
    }
    Ok(())
}

/// `verdict: text`, the verdict colored.
fn last_line(out: &mut impl Write, style: Style, verdict: &str, text: &str) -> io::Result<()> {
    wrapped(out, &format!("{style}{verdict}{style:#}: "), verdict.len() + 2, text)
}

/// The host, and what was assumed about it.
fn host(out: &mut impl Write, host: &HostReport) -> io::Result<()> {
    let cmrs = host.cmrs.len();
    let memory = size::human(host.memory_bytes);
    line(out, "host", &host.name)?;
    // Who speaks, which boot and what was joined is said before any figure.
    let first = |about: &str| ["virtual-machine", "root-partition", "boot", "joined-lines"].contains(&about);
    for assumption in host.assumptions.iter().filter(|assumption| first(assumption.about)) {
        line(out, "note", &assumption.text)?;
    }
    line(
        out,
        "",
        &format!(
            "{memory} usable, {}, {}, {}, {}",
            count(host.nodes, "node"),
            count(cmrs, "CMR"),
            count(host.packages as usize, "package"),
            count(host.cpus as usize, "CPU")
        ),
    )?;
    let erratum =
        if host.cpu.partial_write_erratum { "has the partial-write erratum" } else { "no partial-write erratum" };
    // Another CPU than the log's, or one that it does not name: its erratum is no fact about the
    // host.
    let assumed = if host.assumptions.iter().any(|assumption| assumption.about == "cpu") { " (assumed)" } else { "" };
    let name = host.cpu.name.unwrap_or("unnamed");
    line(out, "cpu", &format!("{name} ({}), {erratum}{assumed}", host.cpu.model))?;
    let mut label = "assumed";
    for assumption in host.assumptions.iter().filter(|assumption| !first(assumption.about)) {
        line(out, label, &assumption.text)?;
        label = "";
    }
    if host.bytes_outside_cmrs > 0 {
        let bytes = size::human(host.bytes_outside_cmrs);
        line(out, "outside", &format!("{bytes} of usable memory outside all CMRs: not available to TDX"))?;
    }
    writeln!(out)
}

/// `1 node`, `2 nodes`.
fn count(number: usize, what: &str) -> String {
    words::count(number as u64, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_broken_between_words() {
        let mut out = Vec::new();
        line(&mut out, "label", &"word ".repeat(30)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.lines().count() >= 2, "{text}");
        assert!(text.starts_with("label     word") && text.lines().nth(1).unwrap().starts_with("          word"));
        assert!(text.lines().all(|line| line.len() <= width::columns()));
    }
}
