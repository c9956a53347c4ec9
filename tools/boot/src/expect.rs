//! What a boot must have come to, and where it differs. Judges by events, by seamvisor's summary
//! and, where a kernel has nothing else, by messages.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::events::matches;
use crate::messages::Messages;
use crate::report::{Report, Verdict};

/// An event, or a part of one.
type Pattern = Map<String, Value>;

/// The table `expect` of a boot.
#[derive(Deserialize, Default, Debug)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub(crate) struct Expect {
    /// Tables `[expect.NAME]` of the same file.
    #[serde(rename = "use")]
    pub(crate) use_: Vec<String>,
    pub(crate) verdict: Option<Verdict>,
    /// Of the line that was read in the first machine check: `PAMT_4K`, `guest page`, ...
    kind: Option<String>,
    memory: Option<Memory>,
    /// Lines that were written by MOVDIR64B, as seamvisor counts them.
    lines_reset: Option<u64>,
    /// So many CPUs have written lines by MOVDIR64B at least.
    reset_by: Option<u64>,
    /// Pages of TDs by kind in sysfs are those that seamvisor counts; with Dynamic PAMT also the
    /// pages that hold PAMT entries.
    pages_match: bool,
    /// At these stops of a VMM (`end`: when all have ended) pages of TDs by kind in sysfs are those
    /// that seamvisor counted at that moment; at every other stop that was told, too.
    pages_at: Vec<String>,
    kernel_log: Option<KernelLog>,
    events: Vec<Pattern>,
    no_events: Vec<Pattern>,
    /// SEAMCALLs with their status, as in seamvisor's summary.
    seamcalls: Vec<Pattern>,
    no_seamcalls: Vec<Pattern>,
    /// Names of messages.
    pub(crate) messages: Vec<String>,
    pub(crate) no_messages: Vec<String>,
}

/// Memory at the end.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
enum Memory {
    /// Private memory was reset: nothing was ever poisoned, nothing is private.
    Reset,
    /// The same, after a wild pointer has poisoned private memory.
    ResetPoisoned,
    /// Something is private.
    Left,
    /// Private memory was left to a crash kernel that keeps away from it: what a wild pointer has
    /// poisoned still is, and nothing else was.
    Excluded,
}

/// What kernels say of themselves.
#[derive(Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "kebab-case")]
enum KernelLog {
    /// No kernel reports a fault of its own.
    NoComplaints,
    /// The same, and lockdep and KASAN were on to the end in each kernel.
    Watched,
}

impl Expect {
    /// Takes over what another one expects; what this one says itself stays.
    pub(crate) fn add(&mut self, other: Self) {
        self.verdict = self.verdict.or(other.verdict);
        self.kind = self.kind.take().or(other.kind);
        self.memory = self.memory.or(other.memory);
        self.lines_reset = self.lines_reset.or(other.lines_reset);
        self.reset_by = self.reset_by.or(other.reset_by);
        self.pages_match |= other.pages_match;
        self.pages_at.extend(other.pages_at);
        self.kernel_log = self.kernel_log.or(other.kernel_log);
        self.events.extend(other.events);
        self.no_events.extend(other.no_events);
        self.seamcalls.extend(other.seamcalls);
        self.no_seamcalls.extend(other.no_seamcalls);
        self.messages.extend(other.messages);
        self.no_messages.extend(other.no_messages);
    }

    /// Where the report differs, if it does.
    pub(crate) fn problem(&self, report: &Report, messages: &Messages) -> Option<String> {
        self.verdict(report)
            .or_else(|| self.memory(report))
            .or_else(|| self.events(report))
            .or_else(|| self.seamcalls(report))
            .or_else(|| if self.pages_match { different_pages(report) } else { None })
            .or_else(|| different_pages_at(&self.pages_at, report.events()))
            .or_else(|| self.messages(report, messages))
    }

    fn verdict(&self, report: &Report) -> Option<String> {
        let verdict = report.verdict();
        if let Some(wanted) = self.verdict.filter(|wanted| *wanted != verdict) {
            return Some(format!("{} and not {}: {}", verdict.name(), wanted.name(), report.why()));
        }
        let kind = report.summary()["machine_checks"][0]["kind"].as_str();
        let wanted = self.kind.as_deref();
        let (is, not) = (kind.unwrap_or("no machine check"), wanted.unwrap_or_default());
        (wanted.is_some() && kind != wanted).then(|| format!("it died of {is} and not of {not}"))
    }

