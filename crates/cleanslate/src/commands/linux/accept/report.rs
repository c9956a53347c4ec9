//! The report of `cleanslate linux accept`, as JSON and as text. It has no text of the machine but
//! the name of the CPU, the revision of its microcode, the release of the kernel and versions.

use std::io::{self, Write};

use serde::Serialize;
use tdx_operator::check::Processor;
use tdx_operator::report::Status;
use tdx_operator::words::{count, grouped, grouped_count};

use super::assumptions::{Assumption, Machine, Verdict};
use super::measured::{Observer, Times};
use super::missing::Missing;
use super::module::Module;
use crate::commands::bench::NodeRate;
use crate::commands::linux::audit;
use crate::human;

/// What `check` says, without texts.
#[derive(Serialize)]
pub(super) struct Check {
    pub(super) status: Status,
    pub(super) tdx: &'static str,
    pub(super) kexec: &'static str,
    pub(super) kdump: &'static str,
    pub(super) power_cycle: &'static str,
    pub(super) pass: usize,
    pub(super) warn: usize,
    pub(super) fail: usize,
    pub(super) unknown: usize,
    /// Checks that failed, by their ids.
    pub(super) failed: Vec<&'static str>,
}

/// An audit, without addresses.
#[derive(Serialize)]
pub(super) struct Audit {
    /// It has come to its end.
    pub(super) complete: bool,
    pub(super) pages: u64,
    pub(super) calls: u64,
    pub(super) milliseconds: u64,
    pub(super) calls_per_second: u64,
    pub(super) owned: u64,
    pub(super) reserved: u64,
    pub(super) outside: u64,
    pub(super) missing: u64,
    pub(super) surplus: audit::Surplus,
    pub(super) leaked: Leaked,
    pub(super) changed: u64,
    pub(super) busy: u64,
    pub(super) put_off: u64,
    /// Pages that were busy all the time.
    pub(super) not_seen: u64,
}

#[derive(Serialize)]
pub(super) struct Leaked {
    pub(super) returned: u64,
    pub(super) owned: u64,
}

/// What `bench` has measured, in bytes per second.
#[derive(Serialize)]
pub(super) struct Bandwidth {
    /// By MOVDIR64B, as the reset does; else by ordinary stores.
    pub(super) movdir64b: bool,
    pub(super) cores: usize,
    pub(super) one_core: f64,
    pub(super) all_cores: f64,
    pub(super) nodes: Vec<NodeRate>,
    pub(super) warnings: Vec<String>,
}

/// All of it. A part is `null` if `missing` has it.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) schema: &'static str,
    pub(super) version: u32,
    pub(super) tool: &'static str,
    pub(super) machine: Machine,
    pub(super) processor: Option<Processor>,
    pub(super) kernel: Option<String>,
    pub(super) tdx_module: Option<String>,
    pub(super) module: Option<Module>,
    pub(super) check: Check,
    pub(super) audit: Option<Audit>,
    pub(super) bandwidth: Option<Bandwidth>,
    pub(super) wbinvd: Option<Times>,
    pub(super) observer: Option<Observer>,
    pub(super) missing: Vec<Missing>,
    pub(super) confirmed: usize,
    pub(super) contradicted: usize,
    pub(super) not_tested: usize,
    pub(super) assumptions: Vec<Assumption>,
}

