//! `plan` for people.

use std::io::{self, Write};

use tdx_lab::{
    report::{LayoutReport, LinuxReport, PlanReport},
    size,
};

use super::{
    BAD, GOOD, count, host, line,
    table::{Side, Table},
};

pub(crate) fn print(out: &mut impl Write, report: &PlanReport) -> io::Result<()> {
    host(out, &report.host)?;
    let layout = &report.layout;
    if layout.error.is_none() {
        tdmrs(out, layout)?;
        for note in &layout.notes {
            line(out, "note", note)?;
        }
        writeln!(out)?;
    }
    linux(out, &report.linux, report.host.logged.pamt_kb)?;
    for difference in &report.differences {
        line(out, "why", difference)?;
    }
    writeln!(out)?;
    verdict(out, layout)
}

fn tdmrs(out: &mut impl Write, layout: &LayoutReport) -> io::Result<()> {
    use Side::{Left, Right};
    let columns = [
        ("#", Right),
        ("TDMR", Left),
        ("size", Right),
        ("node", Right),
        ("reserved", Right),
        ("PAMT at", Left),
        ("PAMT", Right),
    ];
    let mut table = Table::new(&columns);
    for tdmr in &layout.tdmrs {
        table.row([
            tdmr.index.to_string(),
            tdmr.range.to_string(),
            size::human(tdmr.range.size),
            tdmr.node.to_string(),
            format!("{} of {}", tdmr.reserved_count, layout.max_reserved_per_tdmr),
            tdmr.pamt.small.base.to_string(),
            format!("{} KB", tdmr.pamt_bytes / 1024),
        ]);
    }
    writeln!(out, "TDMRs, layout `{}`", layout.layout)?;
    table.print(out)
}

fn linux(out: &mut impl Write, linux: &LinuxReport, logged: Option<u64>) -> io::Result<()> {
    let log = match (linux.equals_log, logged) {
        (Some(true), _) => ", as in the log".to_owned(),
        (Some(false), Some(logged)) => format!("; the log says {logged} KB"),
        (Some(false), None) => "; the log says otherwise".to_owned(),
        (None, _) => String::new(),
    };
    let text = match (&linux.error, linux.tdmrs, linux.pamt_kb) {
        (Some(error), _, _) => format!("{} ({error}){log}", linux.result),
        (None, Some(tdmrs), Some(kb)) => format!("ok: {}, {kb} KB allocated for PAMT{log}", count(tdmrs, "TDMR")),
        (None, _, _) => linux.result.clone(),
    };
    line(out, "Linux", &text)
}

fn verdict(out: &mut impl Write, layout: &LayoutReport) -> io::Result<()> {
    let Some(kb) = layout.pamt_kb else {
        let error = layout.error.as_deref().unwrap_or_default();
        return writeln!(out, "{BAD}no layout{BAD:#} ({}): {error}", layout.result);
    };
    let given_up = if layout.given_up_bytes == 0 {
        "nothing given up".to_owned()
    } else {
        format!("{} given up", size::human(layout.given_up_bytes))
    };
    let tdmrs = count(layout.tdmrs.len(), "TDMR");
    writeln!(out, "{GOOD}fits{GOOD:#}: {tdmrs} of at most {}, {kb} KB for PAMT, {given_up}", layout.max_tdmrs)
}
