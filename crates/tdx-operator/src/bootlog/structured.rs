//! Kernel messages inside of structured logs: `journalctl -o json`, `json-pretty`, `export` and
//! `verbose`, `dmesg --json`, and the JSON lines of container and log services. Gives the line that
//! the plain form of the same log has.

/// Keys whose value is the message, in one-line and pretty-printed JSON.
const MESSAGES: [&str; 4] = ["MESSAGE", "msg", "message", "log"];

/// The plain line of a structured one; `None` for any other line.
pub(super) fn plain(line: &str) -> Option<String> {
    let text = line.trim();
    if let Some(message) = text.strip_prefix("MESSAGE=") {
        return Some(message.to_owned());
    }
    if !text.starts_with(['{', '"']) {
        return None;
    }
    // Of pretty-printed JSON, the line of the message alone.
    if text.starts_with('"') {
        let (key, _) = text.get(1..)?.split_once('"')?;
        return MESSAGES.contains(&key).then(|| string(text, key)).flatten();
    }
    let message = MESSAGES.iter().find_map(|key| string(text, key))?;
    let message = message.trim_end();
    let micros = string(text, "__MONOTONIC_TIMESTAMP").and_then(|digits| digits.parse::<u64>().ok());
    let stamp = micros.map_or_else(String::new, |at| format!("[{:5}.{:06}] ", at / 1_000_000, at % 1_000_000));
    let ident = string(text, "SYSLOG_IDENTIFIER").filter(|ident| ident != "kernel" && !ident.contains(' '));
    Some(match ident {
        // As `journalctl -o short-monotonic --no-hostname` writes it; a program has a process id
        // there.
        Some(ident) if stamp.is_empty() => format!("[..] {ident}[1]: {message}"),
        Some(ident) => format!("{stamp}{ident}[1]: {message}"),
        None => format!("{stamp}{message}"),
    })
}

/// The value of a key, if it is a string; the object may be cut.
fn string(text: &str, key: &str) -> Option<String> {
    let mut from = 0;
    let quoted = format!("\"{key}\"");
    // A key inside of a message has a backslash before its quote.
    let rest = loop {
        let at = from + text.get(from..)?.find(&quoted)?;
        let after = text.get(at + quoted.len()..)?.trim_start();
        match after.strip_prefix(':') {
            Some(rest) if !text.get(..at)?.ends_with('\\') => break rest.trim_start(),
            _ => from = at + quoted.len(),
        }
    };
    let mut chars = rest.strip_prefix('"')?.chars();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                'n' | 'r' => out.push(' '),
                't' => out.push('\t'),
                'u' => {
                    let code: String = chars.by_ref().take(4).collect();
                    let c = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
                    out.push(c.filter(|c| !c.is_control() || *c == '\u{1b}').unwrap_or('\u{fffd}'));
                }
                c => out.push(c),
            },
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structured_lines() {
        for (line, is) in [
            (
                r#"{"_HOSTNAME":"node7","MESSAGE":"virt/tdx: module initialized","SYSLOG_IDENTIFIER":"kernel","__MONOTONIC_TIMESTAMP":"9360001"}"#,
                "[    9.360001] virt/tdx: module initialized",
            ),
            (
                r#"{"SYSLOG_IDENTIFIER":"mcelog","__MONOTONIC_TIMESTAMP":"1000000","MESSAGE":"MCE 0"}"#,
                "[    1.000000] mcelog[1]: MCE 0",
            ),
            (r#"{"SYSLOG_IDENTIFIER":"kdumpctl","MESSAGE":"x"}"#, "[..] kdumpctl[1]: x"),
            (r#"{"log":"[    1.5] a \"quoted\" word\n","stream":"stdout"}"#, "[    1.5] a \"quoted\" word"),
            (r#"         "msg": "Linux version 6.18","#, "Linux version 6.18"),
            ("\t\"MESSAGE\" : \"virt/tdx: module not loaded\",", "virt/tdx: module not loaded"),
            ("    MESSAGE=virt/tdx: module not loaded", "virt/tdx: module not loaded"),
            (r#"{"msg":"a","x":"\u001b[31m"}"#, "a"),
        ] {
            assert_eq!(plain(line).as_deref(), Some(is), "{line}");
        }
        for line in [
            "virt/tdx: MESSAGE=x",
            r#"{"MESSAGE":[1,2,3]}"#,
            r#"{"MESSAGE":"cut"#,
            r#""_HOSTNAME" : "node7","#,
            "{",
            "\"",
            r#"{"a":"\"MESSAGE\":\"b\""}"#,
            "",
        ] {
            assert_eq!(plain(line), None, "{line}");
        }
    }
}