fn yes(known: Option<bool>, yes: &'static str, no: &'static str, unknown: &'static str) -> &'static str {
    match known {
        Some(true) => yes,
        Some(false) => no,
        None => unknown,
    }
}

fn number(known: Option<u64>) -> String {
    known.map_or("?".to_owned(), grouped)
}

fn giga(rate: f64) -> String {
    // An emulated machine rewrites a megabyte per second.
    if rate < 1e8 { format!("{:.2} MB/s", rate / 1e6) } else { format!("{:.1} GB/s", rate / 1e9) }
}

fn milliseconds(ns: u64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

impl Report {
    pub(super) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let machine = match self.machine {
            Machine::Hardware => "hardware, as far as it shows: no hypervisor, and no name of one",
            Machine::Virtual => "VIRTUAL OR EMULATED: this report confirms nothing about hardware",
            Machine::Unknown => "not known whether it is hardware: this report confirms nothing about it",
        };
        human::line(out, "machine", machine)?;
        self.print_software(out)?;
        self.print_measured(out)?;
        let mut label = "missing";
        for Missing { part, why, .. } in &self.missing {
            human::line(out, label, &format!("{}: {why}", part.name()))?;
            label = "";
        }
        for (verdict, head) in [
            (Verdict::Contradicted, "CONTRADICTED"),
            (Verdict::Confirmed, "confirmed"),
            (Verdict::NotTested, "not tested"),
        ] {
            let of_it = self.assumptions.iter().filter(|assumption| assumption.verdict == verdict);
            for (index, Assumption { id, text, ground, .. }) in of_it.enumerate() {
                if index == 0 {
                    writeln!(out, "\n{head}")?;
                }
                human::line(out, "", &format!("{id}: {text}. Ground: {ground}"))?;
            }
        }
        writeln!(
            out,
            "\n{} confirmed, {} contradicted, {} not tested (docs/limits.md)",
            self.confirmed, self.contradicted, self.not_tested
        )
    }

    fn print_software(&self, out: &mut impl Write) -> io::Result<()> {
        if let Some(cpu) = &self.processor {
            let name = if cpu.name.is_empty() { "unnamed" } else { &cpu.name };
            human::line(
                out,
                "cpu",
                &format!(
                    "{name}: family {}, model {}, stepping {}{}, microcode {}; {} in {}",
                    cpu.family,
                    cpu.model,
                    cpu.stepping,
                    if cpu.mixed { " (CPUs differ)" } else { "" },
                    cpu.microcode.as_deref().unwrap_or("?"),
                    count(u64::from(cpu.cpus), "CPU"),
                    cpu.packages.map_or("? packages".to_owned(), |number| count(u64::from(number), "package"))
                ),
            )?;
            human::line(
                out,
                "",
                &format!(
                    "{} by its model; {}; {}",
                    yes(Some(cpu.partial_write_erratum), "partial-write erratum", "no partial-write erratum", ""),
                    yes(
                        cpu.erratum_noted,
                        "Linux has noted it",
                        "Linux has not noted it",
                        "not known if Linux would note it"
                    ),
                    yes(cpu.movdir64b, "MOVDIR64B", "no MOVDIR64B", "not known if it has MOVDIR64B"),
                ),
            )?;
        }
        let tdx_module = self.tdx_module.as_deref().unwrap_or("not named by the kernel log");
        human::line(out, "kernel", &format!("{}; TDX module: {tdx_module}", self.kernel.as_deref().unwrap_or("?")))?;
        if let Some(module) = &self.module {
            human::line(
                out,
                "module",
                &format!(
                    "cleanslate.ko {}: {}, policy {}; TDs {}; private KB: PAMT {}, pages of TDs {}, in flight {}, \
                     returned {}",
                    module.version.as_deref().unwrap_or("of unknown version"),
                    module.mode.map_or("mode not known", super::module::Mode::name),
                    module.policy.unwrap_or("?"),
                    number(module.tds),
                    number(module.pamt_kb),
                    number(module.given_kb),
                    number(module.giving_kb),
                    number(module.returned_kb)
                ),
            )?;
        }
        let Check { status, tdx, kexec, kdump, power_cycle, failed, .. } = &self.check;
        let failed = if failed.is_empty() { String::new() } else { format!("; failed: {}", failed.join(", ")) };
        human::line(
            out,
            "check",
            &format!("{}: TDX {tdx}, kexec {kexec}, kdump {kdump}, power cycle {power_cycle}{failed}", status.name()),
        )
    }

    fn print_measured(&self, out: &mut impl Write) -> io::Result<()> {
        if let Some(audit) = &self.audit {
            human::line(
                out,
                "audit",
                &format!(
                    "{}{} in {:.1} s, {} ({} per second); missing {}, surplus {}, leaked {}, not seen {}",
                    if audit.complete { "" } else { "NOT COMPLETE: " },
                    grouped_count(audit.pages, "page"),
                    audit.milliseconds as f64 / 1e3,
                    grouped_count(audit.calls, "SEAMCALL"),
                    grouped(audit.calls_per_second),
                    grouped(audit.missing),
                    grouped(
                        audit.surplus.returned.saturating_add(audit.surplus.giving).saturating_add(audit.surplus.stale)
                    ),
                    grouped(audit.leaked.returned.saturating_add(audit.leaked.owned)),
                    grouped(audit.not_seen)
                ),
            )?;
        }
        if let Some(bandwidth) = &self.bandwidth {
            let by = if bandwidth.movdir64b { "MOVDIR64B" } else { "ordinary stores (this CPU lacks MOVDIR64B)" };
            let (one, all) = (giga(bandwidth.one_core), giga(bandwidth.all_cores));
            let cores = count(bandwidth.cores as u64, "core");
            human::line(out, "bandwidth", &format!("by {by}: one core {one}, {cores} {all}"))?;
            for NodeRate { node, cores, rate } in &bandwidth.nodes {
                let cores = count(*cores as u64, "core");
                human::line(out, "", &format!("node {node}: {} by its {cores}", giga(*rate)))?;
            }
            for warning in &bandwidth.warnings {
                human::line(out, "", &format!("warning: {warning}"))?;
            }
        }
        if let Some(times) = &self.wbinvd {
            human::line(
                out,
                "wbinvd",
                &format!(
                    "{}, one after the other, caches as they were: {} to {} ms, mean {} ms",
                    count(times.count, "CPU"),
                    milliseconds(times.min_ns),
                    milliseconds(times.max_ns),
                    milliseconds(times.mean_ns)
                ),
            )?;
        }
        if let Some(Observer { observed, bare }) = &self.observer {
            human::line(
                out,
                "observer",
                &format!(
                    "{} ns for a call that both probes observe ({} to {} ns, {} calls), {} ns without probes; \
                     operands of a TDH.SYS.RD, no SEAMCALL made",
                    grouped(observed.mean_ns),
                    grouped(observed.min_ns),
                    grouped(observed.max_ns),
                    grouped(observed.count),
                    grouped(bare.mean_ns)
                ),
            )?;
        }
        Ok(())
    }
}
