//! The picture on which the page opens: the first broken rule step by step, a row for each CPU; of
//! a clean exploration, private and marked lines over time above a row for each CPU.

use core::fmt::{self, Write};

use super::text::{Count, Text};
use crate::report::{ExploreReport, FindingReport, ScenarioRun, TimePointReport};

/// Columns of a picture over time at most: neighbors are put together.
const COLUMNS: usize = 240;
/// Pixels of a row of a CPU.
const ROW: usize = 30;
/// A step narrower than this has no number under it, in percent.
const LABELED: f64 = 3.5;

pub(super) fn draw(out: &mut String, report: &ExploreReport) -> fmt::Result {
    let broken = report.scenarios.iter().find_map(|run| Some((run, run.findings.first()?)));
    if let Some((run, found)) = broken {
        return of_finding(out, found, &run.name, run.cpus as usize, None);
    }
    let bug = report.catalogue.iter().find_map(|run| Some((run, run.finding.as_ref()?)));
    if let Some((run, found)) = bug {
        let scenario = run.scenario.as_deref().unwrap_or("-");
        return of_finding(out, found, scenario, 0, Some((run.name, run.what)));
    }
    match report.scenarios.iter().find(|run| !run.timeline.is_empty()) {
        Some(run) => over_time(out, run),
        None => Ok(()),
    }
}

/// The CPU that a line of a story begins with.
fn cpu_of(line: &str) -> Option<usize> {
    let digits = line.strip_prefix("CPU ")?;
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end)?.parse().ok().filter(|cpu| *cpu < 64)
}

/// The names of the rows.
fn heads(cpus: usize) -> String {
    let names: Vec<String> = (0..cpus).map(|cpu| format!("<li>CPU {cpu}</li>")).collect();
    names.concat()
}

/// The bug of the command that shows a finding again.
fn bug_of(replay: &str) -> Option<&str> {
    replay.split_once("--bug ")?.1.split(' ').next()
}

fn of_finding(
    out: &mut String,
    found: &FindingReport,
    scenario: &str,
    cpus: usize,
    bug: Option<(&str, &str)>,
) -> fmt::Result {
    writeln!(out, "<figure class=\"lead\">\n<figcaption>")?;
    match bug.or_else(|| Some((bug_of(&found.replay)?, ""))) {
        Some((name, what)) => {
            let colon = if what.is_empty() { "" } else { ": " };
            writeln!(out, "<p>Bug that was put in: <b>{}</b>{colon}{}</p>", Text(name), Text(what))?;
        }
        None => writeln!(out, "<p>No bug was put in.</p>")?,
    }
    writeln!(
        out,
        "<p class=\"bad\">{}: {}</p>\n<p class=\"soft\">Scenario {}, instant {}. Each number is a line below; the last row is memory.</p>\n\
         </figcaption>",
        Text(found.rule),
        Text(&found.what),
        Text(scenario),
        Count(found.instant)
    )?;
    let mut story: Vec<&str> = found.story.iter().map(String::as_str).collect();
    if story.last() != Some(&found.what.as_str()) {
        story.push(&found.what);
    }
    let seen = story.iter().filter_map(|line| cpu_of(line)).max().map_or(0, |cpu| cpu + 1);
    let cpus = cpus.max(seen).min(64);
    let width = 100.0 / story.len().max(1) as f64;
    let middle = |row: usize| row * ROW + ROW / 2;
    writeln!(
        out,
        "<div class=\"rows\"><ul>{}<li>memory</li></ul>\n<svg role=\"img\" style=\"height:{}px\">\n<title>Who does what, from left to \
         right</title>",
        heads(cpus),
        (cpus + 1) * ROW
    )?;
    for row in 0..=cpus {
        writeln!(out, "<line x1=\"0\" x2=\"100%\" y1=\"{0}\" y2=\"{0}\"/>", middle(row))?;
    }
    for (index, line) in story.iter().enumerate() {
        let row = cpu_of(line).unwrap_or(cpus);
        let style = if index + 1 == story.len() { "end" } else { "step" };
        let x = (index as f64 + 0.5) * width;
        writeln!(
            out,
            "<circle class=\"{style}\" cx=\"{x:.2}%\" cy=\"{}\" r=\"10\"><title>{}</title></circle>\n\
             <text x=\"{x:.2}%\" y=\"{}\">{}</text>",
            middle(row),
            Text(line),
            middle(row) + 4,
            index + 1
        )?;
    }
    writeln!(out, "</svg></div>\n<ol>")?;
    for (index, line) in story.iter().enumerate() {
        let style = if index + 1 == story.len() { " class=\"bad\"" } else { "" };
        writeln!(out, "<li{style}>{}</li>", Text(line))?;
    }
    writeln!(out, "</ol>\n</figure>")
}

