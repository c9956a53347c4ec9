//! The tables: short sequences, the catalogue of bugs with the story of each, coverage.

use core::fmt::{self, Write};

use super::finding;
use super::text::{Count, Text};
use crate::report::{BugRun, Covered, SequenceRun};

pub(super) fn sequences(out: &mut String, runs: &[SequenceRun]) -> fmt::Result {
    if runs.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section aria-labelledby=\"sequences\">\n<h2 id=\"sequences\">Short sequences</h2>\n\
         <p>All sequences of host operations of each length, crashed at each instant of the last operation.</p>\n\
         <div class=\"scroll\" tabindex=\"0\">\n<table>\n<thead><tr><th scope=\"col\">begins with</th><th scope=\"col\" class=\"n\">operations</th>\
         <th scope=\"col\" class=\"n\">sequences</th><th scope=\"col\" class=\"n\">instants</th>\
         <th scope=\"col\" class=\"n\">crash points</th><th scope=\"col\" class=\"n\">broken</th></tr></thead>\n<tbody>"
    )?;
    for run in runs {
        writeln!(
            out,
            "<tr><td class=\"name\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Text(run.start),
            run.length,
            Count(run.sequences),
            Count(run.instants),
            Count(run.crash_points),
            Count(run.violations)
        )?;
    }
    writeln!(out, "</tbody>\n</table>\n</div>")?;
    for (index, run) in runs.iter().enumerate() {
        for found in &run.findings {
            finding(out, &format!("sequence-{index}"), found)?;
        }
    }
    writeln!(out, "</section>")
}

pub(super) fn catalogue(out: &mut String, runs: &[BugRun]) -> fmt::Result {
    if runs.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section aria-labelledby=\"bugs\">\n<h2 id=\"bugs\">Bugs</h2>\n<p class=\"soft\">Crash points until it was found; steps and \
         operations of the shortest scenario that shows it.</p>\n<div class=\"scroll\" tabindex=\"0\">\n<table>\n\
         <thead><tr><th scope=\"col\">bug</th><th scope=\"col\">found by</th><th scope=\"col\">scenario</th>\
         <th scope=\"col\" class=\"n\">crash points</th><th scope=\"col\" class=\"n\">steps</th>\
         <th scope=\"col\" class=\"n\">operations</th></tr></thead>\n<tbody>"
    )?;
    for run in runs {
        let number = |number: Option<u64>| number.map(|number| Count(number).to_string()).unwrap_or_default();
        let found = run.found_by.map_or("<span class=\"bad\">not found</span>".to_owned(), |by| Text(by).to_string());
        writeln!(
            out,
            "<tr><td class=\"name mono\"><a href=\"#bug-{0}\">{0}</a></td><td>{found}</td><td class=\"name\">{1}</td><td class=\"n\">{2}</td>\
             <td class=\"n\">{3}</td><td class=\"n\">{4}</td></tr>",
            Text(run.name),
            Text(run.scenario.as_deref().unwrap_or_default()),
            Count(run.crash_points),
            number(run.replay_steps.map(|steps| steps as u64)),
            number(run.replay_operations)
        )?;
    }
    writeln!(out, "</tbody>\n</table>\n</div>\n<h3>Stories</h3>")?;
    for run in runs {
        writeln!(
            out,
            "<details id=\"bug-{0}\">\n<summary><span class=\"mono\">{0}</span><span class=\"soft\">{1}</span></summary>\n<div>\n\
             <p class=\"soft\">Origin: {2}</p>",
            Text(run.name),
            Text(run.what),
            Text(run.origin)
        )?;
        match &run.finding {
            Some(found) => finding(out, run.name, found)?,
            None => writeln!(out, "<p class=\"bad\">Not found: a gap of the machine or of the scenarios.</p>")?,
        }
        writeln!(out, "</div>\n</details>")?;
    }
    writeln!(out, "</section>")
}

pub(super) fn coverage(out: &mut String, rows: &[Covered]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section aria-labelledby=\"coverage\">\n<h2 id=\"coverage\">Coverage</h2>\n<p class=\"soft\">Crash points right after each SEAMCALL by \
         its answer, and inside it as another CPU sees it.</p>\n<div class=\"scroll\" tabindex=\"0\">\n<table>\n<thead><tr>\
         <th scope=\"col\">leaf</th><th scope=\"col\">status</th><th scope=\"col\" class=\"n\">after it</th>\
         <th scope=\"col\" class=\"n\">inside it</th></tr></thead>\n<tbody>"
    )?;
    for row in rows {
        writeln!(
            out,
            "<tr><td class=\"name mono\">{}</td><td class=\"name mono\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Text(&row.leaf),
            Text(&row.status),
            Count(row.after),
            Count(row.inside)
        )?;
    }
    writeln!(out, "</tbody>\n</table>\n</div>\n</section>")
}
