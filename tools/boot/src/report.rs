//! The outcome of a run: from the events of the guest, from seamvisor's summary and from QEMU's
//! exit status.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::{BootArgs, Guest, NextKernel};
use crate::events;
use crate::machine::Machine;
use crate::messages::Messages;
use crate::symbols::Symbols;

/// Outcome of a run.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The last kernel finished its work.
    Clean,
    /// A kernel took a machine check.
    MachineCheck,
    /// The reset overwrote memory in use.
    Overwritten,
    /// Anything else.
    Failed,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::MachineCheck => "machine-check",
            Self::Overwritten => "overwritten",
            Self::Failed => "failed",
        }
    }
}

/// A run.
#[derive(Debug)]
pub struct Report {
    verdict: Verdict,
    why: String,
    command: String,
    elapsed: Duration,
    serial: PathBuf,
    log: PathBuf,
    /// Events of the guest.
    events: Vec<Value>,
    /// Lines that begin as an event and do not parse.
    broken_events: usize,
    /// Earlier runs of the same boot that do not count, and why.
    discarded: Vec<String>,
    /// seamvisor's summary.
    summary: Option<Value>,
    /// The guest's own explanation of its machine check.
    explanation: Option<String>,
    /// The serial log.
    said: String,
    /// Names of addresses in the kernel.
    symbols: Symbols,
}

fn text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Where seamvisor panicked, and why, which is the line after it; or the line of a forged summary.
fn panic(logged: &str) -> Option<String> {
    let mut lines = logged.lines();
    let line = lines.find(|line| line.contains("panicked") || line.contains("\"forged\""))?;
    let why = if line.contains("panicked") { lines.next() } else { None };
    Some(why.map_or_else(|| line.to_owned(), |why| format!("{line} {}", why.trim())))
}

/// Why a run is not clean although its guest reports that it finished: what seamvisor recorded.
fn doubt(args: &BootArgs, summary: Option<&Value>) -> Option<String> {
    let Some(summary) = summary else { return Some("seamvisor has left no summary".to_owned()) };
    let end = if args.linux_is_first() || matches!(args.next, NextKernel::Linux | NextKernel::Stock) {
        "power-off"
    } else {
        "guest-ended"
    };
    if summary["end"] != end {
        return Some(format!("seamvisor reports the end {} and not {end}", summary["end"]));
    }
    if summary["cpus"] != args.cpus {
        return Some(format!("seamvisor reports {} CPUs", summary["cpus"]));
    }
    // A guest that is malicious on purpose accesses what it must not.
    let hostile = args.append.contains("hostile");
    let counts = ["kicks_unanswered", "hidden_accesses", "seamcalls_refused"];
    let wrong = counts.iter().find(|count| summary[**count] != 0 && !(hostile && **count != "kicks_unanswered"));
    wrong.map(|count| format!("seamvisor counted {} {count}", summary[*count]))
}

/// Was the machine check that `cleanslate.consume` provokes taken by the first kernel? Memory was
/// still private then, and the dump of that kernel's log has the same RIP.
fn taken_by_the_first(events: &[Value], check: &Value, messages: &Messages) -> bool {
    let rip = check["rip"].as_str().and_then(|rip| rip.strip_prefix("0x")).unwrap_or("none");
    let lines = events.iter().filter(|event| event["event"] == "dump-line").filter_map(|event| event["text"].as_str());
    let mut dumped = lines.filter_map(|line| line.strip_prefix(messages.text("linux-machine-check-rip")));
    check["private_then"].as_u64().is_some_and(|lines| lines > 0)
        && dumped.any(|line| line.contains(&format!("<{rip}>")))
}

fn is_before_user_space(said: &str, events: &[Value], messages: &Messages) -> bool {
    events.is_empty()
        && said.matches(messages.text("linux-version")).count() <= 1
        && !said.contains(messages.text("linux-out-of-tree-module"))
}

