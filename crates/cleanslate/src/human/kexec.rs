//! Text output of `kexec`: kernel log, private lines, handover, next kernel, verdict.

use std::io::{self, Write};

use tdx_lab::report::{KeptReport, KexecReport, MachineCheckReport, NextKernelReport, PrivateLines, Verdict};
use tdx_operator::{size, words::grouped_count};

use super::{
    BAD, GOOD, count, grouped, host, last_line, line,
    table::{Side, Table},
};

/// Bytes of a line.
const LINE: u64 = tdx_abi::LINE_SIZE;

pub(crate) fn print(out: &mut impl Write, report: &KexecReport) -> io::Result<()> {
    host(out, &report.host)?;
    bringup(out, report)?;
    tds(out, report)?;
    private(out, &report.private_before)?;
    scenario(out, report)?;
    handover(out, report)?;
    if let Some(next) = &report.next_kernel {
        next_kernel(out, next)?;
    }
    if let Some(kept) = &report.kept {
        takeover(out, kept)?;
    }
    verdict(out, report)?;
    writeln!(out, "(`cleanslate --version` lists what the software machine does not model)")
}

fn bringup(out: &mut impl Write, report: &KexecReport) -> io::Result<()> {
    writeln!(out, "First kernel, layout `{}`, emulated module {}", report.layout, report.scenario.module)?;
    for message in &report.bringup.log {
        writeln!(out, "{message}")?;
    }
    let calls: u64 = report.bringup.seamcalls.iter().map(|calls| calls.count).sum();
    line(out, "", &format!("{}, {}", count(report.bringup.tdmrs, "TDMR"), grouped_count(calls, "SEAMCALL")))?;
    match (report.bringup.equals_log, report.host.logged.pamt_kb) {
        (Some(true), _) => line(out, "", "PAMT size as in the log")?,
        (Some(false), Some(logged)) => line(
            out,
            "",
            &format!(
                "the log reports {logged} KB allocated for PAMT; see `cleanslate plan` for this host for \
                    the difference"
            ),
        )?,
        _ => {}
    }
    if let Some(error) = &report.bringup.error {
        line(out, "failed", error)?;
    }
    if let Some(unwound) = &report.bringup.unwound {
        let (lines, bytes) = (grouped_count(unwound.reset_lines, "PAMT line"), size::human(unwound.freed_bytes));
        line(out, "unwound", &format!("{lines} reset, {bytes} of PAMT freed"))?;
    }
    writeln!(out)
}

fn tds(out: &mut impl Write, report: &KexecReport) -> io::Result<()> {
    for td in &report.tds {
        let key = td.key_id.map_or_else(String::new, |key| format!(" (KeyID {key})"));
        line(out, &format!("TD {}", td.td), &format!("{}{key}: {}", td.state, td.story.join("; ")))?;
    }
    if let Some(ledger) = &report.ledger {
        let text = format!(
            "{} for {} of TDMRs; {} marked, {} of them unknown to the module, {} leaked",
            size::human(ledger.bytes),
            size::human(ledger.covered_bytes),
            grouped_count(ledger.marked_pages, "page"),
            grouped(ledger.unknown_to_module_pages),
            grouped(ledger.leaked_pages)
        );
        line(out, "ledger", &text)?;
    }
    if report.tds.is_empty() { Ok(()) } else { writeln!(out) }
}

/// The situation, if it is not a plain kexec.
fn scenario(out: &mut impl Write, report: &KexecReport) -> io::Result<()> {
    if let Some(hole) = &report.scenario.hole {
        line(out, "hole", &format!("{}: {}", hole.name, hole.story))?;
    }
    if report.scenario.kind == "crash" && report.policy == "keep" {
        line(out, "panic", "not of a partial write: a TDX module that meets poison dies, and its TDs with it")?;
    } else if report.scenario.kind == "crash" {
        let stray = report.scenario.stray_lines.iter().map(|line| format!("{} ({})", line.address, line.kind));
        let stray: Vec<String> = stray.collect();
        let lines = count(stray.len(), "line");
        line(out, "panic", &format!("a wild pointer made partial writes to {lines}: {}", stray.join(", ")))?;
        let poison = "which poisons those lines that are already private in memory; a store to any other \
            line, e.g. one still held by a cache, poisons nothing";
        line(out, "", poison)?;
        if report.policy == "refuse" {
            line(out, "", "`refuse` applies to kexec images: at a crash it resets like `tracked`")?;
        }
    }
    Ok(())
}

