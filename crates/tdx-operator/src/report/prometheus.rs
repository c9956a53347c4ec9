//! `check` and `fleet` in the text format of Prometheus, for the textfile collector of
//! node_exporter: names and units by its conventions, HELP and TYPE for each metric, one group of
//! lines for each. What is not known has no sample.

use core::fmt::Write;

use super::{CheckReport, Status};

/// A metric and its samples.
struct Metric {
    name: &'static str,
    help: &'static str,
    samples: Vec<(Vec<(&'static str, String)>, u64)>,
}

impl Metric {
    const fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, samples: Vec::new() }
    }
}

/// PASS 0, UNKNOWN 1, WARN 2, FAIL 3: the order of gravity.
const fn number(status: Status) -> u64 {
    match status {
        Status::Pass => 0,
        Status::Unknown => 1,
        Status::Warn => 2,
        Status::Fail => 3,
    }
}

/// All machines as one file. A saved machine has the label `machine`; a live one has none, the
/// scraper knows the host. `None` stands for a saved machine that could not be read. Names are
/// given once each.
pub fn text(reports: &[(Option<&str>, Option<&CheckReport>)]) -> String {
    let mut metrics = [
        Metric::new("cleanslate_machine_readable", "1 if the saved machine could be read, 0 if not."),
        Metric::new("cleanslate_info", "Labels name versions of this host and of cleanslate; the value is always 1."),
        Metric::new("cleanslate_verdict_status", "Verdict of all checks: 0 pass, 1 unknown, 2 warn, 3 fail."),
        Metric::new("cleanslate_check_status", "Status of one check: 0 pass, 1 unknown, 2 warn, 3 fail."),
        Metric::new("cleanslate_tdx_enabled", "1 if TDX is on, 0 if it is off or cannot work."),
        Metric::new("cleanslate_partial_write_erratum", "1 if the CPU has the partial-write erratum of TDX."),
        Metric::new("cleanslate_kexec_safe", "1 if a kexec leaves nothing harmful behind, 0 if it does or is refused."),
        Metric::new("cleanslate_kexec_refused", "1 if the kernel loads no image for kexec."),
        Metric::new("cleanslate_kdump_ready", "1 if a panic gives a dump: an image for a crash is loaded."),
        Metric::new("cleanslate_power_cycle_needed", "Reset through the firmware: 0 not needed, 1 planned, 2 now."),
        Metric::new("cleanslate_leaked_pages", "Private pages leaked or freed private since boot, 4 KiB each."),
        Metric::new("cleanslate_lost_key_ids", "KeyIDs of TDX that no TD can have until the next power cycle."),
        Metric::new("cleanslate_private_key_ids", "Private KeyIDs that the BIOS set up."),
        Metric::new("cleanslate_pamt_bytes", "Memory that the kernel allocated for PAMT."),
        Metric::new("cleanslate_kexec_image_loaded", "1 if an image for kexec is loaded."),
        Metric::new("cleanslate_crash_image_loaded", "1 if an image for a crash is loaded."),
    ];
    for (machine, report) in reports {
        let labels: Vec<_> = machine.iter().map(|name| ("machine", (*name).to_owned())).collect();
        let mut put = |name: &str, more: &[(&'static str, String)], value: Option<u64>| {
            let metric = metrics.iter_mut().find(|metric| metric.name == name);
            if let (Some(metric), Some(value)) = (metric, value) {
                metric.samples.push((labels.iter().chain(more).cloned().collect(), value));
            }
        };
        if machine.is_some() {
            put("cleanslate_machine_readable", &[], Some(u64::from(report.is_some())));
        }
        let Some(report) = report else { continue };
        let (facts, verdict) = (&report.facts, &report.verdict);
        let known = |text: &Option<String>| text.clone().unwrap_or_default();
        put(
            "cleanslate_info",
            &[
                ("version", env!("CARGO_PKG_VERSION").to_owned()),
                ("kernel", known(&facts.kernel)),
                ("cpu_model", known(&facts.cpu_model)),
                ("microcode", known(&facts.microcode)),
                ("bios", known(&facts.bios)),
                ("module", known(&facts.module)),
            ],
            Some(1),
        );
        put("cleanslate_verdict_status", &[], Some(number(verdict.status)));
        for check in report.checks() {
            put("cleanslate_check_status", &[("check", check.id.to_owned())], Some(number(check.status)));
        }
        let flag = |is: Option<bool>| is.map(u64::from);
        let word = |word: &str, zero: &[&str], one: &[&str]| match word {
            _ if zero.contains(&word) => Some(0),
            _ if one.contains(&word) => Some(1),
            _ => None,
        };
        put("cleanslate_tdx_enabled", &[], word(verdict.tdx, &["off", "broken"], &["on"]));
        put("cleanslate_partial_write_erratum", &[], flag(facts.partial_write_erratum));
        put("cleanslate_kexec_safe", &[], word(verdict.kexec, &["refused", "unsafe"], &["safe"]));
        put("cleanslate_kexec_refused", &[], word(verdict.kexec, &["safe", "unsafe"], &["refused"]));
        put("cleanslate_kdump_ready", &[], word(verdict.kdump, &["not-ready"], &["ready"]));
        let needed = ["no", "planned", "now"].iter().position(|word| *word == verdict.power_cycle);
        put("cleanslate_power_cycle_needed", &[], needed.map(|needed| needed as u64));
        put("cleanslate_leaked_pages", &[], facts.leaked_pages);
        put("cleanslate_lost_key_ids", &[], facts.lost_key_ids);
        let key_ids = facts.key_ids.as_ref().map(|range| range.end.saturating_sub(u64::from(range.first)));
        put("cleanslate_private_key_ids", &[], key_ids);
        put("cleanslate_pamt_bytes", &[], facts.pamt_kb.map(|kb| kb.saturating_mul(1024)));
        put("cleanslate_kexec_image_loaded", &[], flag(facts.kexec_loaded));
        put("cleanslate_crash_image_loaded", &[], flag(facts.crash_loaded));
    }
    let mut out = String::new();
    for Metric { name, help, samples } in metrics.iter().filter(|metric| !metric.samples.is_empty()) {
        out.extend(["# HELP ", name, " ", help, "\n# TYPE ", name, " gauge\n"]);
        for (labels, value) in samples {
            out.push_str(name);
            for (index, (label, text)) in labels.iter().enumerate() {
                out.extend([if index == 0 { "{" } else { "," }, label, "=\"", &escaped(text), "\""]);
            }
            // Writing to a string does not fail.
            let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
        }
    }
    out
}

/// A label's value: backslash, quote and line feed are escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        assert_eq!(escaped("a\\b\"c\nd"), "a\\\\b\\\"c\\nd");
    }
}
