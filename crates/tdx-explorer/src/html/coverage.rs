//! Which SEAMCALLs were crashed at: a line for each leaf, in it each status that it answered with.
//! Most pairs of leaf and status do not exist, so a table with a column for each status would be
//! empty paper.

use core::fmt::{self, Write};

use super::text::{Count, Text};
use crate::report::Covered;

pub(super) fn draw(out: &mut String, rows: &[Covered]) -> fmt::Result {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<section aria-labelledby=\"coverage\">\n<h2 id=\"coverage\">Coverage</h2>\n<p class=\"soft\">Crash points at each SEAMCALL, by what it \
         answered: right after it, and inside it as another CPU sees it.</p>\n\
         <div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"coverage\">\n<table>\n<thead><tr>\
         <th scope=\"col\">leaf</th><th scope=\"col\">status</th><th scope=\"col\" class=\"n\">after</th>\
         <th scope=\"col\" class=\"n\">inside</th></tr></thead>"
    )?;
    // The report has the rows of a leaf together.
    for group in rows.chunk_by(|a, b| a.leaf == b.leaf) {
        writeln!(out, "<tbody>")?;
        for (index, row) in group.iter().enumerate() {
            let leaf = match index {
                0 => format!("<th scope=\"rowgroup\" rowspan=\"{}\">{}</th>", group.len(), Text(&row.leaf)),
                _ => String::new(),
            };
            writeln!(
                out,
                "<tr>{leaf}<td class=\"name mono\">{}</td><td class=\"n\" data-of=\"after\">{}</td>\
                 <td class=\"n\" data-of=\"inside\">{}</td></tr>",
                Text(&row.status),
                Count(row.after),
                Count(row.inside)
            )?;
        }
        writeln!(out, "</tbody>")?;
    }
    writeln!(out, "</table>\n</div>\n</section>")
}