fn private(out: &mut impl Write, lines: &PrivateLines) -> io::Result<()> {
    writeln!(
        out,
        "Private lines before the kexec, counted by the machine: {} ({})",
        grouped(lines.lines),
        size::human(lines.lines * LINE)
    )?;
    if lines.lines > 0 {
        let columns =
            [("TDMR", Side::Right), ("PAMT_4K", Side::Right), ("PAMT_2M", Side::Right), ("PAMT_1G", Side::Right)];
        let mut table = Table::new(&columns);
        for tdmr in &lines.by_tdmr {
            let cells = [tdmr.pamt_4k, tdmr.pamt_2m, tdmr.pamt_1g].map(grouped);
            table.row(std::iter::once(tdmr.tdmr.to_string()).chain(cells));
        }
        let cells = [lines.pamt_4k, lines.pamt_2m, lines.pamt_1g].map(grouped);
        table.row(std::iter::once("all".to_owned()).chain(cells));
        table.print(out)?;
    }
    let pages = [
        (lines.tdr, "TDR"),
        (lines.control, "TDCS and TDVPS"),
        (lines.sept, "SEPT"),
        (lines.guest, "guest pages"),
        (lines.dynamic_pamt, "PAMT page pairs"),
        (lines.returned, "returned or rejected pages, unknown to the module"),
    ];
    let pages = pages.iter().filter(|(lines, _)| *lines > 0).map(|(lines, what)| format!("{} {what}", grouped(*lines)));
    let pages: Vec<String> = pages.collect();
    if !pages.is_empty() {
        line(out, "of TDs", &pages.join(", "))?;
    }
    if lines.other > 0 {
        line(out, "other", &format!("{} outside the PAMTs of the table", grouped_count(lines.other, "private line")))?;
    }
    writeln!(out)
}

fn handover(out: &mut impl Write, report: &KexecReport) -> io::Result<()> {
    let handover = &report.handover;
    if let Some(module) = &handover.module {
        line(out, "module", module)?;
    }
    line(out, report.scenario.kind, &format!("policy `{}`: {} ({})", report.policy, handover.outcome, handover.why))?;
    if handover.outcome == "reset" || (handover.outcome == "kept" && handover.lines > 0) {
        let reset = &report.reset;
        let (lines, ranges) = (grouped_count(reset.lines, "line"), grouped_count(handover.ranges, "range"));
        let text = format!("{lines} reset in {ranges}");
        line(out, "", &text)?;
    }
    let reset = &report.reset;
    if report.next_kernel.is_none() {
        let private = report.private_before.lines;
        let stay = if private == 1 { "stays" } else { "stay" };
        let text = format!("{} {stay} private; this kernel continues to run", grouped_count(private, "line"));
        line(out, "", &text)?;
        return writeln!(out);
    }
    for left in &report.uncleaned {
        let range = left.range.as_ref().map_or_else(String::new, ToString::to_string);
        line(out, "left", &format!("{range} {}", left.why))?;
    }
    if let Some(verdict) = report.leftover_table.and_then(|table| table.verdict_if_heeded) {
        let good = if verdict.is_good() { "survives" } else { "still dies" };
        line(out, "table", &format!("a next kernel that reads the table of leftovers and avoids them {good}"))?;
    }
    let left = [
        (reset.private_lines_left, "private"),
        (reset.dirty_private_lines_left, "private in a cache"),
        (reset.poisoned_lines_left, "poisoned"),
    ];
    for (lines, what) in left.into_iter().filter(|(lines, _)| *lines > 0) {
        line(out, "", &format!("{} {what} at the jump", lines_are(lines)))?;
    }
    Ok(())
}

fn next_kernel(out: &mut impl Write, next: &NextKernelReport) -> io::Result<()> {
    let written = size::human(next.bytes_written);
    let poisoned = if next.lines_poisoned > 0 {
        format!(", which poisoned {}, silently", grouped_count(next.lines_poisoned, "line"))
    } else {
        String::new()
    };
    line(out, "next", &format!("made a partial write to every line of {written}{poisoned}"))?;
    let checked = size::human(next.bytes_checked);
    match &next.machine_check {
        None => line(out, "", &format!("read back {checked}: no machine check"))?,
        Some(check) => {
            line(out, "", &format!("read back {checked}, then took a machine check"))?;
            writeln!(out)?;
            machine_check(out, check, next.fatal_lines)?;
        }
    }
    if let Some(tdx) = &next.tdx {
        line(out, "then", tdx)?;
    }
    writeln!(out)
}

