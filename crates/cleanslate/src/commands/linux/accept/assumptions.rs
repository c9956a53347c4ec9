//! The assumptions of docs/limits.md that a running host can decide, and the facts that do.
//!
//! A fact that is missing decides nothing. What was seen on a virtual or emulated machine confirms
//! nothing about hardware; a fault of our own counts there, too.

use serde::Serialize;
use tdx_operator::cost::Rates;
use tdx_operator::words::{grouped, grouped_count};

use super::measured::Times;
use super::module::{Lost, Mode};

/// What kind of machine it is, as far as it shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Machine {
    /// No hypervisor shows itself.
    Hardware,
    /// A virtual or emulated machine.
    Virtual,
    /// Not known.
    Unknown,
}

/// What an audit has found, as far as an assumption needs it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Audit {
    pub(super) complete: bool,
    pub(super) not_seen: u64,
    pub(super) missing: u64,
    pub(super) owned: u64,
    pub(super) pages: u64,
    pub(super) calls: u64,
    pub(super) milliseconds: u64,
    /// Looks that were repeated or put off for SEAMCALLs of the kernel.
    pub(super) repeated: u64,
    /// SEAMCALLs per second that were asked for, if that is known.
    pub(super) rate: Option<u64>,
}

/// What `bench` has measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bandwidth {
    pub(super) by_movdir64b: bool,
    /// There was no warning.
    pub(super) reliable: bool,
    pub(super) cores: u64,
    pub(super) one_core: f64,
    pub(super) all_cores: f64,
}

/// What was seen of this host. `None` is what was not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) machine: Machine,
    pub(super) tdx_on: Option<bool>,
    /// By the rule of `tdx-host`, and as Linux has noted it.
    pub(super) erratum: Option<bool>,
    pub(super) erratum_noted: Option<bool>,
    pub(super) movdir64b: Option<bool>,
    /// KiB of PAMT that Linux says it has allocated, and those that cleanslate.ko resets.
    pub(super) pamt_kb_of_linux: Option<u64>,
    pub(super) pamt_kb_of_module: Option<u64>,
    /// Linux allocates more PAMT while memory is used.
    pub(super) dynamic_pamt: Option<bool>,
    pub(super) mode: Option<Mode>,
    pub(super) tds: Option<u64>,
    /// KiB that the ledger has from the TDX module's answers and from no call that was observed.
    pub(super) learned_kb: Option<u64>,
    pub(super) audit: Option<Audit>,
    /// The audit ended because the TDX module refused an answer.
    pub(super) audit_refused: bool,
    pub(super) bandwidth: Option<Bandwidth>,
    /// The CPUs did next to nothing right before that.
    pub(super) idle: Option<bool>,
    pub(super) cpus: Option<u32>,
    pub(super) packages: Option<u32>,
    pub(super) wbinvd: Option<Times>,
}

/// What became of an assumption.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Verdict {
    Confirmed,
    Contradicted,
    NotTested,
}

/// An assumption and its verdict on this host.
#[derive(Serialize)]
pub(super) struct Assumption {
    pub(super) id: &'static str,
    pub(super) text: &'static str,
    pub(super) verdict: Verdict,
    /// The measured fact, or why there is none.
    pub(super) ground: String,
}

/// What can contradict an assumption.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Hardware alone.
    Hardware,
    /// Any machine: the assumption is about our code, too.
    Code,
}

type Decision = (Verdict, String);

/// An assumption, and how it is decided.
struct Row {
    id: &'static str,
    text: &'static str,
    of: Of,
    decide: fn(&Facts) -> Decision,
}

/// SEAMCALLs per second of an audit: the default of the module's parameter sweep_rate.
const AUDIT_RATE: u64 = 250_000;
/// A crash waits so long for the WBINVD of other CPUs: WRITE_BACK_MS of linux/handover.c.
const WRITE_BACK_NS: u64 = 1_000_000_000;

