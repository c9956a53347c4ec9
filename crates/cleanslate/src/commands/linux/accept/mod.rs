//! `cleanslate linux accept`: which assumptions of docs/limits.md hold on this host.
//!
//! Runs `check`, `bench`, the measurements of cleanslate.ko and an audit, one after the other. A
//! part that fails is missing in the report, with the reason, and the others go on.

mod assumptions;
mod idle;
mod measured;
mod missing;
mod module;
mod report;

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use tdx_operator::check::{self, Live, Processor};
use tdx_operator::report::{CheckReport, Status, TOOL};
use tdx_operator::words::grouped_count;

use super::audit::{self, Found};
use crate::commands::bench::{self, Store};
use crate::exit::Exit;
use crate::files;
use crate::interrupt;
use crate::options::Format;
use crate::output::{json, report_error, unless_closed};
use crate::stop::Stop;
use assumptions::{Facts, Machine, Verdict};
use measured::{Measured, Why};
use missing::{Missing, Part, Reason};
use module::Module;
use report::{Check, Report};

/// Arguments of `accept`.
#[derive(Args, Debug)]
pub(crate) struct AcceptArgs {
    /// Output format: for people or for programs.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
    /// Also writes the report as JSON to a file, complete or not at all.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// SEAMCALLs per second of the audit at most; default: the module's parameter `sweep_rate`.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Leaves a part out; may be repeated.
    #[arg(long, value_enum, value_name = "PART")]
    skip: Vec<Skip>,
}

/// What can be left out.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Skip {
    /// The audit: 18 minutes for a TiB.
    Audit,
    /// Memory bandwidth: all cores write for some seconds.
    Bandwidth,
    /// WBINVD on every CPU in turn, and what the observer adds to a SEAMCALL.
    Times,
}

/// Says what goes on. The parts take from seconds to hours.
fn announce(number: u32, what: &str) {
    if io::stderr().is_terminal() {
        report_error(format_args!("accept: {number} of 4: {what}"));
    }
}

const SKIPPED: &str = "left out (--skip)";
const NOT_BEGUN: &str = "not begun, because of Ctrl-C: run it again";
const NO_ERRATUM: &str = "this CPU lacks the partial-write erratum: cleanslate.ko has nothing to do";

pub(super) fn run(root: &Path, args: &AcceptArgs, out: &mut impl Write) -> Result<Exit, Stop> {
    if let Some(path) = &args.json {
        files::probe(path)?;
    }
    interrupt::keep();
    let report = gather(root, args);
    if let Some(path) = &args.json {
        let mut bytes = Vec::new();
        json(&mut bytes, &report)?;
        files::write(path, &bytes)?;
    }
    unless_closed(match args.format {
        Format::Human => report.print(out),
        Format::Json => json(out, &report),
    })?;
    Ok(exit(&report))
}

/// 1 if an assumption does not hold, 130 after Ctrl-C, 3 if the report lacks a part that it should
/// have.
fn exit(report: &Report) -> Exit {
    let lacks = |reason| report.missing.iter().any(|missing| missing.reason == reason);
    if report.contradicted > 0 {
        Exit::Bad
    } else if lacks(Reason::Interrupted) {
        Exit::Interrupted
    } else if lacks(Reason::Failed) {
        Exit::Input
    } else {
        Exit::Good
    }
}

