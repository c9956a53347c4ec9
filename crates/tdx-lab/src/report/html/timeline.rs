//! The instants of a scenario as a strip, step by step: how long each step is, and where a rule was broken.

use core::fmt::{self, Write};

use super::text::{Count, Text};
use crate::report::{ScenarioRun, TimePointReport};

const WIDTH: f64 = 1000.0;

/// Instants next to each other that are alike.
struct Run<'a> {
    first: &'a TimePointReport,
    instants: u64,
    crash_points: u64,
}

/// The strip, and under it the steps with their share.
pub(super) fn draw(out: &mut String, scenario: &ScenarioRun) -> fmt::Result {
    let points = &scenario.timeline;
    if points.is_empty() {
        return steps(out, scenario, |_| None);
    }
    let mut runs: Vec<Run<'_>> = Vec::new();
    for point in points {
        match runs.last_mut() {
            Some(run)
                if run.first.step == point.step
                    && run.first.broken == point.broken
                    && (run.first.crash_points == 0) == (point.crash_points == 0) =>
            {
                run.instants += 1;
                run.crash_points += point.crash_points;
            }
            _ => runs.push(Run { first: point, instants: 1, crash_points: point.crash_points }),
        }
    }
    writeln!(
        out,
        "<svg class=\"strip\" viewBox=\"0 0 1000 28\" role=\"img\" preserveAspectRatio=\"none\">\n\
         <title>{} instants of {}, from left to right; steps alternate in shade</title>",
        Count(points.len() as u64),
        Text(&scenario.name)
    )?;
    let scale = WIDTH / points.len() as f64;
    let mut at = 0;
    for run in &runs {
        let broken = run.first.broken;
        let style = match broken {
            Some(_) => "broken",
            None if run.crash_points == 0 => "none",
            None if run.first.step % 2 == 1 => "odd",
            None => "even",
        };
        let width = run.instants as f64 * scale;
        let width = if broken.is_some() { width.max(2.0) } else { width };
        let verdict = broken.unwrap_or("clean");
        let rect = format!(
            "<rect class=\"{style}\" x=\"{:.2}\" y=\"0\" width=\"{width:.2}\" height=\"28\"><title>instants {} to {}: {}</title></rect>",
            at as f64 * scale,
            run.first.instant,
            run.first.instant + run.instants - 1,
            Text(verdict)
        );
        match broken {
            Some(_) => writeln!(out, "<a href=\"#{}-{}\">{rect}</a>", Text(&scenario.name), run.first.instant)?,
            None => writeln!(out, "{rect}")?,
        }
        at += run.instants;
    }
    writeln!(
        out,
        "</svg>\n<p class=\"soft\">Time line: {} instants, {} of them broken; schedules: {}</p>",
        Count(points.len() as u64),
        Count(runs.iter().filter(|run| run.first.broken.is_some()).map(|run| run.instants).sum()),
        Count(scenario.schedules)
    )?;
    steps(out, scenario, |step| {
        let mut of = (0, 0);
        for run in runs.iter().filter(|run| run.first.step == step) {
            of = (of.0 + run.instants, of.1 + run.crash_points);
        }
        Some(of)
    })
}

fn steps(out: &mut String, scenario: &ScenarioRun, share: impl Fn(usize) -> Option<(u64, u64)>) -> fmt::Result {
    writeln!(out, "<ol class=\"steps\" start=\"0\">")?;
    for (index, step) in scenario.steps.iter().enumerate() {
        write!(out, "<li>{}", Text(step))?;
        if let Some((instants, crash_points)) = share(index).filter(|(instants, _)| *instants > 0) {
            let (instants, crash_points) = (Count(instants), Count(crash_points));
            write!(out, " <span class=\"soft\">{instants} instants, {crash_points} crash points</span>")?;
        }
        writeln!(out, "</li>")?;
    }
    writeln!(out, "</ol>")
}
