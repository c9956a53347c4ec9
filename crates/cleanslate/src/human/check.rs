//! Text and TAP output of `check`.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::builder::styling::{AnsiColor, Style};
use tdx_operator::{
    check::{Item, Snapshot, Unseen},
    report::{Basis, CheckFinding, CheckReport, Status},
};

use super::{BAD, GOOD, count, line, wrapped};

const CARE: Style = AnsiColor::Yellow.on_default().bold();
const PLAIN: Style = Style::new();

/// Columns before the name of a check, and before its text.
const NAME: usize = 11;
const TEXT: usize = 32;

fn style(status: Status) -> Style {
    match status {
        Status::Pass => GOOD,
        Status::Warn => CARE,
        Status::Fail => BAD,
        Status::Unknown => PLAIN,
    }
}

/// The tree. Evidence stands under what does not pass, or with `verbose` under everything.
pub(crate) fn print(out: &mut impl Write, report: &CheckReport, verbose: bool) -> io::Result<()> {
    line(out, "machine", &report.machine)?;
    for category in &report.categories {
        writeln!(out, "\n{}", category.title)?;
        for check in &category.checks {
            finding(out, check, verbose)?;
        }
    }
    if !report.unseen.is_empty() {
        writeln!(out, "\nNot seen")?;
        for unseen in &report.unseen {
            let head = format!("  {:<width$}", unseen.item, width = TEXT - 2);
            wrapped(out, &head, TEXT, &format!("{} {}", unseen.place, unseen.text))?;
            wrapped(out, &" ".repeat(TEXT), TEXT, &format!("to get it: {}", unseen.hint))?;
        }
    }
    let verdict = &report.verdict;
    let style = style(verdict.status);
    writeln!(
        out,
        "\n{} pass, {} warn, {} fail, {} unknown",
        verdict.pass, verdict.warn, verdict.fail, verdict.unknown
    )?;
    let kdump = match verdict.kdump {
        "ready" => "ready: an image for a crash is loaded",
        "not-ready" => "not ready: no dump after a panic",
        _ => "unknown",
    };
    line(out, "kdump", kdump)?;
    let name = verdict.status.name();
    wrapped(out, &format!("{:<10}{style}{name:<8}{style:#}", "verdict"), 18, &verdict.text)
}

fn finding(out: &mut impl Write, check: &CheckFinding, verbose: bool) -> io::Result<()> {
    let style = style(check.status);
    let status = check.status.name();
    let head = format!("  {style}{status:<8}{style:#} {:<width$}", check.id, width = TEXT - NAME);
    let basis = if check.basis == Basis::Sourced { String::new() } else { format!(" ({})", check.basis.name()) };
    if verbose {
        wrapped(out, &head, TEXT, check.title)?;
        wrapped(out, &" ".repeat(TEXT), TEXT, &format!("{}{basis}", check.text))?;
    } else {
        wrapped(out, &head, TEXT, &format!("{}{basis}", check.text))?;
    }
    let note = |out: &mut _, label: &str, text: &str| {
        wrapped(out, &format!("{:TEXT$}{label}: ", ""), TEXT + label.len() + 2, text)
    };
    if verbose || check.status != Status::Pass {
        for evidence in &check.evidence {
            note(out, "seen", evidence)?;
        }
        for text in &check.notes {
            note(out, "note", text)?;
        }
    }
    if verbose {
        note(out, "source", check.source)?;
    }
    match &check.hint {
        Some(hint) => note(out, "fix", hint),
        None => Ok(()),
    }
}

/// Test Anything Protocol, version 13. WARN passes with a note, UNKNOWN is skipped.
pub(crate) fn tap(out: &mut impl Write, report: &CheckReport) -> io::Result<()> {
    writeln!(out, "TAP version 13\n1..{}", report.checks().count())?;
    for (number, check) in (1..).zip(report.checks()) {
        let ok = if check.status == Status::Fail { "not ok" } else { "ok" };
        // `#` begins a directive.
        let text = check.text.replace('#', "\\#");
        let skip = if check.status == Status::Unknown { " # SKIP unknown" } else { "" };
        writeln!(out, "{ok} {number} - {}: {text}{skip}", check.id)?;
        if check.status != Status::Pass {
            writeln!(out, "# {}, {}", check.status.name(), check.basis.name())?;
            for note in check.evidence.iter().chain(&check.notes).chain(&check.hint) {
                writeln!(out, "# {note}")?;
            }
        }
    }
    for unseen in &report.unseen {
        writeln!(out, "# not seen: {} {}; {}", unseen.place, unseen.text, unseen.hint)?;
    }
    Ok(())
}

/// What `collect` has saved, and what it could not see.
pub(crate) fn saved(out: &mut impl Write, folder: &Path, files: &[&str], snapshot: &Snapshot) -> io::Result<()> {
    line(out, "saved", &format!("{} in {}: {}", count(files.len(), "file"), folder.display(), files.join(", ")))?;
    for item in Item::ALL {
        match snapshot.get(item) {
            Err(Unseen::Absent) if item.may_be_absent() => {}
            Err(why) => line(out, "not seen", &format!("{} {why}; {}", item.place(), item.how(why)))?,
            Ok(_) => {}
        }
    }
    line(out, "next", &format!("cleanslate check --from {}", folder.display()))
}
