//! What broke a rule, line by line, with the command that shows it again. The first of several
//! stands open; of very many only the first are told, and the page says so.

use core::fmt::{self, Write};

use super::text::{Count, Text};
use crate::report::FindingReport;

/// Stories that are told of one scenario: a bug that breaks a rule in every schedule has thousands,
/// all alike.
pub(super) const TOLD: usize = 24;

/// The id of a finding, for links to it.
pub(super) fn id(of: &str, index: usize) -> String {
    format!("{of}-f{index}")
}

pub(super) fn all(out: &mut String, of: &str, findings: &[FindingReport], violations: u64) -> fmt::Result {
    let told = findings.len().min(TOLD);
    if told > 0 && (told as u64) < violations {
        writeln!(out, "<p class=\"soft\">The first {} of {}.</p>", Count(told as u64), Count(violations))?;
    }
    for (index, found) in findings.iter().take(TOLD).enumerate() {
        let open = if index == 0 { " open" } else { "" };
        writeln!(
            out,
            "<details class=\"finding\"{open}>\n<summary><b>{}</b> at instant {}{}</summary>",
            Text(found.rule),
            Count(found.instant),
            found.end.as_deref().map(|end| format!(", ended by {}", Text(end))).unwrap_or_default()
        )?;
        one(out, &id(of, index), found)?;
        writeln!(out, "</details>")?;
    }
    Ok(())
}

/// A link to the id opens whatever it is folded into.
pub(super) fn one(out: &mut String, id: &str, found: &FindingReport) -> fmt::Result {
    writeln!(out, "<div class=\"story\" id=\"{id}\">\n<ol>")?;
    for line in &found.story {
        // The last line of a story says what broke the rule.
        let style = if *line == found.what { " class=\"bad\"" } else { "" };
        writeln!(out, "<li{style}>{}</li>", Text(line))?;
    }
    writeln!(out, "</ol>")?;
    if found.story.last() != Some(&found.what) {
        writeln!(out, "<p class=\"bad\">{}</p>", Text(&found.what))?;
    }
    write!(out, "<p class=\"soft\">Rule: {}. Instant {}", Text(found.rule), Count(found.instant))?;
    write!(out, " ({}), operations before it: {}", Text(found.kind), Count(found.operations))?;
    if let Some(schedule) = &found.schedule {
        write!(out, "; order of CPUs: {}", Text(schedule))?;
    }
    writeln!(
        out,
        ".</p>\n<pre tabindex=\"0\" aria-label=\"Command that shows it again\"><code>{}</code></pre>\n</div>",
        Text(&found.replay)
    )
}
