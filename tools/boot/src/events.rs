//! Events: lines `@ {"event":"NAME",...}` of a guest or of seamvisor. A Linux prints them into its
//! kernel log, so a timestamp may come before the `@`.

use serde_json::{Map, Value};

/// The event in this line, if it is one. A kernel may put its timestamp and caller in brackets
/// before it.
fn event(line: &str) -> Option<&str> {
    let mut rest = line.trim();
    while let Some(after) = rest.strip_prefix('[') {
        rest = after.split_once(']')?.1.trim_start();
    }
    rest.strip_prefix("@ ").filter(|json| json.starts_with('{'))
}

/// All events of a log, and how many lines are broken ones.
pub(crate) fn read(log: &str) -> (Vec<Value>, usize) {
    let mut broken = 0;
    let events = log.lines().filter_map(event).filter_map(|json| {
        let parsed = serde_json::from_str(json).ok();
        broken += usize::from(parsed.is_none());
        parsed
    });
    (events.collect(), broken)
}

/// Does the pattern match the event? Each key of the pattern is in the event, with the same value;
/// a string may have `*` for any text.
pub(crate) fn matches(pattern: &Map<String, Value>, event: &Value) -> bool {
    pattern.iter().all(|(key, wanted)| match (wanted, &event[key]) {
        (Value::Object(wanted), found) => matches(wanted, found),
        (Value::String(wanted), Value::String(found)) => glob(wanted, found),
        (wanted, found) => wanted == found,
    })
}

/// Does the text match the pattern, in which `*` is any text?
fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    // `split` gives one part at least.
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else { return false };
        text = &text[at + part.len()..];
    }
    text.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_may_have_a_timestamp_before_it() {
        let log = "@ {\"event\":\"a\"}\r\n[    1.25] @ {\"event\":\"b\"}\n[    1.25][    T1] @ {\"event\":\"c\"}\n\
                   [    2.0] cleanslate: @ {\"event\":\"no\"}\n@ home\n";
        let (events, broken) = read(log);
        let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
        assert_eq!((names, broken), (vec!["a", "b", "c"], 0));
    }

    #[test]
    fn a_broken_event_is_counted() {
        assert_eq!(read("@ {\"event\":\"a\n").1, 1);
    }

    #[test]
    fn a_pattern_matches_what_has_its_keys() {
        let event =
            serde_json::json!({ "event": "sysfs", "file": "mode", "value": "unknown: late", "n": { "a": 1, "b": 2 } });
        let matches = |pattern: Value| super::matches(pattern.as_object().unwrap(), &event);
        assert!(matches(serde_json::json!({ "event": "sysfs", "value": "unknown*", "n": { "b": 2 } })));
        assert!(!matches(serde_json::json!({ "event": "sysfs", "value": "unknown" })));
        assert!(!matches(serde_json::json!({ "event": "sysfs", "more": 1 })));
        assert!(!matches(serde_json::json!({ "n": { "b": 1 } })));
    }

    #[test]
    fn a_star_is_any_text() {
        for (pattern, text, is) in
            [("a*c", "abc", true), ("*b*", "abc", true), ("a*a", "a", false), ("*", "", true), ("a*b*c", "acb", false)]
        {
            assert_eq!(glob(pattern, text), is, "{pattern} {text}");
        }
    }
}
