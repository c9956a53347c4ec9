//! Text output of `fleet`: counts, what to do, and the table.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use tdx_operator::report::{FleetMachine, FleetReport, Status};

use super::{
    check::{self, remedy_text},
    count, line,
    table::{Side, Table},
    wrapped,
};

/// Names that are shown of the machines with one verdict.
const NAMES: usize = 8;

/// Counts and distinct verdicts first, then the table, the versions, and what helps.
pub(crate) fn print(out: &mut impl Write, report: &FleetReport) -> io::Result<()> {
    let counts = &report.counts;
    let machines = count(counts.machines, "machine");
    let unread = if counts.unreadable > 0 { format!(", {} not read", counts.unreadable) } else { String::new() };
    let text = format!(
        "{machines}: {} fail, {} unknown, {} warn, {} pass{unread}",
        counts.fail, counts.unknown, counts.warn, counts.pass
    );
    line(out, "fleet", &text)?;
    line(out, "kdump", &format!("ready on {} of {machines}", counts.kdump_ready))?;
    let now = report.machines.iter().filter(|machine| machine.verdict.power_cycle == "now");
    let now: Vec<&str> = now.map(|machine| machine.name.as_str()).collect();
    if !now.is_empty() {
        line(out, "reset now", &some(&now))?;
    }
    let contradict = report.machines.iter().filter(|machine| machine.warned.contains(&"data.agree"));
    let contradict: Vec<&str> = contradict.map(|machine| machine.name.as_str()).collect();
    if !contradict.is_empty() {
        line(
            out,
            "data",
            &format!("contradict each other on {}: see `cleanslate check --from DIR`", some(&contradict)),
        )?;
    }
    for reason in report.reasons.iter().filter(|reason| reason.status != Status::Pass) {
        let names: Vec<&str> = reason.machines.iter().map(String::as_str).collect();
        let style = check::style(reason.status);
        let head = format!("{style}{:<10}{style:#}", reason.status.name());
        wrapped(out, &head, 10, &format!("{}: {}", some(&names), reason.text))?;
    }
    for unreadable in &report.unreadable {
        line(out, "not read", &unreadable.text)?;
    }
    writeln!(out)?;
    table(report).print(out)?;
    versions(out, report)?;
    helps(out, report)
}

fn table(report: &FleetReport) -> Table {
    let columns = ["machine", "verdict", "TDX", "kexec", "kdump", "reset", "CPU", "kernel", "module"];
    let mut table = Table::new(&columns.map(|name| (name, Side::Left)));
    for machine in &report.machines {
        let (verdict, facts) = (&machine.verdict, &machine.facts);
        let known = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
        let kdump = match verdict.kdump {
            "ready" => "yes",
            "not-ready" => "no",
            other => other,
        };
        table.row([
            machine.name.clone(),
            verdict.status.name().to_owned(),
            verdict.tdx.to_owned(),
            verdict.kexec.to_owned(),
            kdump.to_owned(),
            verdict.power_cycle.to_owned(),
            known(&facts.cpu_model),
            known(&facts.kernel),
            // Without build and date.
            facts.module.as_deref().and_then(|text| text.split(' ').next()).unwrap_or("-").to_owned(),
        ]);
    }
    table
}

/// Which microcode and which BIOS, and on how many machines.
fn versions(out: &mut impl Write, report: &FleetReport) -> io::Result<()> {
    let mut microcode: BTreeMap<String, usize> = BTreeMap::new();
    let mut bios: BTreeMap<String, usize> = BTreeMap::new();
    for FleetMachine { facts, .. } in &report.machines {
        let model = facts.cpu_model.as_deref().unwrap_or("?");
        *microcode.entry(format!("{model} {}", facts.microcode.as_deref().unwrap_or("?"))).or_default() += 1;
        *bios.entry(facts.bios.clone().unwrap_or_else(|| "?".to_owned())).or_default() += 1;
    }
    let list = |all: &BTreeMap<String, usize>| {
        all.iter().map(|(name, count)| format!("{name} ({count})")).collect::<Vec<_>>().join("; ")
    };
    writeln!(out)?;
    line(out, "microcode", &list(&microcode))?;
    line(out, "BIOS", &list(&bios))
}

/// Everything that helps, each once, with the machines that it helps.
fn helps(out: &mut impl Write, report: &FleetReport) -> io::Result<()> {
    let mut all: Vec<(String, Vec<&str>)> = Vec::new();
    for reason in report.reasons.iter().filter(|reason| reason.status != Status::Pass) {
        let hint = reason.hint.iter().filter(|_| reason.remedies.is_empty()).cloned();
        for text in hint.chain(reason.remedies.iter().map(remedy_text)) {
            let names = reason.machines.iter().map(String::as_str);
            match all.iter_mut().find(|(other, _)| *other == text) {
                Some((_, machines)) => machines.extend(names),
                None => all.push((text, names.collect())),
            }
        }
    }
    if !all.is_empty() {
        writeln!(out, "\nWhat helps")?;
    }
    for (text, names) in &all {
        wrapped(out, "  - ", 4, text)?;
        wrapped(out, "    ", 6, &format!("on {}", some(names)))?;
    }
    Ok(())
}

/// The first names, and how many more.
fn some(names: &[&str]) -> String {
    let shown = names.iter().take(NAMES).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// A line for each machine.
pub(crate) fn short(out: &mut impl Write, report: &FleetReport) -> io::Result<()> {
    report.machines.iter().try_for_each(|machine| check::short(out, &machine.name, &machine.verdict))?;
    report
        .unreadable
        .iter()
        .try_for_each(|unreadable| writeln!(out, "{} NOT-READ {}", unreadable.name, unreadable.text))
}
