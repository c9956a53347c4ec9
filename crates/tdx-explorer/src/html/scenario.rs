//! One scenario: its verdict in a line, and when that is opened its host, its memory, its time line
//! and what broke.

use core::fmt::{self, Write};

use super::text::{Count, Text, counted};
use super::{map, story, timeline};
use crate::report::ScenarioRun;

pub(super) fn draw(out: &mut String, index: usize, run: &ScenarioRun, open: bool) -> fmt::Result {
    let open = if open { " open" } else { "" };
    let (style, verdict) = match run.violations {
        0 => ("good", "clean".to_owned()),
        broken => ("bad", format!("{} broken", Count(broken))),
    };
    writeln!(
        out,
        "<details class=\"scenario\"{open}>\n<summary><h3>{}</h3> <span class=\"{style}\">{verdict}</span> \
         <span class=\"n\">{}</span> <span class=\"n\">{}</span> <span class=\"about\">{}</span></summary>\n<div>",
        Text(&run.name),
        counted(run.instants, "instant", "instants"),
        counted(run.crash_points, "crash point", "crash points"),
        Text(&run.about)
    )?;
    host(out, run)?;
    if !run.unmet.is_empty() {
        writeln!(out, "<p class=\"bad\">Expected and not so:</p>\n<ul class=\"prose\">")?;
        for unmet in &run.unmet {
            writeln!(out, "<li>{}</li>", Text(unmet))?;
        }
        writeln!(out, "</ul>")?;
    }
    map::draw(out, &run.memory_map)?;
    let of = format!("s{index}");
    timeline::draw(out, &of, run)?;
    if !run.findings.is_empty() {
        writeln!(out, "<h4>What broke</h4>")?;
        story::all(out, &of, &run.findings, run.violations)?;
    }
    writeln!(out, "</div>\n</details>")
}

fn host(out: &mut String, run: &ScenarioRun) -> fmt::Result {
    let schedules =
        if run.schedules > 0 { Count(run.schedules).to_string() } else { "CPUs do not take turns".to_owned() };
    let cpus = counted(u64::from(run.cpus), "CPU", "CPUs");
    let packages = counted(u64::from(run.packages), "package", "packages");
    let facts = [
        ("host", format!("{cpus} in {packages}, model {}", Text(&run.cpu))),
        ("TDX module", Text(run.module).to_string()),
        ("policy", Text(run.policy).to_string()),
        ("schedules", schedules),
    ];
    writeln!(out, "<dl class=\"facts\">")?;
    for (name, fact) in facts {
        writeln!(out, "<div><dt>{name}</dt><dd>{fact}</dd></div>")?;
    }
    writeln!(out, "</dl>")
}
