//! Text output of `plan`.

use std::io::{self, Write};

use tdx_operator::{
    report::{CostReport, LayoutReport, LinuxReport, PlanReport},
    size,
};

use super::{
    BAD, GOOD, count, host, last_line, line,
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
    if let Some(cost) = &report.cost {
        costs(out, cost)?;
        writeln!(out)?;
    }
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

/// Seconds, short.
fn seconds(value: f64) -> String {
    match value {
        v if v >= 10.0 => format!("{v:.0} s"),
        v if v >= 1.0 => format!("{v:.1} s"),
        v if v >= 0.001 => format!("{:.0} ms", v * 1e3),
        v if v > 0.0 => "under 1 ms".to_owned(),
        _ => "0".to_owned(),
    }
}

fn costs(out: &mut impl Write, cost: &CostReport) -> io::Result<()> {
    use Side::{Left, Right};
    let pamt = &cost.pamt;
    let for_good = size::human(pamt.static_bytes);
    let text = match (pamt.dynamic_bytes, pamt.dynamic_bytes_all_in_tds) {
        (Some(least), Some(most)) => format!(
            "{for_good} permanently; with Dynamic PAMT {}, and {} with all memory in TDs in 4 KiB pages \
                (assuming one bitmap bit per page)",
            size::human(least),
            size::human(most)
        ),
        _ => format!("{for_good} permanently"),
    };
    line(out, "PAMT", &text)?;
    let [least, most] = cost.boot.seconds;
    line(
        out,
        "boot",
        &format!(
            "{} to {} in Linux, from published logs of hosts with this much memory",
            seconds(least),
            seconds(most)
        ),
    )?;
    let giga = |rate: f64| rate / 1e9;
    let rates = &cost.rates;
    line(
        out,
        "kexec",
        &format!(
            "at {:.1} GB/s on one core, {:.0} GB/s on all ({}); WBINVD not included. For the behavior of \
                this kernel at kexec see `cleanslate check`",
            giga(rates.one_core),
            giga(rates.all_cores),
            rates.origin
        ),
    )?;
    let all_cores = match rates.assumed_cpus {
        Some(cpus) => format!("all cores ({} assumed)", count(cpus as usize, "CPU")),
        None => "all cores".to_owned(),
    };
    let columns = [("policy", Left), ("in TDs", Left), ("rewritten", Right), ("one core", Right), (&all_cores, Right)];
    let mut table = Table::new(&columns);
    for row in &cost.kexec {
        table.row([
            row.policy.to_owned(),
            row.memory_in_tds.name().to_owned(),
            size::human(row.bytes),
            seconds(row.seconds_one_core),
            seconds(row.seconds_all_cores),
        ]);
    }
    table.print(out)?;
    line(
        out,
        "outage",
        "what the reset of `cleanslate.ko` (policy tracked) adds to a kexec, and to the time from a crash to \
            its dump, on this host, at the same rates",
    )?;
    let all_cpus = match rates.assumed_cpus {
        Some(cpus) => format!("kexec, all CPUs ({cpus} assumed)"),
        None => "kexec, all CPUs".to_owned(),
    };
    let columns = [
        ("in TDs", Left),
        ("kexec, one CPU", Right),
        (&all_cpus, Right),
        ("dump=reset", Right),
        ("dump=exclude", Right),
    ];
    let mut table = Table::new(&columns);
    for row in &cost.outage {
        let times = [row.kexec_one_cpu, row.kexec_all_cpus, row.dump_reset].map(seconds);
        let [one, all, reset] = times;
        // It resets nothing.
        table.row([row.memory_in_tds.name().to_owned(), one, all, reset, "none".to_owned()]);
    }
    table.print(out)
}

fn linux(out: &mut impl Write, linux: &LinuxReport, logged: Option<u64>) -> io::Result<()> {
    let log = match (linux.equals_log, logged) {
        (Some(true), _) => ", as in the log".to_owned(),
        (Some(false), Some(logged)) => format!("; the log reports {logged} KB"),
        (Some(false), None) => "; the log differs".to_owned(),
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
        return last_line(out, BAD, &format!("no layout ({})", layout.result), error);
    };
    let given_up = if layout.given_up_bytes == 0 {
        "no memory given up".to_owned()
    } else {
        format!("{} given up", size::human(layout.given_up_bytes))
    };
    let tdmrs = count(layout.tdmrs.len(), "TDMR");
    let text = format!("{tdmrs} of at most {}, {kb} KB for PAMT, {given_up}", layout.max_tdmrs);
    last_line(out, GOOD, "fits", &text)
}