    fn memory(&self, report: &Report) -> Option<String> {
        let lines = &report.summary()["lines"];
        let is = |name: &str, good: bool| (!good).then(|| format!("lines {name}: {}", lines[name]));
        let count = |name: &str| lines[name].as_u64();
        let memory = match self.memory {
            Some(Memory::Left) => is("private", count("private").is_some_and(|lines| lines > 0)),
            Some(Memory::Excluded) => {
                let wild = report.events().iter().filter(|event| event["event"] == "wild");
                let pages = wild.map(|event| (event["of"] == "TDs", event["pages"].as_u64().unwrap_or(0)));
                let (of_tds, others): (Vec<_>, Vec<_>) = pages.partition(|(of_tds, _)| *of_tds);
                let sum = |of: &[(bool, u64)]| of.iter().map(|(_, pages)| pages).sum::<u64>();
                let (least, most) = (sum(&others), sum(&others) + sum(&of_tds));
                // A page of a TD is private once the module has written to it: a guest page not
                // before the TD has accepted it. So the store is to all pages, and control pages
                // are among them.
                let least = if of_tds.is_empty() { least } else { least + 1 };
                let poisoned =
                    |name: &str| count(name).is_some_and(|lines| lines > 0 && (least..=most).contains(&lines));
                is("private", count("private").is_some_and(|lines| lines > 0))
                    .or_else(|| is("poisoned", poisoned("poisoned")))
                    .or_else(|| is("poisoned_ever", poisoned("poisoned_ever")))
            }
            Some(wanted) => {
                let poisoned =
                    count("poisoned_ever").is_some_and(|lines| (lines > 0) == (wanted == Memory::ResetPoisoned));
                let told = report.event("handover");
                is("direct_stored", count("direct_stored").is_some_and(|lines| lines > 0))
                    .or_else(|| is("poisoned_ever", poisoned))
                    .or_else(|| is("private", count("private") == Some(0)))
                    .or_else(|| {
                        (!told.is_null() && told["clean"] != true).then(|| format!("the kernel reports {told}"))
                    })
            }
            None => None,
        };
        let memory = memory.or_else(|| {
            let wanted = self.lines_reset.filter(|lines| count("direct_stored") != Some(*lines));
            wanted.map(|wanted| format!("lines direct_stored: {} and not {wanted}", lines["direct_stored"]))
        });
        let by = lines["direct_stored_by"].as_array().map_or(&[][..], Vec::as_slice);
        let cpus = by.iter().filter(|lines| lines.as_u64().is_some_and(|lines| lines > 0)).count() as u64;
        memory.or_else(|| {
            let wanted = self.reset_by.filter(|wanted| cpus < *wanted);
            wanted.map(|wanted| format!("{cpus} CPUs have reset lines and not {wanted}: {}", lines["direct_stored_by"]))
        })
    }

    fn events(&self, report: &Report) -> Option<String> {
        let happened = |pattern: &&Pattern| report.events().iter().any(|event| matches(pattern, event));
        let show = |pattern: &Pattern| Value::Object(pattern.clone());
        let missing = self.events.iter().find(|pattern| !happened(pattern));
        let missing = missing.map(|pattern| format!("no event {}", show(pattern)));
        missing.or_else(|| self.no_events.iter().find(happened).map(|pattern| format!("an event {}", show(pattern))))
    }

    fn seamcalls(&self, report: &Report) -> Option<String> {
        let made = report.summary()["seamcalls"].as_array().map_or(&[][..], Vec::as_slice);
        let missing = self.seamcalls.iter().find(|pattern| !made.iter().any(|call| matches(pattern, call)));
        let unwanted = made.iter().find(|call| self.no_seamcalls.iter().any(|pattern| matches(pattern, call)));
        let missing = missing.map(|pattern| {
            let same_leaf = made.iter().filter(|call| Some(&call["leaf"]) == pattern.get("leaf")).cloned();
            let same_leaf = Value::Array(same_leaf.collect());
            format!("no SEAMCALL {}, of this leaf {same_leaf}", Value::Object(pattern.clone()))
        });
        missing.or_else(|| unwanted.map(|call| format!("a SEAMCALL {call}")))
    }

    fn messages(&self, report: &Report, messages: &Messages) -> Option<String> {
        let said = |name: &&String| report.said().contains(messages.text(name));
        let missing = self.messages.iter().find(|name| !said(name));
        let unwanted = self.no_messages.iter().find(said);
        let complaint = || {
            let line = messages.complaint(report.said())?;
            Some(format!("a kernel reports a fault of its own: {line}"))
        };
        missing
            .map(|name| format!("no message {name} (\"{}\")", messages.text(name)))
            .or_else(|| unwanted.map(|name| format!("a message {name} (\"{}\")", messages.text(name))))
            .or_else(|| match self.kernel_log {
                None => None,
                Some(KernelLog::NoComplaints) => complaint(),
                Some(KernelLog::Watched) => not_watched(report, messages).or_else(complaint),
            })
    }
}

