//! The table of short sequences, and what broke in them.

use core::fmt::{self, Write};

use super::story;
use super::text::{Count, Text};
use crate::report::SequenceRun;

pub(super) fn draw(out: &mut String, runs: &[SequenceRun]) -> fmt::Result {
    if runs.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section aria-labelledby=\"sequences\">\n<h2 id=\"sequences\">Short sequences</h2>\n\
         <p class=\"soft\">All sequences of host operations up to a length, on a tiny host, each crashed at every instant of its last \
         operation.</p>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"sequences\">\n<table>\n\
         <thead><tr><th scope=\"col\">begins with</th><th scope=\"col\" class=\"n\">operations</th>\
         <th scope=\"col\" class=\"n\">sequences</th><th scope=\"col\" class=\"n\">instants</th>\
         <th scope=\"col\" class=\"n\">crash points</th><th scope=\"col\">verdict</th></tr></thead>\n<tbody>"
    )?;
    for run in runs {
        let verdict = match run.violations {
            0 => "<span class=\"good\">clean</span>".to_owned(),
            broken => format!("<span class=\"bad\">{} broken</span>", Count(broken)),
        };
        writeln!(
            out,
            "<tr><td class=\"name\" data-of=\"begins with\">{}</td><td class=\"n\" data-of=\"operations\">{}</td>\
             <td class=\"n\" data-of=\"sequences\">{}</td><td class=\"n\" data-of=\"instants\">{}</td>\
             <td class=\"n\" data-of=\"crash points\">{}</td><td class=\"name\">{verdict}</td></tr>",
            Text(run.start),
            run.length,
            Count(run.sequences),
            Count(run.instants),
            Count(run.crash_points)
        )?;
    }
    writeln!(out, "</tbody>\n</table>\n</div>")?;
    for (index, run) in runs.iter().enumerate() {
        story::all(out, &format!("q{index}"), &run.findings, run.violations)?;
    }
    writeln!(out, "</section>")
}
