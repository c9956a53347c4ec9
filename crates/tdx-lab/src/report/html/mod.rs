//! An exploration as one page for people: no network, no script, works from disk. Everything it shows is in the report; it decides
//! nothing.

mod map;
mod tables;
mod text;
mod timeline;

use core::fmt::{self, Write};

use super::{ExploreReport, FindingReport, ScenarioRun};
use text::{Count, Text};

const STYLE: &str = include_str!("style.css");

/// The page. The same report gives the same bytes.
pub fn page(report: &ExploreReport) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut out, report);
    out
}

fn write_page(out: &mut String, report: &ExploreReport) -> fmt::Result {
    let title = if report.bugs.is_some() { "Cleanslate: the catalogue of bugs" } else { "Cleanslate: every instant" };
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n"
    )?;
    verdict(out, report)?;
    writeln!(out, "</header>\n<main>")?;
    if !report.scenarios.is_empty() {
        writeln!(out, "<section aria-labelledby=\"scenarios\">\n<h2 id=\"scenarios\">Scenarios</h2>")?;
        for run in &report.scenarios {
            scenario(out, run)?;
        }
        writeln!(out, "</section>")?;
    }
    tables::sequences(out, &report.short_sequences)?;
    tables::catalogue(out, &report.catalogue)?;
    tables::coverage(out, &report.coverage)?;
    writeln!(
        out,
        "<section aria-labelledby=\"limits\">\n<h2 id=\"limits\">What the software machine does not model</h2>\n<ul>"
    )?;
    for limit in report.limits {
        writeln!(out, "<li>{}</li>", Text(limit))?;
    }
    writeln!(
        out,
        "</ul>\n</section>\n</main>\n<footer class=\"soft\"><p>{}, seed {}</p></footer>\n</body>\n</html>",
        Text(report.tool),
        report.seed
    )
}

fn verdict(out: &mut String, report: &ExploreReport) -> fmt::Result {
    let good = report.violations == 0 && report.bugs == report.bugs_found;
    writeln!(out, "<div class=\"verdict{}\">", if good { "" } else { " broken" })?;
    match (report.bugs, report.bugs_found) {
        (Some(bugs), Some(found)) => writeln!(
            out,
            "<p class=\"{}\">{found} of {bugs} bugs found</p>\n<p>Each is a small change of what a kernel does, outside the product: \
             the explorer must notice every one.</p>",
            if good { "good" } else { "bad" }
        )?,
        _ if good => writeln!(
            out,
            "<p class=\"good\">No rule was broken</p>\n<p>From every instant the machine was handed over by kexec and by a panic on each \
             CPU, and the next kernel used its memory: no machine check, no old cache line over its data, no page in use overwritten.</p>"
        )?,
        _ => writeln!(
            out,
            "<p class=\"bad\">{} times a rule was broken</p>\n<p>Each finding below has its story and the command that shows it again.</p>",
            Count(report.violations)
        )?,
    }
    writeln!(out, "<ul class=\"figures\">")?;
    let figures = [
        (report.instants, "instants"),
        (report.crash_points, "crash points"),
        (report.schedules, "schedules"),
        (report.sequences, "short sequences"),
    ];
    for (count, what) in figures.into_iter().filter(|(count, _)| *count > 0) {
        writeln!(out, "<li><b>{}</b> {what}</li>", Count(count))?;
    }
    writeln!(out, "</ul>\n</div>")
}

fn scenario(out: &mut String, run: &ScenarioRun) -> fmt::Result {
    let open = if run.violations > 0 { " open" } else { "" };
    let verdict = if run.violations > 0 {
        format!("<span class=\"bad\">{} broken</span>", Count(run.violations))
    } else {
        "<span class=\"good\">clean</span>".to_owned()
    };
    writeln!(
        out,
        "<details{open}>\n<summary><h3 class=\"mono\">{}</h3> &#183; {verdict} &#183; {} crash points\
         <span class=\"soft\">{}</span></summary>\n<div>",
        Text(&run.name),
        Count(run.crash_points),
        Text(&run.about)
    )?;
    writeln!(
        out,
        "<p class=\"soft\">CPU model {}, CPUs: {}, packages: {}; module {}; policy {}</p>",
        Text(&run.cpu),
        run.cpus,
        run.packages,
        Text(run.module),
        Text(run.policy)
    )?;
    for unmet in &run.unmet {
        writeln!(out, "<p class=\"bad\">Expected otherwise: {}</p>", Text(unmet))?;
    }
    map::draw(out, &run.name, &run.memory_map)?;
    timeline::draw(out, run)?;
    for found in &run.findings {
        finding(out, &run.name, found)?;
    }
    writeln!(out, "</div>\n</details>")
}

/// What broke a rule, line by line.
fn finding(out: &mut String, of: &str, found: &FindingReport) -> fmt::Result {
    writeln!(
        out,
        "<div class=\"finding\" id=\"{}-{}\">\n<p class=\"bad\">{}</p>\n<ol>",
        Text(of),
        found.instant,
        Text(found.rule)
    )?;
    for line in &found.story {
        writeln!(out, "<li>{}</li>", Text(line))?;
    }
    writeln!(
        out,
        "</ol>\n<p class=\"soft\">Instant {}, after {} operations{}</p>\n<pre><code>{}</code></pre>\n</div>",
        Count(found.instant),
        Count(found.operations),
        found.end.as_deref().map(|end| format!("; {}", Text(end))).unwrap_or_default(),
        Text(&found.replay)
    )
}