/// As in docs/limits.md; a test compares the two.
const TABLE: [Row; 10] = [
    Row {
        id: "erratum-by-model",
        text: "Linux notes the partial-write erratum if the CPU is 06_8F or 06_CF, and only then",
        of: Of::Hardware,
        decide: erratum_by_model,
    },
    Row {
        id: "movdir64b-with-tdx",
        text: "A CPU on which TDX is enabled has MOVDIR64B",
        of: Of::Hardware,
        decide: movdir64b_with_tdx,
    },
    Row {
        id: "pamt-complete",
        text: "The PAMTs that cleanslate.ko resets are all that Linux has allocated",
        of: Of::Code,
        decide: pamt_complete,
    },
    Row {
        id: "operands-known",
        text: "cleanslate.ko observes every SEAMCALL of this kernel and knows its page operands",
        of: Of::Code,
        decide: operands_known,
    },
    Row {
        id: "ledger-complete",
        text: "The operands of SEAMCALLs name every page that the TDX module has",
        of: Of::Code,
        decide: ledger_complete,
    },
    Row {
        id: "rdmd-answers",
        text: "The TDX module answers PHYMEM.PAGE.RDMD for every page while it has pages of TDs",
        of: Of::Hardware,
        decide: rdmd_answers,
    },
    Row {
        id: "audit-rate",
        text: "An audit makes 250,000 SEAMCALLs per second: a TiB in 18 minutes",
        of: Of::Hardware,
        decide: audit_rate,
    },
    Row {
        id: "reset-rate-one-core",
        text: "One core resets 2.3 GB/s or more by MOVDIR64B",
        of: Of::Hardware,
        decide: reset_rate_one_core,
    },
    Row {
        id: "reset-rate-all-cores",
        text: "All CPUs reset 2.3 GB/s each, or together 200 GB/s per package if that is less",
        of: Of::Hardware,
        decide: reset_rate_all_cores,
    },
    Row {
        id: "wbinvd-below-a-second",
        text: "WBINVD takes less than a second on each CPU, one CPU after the other",
        of: Of::Hardware,
        decide: wbinvd_below_a_second,
    },
];

/// Every assumption with its verdict.
pub(super) fn decide(facts: &Facts) -> Vec<Assumption> {
    let decided = TABLE.iter().map(|row| {
        let (verdict, ground) = on_this_machine(facts.machine, row.of, (row.decide)(facts));
        Assumption { id: row.id, text: row.text, verdict, ground }
    });
    decided.collect()
}

fn on_this_machine(machine: Machine, of: Of, (verdict, ground): Decision) -> Decision {
    let stands = match verdict {
        Verdict::NotTested => true,
        Verdict::Contradicted if of == Of::Code => true,
        _ => machine == Machine::Hardware,
    };
    if stands {
        return (verdict, ground);
    }
    let why = match machine {
        Machine::Virtual => "no hardware, but a virtual or emulated machine, on which",
        _ => "not known whether this is hardware; here",
    };
    (Verdict::NotTested, format!("{why} {ground}"))
}

fn not_tested(why: &str) -> Decision {
    (Verdict::NotTested, why.to_owned())
}

fn holds(good: bool, ground: String) -> Decision {
    (if good { Verdict::Confirmed } else { Verdict::Contradicted }, ground)
}

fn erratum_by_model(facts: &Facts) -> Decision {
    match (facts.erratum, facts.erratum_noted) {
        (Some(by_model), Some(noted)) => {
            let word = |yes| if yes { "has" } else { "does not have" };
            let ground = format!(
                "the CPU {} it by its model, and Linux {} it (tdx_pw_mce), by the model, too; no line was poisoned",
                word(by_model),
                if noted { "has noted" } else { "has not noted" }
            );
            holds(by_model == noted, ground)
        }
        (None, _) => not_tested("the CPU was not seen"),
        (_, None) => not_tested("Linux has noted no erratum, and no line of its boot log shows that it would"),
    }
}

fn movdir64b_with_tdx(facts: &Facts) -> Decision {
    match (facts.tdx_on, facts.movdir64b) {
        // `bench` asks the CPU itself.
        (Some(true), Some(false)) if facts.bandwidth.is_none_or(|bandwidth| bandwidth.by_movdir64b) => not_tested(
            "Linux shows no MOVDIR64B, and may hide it (clearcpuid): bandwidth, which tells, is missing or was measured by it",
        ),
        (Some(true), Some(has)) => {
            holds(has, format!("TDX is enabled, and the CPU {} MOVDIR64B", if has { "has" } else { "lacks" }))
        }
        (Some(false), _) => not_tested("TDX is not enabled"),
        (None, _) => not_tested("not known whether TDX is enabled"),
        (_, None) => not_tested("the flags of the CPU were not seen"),
    }
}