/// Why a run of a kernel that looks for faults does not count as one without. A crash kernel has a
/// user space of its own, too.
fn not_watched(report: &Report, messages: &Messages) -> Option<String> {
    let count = |event: Value| report.events().iter().filter(|found| matches_object(&event, found)).count();
    let kernels = count(serde_json::json!({ "event": "user-space" }));
    let lockdep = count(serde_json::json!({ "event": "lockdep", "debug_locks": 1 }));
    let kasan = report.said().matches(messages.text("linux-kasan-on")).count();
    let off = [("KASAN", kasan), ("lockdep", lockdep)].into_iter().find(|(_, on)| kernels == 0 || *on < kernels);
    off.map(|(what, _)| format!("{what} was not on in each of {kernels} kernels"))
}

fn matches_object(pattern: &Value, event: &Value) -> bool {
    pattern.as_object().is_some_and(|pattern| matches(pattern, event))
}

/// Kinds in an event `pages`, each with the count of sysfs and that of seamvisor.
const KINDS: [&str; 5] = ["tdr", "tdcx", "tdvpr", "sept", "guest"];

/// A count, or `none`.
fn or_none(count: Option<impl ToString>) -> String {
    count.map_or_else(|| "none".to_owned(), |count| count.to_string())
}

/// Where the counts of an event `pages` differ, or one of them is not known.
pub(crate) fn different_counts(event: &Value) -> Option<String> {
    KINDS.into_iter().find_map(|kind| {
        let (sysfs, seamvisor) = (event[kind][0].as_i64(), event[kind][1].as_i64());
        let same = sysfs.is_some_and(|count| count >= 0) && sysfs == seamvisor;
        let (sysfs, seamvisor) = (or_none(sysfs), or_none(seamvisor));
        (!same).then(|| format!("{kind} at {}: sysfs has {sysfs}, seamvisor {seamvisor}", event["when"]))
    })
}

/// Where counts differ, or a stop at which nothing was told.
fn different_pages_at(stops: &[String], events: &[Value]) -> Option<String> {
    if stops.is_empty() {
        return None;
    }
    let told: Vec<&Value> = events.iter().filter(|event| event["event"] == "pages").collect();
    let silent = stops.iter().find(|stop| told.iter().all(|event| event["when"] != stop.as_str()));
    silent
        .map(|stop| format!("no pages were counted at {stop}"))
        .or_else(|| told.into_iter().find_map(different_counts))
}

/// Where the module's counts of pages, in sysfs, are not seamvisor's.
fn different_pages(report: &Report) -> Option<String> {
    let kinds = [("tdr", "TDR"), ("tdcx", "TDCX"), ("tdvpr", "TDVPR"), ("sept", "SEPT"), ("guest", "guest page")];
    let seen = report.summary()["pages"].as_array().map_or(&[][..], Vec::as_slice);
    let pair = ("pamt_pair", "PAMT page pair");
    // A kernel with Dynamic PAMT has some.
    let pairs = (!report.event("dynamic-pamt").is_null()).then_some(pair);
    kinds.into_iter().chain(pairs).find_map(|(file, kind)| {
        let file = format!("pages/{file}");
        let sysfs = report.events().iter().find(|event| event["event"] == "sysfs" && event["file"] == *file);
        let told = sysfs.and_then(|event| event["value"].as_u64());
        let counted = seen.iter().find(|run| run["kind"] == kind).and_then(|run| run["count"].as_u64());
        let same = told.is_some_and(|told| told > 0) && told == counted;
        (!same).then(|| format!("{kind}: sysfs has {}, seamvisor {}", or_none(told), or_none(counted)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(when: &str, guest: [i64; 2]) -> Value {
        let two = [2, 2];
        serde_json::json!({ "event": "pages", "when": when, "tdr": two, "tdcx": two, "tdvpr": two, "sept": two, "guest": guest })
    }

    #[test]
    fn pages_differ_where_a_count_differs_or_is_missing() {
        let stops = ["aug".to_owned(), "gone".to_owned()];
        let differ = |events: &[Value]| different_pages_at(&stops, events);
        assert_eq!(differ(&[pages("aug", [9, 9]), pages("gone", [0, 0])]), None);
        let missing = differ(&[pages("aug", [9, 9])]);
        assert_eq!(missing.as_deref(), Some("no pages were counted at gone"));
        let wrong = differ(&[pages("aug", [9, 9]), pages("gone", [1, 0])]).unwrap();
        assert!(wrong.starts_with("guest at \"gone\""), "{wrong}");
        // Neither sysfs nor seamvisor there: equal, and not known.
        assert!(differ(&[pages("aug", [-1, -1]), pages("gone", [0, 0])]).is_some());
        assert!(differ(&[serde_json::json!({ "event": "pages", "when": "aug" }), pages("gone", [0, 0])]).is_some());
        assert_eq!(different_pages_at(&[], &[]), None);
    }
}
