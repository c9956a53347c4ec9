//! `check`: is this machine ready for TDX, and what does a kexec or a crash do to the next kernel?
//! Works on a live Linux machine or a collected one, read-only, also without root and without TDX.
//!
//! Reports the behavior of mainline kernels and published modules, and what data is missing; runs
//! no subprocess and does not use the network. `docs/CHECK.md` lists every check with its source.

mod cleanslate_ko;
mod cpuinfo;
mod dynamic_pamt;
mod facts;
mod folder;
mod item;
mod keep;
mod kernel;
mod live;
mod log_file;
mod machine_checks;
mod msrs;
mod processor;
mod rules;
mod snapshot;
mod sys_disable;

use crate::report::{CheckFacts, CheckFinding, CheckReport, CheckVerdict, KeyIdReport, Status, TOOL, UnseenReport};
use facts::{Facts, Tdx};

pub use dynamic_pamt::dynamic_pamt;
pub use folder::{load, save};
pub use item::{Item, Unseen};
pub use kernel::Era;
pub use live::Live;
pub use log_file::use_log;
pub use processor::{Processor, processor};
pub use snapshot::{Seen, Snapshot};

/// The check that says what a kexec does to the next kernel.
const JUMP: &str = "kexec.jump";
/// The check that says whether the host must be power-cycled.
const STILL_SAFE: &str = "kexec.still-safe";

/// Checks a machine; `name` stands for it in the report: `live`, or the folder.
pub fn check(name: &str, snapshot: &Snapshot) -> CheckReport {
    let facts = Facts::new(snapshot);
    let mut report = CheckReport {
        schema: "cleanslate/check",
        version: 1,
        tool: TOOL,
        machine: name.to_owned(),
        verdict: CheckVerdict {
            status: Status::Pass,
            tdx: match facts.tdx {
                Tdx::On(..) => "on",
                Tdx::Off(..) => "off",
                Tdx::Broken(_) => "broken",
                Tdx::Unknown => "unknown",
            },
            kexec: rules::outcome(&facts).name(),
            power_cycle: rules::power_cycle(&facts).name(),
            kdump: match rules::can_dump(&facts) {
                Some(true) => "ready",
                Some(false) => "not-ready",
                None => "unknown",
            },
            text: String::new(),
            pass: 0,
            warn: 0,
            fail: 0,
            unknown: 0,
        },
        facts: summary(&facts),
        categories: rules::ask(&facts),
        unseen: unseen(&facts),
    };
    let count = |status| report.checks().filter(|check| check.status == status).count();
    let (pass, warn, fail) = (count(Status::Pass), count(Status::Warn), count(Status::Fail));
    let unknown = count(Status::Unknown);
    let (status, text) = verdict(&facts, &report);
    report.verdict = CheckVerdict { status, text, pass, warn, fail, unknown, ..report.verdict };
    report
}

/// The first of: a failure; TDX state or kexec outcome unknown; a warning.
fn verdict(facts: &Facts<'_>, report: &CheckReport) -> (Status, String) {
    let says = |check: &CheckFinding| format!("{}: {}", check.id, check.text);
    let gravest = |status| report.checks().filter(move |check| check.status == status);
    // What the next kernel finds is what people came for.
    let first =
        |status| gravest(status).find(|check| check.id.starts_with("kexec.")).or_else(|| gravest(status).next());
    // Memory that is private in the hands of others does not wait for a kexec.
    let now = rules::power_cycle(facts) == rules::PowerCycle::Now;
    let first = |status| gravest(status).find(|check| now && check.id == STILL_SAFE).or_else(|| first(status));
    if let Some(check) = first(Status::Fail) {
        return (Status::Fail, says(check));
    }
    match &facts.tdx {
        Tdx::Unknown => (
            Status::Unknown,
            "cannot determine whether TDX is enabled; see the list of missing \
            data"
                .to_owned(),
        ),
        Tdx::Off(why, _) => {
            let status = if gravest(Status::Warn).next().is_some() { Status::Warn } else { Status::Pass };
            let why = why.trim_start_matches("no TDX: ");
            (status, format!("TDX is not enabled on this machine: {why}. kexec is safe"))
        }
        // What people came for: no warning of something else must hide that there is no answer.
        Tdx::On(..) | Tdx::Broken(_) if gravest(Status::Unknown).any(|check| check.id == JUMP) => {
            let jump = gravest(Status::Unknown).find(|check| check.id == JUMP);
            (Status::Unknown, jump.map_or_else(String::new, says))
        }
        Tdx::On(..) | Tdx::Broken(_) => match first(Status::Warn) {
            Some(check) => (Status::Warn, says(check)),
            None if gravest(Status::Unknown).next().is_some() => {
                (Status::Warn, "no problem found, but some data is missing".to_owned())
            }
            None => (Status::Pass, "TDX is enabled; kexec is safe".to_owned()),
        },
    }
}

fn summary(facts: &Facts<'_>) -> CheckFacts {
    // The log of another machine says nothing on the module of this one.
    let own = facts.log.as_ref().ok().filter(|_| !facts.log_of_another());
    let key_ids = match facts.tdx {
        Tdx::On(Some((first, end)), _) => u32::try_from(first).ok().map(|first| KeyIdReport { first, end }),
        _ => None,
    };
    CheckFacts {
        cpu_model: facts.cpus.as_ref().ok().map(|cpus| cpus.model.to_string()),
        partial_write_erratum: facts.erratum(),
        key_ids,
        microcode: facts.cpus.as_ref().ok().and_then(cpuinfo::Cpus::revisions),
        bios: facts.bios(),
        kernel: facts.kernel.as_ref().ok().map(|kernel| kernel.text.clone()),
        era: facts.era().map(Era::name),
        module: own.and_then(|log| log.module).map(|module| module.value.to_string()),
        pamt_kb: own.and_then(|log| log.pamt_kb).map(|kb| kb.value),
        // A log that has lost its beginning tells of no number.
        leaked_pages: facts.left.pages().filter(|_| facts.log_is_whole && !facts.log_of_another()),
        lost_key_ids: (facts.log_is_whole
            && !facts.log_of_another()
            && !facts.left.lines_lost
            && facts.left.unclear == 0)
            .then(|| facts.left.lost_key_ids()),
        kexec_loaded: rules::loaded(facts, Item::KexecLoaded),
        crash_loaded: rules::loaded(facts, Item::CrashLoaded),
    }
}

/// What was not seen, with the texts that do not hold. A file that a kernel without the feature
/// does not have is no loss.
fn unseen(facts: &Facts<'_>) -> Vec<UnseenReport> {
    let mut out = Vec::new();
    for item in Item::ALL {
        let of_text = facts.snapshot.get(item).err().cloned();
        let of_fact = match item {
            Item::Cpuinfo => facts.cpus.as_ref().err().cloned(),
            Item::Msr => facts.msrs.as_ref().err().cloned(),
            Item::Osrelease => facts.kernel.as_ref().err().cloned(),
            Item::Config => facts.config.as_ref().err().cloned(),
            Item::BootLog => facts.log.as_ref().err().cloned(),
            _ => None,
        };
        let Some(why) = of_text.or(of_fact) else { continue };
        if why == Unseen::Absent && item.may_be_absent() {
            continue;
        }
        out.push(UnseenReport {
            item: item.file(),
            place: item.place(),
            reason: why.word(),
            text: why.to_string(),
            hint: item.how(&why),
        });
    }
    out
}
