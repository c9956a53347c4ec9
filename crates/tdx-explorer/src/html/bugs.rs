//! The catalogue of bugs: a table to compare them, and below it each with its origin and its story.

use core::fmt::{self, Write};

use super::story;
use super::text::{Count, Text, counted};
use crate::report::BugRun;

pub(super) fn draw(out: &mut String, runs: &[BugRun]) -> fmt::Result {
    if runs.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section aria-labelledby=\"bugs\">\n<h2 id=\"bugs\">Bugs</h2>\n<p class=\"soft\">Crash points: how many were run until the bug was \
         found. Steps and operations: of the shortest replay, found by leaving steps out.</p>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"bugs\">\n<table>\n<thead><tr><th scope=\"col\">bug</th>\
         <th scope=\"col\">what the kernel does</th><th scope=\"col\">found by</th><th scope=\"col\">scenario</th>\
         <th scope=\"col\" class=\"n\">crash points</th><th scope=\"col\" class=\"n\">steps</th>\
         <th scope=\"col\" class=\"n\">operations</th></tr></thead>\n<tbody>"
    )?;
    for (index, run) in runs.iter().enumerate() {
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| Count(number).to_string());
        let found = run.found_by.map_or("<span class=\"bad\">not found</span>".to_owned(), |by| Text(by).to_string());
        writeln!(
            out,
            "<tr><th scope=\"row\"><a href=\"#b{index}\">{}</a></th><td class=\"wide\">{}</td><td data-of=\"found by\">{found}</td>\
             <td class=\"name\" data-of=\"scenario\">{}</td><td class=\"n\" data-of=\"crash points\">{}</td>\
             <td class=\"n\" data-of=\"steps\">{}</td><td class=\"n\" data-of=\"operations\">{}</td></tr>",
            Text(run.name),
            Text(run.what),
            Text(run.scenario.as_deref().unwrap_or("-")),
            Count(run.crash_points),
            number(run.replay_steps.map(|steps| steps as u64)),
            number(run.replay_operations)
        )?;
    }
    writeln!(out, "</tbody>\n</table>\n</div>\n<h3>How each was found</h3>")?;
    for (index, run) in runs.iter().enumerate() {
        one(out, index, run)?;
    }
    writeln!(out, "</section>")
}

fn one(out: &mut String, index: usize, run: &BugRun) -> fmt::Result {
    let found = match (run.found_by, run.replay_operations) {
        (Some(by), Some(operations)) => format!("{}, {}", Text(by), counted(operations, "operation", "operations")),
        (Some(by), None) => Text(by).to_string(),
        (None, _) => "<span class=\"bad\">not found</span>".to_owned(),
    };
    writeln!(
        out,
        "<details class=\"bug\">\n<summary><h4>{}</h4> <span class=\"soft\">{found}</span> <span class=\"about\">{}</span></summary>\n\
         <p class=\"soft\">Origin: {}</p>",
        Text(run.name),
        Text(run.what),
        Text(run.origin)
    )?;
    match &run.finding {
        Some(found) => story::one(out, &format!("b{index}"), found)?,
        None => writeln!(
            out,
            "<p class=\"bad\" id=\"b{index}\">Nothing told it from correct behavior: a gap of the software machine or of the \
             scenarios.</p>"
        )?,
    }
    writeln!(out, "</details>")
}
