//! Text and TAP output of `explore`.

use std::io::{self, Write};

use tdx_explorer::report::{BugRun, ExploreReport, FindingReport};
use tdx_operator::words::grouped_count;

use super::table::{Side, Table};
use super::{BAD, GOOD, grouped, line, wrapped};

/// Names of scenarios and bugs, with what they are about.
pub(crate) fn list(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "scenarios")?;
    for name in tdx_explorer::names() {
        let about = tdx_explorer::find(name).ok().flatten().map(|scenario| scenario.about).unwrap_or_default();
        wrapped(out, &format!("  {name:<24}"), 26, &about)?;
    }
    writeln!(out, "\nbugs")?;
    for bug in tdx_explorer::bugs() {
        wrapped(out, &format!("  {:<38}", bug.name), 40, bug.what)?;
    }
    Ok(())
}

pub(crate) fn print(out: &mut impl Write, report: &ExploreReport) -> io::Result<()> {
    if !report.scenarios.is_empty() {
        let mut table = Table::new(&[
            ("scenario", Side::Left),
            ("instants", Side::Right),
            ("crash points", Side::Right),
            ("schedules", Side::Right),
            ("violations", Side::Right),
        ]);
        for run in &report.scenarios {
            let counts = [run.instants, run.crash_points, run.schedules, run.violations].map(grouped);
            table.row([run.name.clone()].into_iter().chain(counts));
        }
        table.print(out)?;
        writeln!(out)?;
    }
    if !report.short_sequences.is_empty() {
        let mut table = Table::new(&[
            ("short sequences", Side::Left),
            ("length", Side::Right),
            ("sequences", Side::Right),
            ("crash points", Side::Right),
            ("violations", Side::Right),
        ]);
        for run in &report.short_sequences {
            let counts = [run.length as u64, run.sequences, run.crash_points, run.violations].map(grouped);
            table.row([run.start.to_owned()].into_iter().chain(counts));
        }
        table.print(out)?;
        writeln!(out)?;
    }
    bugs(out, &report.catalogue)?;
    for run in &report.scenarios {
        for unmet in &run.unmet {
            line(out, "unmet", &format!("{}: {unmet}", run.name))?;
        }
        findings(out, &run.name, &run.findings)?;
    }
    for run in &report.short_sequences {
        findings(out, run.start, &run.findings)?;
    }
    verdict(out, report)
}

fn bugs(out: &mut impl Write, catalogue: &[BugRun]) -> io::Result<()> {
    if catalogue.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[
        ("bug", Side::Left),
        ("found by", Side::Left),
        ("scenario", Side::Left),
        ("crash points", Side::Right),
        ("steps", Side::Right),
        ("operations", Side::Right),
    ]);
    for run in catalogue {
        let number = |number: Option<u64>| number.map(grouped).unwrap_or_default();
        table.row([
            run.name.to_owned(),
            run.found_by.unwrap_or("NOT FOUND").to_owned(),
            run.scenario.clone().unwrap_or_default(),
            grouped(run.crash_points),
            number(run.replay_steps.map(|steps| steps as u64)),
            number(run.replay_operations),
        ]);
    }
    table.print(out)?;
    writeln!(out)?;
    // A table is enough for the whole catalogue; whoever asks for one bug wants its story.
    if let [run] = catalogue {
        line(out, "bug", run.what)?;
        line(out, "origin", run.origin)?;
        if let Some(finding) = &run.finding {
            story(out, finding)?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn findings(out: &mut impl Write, name: &str, findings: &[FindingReport]) -> io::Result<()> {
    for finding in findings {
        line(out, "broken", &format!("{name}: {BAD}{}{BAD:#}", finding.rule))?;
        story(out, finding)?;
        writeln!(out)?;
    }
    Ok(())
}

fn story(out: &mut impl Write, finding: &FindingReport) -> io::Result<()> {
    let end = finding.end.as_deref().unwrap_or("no handover needed");
    line(
        out,
        "instant",
        &format!("{} of the run, after {}; {end}", finding.instant, grouped_count(finding.operations, "operation")),
    )?;
    let mut label = "story";
    for text in &finding.story {
        line(out, label, text)?;
        label = "";
    }
    line(out, "replay", &finding.replay)
}

fn verdict(out: &mut impl Write, report: &ExploreReport) -> io::Result<()> {
    if let (Some(bugs), Some(found)) = (report.bugs, report.bugs_found) {
        let style = if bugs == found { GOOD } else { BAD };
        line(
            out,
            "explored",
            &format!("{} until every bug was found or abandoned", grouped_count(report.crash_points, "crash point")),
        )?;
        return writeln!(
            out,
            "{:<10}{style}{found} of {} found{style:#}",
            "verdict",
            grouped_count(bugs as u64, "bug")
        );
    }
    let text = format!(
        "{}, {}, {}, {}",
        grouped_count(report.instants, "instant"),
        grouped_count(report.crash_points, "crash point"),
        grouped_count(report.schedules, "schedule"),
        grouped_count(report.sequences, "short sequence")
    );
    line(out, "explored", &text)?;
    let style = if report.violations == 0 { GOOD } else { BAD };
    writeln!(out, "{:<10}{style}{}{style:#}", "verdict", grouped_count(report.violations, "violation"))
}

/// Test Anything Protocol, version 13.
pub(crate) fn tap(out: &mut impl Write, report: &ExploreReport) -> io::Result<()> {
    let mut tests: Vec<(bool, String, Vec<String>)> = Vec::new();
    let stories = |findings: &[FindingReport]| -> Vec<String> {
        findings
            .iter()
            .flat_map(|finding| [format!("{}: {}", finding.rule, finding.what), finding.replay.clone()])
            .collect()
    };
    for run in &report.scenarios {
        let text = format!("scenario {}: {} instants, {} crash points", run.name, run.instants, run.crash_points);
        tests.push((run.violations == 0, text, run.unmet.iter().cloned().chain(stories(&run.findings)).collect()));
    }
    for run in &report.short_sequences {
        let text = format!(
            "sequences of {} from {}: {} of them, {} crash points",
            run.length, run.start, run.sequences, run.crash_points
        );
        tests.push((run.violations == 0, text, stories(&run.findings)));
    }
    for run in &report.catalogue {
        let replay = run.finding.iter().map(|finding| finding.replay.clone()).collect();
        tests.push((run.found, format!("bug {} is found", run.name), replay));
    }
    writeln!(out, "TAP version 13\n1..{}", tests.len())?;
    for (number, (ok, text, notes)) in (1..).zip(tests) {
        writeln!(out, "{}ok {number} - {text}", if ok { "" } else { "not " })?;
        for note in notes {
            writeln!(out, "# {note}")?;
        }
    }
    Ok(())
}