/// What the next kernel made of the TDs.
fn takeover(out: &mut impl Write, kept: &KeptReport) -> io::Result<()> {
    let record = &kept.record;
    let (entries, tds) = (grouped(record.entries as u64), grouped_count(record.tds, "TD"));
    let (bytes, reserved) = (grouped_count(record.bytes as u64, "byte"), size::human(kept.reserved_bytes));
    let text =
        format!("{bytes}, entries: {entries}, {tds}, written at the {}; {reserved} reserved by it", record.written_by);
    line(out, "record", &text)?;
    for td in &kept.tds {
        let key = td.key_id.map_or_else(String::new, |key| format!(" (KeyID {key})"));
        let text = match (&td.why, td.cpu) {
            (None, Some(cpu)) => format!("runs on{key}: entered on CPU {cpu}, its memory is what it was"),
            (why, _) if td.adopted => format!("lost{key}: {}", why.as_deref().unwrap_or("it does not run")),
            (why, _) => format!("not adopted: {}", why.as_deref().unwrap_or("no reason")),
        };
        line(out, &format!("TD {}", td.td), &text)?;
    }
    let vacuum = &kept.vacuum;
    let (tds, pages) = (grouped_count(vacuum.tds, "TD"), grouped_count(vacuum.pages, "page"));
    line(
        out,
        "vacuum",
        &format!("{tds} torn down, {pages} came back clean, {} still marked", grouped(vacuum.pages_kept)),
    )?;
    if let Some(error) = &vacuum.error {
        line(out, "failed", error)?;
    }
    line(out, "new TD", &kept.new_td)?;
    let lines = grouped_count(kept.private_lines, "private line");
    let computed = if kept.private_lines == kept.private_lines_computed {
        "as computed".to_owned()
    } else {
        format!("{} were computed", grouped(kept.private_lines_computed))
    };
    line(out, "end", &format!("{lines}, {computed}"))?;
    writeln!(out)
}

fn machine_check(out: &mut impl Write, check: &MachineCheckReport, fatal: u64) -> io::Result<()> {
    writeln!(out, "{}", check.log)?;
    let what = match (check.tdmr, check.tdmr_range) {
        (Some(index), Some(range)) => format!("{} of TDMR {index} {range}", check.kind),
        _ => check.kind.to_owned(),
    };
    let key = check.key_id.map_or_else(String::new, |key| format!(", last written with KeyID {key}"));
    line(out, "line", &format!("{}, {what}{key}", check.address))?;
    line(out, "explain", &check.explained)?;
    line(out, "poisoned", &format!("by {}", check.poisoned_by))?;
    line(out, "read", &format!("by {}", check.read_by))?;
    line(out, "story", &check.story.join(" "))?;
    line(out, "in all", &format!("{} with fatal reads", grouped_count(fatal, "line")))
}

/// `1 line is`, `5,000 lines are`.
fn lines_are(number: u64) -> String {
    format!("{} {}", grouped_count(number, "line"), if number == 1 { "is" } else { "are" })
}

/// The last line of a next kernel that has taken TDX over.
fn taken_over(kept: &KeptReport) -> String {
    let tds = match kept.tds.iter().filter(|td| td.runs).count() {
        0 => "no TD is left".to_owned(),
        1 => "1 TD runs on".to_owned(),
        runs => format!("{runs} TDs run on"),
    };
    format!("the next kernel kept off private memory and survived; TDX is up, {tds}")
}

fn verdict(out: &mut impl Write, report: &KexecReport) -> io::Result<()> {
    let failed = if report.bringup.error.is_some() { "; but the TDX initialization failed" } else { "" };
    let (style, verdict, text) = match report.verdict {
        Verdict::Clean if report.kept.is_some() => {
            (GOOD, "clean", report.kept.as_ref().map(taken_over).unwrap_or_default())
        }
        Verdict::Clean if report.scenario.kind == "crash" => (
            GOOD,
            "clean",
            "the crash kernel used its reserved memory, read all other memory, and \
                survived"
                .to_owned(),
        ),
        Verdict::Clean => (GOOD, "clean", "the next kernel used all of memory and survived".to_owned()),
        Verdict::MachineCheck => (BAD, "machine check", format!("policy `{}` let the next kernel die", report.policy)),
        Verdict::DataLost => {
            let lost = report.next_kernel.as_ref().map_or(0, |next| next.lines_lost);
            (
                BAD,
                "data lost",
                format!("stale cache lines overwrote {} of the next kernel", grouped_count(lost, "line")),
            )
        }
        Verdict::TdxLost => (BAD, "TDX lost", "TDX or a TD does not go on in the next kernel".to_owned()),
        Verdict::Refused => (GOOD, "refused", "kexec refused, no memory affected".to_owned()),
    };
    last_line(out, style, verdict, &format!("{text}{failed}"))
}
