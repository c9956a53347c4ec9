//! An exploration as one page for people: no network, no script, works from disk. Everything it
//! shows is in the report; it decides nothing and leaves out only what its own text says it leaves
//! out.

mod bugs;
mod coverage;
mod map;
mod picture;
mod scenario;
mod sequences;
mod story;
mod text;
mod timeline;

use core::fmt::{self, Write};

use crate::report::ExploreReport;
use text::{Count, Text, counted};

const STYLE: &str = include_str!("style.css");

/// The page. The same report gives the same bytes.
pub fn page(report: &ExploreReport) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut out, report);
    out
}

fn write_page(out: &mut String, report: &ExploreReport) -> fmt::Result {
    let title = if report.bugs.is_some() { "The catalogue of bugs" } else { "Every instant" };
    // The policy is a second lock: were a name ever written unescaped, no script would run and
    // nothing would be fetched.
    writeln!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title} - cleanslate explore</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n\
         <p class=\"soft\">cleanslate explore</p>\n<h1>{title}</h1>"
    )?;
    picture::draw(out, report)?;
    verdict(out, report)?;
    contents(out, report)?;
    writeln!(out, "</header>\n<main>")?;
    if !report.scenarios.is_empty() {
        writeln!(out, "<section aria-labelledby=\"scenarios\">\n<h2 id=\"scenarios\">Scenarios</h2>")?;
        // The first that needs reading stands open; all of them would be a page that nobody can
        // find his way in.
        let broken = report.scenarios.iter().position(|run| run.violations > 0);
        let open = broken.or((report.scenarios.len() == 1).then_some(0));
        for (index, run) in report.scenarios.iter().enumerate() {
            scenario::draw(out, index, run, open == Some(index))?;
        }
        writeln!(out, "</section>")?;
    }
    sequences::draw(out, &report.short_sequences)?;
    bugs::draw(out, &report.catalogue)?;
    coverage::draw(out, &report.coverage)?;
    limits(out, report.limits)?;
    writeln!(
        out,
        "</main>\n<footer class=\"soft\"><p>{}, seed {}. The same input and seed give this page again, byte for byte.</p></footer>\n\
         </body>\n</html>",
        Text(report.tool),
        report.seed
    )
}

/// What came of it, in the words of someone who has to answer for a host.
fn verdict(out: &mut String, report: &ExploreReport) -> fmt::Result {
    let good = report.violations == 0 && report.bugs == report.bugs_found;
    writeln!(out, "<div class=\"verdict{}\">", if good { "" } else { " broken" })?;
    match (report.bugs, report.bugs_found) {
        (Some(bugs), Some(found)) => writeln!(
            out,
            "<p class=\"{}\">{found} of {} found</p>\n<p>Each bug is a small change of what a kernel does. It stands outside \
             the product; the explorer is told nothing and must notice.</p>",
            if good { "good" } else { "bad" },
            text::counted(bugs as u64, "bug", "bugs")
        )?,
        _ if good => writeln!(
            out,
            "<p class=\"good\">No rule was broken</p>\n<p>From every instant the machine was handed over, by a kexec and by a panic on each \
             CPU, and the next kernel used its memory: no machine check, no old cache line over its data, no page overwritten \
             that was in use, no private page that the kernel had not marked.</p>"
        )?,
        _ => writeln!(
            out,
            "<p class=\"bad\">Rules were broken: {}</p>\n<p>The first of them have a story below, and the command that shows it \
             again.</p>",
            counted(report.violations, "time", "times")
        )?,
    }
    writeln!(out, "<dl class=\"figures\">")?;
    let until = if report.bugs.is_some() { "handovers run until each was found" } else { "handovers run from them" };
    let figures = [
        (report.instants, "instants", "points at which the machine was looked at"),
        (report.crash_points, "crash points", until),
        (report.schedules, "schedules", "orders in which CPUs took turns"),
        (report.sequences, "short sequences", "of host operations, all of a length"),
    ];
    for (count, what, meaning) in figures.into_iter().filter(|(count, ..)| *count > 0) {
        writeln!(out, "<div><dt>{what}</dt><dd>{}</dd><dd class=\"soft\">{meaning}</dd></div>", Count(count))?;
    }
    writeln!(out, "</dl>\n</div>")
}

/// Links to the parts that there are.
fn contents(out: &mut String, report: &ExploreReport) -> fmt::Result {
    let parts = [
        ("scenarios", "Scenarios", report.scenarios.len()),
        ("sequences", "Short sequences", report.short_sequences.len()),
        ("bugs", "Bugs", report.catalogue.len()),
        ("coverage", "Coverage", report.coverage.len()),
        ("limits", "What is not modeled", report.limits.len()),
    ];
    writeln!(out, "<nav aria-label=\"Parts\">\n<ul>")?;
    for (id, title, _) in parts.iter().filter(|(.., size)| *size > 0) {
        writeln!(out, "<li><a href=\"#{id}\">{title}</a></li>")?;
    }
    writeln!(out, "</ul>\n</nav>")
}

fn limits(out: &mut String, limits: &[&str]) -> fmt::Result {
    if limits.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section aria-labelledby=\"limits\">\n<h2 id=\"limits\">What is not modeled</h2>\n\
         <p class=\"soft\">The software machine stands in for CPU, memory and TDX module. What is said above holds as far as it goes.</p>\n\
         <ul class=\"prose\">"
    )?;
    for limit in limits {
        writeln!(out, "<li>{}</li>", Text(limit))?;
    }
    writeln!(out, "</ul>\n</section>")
}