fn gather(root: &Path, args: &AcceptArgs) -> Report {
    let skips = |part| args.skip.contains(&part);
    let mut missing = Vec::new();
    announce(1, "check");
    let snapshot = Live::at(root).snapshot();
    let checked = check::check("live", &snapshot);
    let processor = check::processor(&snapshot);
    if processor.is_none() {
        let why = "/proc/cpuinfo cannot be read, or names no CPU".into();
        missing.push(Missing { part: Part::Processor, reason: Reason::Failed, why });
    }
    let (idle, bandwidth) = if skips(Skip::Bandwidth) {
        missing.push(Missing { part: Part::Bandwidth, reason: Reason::Skipped, why: SKIPPED.into() });
        (None, None)
    } else if interrupt::came() {
        missing.push(Missing { part: Part::Bandwidth, reason: Reason::Interrupted, why: NOT_BEGUN.into() });
        (None, None)
    } else {
        announce(2, "memory bandwidth (all cores write for some seconds)");
        let idle = idle::is_idle(root);
        let measured = bench::measure().map_err(|error| {
            missing.push(Missing { part: Part::Bandwidth, reason: Reason::Failed, why: error.to_string().into() });
        });
        (idle, measured.ok().map(of_bench))
    };
    // The module is loaded on such a CPU, and leaves no trace in sysfs.
    let no_erratum = processor.as_ref().is_some_and(|cpu| !cpu.partial_write_erratum)
        && !root.join("sys/kernel/cleanslate").is_dir();
    let times = if skips(Skip::Times) {
        Measured::none(Reason::Skipped, SKIPPED)
    } else if no_erratum {
        Measured::none(Reason::NotApplicable, NO_ERRATUM)
    } else if interrupt::came() {
        Measured::none(Reason::Interrupted, NOT_BEGUN)
    } else {
        announce(3, "WBINVD on each CPU, observer of SEAMCALLs");
        measured::measure(root)
    };
    for (part, why) in Part::MEASURED.into_iter().zip([times.wbinvd.as_ref().err(), times.observer.as_ref().err()]) {
        missing.extend(why.cloned().map(|(reason, why)| Missing { part, reason, why }));
    }
    let (wbinvd, observer) = (times.wbinvd.ok(), times.observer.ok());
    let (audit, short) = if skips(Skip::Audit) {
        (None, vec![(Reason::Skipped, SKIPPED.into())])
    } else if no_erratum {
        (None, vec![(Reason::NotApplicable, NO_ERRATUM.into())])
    } else if interrupt::came() {
        (None, vec![(Reason::Interrupted, NOT_BEGUN.into())])
    } else {
        announce(4, "audit (18 minutes for a TiB; Ctrl-C ends it, --skip audit leaves it out)");
        audit_of(root, args.rate)
    };
    let audit_refused = short.iter().any(|(_, why)| *why == audit::REFUSED);
    missing.extend(short.into_iter().map(|(reason, why)| Missing { part: Part::Audit, reason, why }));
    // After the audit, which may find that the module has lost track.
    let module = Module::read(root);
    if module.is_none() {
        let (reason, why) =
            if no_erratum { (Reason::NotApplicable, NO_ERRATUM) } else { (Reason::Failed, super::NOT_LOADED) };
        missing.push(Missing { part: Part::Module, reason, why: why.into() });
    }
    let vendor = fs::read_to_string(root.join("sys/class/dmi/id/sys_vendor")).ok();
    let rate = args.rate.map(u64::from).or(module.as_ref().and_then(|module| module.sweep_rate));
    let facts = Facts {
        machine: machine(processor.as_ref(), vendor.as_deref()),
        tdx_on: match checked.verdict.tdx {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        },
        erratum: processor.as_ref().map(|cpu| cpu.partial_write_erratum),
        erratum_noted: processor.as_ref().and_then(|cpu| cpu.erratum_noted),
        movdir64b: processor.as_ref().and_then(|cpu| cpu.movdir64b),
        pamt_kb_of_linux: checked.facts.pamt_kb,
        pamt_kb_of_module: module.as_ref().and_then(|module| module.pamt_kb),
        dynamic_pamt: check::dynamic_pamt(&snapshot),
        mode: module.as_ref().and_then(|module| module.mode),
        tds: module.as_ref().and_then(|module| module.tds),
        learned_kb: module.as_ref().and_then(|module| module.learned_kb),
        audit: audit.as_ref().map(|audit| assumptions::Audit {
            complete: audit.complete,
            not_seen: audit.not_seen,
            missing: audit.missing,
            owned: audit.owned,
            pages: audit.pages,
            calls: audit.calls,
            milliseconds: audit.milliseconds,
            repeated: audit.changed.saturating_add(audit.busy).saturating_add(audit.put_off),
            rate,
        }),
        audit_refused,
        bandwidth: bandwidth.as_ref().map(|bandwidth| assumptions::Bandwidth {
            by_movdir64b: bandwidth.movdir64b,
            reliable: bandwidth.warnings.is_empty(),
            cores: bandwidth.cores as u64,
            one_core: bandwidth.one_core,
            all_cores: bandwidth.all_cores,
        }),
        idle,
        cpus: processor.as_ref().map(|cpu| cpu.cpus),
        packages: processor.as_ref().and_then(|cpu| cpu.packages),
        wbinvd,
    };
    let assumptions = assumptions::decide(&facts);
    let number = |verdict| assumptions.iter().filter(|assumption| assumption.verdict == verdict).count();
    Report {
        schema: "cleanslate/linux-accept",
        version: 1,
        tool: TOOL,
        machine: facts.machine,
        processor,
        kernel: checked.facts.kernel.clone(),
        tdx_module: checked.facts.module.clone(),
        module,
        check: of_check(&checked),
        audit,
        bandwidth,
        wbinvd,
        observer,
        missing,
        confirmed: number(Verdict::Confirmed),
        contradicted: number(Verdict::Contradicted),
        not_tested: number(Verdict::NotTested),
        assumptions,
    }
}