impl Report {
    pub(crate) fn read(
        args: &BootArgs,
        machine: &Machine,
        status: Option<i32>,
        elapsed: Duration,
        messages: &Messages,
    ) -> Result<Self> {
        let (said, logged) = (text(&machine.serial)?, text(&machine.seamvisor)?);
        let (events, broken_events) = events::read(&said);
        let (mut told, _) = events::read(&logged);
        let overwritten = told.iter().find(|event| event["event"] == "overwritten").cloned();
        let summary = told.pop().filter(|last| last["schema"] == "cleanslate/seamvisor");
        let named = |name: &str| events.iter().any(|event| event["event"] == name);
        let checks = summary.as_ref().and_then(|summary| summary["machine_checks"].as_array());
        let checks = checks.map_or(&[][..], Vec::as_slice);
        let checks_seen = !checks.is_empty();
        let wanted = args.crash && args.append.contains("cleanslate.consume");
        // Only the one that is provoked is allowed, and only in the first kernel.
        let unwanted = match checks {
            [check] if wanted => !taken_by_the_first(&events, check, messages),
            _ => !checks.is_empty(),
        };
        // A Linux that kexecs into Linux must come to user space twice.
        let linuxes = match (args.guest, args.next) {
            (Guest::Linux | Guest::Kvm, NextKernel::None) if !args.crash => 1,
            (Guest::Linux | Guest::Kvm, _) if args.refused => 1,
            (Guest::Linux, _) if args.keeps() => 2 + args.kexecs as usize,
            (Guest::Linux | Guest::Kvm, _) => 2,
            (Guest::Firstkernel, NextKernel::Linux | NextKernel::Stock) => 1,
            (Guest::Firstkernel, _) => 0,
        };
        let shutdown = summary.as_ref().is_some_and(|summary| summary["end"] == "shutdown");
        let came_to_the_end = if linuxes > 0 {
            let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
            // The last one with all its CPUs.
            let last = events.iter().rfind(|event| event["event"] == "user-space").unwrap_or(&Value::Null);
            let dump = events.iter().find(|event| event["event"] == "dump").unwrap_or(&Value::Null);
            let dumped = dump["read"].as_u64().is_some_and(|read| read > 0) && dump["read"] == dump["size"];
            count("user-space") >= linuxes
                && last["cpus"] == if args.crash { 1 } else { args.cpus }
                && (!args.crash || dumped)
                && (!args.refused || count("kexec-failed") > 0)
        } else {
            named("second-kernel") || named("hostile")
        };
        let doubt = if args.plain { None } else { doubt(args, summary.as_ref()) };
        let doubt =
            doubt.or((wanted && checks.is_empty()).then(|| "the first kernel did not consume poison".to_owned()));
        let panic = panic(&logged);
        // A kernel that panics prints more after the reason.
        let panicked = said.lines().rfind(|line| line.contains(messages.text("linux-panic")));
        let last = panicked.or_else(|| said.lines().rev().find(|line| !line.trim().is_empty()));
        let last = last.unwrap_or("none").trim();
        let (verdict, why) = match status {
            // Whatever came after it.
            _ if overwritten.is_some() => {
                let first = overwritten.map(|event| event["address"].clone()).unwrap_or_default();
                (Verdict::Overwritten, format!("the reset overwrote memory in use, first at {first}"))
            }
            _ if panic.is_some() => (Verdict::Failed, format!("seamvisor: {}", panic.unwrap_or_default())),
            _ if unwanted || named("machine-check") => (Verdict::MachineCheck, "a kernel consumed poison".to_owned()),
            _ if shutdown => {
                (Verdict::Failed, format!("a CPU shut down (triple fault); the last line of the guest: {last}"))
            }
            None => (Verdict::Failed, format!("not done after {} s; the last line of the guest: {last}", args.timeout)),
            Some(_) if came_to_the_end && doubt.is_some() => (Verdict::Failed, doubt.unwrap_or_default()),
            _ if came_to_the_end => (Verdict::Clean, "the last kernel finished its work".to_owned()),
            Some(code) => {
                (Verdict::Failed, format!("QEMU ended with status {code}; the last line of the guest: {last}"))
            }
        };
        let explanation = said
            .lines()
            .skip_while(|line| !line.contains(messages.text("linux-machine-check-rip")))
            .nth(1)
            // Linux goes on with registers; firstkernel explains.
            .filter(|line| !line.contains("[Hardware Error]"))
            .map(|line| line.trim().to_owned());
        Ok(Self {
            verdict,
            why,
            command: machine.line.clone(),
            elapsed,
            serial: machine.serial.clone(),
            log: machine.seamvisor.clone(),
            events,
            broken_events,
            discarded: Vec::new(),
            summary,
            explanation,
            said,
            // A big file, for a machine check alone.
            symbols: if checks_seen { Symbols::of(args) } else { Symbols::default() },
        })
    }

    /// The serial log.
    pub fn said(&self) -> &str {
        &self.said
    }

    /// A Linux without modules crashed with an `int3` that has no handler. Linux patches its code
    /// by an `int3` that every CPU handles until the patch is complete; QEMU under load has let a
    /// CPU execute one that had already been replaced. With a module it could be the module's own.
    pub(crate) fn ran_stale_code(&self, messages: &Messages) -> bool {
        let kernel = self.said.rsplit(messages.text("linux-version")).next().unwrap_or_default();
        let oops = kernel.split_once(messages.text("linux-oops-int3"));
        oops.is_some_and(|(before, _)| !before.contains(messages.text("linux-out-of-tree-module")))
    }

    /// The first Linux has come to no program of ours and to no module: nothing of the product has
    /// run. A kernel behind a kexec that hangs may do so for what the product left it.
    pub(crate) fn is_before_user_space(&self, messages: &Messages) -> bool {
        is_before_user_space(&self.said, &self.events, messages)
    }

    /// Notes the earlier runs that do not count.
    pub(crate) fn set_discarded(&mut self, discarded: Vec<String>) {
        self.discarded = discarded;
    }

