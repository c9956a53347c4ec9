//! Which outcome of a row is right.

use serde_json::Value;

use super::row::Row;
use crate::expect::different_counts;
use crate::report::{Report, Verdict};

/// Number of these rules. A result that was judged by other rules does not count.
pub(super) const RULES: u32 = 2;

/// Did the call fail as was asked?
fn has_failed(row: &Row, report: &Report) -> bool {
    let calls = report.summary()["seamcalls"].as_array().map_or(&[][..], Vec::as_slice);
    let status = match row.failure.as_str() {
        // A status is counted without bits 31:0.
        "dies" => "unknown status 0x8000ff0000000000",
        "busy" => "TDX_OPERAND_BUSY",
        "entropy" => "TDX_RND_NO_ENTROPY",
        "interrupted" => "TDX_INTERRUPTED_RESUMABLE",
        _ if row.leaf == "VP.ENTER" => "TDX_NON_RECOVERABLE_TD",
        _ => "TDX_TD_FATAL",
    };
    let leaf = format!("TDH.{}", row.leaf);
    calls.iter().any(|call| call["leaf"] == leaf && call["status"].as_str().is_some_and(|is| is.starts_with(status)))
}

/// The last value of a file of /sys/kernel/cleanslate.
pub(super) fn sysfs<'r>(report: &'r Report, file: &str) -> Option<&'r Value> {
    let last = report.events().iter().rfind(|event| event["event"] == "sysfs" && event["file"] == file);
    last.map(|event| &event["value"])
}

/// Was this module loaded?
fn is_loaded(events: &[Value], module: &str) -> bool {
    events.iter().any(|event| event["event"] == "loaded" && event["module"] == module)
}

/// Why the outcome is wrong, if it is.
pub(super) fn judge(row: &Row, report: &Report) -> Option<String> {
    if report.verdict() != Verdict::Clean {
        return Some(report.why().to_owned());
    }
    if !has_failed(row, report) {
        return Some("the call did not fail: the TD's life has no such call".to_owned());
    }
    judge_end(row, report.events(), &report.summary()["lines"]["private"])
}

/// The same of a run whose last kernel finished its work, after the call has failed.
/// `private`: lines that are private at the end.
fn judge_end(row: &Row, events: &[Value], private: &Value) -> Option<String> {
    let last = |name: &str| events.iter().rfind(|event| event["event"] == name);
    if let Some(event) = last("kexec-failed") {
        return Some(format!("an image was refused: {}", event["why"]));
    }
    if *private != 0 {
        return Some(format!("{private} lines are private at the end"));
    }
    // Otherwise nobody has looked whether memory in use was overwritten, or what is left.
    let canaries = last("canaries").is_some_and(|event| event["pages"].as_u64().is_some_and(|pages| pages > 0));
    if !canaries || !is_loaded(events, "/next/cleanslate_canary.ko") {
        return Some("no canaries were in free memory".to_owned());
    }
    if row.jump == "kexec" && !is_loaded(events, "/modules/cleanslate_use.ko") {
        return Some("the next kernel did not use free memory".to_owned());
    }
    if last("vmm-end").is_none_or(|event| event["how"] == "hangs") {
        return Some("the VMM hangs".to_owned());
    }
    match last("pages") {
        Some(pages) if pages["when"] == "end" => different_counts(pages),
        _ => Some("no pages were counted at the end".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_run_is_right_only_if_its_memory_was_looked_at() {
        let row = |jump: &str| Row::all().into_iter().find(|row| row.jump == jump).unwrap();
        let loaded = |module: &str| serde_json::json!({ "event": "loaded", "module": module });
        let two = [2, 2];
        let pages = serde_json::json!({ "event": "pages", "when": "end", "tdr": two, "tdcx": two, "tdvpr": two, "sept": two, "guest": two });
        let events = vec![
            serde_json::json!({ "event": "vmm-end", "how": "exit 0" }),
            pages,
            serde_json::json!({ "event": "canaries", "pages": 9 }),
            loaded("/next/cleanslate_canary.ko"),
            loaded("/modules/cleanslate_use.ko"),
        ];
        let zero = Value::from(0);
        assert_eq!(judge_end(&row("kexec"), &events, &zero), None);
        assert!(judge_end(&row("kexec"), &events, &Value::from(1)).is_some());
        for missing in 0..events.len() {
            let mut fewer = events.clone();
            fewer.remove(missing);
            assert!(judge_end(&row("kexec"), &fewer, &zero).is_some(), "{}", events[missing]);
        }
        // A crash kernel reads the dump and uses no other memory.
        assert_eq!(judge_end(&row("crash"), &events[..4], &zero), None);
        let mut changed = events.clone();
        changed[0]["how"] = "hangs".into();
        assert!(judge_end(&row("kexec"), &changed, &zero).is_some());
        let mut changed = events.clone();
        changed[1]["tdr"] = serde_json::json!([-1, 2]);
        assert!(judge_end(&row("kexec"), &changed, &zero).is_some());
        let mut changed = events.clone();
        changed[2]["pages"] = 0.into();
        assert!(judge_end(&row("kexec"), &changed, &zero).is_some());
        let mut refused = events;
        refused.push(serde_json::json!({ "event": "kexec-failed", "why": "jump: not loaded" }));
        assert!(judge_end(&row("kexec"), &refused, &zero).is_some());
    }
}