/// Vendors of machines that are no hardware, as DMI names them. Microsoft and Amazon sell or rent
/// hardware, too.
const VENDORS: [&str; 14] = [
    "QEMU",
    "VMware, Inc.",
    "innotek GmbH",
    "Xen",
    "Parallels International GmbH.",
    "Red Hat",
    "oVirt",
    "OpenStack Foundation",
    "Bochs",
    "Nutanix",
    "Google",
    "KubeVirt",
    "BHYVE",
    "DigitalOcean",
];
/// Revisions of microcode that emulators tell.
const NO_MICROCODE: [&str; 3] = ["0x0", "0x1", "0xffffffff"];
/// Parts of the name of a CPU that is no hardware.
const NAMES: [&str; 3] = ["QEMU", "TCG", "Virtual"];

/// By the bit that hypervisors set for their guests. Some are told to hide it: then by the names of
/// CPU and machine. Hardware is what has an Intel CPU, a revision of its microcode, and a vendor.
fn machine(processor: Option<&Processor>, vendor: Option<&str>) -> Machine {
    let Some(cpu) = processor else { return Machine::Unknown };
    let vendor = vendor.map(str::trim).filter(|vendor| !vendor.is_empty());
    let is_virtual = |vendor: &str| VENDORS.iter().any(|known| vendor.starts_with(known));
    let named = NAMES.iter().any(|name| cpu.name.contains(name)) || vendor.is_some_and(is_virtual);
    let is_intel = cpu.name.to_ascii_lowercase().contains("intel");
    let updated = cpu.microcode.as_deref().is_some_and(|revision| !NO_MICROCODE.contains(&revision));
    match cpu.hypervisor {
        Some(true) => Machine::Virtual,
        _ if named => Machine::Virtual,
        Some(false) if is_intel && updated && vendor.is_some() => Machine::Hardware,
        _ => Machine::Unknown,
    }
}

fn of_check(report: &CheckReport) -> Check {
    let verdict = &report.verdict;
    Check {
        status: verdict.status,
        tdx: verdict.tdx,
        kexec: verdict.kexec,
        kdump: verdict.kdump,
        power_cycle: verdict.power_cycle,
        pass: verdict.pass,
        warn: verdict.warn,
        fail: verdict.fail,
        unknown: verdict.unknown,
        failed: report.checks().filter(|check| check.status == Status::Fail).map(|check| check.id).collect(),
    }
}

fn of_bench(report: bench::Report) -> report::Bandwidth {
    report::Bandwidth {
        movdir64b: report.store == Store::Movdir64b,
        cores: report.cores,
        one_core: report.one_core,
        all_cores: report.all_cores,
        nodes: report.nodes,
        warnings: report.warnings,
    }
}

/// An audit, and what it lacks.
fn audit_of(root: &Path, rate: Option<u32>) -> (Option<report::Audit>, Vec<Why>) {
    let (audit, not_seen, ended) = match audit::find(root, rate) {
        Found::Nothing(why) => return (None, vec![(Reason::Failed, why)]),
        Found::Pages { audit, not_seen, ended } => (audit, not_seen, ended.map(|why| (Reason::Failed, why))),
        Found::Interrupted { audit, not_seen, why } => (audit, not_seen, Some((Reason::Interrupted, why))),
    };
    let complete = ended.is_none();
    let unseen = (not_seen > 0).then(|| {
        format!(
            "{} could not be looked at, because other SEAMCALLs had them all the time: run it again when fewer TDs \
             are built and torn down",
            grouped_count(not_seen, "page")
        )
        .into()
    });
    let short = ended.into_iter().chain(unseen.map(|why| (Reason::Failed, why))).collect();
    let audit = report::Audit {
        complete,
        pages: audit.pages,
        calls: audit.calls,
        milliseconds: audit.milliseconds,
        calls_per_second: audit.calls.saturating_mul(1000) / audit.milliseconds.max(1),
        owned: audit.owned,
        reserved: audit.reserved,
        outside: audit.outside,
        missing: audit.missing,
        surplus: audit.surplus,
        leaked: report::Leaked { returned: audit.leaked.returned, owned: audit.leaked.owned },
        changed: audit.changed,
        busy: audit.busy,
        put_off: audit.put_off,
        not_seen,
    };
    (Some(audit), short)
}