    /// Adds where the CPUs were when a boot was ended that was not done.
    pub(crate) fn tell_where(&mut self, cpus: &str) {
        let none = if cpus.is_empty() { "QEMU does not say where the CPUs are" } else { cpus };
        let _ = write!(self.why, "; {none}");
    }

    /// Earlier runs of the same boot that do not count, and why.
    pub(crate) fn discarded(&self) -> &[String] {
        &self.discarded
    }

    /// The guest's events.
    pub(crate) fn events(&self) -> &[Value] {
        &self.events
    }

    /// The guest's event of this name, or null.
    pub fn event(&self, name: &str) -> &Value {
        self.events.iter().find(|event| event["event"] == name).unwrap_or(&Value::Null)
    }

    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    pub fn why(&self) -> &str {
        &self.why
    }

    /// seamvisor's summary, or null.
    pub fn summary(&self) -> &Value {
        self.summary.as_ref().unwrap_or(&Value::Null)
    }

    /// Moves the logs into a folder of this number, where no later run overwrites them.
    pub fn keep(&mut self, number: u32) -> Result<PathBuf> {
        let folder = self.serial.with_file_name(format!("run-{number}"));
        fs::create_dir_all(&folder)?;
        for log in [&mut self.serial, &mut self.log] {
            let kept = folder.join(log.file_name().context("a log has a name")?);
            fs::rename(&*log, &kept).with_context(|| format!("cannot move {}", log.display()))?;
            *log = kept;
        }
        Ok(folder)
    }

    /// seamvisor's log.
    pub fn log(&self) -> Result<String> {
        text(&self.log)
    }

    /// The function in which a machine check was taken, by the kernel's System.map.
    fn symbol(&self, check: &Value) -> Option<String> {
        let rip = check["rip"].as_str()?.strip_prefix("0x")?;
        self.symbols.at(u64::from_str_radix(rip, 16).ok()?)
    }

    pub fn json(&self) -> Value {
        json!({
            "schema": "cleanslate/boot",
            "version": 1,
            "verdict": self.verdict.name(),
            "why": self.why,
            "seconds": self.elapsed.as_secs_f64(),
            "events": self.events,
            "broken_events": self.broken_events,
            "discarded_runs": self.discarded,
            "explanation": self.explanation,
            "machine_checks_in": self.summary()["machine_checks"].as_array().into_iter().flatten()
                .map(|check| self.symbol(check)).collect::<Vec<_>>(),
            "seamvisor": self.summary,
            "serial_log": self.serial,
            "seamvisor_log": self.log,
            "command": self.command,
        })
    }

    pub fn human(&self) -> String {
        let mut out = String::new();
        // Writing to a string never fails.
        let _ = writeln!(out, "verdict: {} ({}), {:.1} s", self.verdict.name(), self.why, self.elapsed.as_secs_f64());
        if let Some(summary) = &self.summary {
            let calls = summary["seamcalls"].as_array().into_iter().flatten();
            let calls: u64 = calls.filter_map(|call| call["count"].as_u64()).sum();
            let lines = &summary["lines"];
            let _ = writeln!(
                out,
                "machine: {calls} SEAMCALLs; {} lines reset by MOVDIR64B, {} poisoned, {} private at the end",
                lines["direct_stored"], lines["poisoned_ever"], lines["private"]
            );
            for check in summary["machine_checks"].as_array().into_iter().flatten() {
                let word = |name: &str| check[name].as_str().unwrap_or("?").to_owned();
                let _ = writeln!(
                    out,
                    "machine check: CPU {} read {} ({}) at RIP {}{} by {}: {}",
                    check["cpu"],
                    word("address"),
                    word("kind"),
                    word("rip"),
                    self.symbol(check).map_or_else(String::new, |name| format!(" ({name})")),
                    word("instruction"),
                    word("reason")
                );
            }
        }
        if let Some(explanation) = &self.explanation {
            let _ = writeln!(out, "the kernel that died reports: {explanation}");
        }
        if self.broken_events > 0 {
            let _ = writeln!(out, "events that do not parse: {}", self.broken_events);
        }
        for why in &self.discarded {
            let _ = writeln!(out, "an earlier run does not count: {why}");
        }
        let _ = writeln!(out, "logs: {}, {}", self.serial.display(), self.log.display());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages;

    #[test]
    fn only_a_first_linux_without_anything_of_ours_is_before_user_space() {
        let messages = messages::load().unwrap();
        let early = "[    0.000000] Linux version 7.3.4 (root@vm)\n[    0.786286] PCI: Using ACPI for IRQ routing\n";
        let is_before = |said: &str, events: &[Value]| is_before_user_space(said, events, &messages);
        assert!(is_before("", &[]));
        assert!(is_before(early, &[]));
        // A kernel behind a kexec, even if its predecessor's events were lost.
        assert!(!is_before(&early.repeat(2), &[]));
        assert!(!is_before(early, &[json!({ "event": "user-space" })]));
        assert!(!is_before(&format!("{early}cleanslate: loading out-of-tree module taints kernel.\n"), &[]));
    }
}
