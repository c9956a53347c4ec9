//! The instants of a scenario from left to right: how many each step has, where a rule was broken,
//! and a link from there to the story. Neighbors that are alike are drawn as one, so a page stays
//! small.

use core::fmt::{self, Write};

use super::story;
use super::text::{Count, Text, counted};
use crate::report::{ScenarioRun, TimePointReport};

/// A step narrower than this has no number under it, in percent.
const LABELED: f64 = 3.5;

/// Instants next to each other that are alike.
struct Run<'a> {
    first: &'a TimePointReport,
    /// Place of the first in the time line.
    at: usize,
    instants: usize,
}

/// What the instants of a step add up to.
#[derive(Default)]
struct Sum {
    instants: u64,
    between: u64,
    stores: u64,
    inside: u64,
    crash_points: u64,
    broken: u64,
}

pub(super) fn draw(out: &mut String, of: &str, scenario: &ScenarioRun) -> fmt::Result {
    writeln!(out, "<h4>Time line</h4>")?;
    let points = &scenario.timeline;
    if points.is_empty() {
        writeln!(out, "<ol class=\"prose\" start=\"0\">")?;
        for step in &scenario.steps {
            writeln!(out, "<li>{}</li>", Text(step))?;
        }
        return writeln!(out, "</ol>");
    }
    if scenario.schedules > 1 {
        let broken = points.iter().any(|point| point.broken.is_some());
        let elsewhere = scenario.violations > 0 && !broken;
        writeln!(
            out,
            "<p class=\"soft\">One schedule of {} is drawn: {} of {}.{}</p>",
            Count(scenario.schedules),
            counted(points.len() as u64, "instant", "instants"),
            Count(scenario.instants),
            if elsewhere { " It is clean; rules were broken in others." } else { "" }
        )?;
    }
    strip(out, of, scenario, &merged(points))?;
    table(out, scenario)
}

fn merged(points: &[TimePointReport]) -> Vec<Run<'_>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    for (at, point) in points.iter().enumerate() {
        let looks = |point: &TimePointReport| (point.step, point.broken, point.crash_points == 0);
        match runs.last_mut() {
            Some(run) if looks(run.first) == looks(point) => run.instants += 1,
            _ => runs.push(Run { first: point, at, instants: 1 }),
        }
    }
    runs
}

fn strip(out: &mut String, of: &str, scenario: &ScenarioRun, runs: &[Run<'_>]) -> fmt::Result {
    let scale = 100.0 / scenario.timeline.len() as f64;
    writeln!(
        out,
        "<svg class=\"time\" role=\"img\">\n<title>{} instants from left to right; the steps are numbered, and broken instants stand out \
         above and below</title>",
        Count(scenario.timeline.len() as u64)
    )?;
    for run in runs {
        let (style, y, height) = match (run.first.broken, run.first.crash_points, run.first.step % 2) {
            (Some(_), ..) => ("broken", 0, 34),
            (None, 0, _) => ("none", 8, 18),
            (None, _, 0) => ("even", 8, 18),
            (None, ..) => ("odd", 8, 18),
        };
        let rect = format!(
            "<rect class=\"{style}\" x=\"{:.2}%\" y=\"{y}\" width=\"{:.2}%\" height=\"{height}\"><title>step {}, instants {} to {}: {}</title></rect>",
            run.at as f64 * scale,
            run.instants as f64 * scale,
            run.first.step,
            run.first.instant,
            run.first.instant + run.instants as u64 - 1,
            Text(run.first.broken.unwrap_or("clean"))
        );
        match run.first.broken.and_then(|_| story_of(of, scenario, run)) {
            Some(story) => writeln!(out, "<a href=\"#{story}\">{rect}</a>")?,
            None => writeln!(out, "{rect}")?,
        }
    }
    let mut at = 0.0;
    for points in scenario.timeline.chunk_by(|a, b| a.step == b.step) {
        let width = points.len() as f64 * scale;
        if at > 0.0 {
            writeln!(out, "<line x1=\"{at:.2}%\" x2=\"{at:.2}%\" y1=\"8\" y2=\"26\"/>")?;
        }
        if let Some(point) = points.first().filter(|_| width >= LABELED) {
            writeln!(out, "<text x=\"{:.2}%\" y=\"46\">{}</text>", at + width / 2.0, point.step)?;
        }
        at += width;
    }
    writeln!(out, "</svg>")
}

/// The story of the first broken instant of a run, or the last story before it: only the first ones
/// are told.
fn story_of(of: &str, scenario: &ScenarioRun, run: &Run<'_>) -> Option<String> {
    let findings = scenario.findings.get(..story::TOLD).unwrap_or(&scenario.findings);
    let same = findings.iter().position(|found| found.instant == run.first.instant);
    let before = || findings.iter().rposition(|found| found.instant <= run.first.instant);
    same.or_else(before).map(|index| story::id(of, index))
}

/// The same in numbers, step by step.
fn table(out: &mut String, scenario: &ScenarioRun) -> fmt::Result {
    writeln!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Steps\">\n<table class=\"steps\">\n<thead><tr>\
         <th scope=\"col\" colspan=\"2\">step</th>\
         <th scope=\"col\" class=\"n\">instants</th><th scope=\"col\" class=\"n\">between operations</th>\
         <th scope=\"col\" class=\"n\">ledger stores</th><th scope=\"col\" class=\"n\">inside a SEAMCALL</th>\
         <th scope=\"col\" class=\"n\">crash points</th><th scope=\"col\">verdict</th></tr></thead>\n<tbody>"
    )?;
    for (number, step) in scenario.steps.iter().enumerate() {
        let mut sum = Sum::default();
        for point in scenario.timeline.iter().filter(|point| point.step == number) {
            sum.instants += 1;
            sum.crash_points += point.crash_points;
            sum.broken += u64::from(point.broken.is_some());
            match point.kind {
                "between operations" => sum.between += 1,
                "ledger store" => sum.stores += 1,
                "inside a SEAMCALL" => sum.inside += 1,
                _ => {}
            }
        }
        write!(out, "<tr><td class=\"n\" data-of=\"step\">{number}</td><td class=\"wide\">{}</td>", Text(step))?;
        let counts = [
            ("instants", sum.instants),
            ("between operations", sum.between),
            ("ledger stores", sum.stores),
            ("inside a SEAMCALL", sum.inside),
            ("crash points", sum.crash_points),
        ];
        for (of, count) in counts {
            let count = if count == 0 { "-".to_owned() } else { Count(count).to_string() };
            write!(out, "<td class=\"n\" data-of=\"{of}\">{count}</td>")?;
        }
        let verdict = match (sum.instants, sum.broken) {
            (0, _) => "<span class=\"soft\">no instant</span>".to_owned(),
            (_, 0) => "<span class=\"good\">clean</span>".to_owned(),
            (_, broken) => format!("<span class=\"bad\">{} broken</span>", Count(broken)),
        };
        writeln!(out, "<td class=\"name\">{verdict}</td></tr>")?;
    }
    writeln!(out, "</tbody>\n</table>\n</div>")
}