fn pamt_complete(facts: &Facts) -> Decision {
    match (facts.mode, facts.pamt_kb_of_linux, facts.pamt_kb_of_module) {
        (Some(Mode::Watching | Mode::Learning | Mode::Unknown(_)), Some(linux), Some(_))
            if linux > 0 && facts.dynamic_pamt != Some(false) =>
        {
            not_tested(match facts.dynamic_pamt {
                Some(_) => {
                    "Dynamic PAMT is on: Linux adds PAMT pages for memory in use, and both figures are without them"
                }
                None => {
                    "not known whether Dynamic PAMT is on: then both figures would be without the pages added later"
                }
            })
        }
        (Some(Mode::Watching | Mode::Learning | Mode::Unknown(_)), Some(linux), Some(module)) if linux > 0 => holds(
            linux == module,
            format!("Linux has allocated {} KB, and cleanslate.ko resets {} KB", grouped(linux), grouped(module)),
        ),
        (Some(Mode::Host | Mode::Failed), ..) => not_tested("Linux has not initialized TDX here"),
        (None, ..) | (_, _, None) => not_tested("cleanslate.ko was not seen"),
        _ => not_tested("the kernel log has no line on PAMT (`journalctl -k -b` may have it)"),
    }
}

/// What the ledger has learned from the module's answers shows nothing of operands.
fn learned(facts: &Facts) -> Option<Decision> {
    match facts.learned_kb {
        Some(0) => None,
        Some(kb) => Some((
            Verdict::NotTested,
            format!("{} KB were learned from the TDX module: load cleanslate.ko before the first TD", grouped(kb)),
        )),
        None => Some(not_tested("not known whether pages were learned from the TDX module: cleanslate.ko is older")),
    }
}

fn operands_known(facts: &Facts) -> Decision {
    match (facts.mode, facts.tds) {
        (Some(Mode::Unknown(Lost::Operands)), _) => {
            holds(false, "cleanslate.ko has lost track: SEAMCALL with unknown page operands".to_owned())
        }
        (Some(Mode::Unknown(Lost::Missed)), _) => {
            holds(false, "cleanslate.ko has lost track: it missed SEAMCALLs".to_owned())
        }
        (Some(Mode::Unknown(Lost::Ledger)), _) => holds(
            false,
            "cleanslate.ko has lost track: a page was given, returned or found that its ledger does not have"
                .to_owned(),
        ),
        (Some(Mode::Unknown(Lost::Other)), _) => not_tested("cleanslate.ko has lost track for another reason"),
        (Some(Mode::Watching), Some(tds)) if tds > 0 => learned(facts).unwrap_or_else(|| {
            holds(true, format!("{}, and cleanslate.ko has not lost track", grouped_count(tds, "TD")))
        }),
        (Some(Mode::Watching), Some(_)) => not_tested("there is no TD: run it again beside TDs"),
        (Some(Mode::Learning), _) => not_tested("cleanslate.ko learns pages of TDs: run it again afterwards"),
        (Some(Mode::Host | Mode::Failed), _) => not_tested("this kernel makes no SEAMCALLs for TDs"),
        (None, _) | (_, None) => not_tested("cleanslate.ko was not seen"),
    }
}

fn ledger_complete(facts: &Facts) -> Decision {
    match facts.audit {
        Some(audit) if audit.missing > 0 => {
            holds(false, format!("the TDX module has {} without a mark", grouped_count(audit.missing, "page")))
        }
        _ if facts.mode != Some(Mode::Watching) => not_tested("cleanslate.ko observes no SEAMCALLs of this kernel"),
        _ if facts.tdx_on != Some(true) => not_tested("not known that TDX is on"),
        Some(Audit { complete: true, not_seen: 0, owned: owned @ 1.., pages: pages @ 1.., .. }) => learned(facts)
            .unwrap_or_else(|| {
                holds(
                    true,
                    format!("of {} the TDX module has {}, each marked", grouped_count(pages, "page"), grouped(owned)),
                )
            }),
        Some(Audit { complete: true, not_seen: 0, .. }) => {
            not_tested("the TDX module has no page of a TD: run it again beside TDs")
        }
        Some(_) => not_tested("the audit has not looked at every page"),
        None => not_tested("there was no audit"),
    }
}

