//! Text and TAP output of `check`.

use std::{
    io::{self, Write},
    path::Path,
};

use clap::builder::styling::{AnsiColor, Style};
use tdx_operator::{
    check::{Item, Snapshot, Unseen},
    input::path_text,
    report::{Basis, CheckFinding, CheckReport, CheckVerdict, Remedy, Status},
};

use super::{BAD, GOOD, count, line, wrapped};

const CARE: Style = AnsiColor::Yellow.on_default().bold();
const PLAIN: Style = Style::new();

/// Columns before the name of a check, and before its text.
const NAME: usize = 11;
const TEXT: usize = 32;

pub(super) fn style(status: Status) -> Style {
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
    let kexec = match verdict.kexec {
        "safe" => "safe",
        "refused" => "refused: no image can be loaded",
        "unsafe" => "not safe: private memory stays private",
        _ => "unknown",
    };
    let reset = match verdict.power_cycle {
        "no" => "not needed",
        "planned" => "at the next maintenance; the host is safe until then",
        "now" => "now: private memory may be in use",
        _ => "unknown",
    };
    line(out, "kexec", kexec)?;
    line(out, "kdump", kdump)?;
    line(out, "reset", reset)?;
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
    if let Some(hint) = &check.hint {
        note(out, "fix", hint)?;
    }
    for remedy in &check.remedies {
        note(out, "helps", &remedy_text(remedy))?;
    }
    Ok(())
}

/// What to do, what it gives and what it costs.
pub(super) fn remedy_text(remedy: &Remedy) -> String {
    format!("{}. Gives: {}. Costs: {}", remedy.what, remedy.gives, remedy.costs)
}

/// One line for a machine.
pub(crate) fn short(out: &mut impl Write, machine: &str, verdict: &CheckVerdict) -> io::Result<()> {
    let CheckVerdict { status, tdx, kexec, kdump, power_cycle, text, .. } = verdict;
    let status = status.name();
    writeln!(out, "{machine} {status} tdx={tdx} kexec={kexec} kdump={kdump} power-cycle={power_cycle} {text}")
}

/// Test Anything Protocol, version 13. WARN passes with a note, UNKNOWN is skipped.
pub(crate) fn tap(out: &mut impl Write, reports: &[CheckReport]) -> io::Result<()> {
    let several = reports.len() > 1;
    let checks = reports.iter().flat_map(|report| report.checks().map(move |check| (report, check)));
    let checks: Vec<_> = checks.collect();
    writeln!(out, "TAP version 13\n1..{}", checks.len())?;
    for (number, (report, check)) in (1..).zip(checks) {
        let machine = if several { format!("{} ", report.machine.replace('#', "\\#")) } else { String::new() };
        let ok = if check.status == Status::Fail { "not ok" } else { "ok" };
        // `#` begins a directive.
        let text = check.text.replace('#', "\\#");
        let skip = if check.status == Status::Unknown { " # SKIP unknown" } else { "" };
        writeln!(out, "{ok} {number} - {machine}{}: {text}{skip}", check.id)?;
        if check.status != Status::Pass {
            writeln!(out, "# {}, {}", check.status.name(), check.basis.name())?;
            for note in check.evidence.iter().chain(&check.notes).chain(&check.hint) {
                writeln!(out, "# {note}")?;
            }
        }
    }
    for unseen in reports.iter().flat_map(|report| &report.unseen) {
        writeln!(out, "# not seen: {} {}; {}", unseen.place, unseen.text, unseen.hint)?;
    }
    Ok(())
}

/// What `collect` has saved, and what it could not see.
pub(crate) fn saved(out: &mut impl Write, folder: &Path, files: &[&str], snapshot: &Snapshot) -> io::Result<()> {
    line(out, "saved", &format!("{} in {}: {}", count(files.len(), "file"), path_text(folder), files.join(", ")))?;
    for item in Item::ALL {
        match snapshot.get(item) {
            Err(Unseen::Absent) if item.may_be_absent() => {}
            Err(why) => line(out, "not seen", &format!("{} {why}; {}", item.place(), item.how(why)))?,
            Ok(_) => {}
        }
    }
    line(out, "next", &format!("cleanslate check --from {}", path_text(folder)))
}
