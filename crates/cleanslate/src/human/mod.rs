//! Reports for people: aligned tables, sizes with units, one clear verdict line. Colour only where it means something; the
//! stream takes it out when it goes to a file.

pub(crate) mod check;
pub(crate) mod explain;
pub(crate) mod explore;
pub(crate) mod kexec;
pub(crate) mod plan;
mod table;

use std::io::{self, Write};

use clap::builder::styling::{AnsiColor, Style};
use tdx_lab::{report::HostReport, size};

pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// Columns of a label, and of a whole line.
const LABEL: usize = 10;
const WIDTH: usize = 110;

/// `label     text`, label in a column of its own, text broken between words.
fn line(out: &mut impl Write, label: &str, text: &str) -> io::Result<()> {
    wrapped(out, &format!("{label:<LABEL$}"), LABEL, text)
}

/// `head` and then the text, broken between words; its later rows begin at column `indent`.
fn wrapped(out: &mut impl Write, head: &str, indent: usize, text: &str) -> io::Result<()> {
    let blanks = " ".repeat(indent);
    let mut head = head;
    let mut row = String::new();
    for word in text.split(' ') {
        if !row.is_empty() && indent + row.len() + 1 + word.len() > WIDTH {
            writeln!(out, "{head}{row}")?;
            head = &blanks;
            row.clear();
        } else if !row.is_empty() {
            row.push(' ');
        }
        row.push_str(word);
    }
    writeln!(out, "{head}{row}")
}

/// The host, and what was assumed about it.
fn host(out: &mut impl Write, host: &HostReport) -> io::Result<()> {
    let cmrs = host.cmrs.len();
    let memory = size::human(host.memory_bytes);
    line(out, "host", &host.name)?;
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
    line(out, "cpu", &format!("{} ({}), {erratum}", host.cpu.name.unwrap_or("unnamed"), host.cpu.model))?;
    let mut label = "assumed";
    for assumption in &host.assumptions {
        line(out, label, &assumption.text)?;
        label = "";
    }
    if host.bytes_outside_cmrs > 0 {
        let bytes = size::human(host.bytes_outside_cmrs);
        line(out, "outside", &format!("{bytes} of usable memory lie in no CMR: TDX cannot have them"))?;
    }
    writeln!(out)
}

/// `1 node`, `2 nodes`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `134,217,728`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_counts() {
        assert_eq!((grouped(0), grouped(999), grouped(1000)), ("0".into(), "999".into(), "1,000".into()));
        assert_eq!(grouped(134_217_728), "134,217,728");
        assert_eq!((count(1, "TDMR"), count(0, "TDMR")), ("1 TDMR".to_owned(), "0 TDMRs".to_owned()));
    }

    #[test]
    fn long_text_is_broken_between_words() {
        let mut out = Vec::new();
        line(&mut out, "label", &"word ".repeat(30)).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.starts_with("label     word") && text.lines().nth(1).unwrap().starts_with("          word"));
        assert!(text.lines().all(|line| line.len() <= WIDTH));
    }
}
