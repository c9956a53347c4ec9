//! Text output of `explain`.

use std::io::{self, Write};

use clap::builder::styling::{AnsiColor, Style};
use tdx_operator::report::{
    Basis, ErrnoReport, ExplainReport, Given, Judgement, LogFinding, LogLine, LogReport, MsrReport, StatusReport,
    Subject, Topic,
};

use super::{BAD, GOOD, count, line, wrapped};

const CARE: Style = AnsiColor::Yellow.on_default().bold();

/// Prints it.
pub(crate) fn print(out: &mut impl Write, report: &ExplainReport) -> io::Result<()> {
    match &report.subject {
        Subject::Status(status) => self::status(out, status),
        Subject::Errno(errno) => self::errno(out, errno),
        Subject::Msr(msr) => self::msr(out, msr),
        Subject::Log(log) => self::log(out, &report.input, log),
    }
}

fn status(out: &mut impl Write, status: &StatusReport) -> io::Result<()> {
    let given = match status.given {
        Given::Whole => "",
        Given::UpperHalf => ", taken as bits 63:32; bits 31:0 hold details of an occurrence",
        Given::Name => "; bits 31:0 hold details of an occurrence",
    };
    line(out, "status", &format!("{}{given}", status.raw))?;
    line(out, "name", status.name.as_deref().unwrap_or("unknown"))?;
    let mut bits = vec![if status.error { "error" } else { "no error" }];
    bits.extend(status.non_recoverable.then_some("not recoverable"));
    bits.extend(status.fatal.then_some("fatal for the TD"));
    line(out, "class", &format!("{}; {}", status.class, bits.join(", ")))?;
    if let Some(detail) = &status.detail {
        line(out, "about", detail)?;
    }
    line(out, "meaning", &status.meaning)?;
    line(out, "retry", status.retry.text())?;
    line(out, "to do", &status.todo)?;
    if status.any_leaf {
        let but = status.any_leaf_but.join(", ");
        let but = if but.is_empty() { but } else { format!(" but {but}") };
        line(out, "from", &format!("any leaf{but}, from the dispatcher"))?;
    }
    if !status.leaves.is_empty() {
        line(out, if status.any_leaf { "and" } else { "from" }, &status.leaves.join(" "))?;
    }
    Ok(())
}

fn errno(out: &mut impl Write, errno: &ErrnoReport) -> io::Result<()> {
    line(out, "errno", &format!("{}, {}", errno.number, errno.name.unwrap_or("unknown")))?;
    line(out, "meaning", &errno.meaning)?;
    for cause in &errno.causes {
        wrapped(out, &format!("  {:<26}", cause.rule), 28, &format!("`{}`: {}", cause.line, cause.cause))?;
    }
    line(out, "to do", &errno.todo)
}

fn msr(out: &mut impl Write, msr: &MsrReport) -> io::Result<()> {
    line(out, "register", &format!("MSR {}, {}", msr.msr, msr.name.unwrap_or("unknown")))?;
    line(out, "value", &msr.value)?;
    for field in &msr.fields {
        let head = format!("  {:<8}{:>12}  ", field.bits, field.value);
        wrapped(out, &head, head.len(), &format!("{}{}", field.text, basis(field.basis)))?;
    }
    line(out, "meaning", &msr.meaning)?;
    msr.todo.as_ref().map_or(Ok(()), |todo| line(out, "to do", todo))
}

fn log(out: &mut impl Write, input: &str, log: &LogReport) -> io::Result<()> {
    line(out, "log", &format!("{input}, {}", count(usize::try_from(log.lines).unwrap_or(usize::MAX), "line")))?;
    let mut boot = 0;
    for found in &log.findings {
        writeln!(out)?;
        if log.boots > 1 && found.boot != boot {
            boot = found.boot;
            line(out, "boot", &format!("{boot} of {}", log.boots))?;
        }
        finding(out, found)?;
    }
    if log.findings_left_out > 0 {
        line(out, "\nmore", &format!("{} findings are not shown", log.findings_left_out))?;
    }
    if log.unknown_lines > 0 {
        writeln!(out)?;
        let lines = if log.unknown_lines == 1 { "1 line" } else { &format!("{} lines", log.unknown_lines) };
        line(out, "unknown", &format!("{lines} on TDX or machine checks in an unknown format:"))?;
        lines_of(out, &log.unknown)?;
    }
    Ok(())
}

fn finding(out: &mut impl Write, found: &LogFinding) -> io::Result<()> {
    let style = match found.judgement {
        Judgement::Up => GOOD,
        Judgement::Failed | Judgement::TdxPoison | Judgement::Hardware => BAD,
        Judgement::Undecidable => CARE,
        Judgement::Info => Style::new(),
    };
    let topic = match found.topic {
        Topic::BringUp => "bring-up",
        Topic::Seamcall => "seamcall",
        Topic::Handover => "handover",
        Topic::Kexec => "kexec",
        Topic::Vmm => "vmm",
        Topic::MachineCheck => "mce",
        Topic::System => "system",
    };
    let likely = if matches!(found.judgement, Judgement::TdxPoison | Judgement::Hardware) { "likely " } else { "" };
    let title = format!("{likely}{style}{}{style:#}, by rule {}", found.judgement.name(), found.rule);
    line(out, topic, &title)?;
    line(out, "why", &format!("{}{}", found.cause, basis(found.basis)))?;
    line(out, "to do", &found.remedy)?;
    lines_of(out, &found.evidence)
}

fn lines_of(out: &mut impl Write, lines: &[LogLine]) -> io::Result<()> {
    for LogLine { line, text } in lines {
        wrapped(out, &format!("{line:>8}  "), 10, text)?;
    }
    Ok(())
}

fn basis(basis: Basis) -> String {
    if basis == Basis::Sourced { String::new() } else { format!(" ({})", basis.name()) }
}