fn rdmd_answers(facts: &Facts) -> Decision {
    match facts.audit {
        _ if facts.audit_refused => holds(false, "the TDX module refused an answer".to_owned()),
        _ if facts.tdx_on != Some(true) => not_tested("not known that TDX is on"),
        Some(Audit { complete: true, not_seen: 0, owned: 1.., calls, .. }) if calls > 0 => {
            holds(true, format!("it has answered {}", grouped_count(calls, "time")))
        }
        Some(Audit { complete: true, not_seen: 0, .. }) => {
            not_tested("the TDX module has no page of a TD: run it again beside TDs")
        }
        Some(_) => not_tested("the audit has not looked at every page"),
        None => not_tested("there was no audit"),
    }
}

fn audit_rate(facts: &Facts) -> Decision {
    let Some(audit) = facts.audit.filter(|audit| audit.complete) else {
        return not_tested("there was no audit, or it did not come to its end");
    };
    match audit.rate {
        None => return not_tested("not known which rate was asked for"),
        Some(rate) if rate < AUDIT_RATE => return not_tested("a slower audit was asked for"),
        Some(_) => {}
    }
    if audit.milliseconds < 1000 || audit.calls == 0 {
        return not_tested("the audit was too short to tell");
    }
    let rate = u128::from(audit.calls) * 1000 / u128::from(audit.milliseconds);
    let rate = u64::try_from(rate).unwrap_or(u64::MAX);
    let ground = format!("{} SEAMCALLs per second", grouped(rate));
    // What the pauses of a bounded rate cost; the guide says so.
    if rate >= AUDIT_RATE / 10 * 9 {
        return holds(true, ground);
    }
    if audit.repeated > audit.calls / 100 {
        return (Verdict::NotTested, format!("{ground}, but SEAMCALLs of the kernel were in the way"));
    }
    holds(false, ground)
}

/// What is said of a bandwidth that decides nothing.
fn reliable(facts: &Facts) -> Result<Bandwidth, Decision> {
    match facts.bandwidth {
        None => Err(not_tested("bandwidth was not measured")),
        Some(Bandwidth { by_movdir64b: false, .. }) => Err(not_tested("the CPU lacks MOVDIR64B")),
        Some(Bandwidth { reliable: false, .. }) => {
            Err(not_tested("the measurement has warnings: repeat it when the machine is idle"))
        }
        Some(bandwidth) => Ok(bandwidth),
    }
}

fn giga(rate: f64) -> String {
    format!("{:.1} GB/s", rate / 1e9)
}

/// What is slower than assumed contradicts it on an idle host alone.
fn fast_enough(facts: &Facts, good: bool, ground: String) -> Decision {
    if good || facts.idle == Some(true) && facts.tds == Some(0) {
        return holds(good, ground);
    }
    (Verdict::NotTested, format!("{ground}, and this host was not seen to be idle: run it again without TDs"))
}

fn reset_rate_one_core(facts: &Facts) -> Decision {
    match reliable(facts) {
        Ok(bandwidth) => {
            let good = bandwidth.one_core >= Rates::assumed_of(1, 1).one_core;
            fast_enough(facts, good, giga(bandwidth.one_core))
        }
        Err(why) => why,
    }
}

fn reset_rate_all_cores(facts: &Facts) -> Decision {
    let bandwidth = match reliable(facts) {
        Ok(bandwidth) => bandwidth,
        Err(why) => return why,
    };
    let (Some(cpus), Some(packages)) = (facts.cpus, facts.packages) else {
        return not_tested("the number of CPUs and packages was not seen");
    };
    if bandwidth.cores < u64::from(cpus) {
        return not_tested("this program may not use all CPUs (affinity, cgroup)");
    }
    let assumed = Rates::assumed_of(cpus, packages).all_cores;
    let ground = format!("{} by {cpus} CPUs; assumed are {}", giga(bandwidth.all_cores), giga(assumed));
    fast_enough(facts, bandwidth.all_cores >= assumed, ground)
}

fn wbinvd_below_a_second(facts: &Facts) -> Decision {
    match (facts.wbinvd, facts.cpus) {
        (Some(times), _) if times.max_ns >= WRITE_BACK_NS => {
            holds(false, format!("{:.1} ms on one CPU", times.max_ns as f64 / 1e6))
        }
        (Some(times), Some(cpus)) if times.count == u64::from(cpus) => {
            holds(true, format!("{:.3} ms at most, on {cpus} CPUs", times.max_ns as f64 / 1e6))
        }
        (Some(_), _) => not_tested("it was not measured on every CPU"),
        (None, _) => not_tested("it was not measured"),
    }
}

#[cfg(test)]
mod tests;