/// Instants that are drawn as one.
struct Column<'a> {
    points: &'a [TimePointReport],
    private: u64,
    marked: u64,
}

fn over_time(out: &mut String, run: &ScenarioRun) -> fmt::Result {
    let points = &run.timeline;
    let each = points.len().div_ceil(COLUMNS).max(1);
    let columns: Vec<Column<'_>> = points
        .chunks(each)
        .map(|points| Column {
            points,
            private: points.iter().map(|point| point.private_lines).max().unwrap_or(0),
            marked: points.iter().map(|point| point.marked_lines).max().unwrap_or(0),
        })
        .collect();
    let most = columns.iter().map(|column| column.private.max(column.marked)).max().unwrap_or(0);
    let height = |lines: u64| 100.0 * (1.0 + lines as f64).log2() / (1.0 + most as f64).log2().max(1.0);
    writeln!(
        out,
        "<figure class=\"lead\">\n<figcaption>\n<p>Scenario <b>{}</b>: lines that are private, and lines that the kernel has marked, at \
         each of {} instants</p>\n<p class=\"soft\">On a logarithmic scale up to {} lines of 64 bytes. What is private must be marked.</p>\n\
         </figcaption>\n<svg class=\"area\" viewBox=\"0 0 {} 100\" preserveAspectRatio=\"none\" role=\"img\">\n\
         <title>Private and marked lines over time</title>",
        Text(&run.name),
        Count(points.len() as u64),
        Count(most),
        columns.len()
    )?;
    for (style, lines) in [("marked", true), ("private", false)] {
        write!(out, "<path class=\"{style}\" d=\"M0 100")?;
        for (x, column) in columns.iter().enumerate() {
            let y = 100.0 - height(if lines { column.marked } else { column.private });
            write!(out, "L{x} {y:.1}L{} {y:.1}", x + 1)?;
        }
        writeln!(out, "L{} 100Z\"/>", columns.len())?;
    }
    writeln!(
        out,
        "</svg>\n<ul class=\"legend\"><li><i class=\"k-private\" aria-hidden=\"true\"></i>private</li>\
         <li><i class=\"k-marked\" aria-hidden=\"true\"></i>marked</li></ul>"
    )?;
    let cpus = run.cpus as usize;
    let width = 100.0 / columns.len() as f64;
    writeln!(
        out,
        "<div class=\"rows\"><ul>{}<li>step</li></ul>\n<svg role=\"img\" style=\"height:{}px\">\n<title>Which CPU acts, and the steps</title>",
        heads(cpus),
        (cpus + 1) * ROW
    )?;
    for cpu in 0..cpus {
        writeln!(out, "<line x1=\"0\" x2=\"100%\" y1=\"{0}\" y2=\"{0}\"/>", cpu * ROW + ROW / 2)?;
        let mut from = None;
        for at in 0..=columns.len() {
            let acts =
                columns.get(at).is_some_and(|column| column.points.iter().any(|point| point.cpu as usize == cpu));
            match (acts, from) {
                (true, None) => from = Some(at),
                (false, Some(start)) => {
                    writeln!(
                        out,
                        "<rect class=\"acts\" x=\"{:.2}%\" y=\"{}\" width=\"{:.2}%\" height=\"14\"/>",
                        start as f64 * width,
                        cpu * ROW + ROW / 2 - 7,
                        (at - start) as f64 * width
                    )?;
                    from = None;
                }
                _ => {}
            }
        }
    }
    let mut at = 0.0;
    for of_step in points.chunk_by(|a, b| a.step == b.step) {
        let wide = 100.0 * of_step.len() as f64 / points.len() as f64;
        if let Some(point) = of_step.first().filter(|_| wide >= LABELED) {
            let y = cpus * ROW + ROW / 2 + 4;
            writeln!(out, "<text class=\"under\" x=\"{:.2}%\" y=\"{y}\">{}</text>", at + wide / 2.0, point.step)?;
        }
        at += wide;
    }
    writeln!(out, "</svg></div>\n<ol start=\"0\">")?;
    for step in &run.steps {
        writeln!(out, "<li>{}</li>", Text(step))?;
    }
    writeln!(out, "</ol>\n</figure>")
}
