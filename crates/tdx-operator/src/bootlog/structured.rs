//! Kernel messages inside of structured logs: `journalctl -o json`, `json-pretty`, `export` and
//! `verbose`, `dmesg --json`, and the JSON lines of container and log services. Gives the line that
//! the plain form of the same log has.

use super::lines::{LINE_LIMIT, remove_colors};

/// Keys whose value is the message, in one-line and pretty-printed JSON.
const MESSAGES: [&str; 4] = ["MESSAGE", "msg", "message", "log"];

/// The fields of an entry that say what its plain line is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Entry {
    message: Option<String>,
    /// Who wrote it, as it calls itself.
    ident: Option<String>,
    /// How it came into the journal: `kernel`, `syslog`, `stdout`, ...
    transport: Option<String>,
    /// Name of the program.
    comm: Option<String>,
    /// Microseconds since boot.
    micros: Option<u64>,
    /// Facility and level of a record of the kernel's ring buffer.
    priority: Option<u64>,
}

impl Entry {
    /// Takes a field.
    fn field(&mut self, key: &str, value: String) {
        match key {
            _ if MESSAGES.contains(&key) => self.message = Some(value),
            "SYSLOG_IDENTIFIER" => self.ident = Some(value),
            "_TRANSPORT" => self.transport = Some(value),
            "_COMM" => self.comm = Some(value),
            "__MONOTONIC_TIMESTAMP" => self.micros = value.parse().ok(),
            "time" => self.micros = super::prefix::seconds(&value),
            "pri" => self.priority = value.parse().ok(),
            _ => {}
        }
    }

    /// The line as `journalctl -o short-monotonic --no-hostname` writes it; a program has a process
    /// id there.
    fn line(self) -> Option<String> {
        let message = self.message?;
        let message = message.trim_end();
        let stamp = self.micros.map(|at| format!("[{:5}.{:06}] ", at / 1_000_000, at % 1_000_000));
        // The kernel's facility is 0; a user can write into its ring buffer, too.
        let of_user = self.priority.is_some_and(|priority| priority >= 8)
            || self.transport.as_deref().is_some_and(|transport| transport != "kernel");
        let ident = self.ident.filter(|ident| ident != "kernel");
        let ident = ident.or_else(|| of_user.then(|| self.comm.unwrap_or_else(|| "user".to_owned())));
        Some(match ident {
            Some(ident) => {
                let plain = |c: char| if c.is_ascii_alphanumeric() || "_-.@()+".contains(c) { c } else { '_' };
                let ident: String = ident.chars().map(plain).collect();
                format!("{}{ident}[1]: {message}", stamp.unwrap_or_else(|| "[..] ".to_owned()))
            }
            None => format!("{}{message}", stamp.unwrap_or_default()),
        })
    }
}

/// A form in which an entry has several lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `journalctl -o export`.
    Export,
    /// `journalctl -o verbose`.
    Verbose,
    /// Pretty-printed JSON.
    Json,
}

/// An entry of several lines while it is read.
#[derive(Debug)]
struct Open {
    form: Form,
    entry: Entry,
    /// The line of the message, or the first one.
    number: u64,
    /// A field whose value follows: its key, and the bytes of a JSON array so far.
    value: Option<(String, Vec<u8>)>,
}

/// Puts entries of several lines together.
#[derive(Debug, Default)]
pub(super) struct Entries {
    open: Option<Open>,
}

/// What becomes of a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// An entry that is complete before this line or with it: the number of its line, and its text.
    pub(super) done: Option<(u64, String)>,
    /// The line is part of an entry.
    pub(super) held: bool,
}

impl Entries {
    /// Takes a line.
    pub(super) fn take(&mut self, number: u64, bytes: &[u8]) -> Step {
        // A value of the export form that is not text has its length before it.
        let text = String::from_utf8_lossy(bytes);
        if let Some(open) = &mut self.open {
            match open.line(number, bytes, &text) {
                Goes::On => return Step { done: None, held: true },
                Goes::Ends => return Step { done: self.end(), held: true },
                Goes::Next => {
                    let done = self.end();
                    self.begin(number, &text);
                    return Step { done, held: true };
                }
                Goes::Away => {
                    let done = self.end();
                    let held = self.begin(number, &text);
                    return Step { done, held };
                }
            }
        }
        Step { done: None, held: self.begin(number, &text) }
    }

    /// The entry that the end of the file ends.
    pub(super) fn end(&mut self) -> Option<(u64, String)> {
        let open = self.open.take()?;
        Some((open.number, open.entry.line()?))
    }

    /// True if the line is the first of an entry.
    fn begin(&mut self, number: u64, text: &str) -> bool {
        let trimmed = text.trim();
        let mut entry = Entry::default();
        let form = if trimmed == "{" || trimmed == "},{" {
            Form::Json
        } else if let Some(micros) = verbose(text) {
            entry.micros = Some(micros);
            Form::Verbose
        } else if let Some((key, value)) = export(text).filter(|(key, _)| key.starts_with("__")) {
            entry.field(key, value.to_owned());
            Form::Export
        } else {
            return false;
        };
        self.open = Some(Open { form, entry, number, value: None });
        true
    }
}

/// What a line is to an entry.
enum Goes {
    /// A part of it.
    On,
    /// Its last line.
    Ends,
    /// The first line of the next one, of the same form.
    Next,
    /// None of it.
    Away,
}

impl Open {
    fn line(&mut self, number: u64, bytes: &[u8], text: &str) -> Goes {
        let trimmed = text.trim();
        match self.form {
            Form::Export if trimmed.is_empty() => Goes::Ends,
            Form::Export => {
                if let Some((key, value)) = export(text) {
                    self.value = None;
                    self.put(number, key, value.to_owned());
                } else if let Some((key, _)) = self.value.take() {
                    // Eight bytes are the length.
                    let value = bytes.get(8..).unwrap_or_default();
                    self.put(number, &key, text_of(value.to_vec()));
                    // What follows up to the next key is of the same value.
                    self.value = Some((String::new(), Vec::new()));
                } else if is_key(trimmed) {
                    self.value = Some((trimmed.to_owned(), Vec::new()));
                } else {
                    return Goes::Away;
                }
                Goes::On
            }
            Form::Verbose if verbose(text).is_some() => Goes::Next,
            Form::Verbose if !text.starts_with(' ') => Goes::Away,
            Form::Verbose => {
                if let Some((key, value)) = export(trimmed) {
                    self.put(number, key, value.to_owned());
                }
                Goes::On
            }
            Form::Json => self.json(number, trimmed),
        }
    }

    fn json(&mut self, number: u64, text: &str) -> Goes {
        if let Some((key, mut bytes)) = self.value.take() {
            let ends = text.contains(']');
            bytes.extend(numbers(text));
            if ends {
                self.put(number, &key, text_of(bytes));
            } else if bytes.len() <= LINE_LIMIT {
                self.value = Some((key, bytes));
            }
            return Goes::On;
        }
        match text {
            "}" | "}," | "}]" => return Goes::Ends,
            "},{" => return Goes::Next,
            "{" | "]" | "]," => return Goes::On,
            _ => {}
        }
        let Some((key, rest)) = text.strip_prefix('"').and_then(|text| text.split_once('"')) else {
            return Goes::Away;
        };
        let Some(rest) = rest.trim_start().strip_prefix(':').map(str::trim) else { return Goes::Away };
        if let Some(array) = rest.strip_prefix('[').filter(|_| MESSAGES.contains(&key)) {
            let bytes = numbers(array);
            if array.contains(']') {
                self.put(number, key, text_of(bytes));
            } else {
                self.value = Some((key.to_owned(), bytes));
            }
        } else if let Some(value) = value(text, key) {
            self.put(number, key, value);
        }
        Goes::On
    }

    fn put(&mut self, number: u64, key: &str, value: String) {
        if MESSAGES.contains(&key) {
            self.number = number;
        }
        self.entry.field(key, value);
    }
}

/// `KEY=value` of a journal's field.
fn export(line: &str) -> Option<(&str, &str)> {
    line.split_once('=').filter(|(key, _)| is_key(key))
}

fn is_key(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// Microseconds since boot of `Sun 2026-11-29 10:00:00.000001 UTC [s=abc;i=1;b=aa;m=1;t=1;x=1]`.
fn verbose(line: &str) -> Option<u64> {
    let cursor = line.trim_end().strip_suffix(']')?.split_once(" [s=").map(|(_, cursor)| cursor)?;
    let micros = cursor.split(';').find_map(|field| field.strip_prefix("m="))?;
    (!line.starts_with(' ')).then(|| u64::from_str_radix(micros, 16).ok()).flatten()
}

/// The bytes of a JSON array, up to its end.
fn numbers(array: &str) -> Vec<u8> {
    let inside = array.split(']').next().unwrap_or_default();
    inside.split(',').filter_map(|number| number.trim().trim_start_matches('[').trim().parse().ok()).collect()
}

/// A value that journald or the log service did not take for text: mostly color sequences.
fn text_of(mut bytes: Vec<u8>) -> String {
    remove_colors(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

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
    let mut entry = Entry::default();
    let message = MESSAGES.iter().find_map(|key| Some((*key, value(text, key)?)))?;
    entry.field(message.0, message.1);
    for key in ["SYSLOG_IDENTIFIER", "_TRANSPORT", "_COMM", "__MONOTONIC_TIMESTAMP", "time", "pri"] {
        if let Some(value) = value(text, key) {
            entry.field(key, value);
        }
    }
    entry.line()
}

/// What stands after the colon of a key; the object may be cut.
fn after_key<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut from = 0;
    let quoted = format!("\"{key}\"");
    // A key inside of a message has a backslash before its quote.
    loop {
        let at = from + text.get(from..)?.find(&quoted)?;
        let after = text.get(at + quoted.len()..)?.trim_start();
        match after.strip_prefix(':') {
            Some(rest) if !text.get(..at)?.ends_with('\\') => return Some(rest.trim_start()),
            _ => from = at + quoted.len(),
        }
    }
}

/// The value of a key as text: a string, a number, or the bytes of one that is not text.
fn value(text: &str, key: &str) -> Option<String> {
    let rest = after_key(text, key)?;
    if let Some(array) = rest.strip_prefix('[') {
        let bytes = numbers(array);
        return (array.contains(']') && !bytes.is_empty()).then(|| text_of(bytes));
    }
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
    if end > 0 { rest.get(..end).map(str::to_owned) } else { string(text, key) }
}

/// The value of a key, if it is a string; the object may be cut.
fn string(text: &str, key: &str) -> Option<String> {
    let mut chars = after_key(text, key)?.strip_prefix('"')?.chars();
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

    /// The plain lines of a text, with the number of the line of each message.
    fn entries(text: &[u8]) -> Vec<(u64, String)> {
        let mut entries = Entries::default();
        let mut out = Vec::new();
        for (number, line) in (1..).zip(text.split(|byte| *byte == b'\n')) {
            let step = entries.take(number, line);
            out.extend(step.done);
            if !step.held {
                out.push((number, String::from_utf8_lossy(line).into_owned()));
            }
        }
        out.extend(entries.end());
        out
    }

    #[test]
    fn entries_of_several_lines() {
        let kernel = |number| (number, "[    9.360001] virt/tdx: x".to_owned());
        let program = |number| (number, "[    9.360001] agent[1]: virt/tdx: x".to_owned());
        let export = b"__CURSOR=s=1;i=1\n__MONOTONIC_TIMESTAMP=9360001\n_TRANSPORT=kernel\nSYSLOG_IDENTIFIER=kernel\n\
            MESSAGE=virt/tdx: x\n\n__CURSOR=s=1;i=2\n__MONOTONIC_TIMESTAMP=9360001\nMESSAGE=virt/tdx: x\n\
            _TRANSPORT=syslog\nSYSLOG_IDENTIFIER=agent\n_CMDLINE=agent a=b\n\n\
            __CURSOR=s=1;i=3\n__MONOTONIC_TIMESTAMP=9360001\n_TRANSPORT=syslog\nMESSAGE\n\
            \x0c\0\0\0\0\0\0\0virt/tdx: x\nvirt/tdx: y\nSYSLOG_IDENTIFIER=agent\n";
        assert_eq!(entries(export), [kernel(5), program(9), program(18)]);
        let verbose =
            b"Sun 2026-11-29 10:00:00.000001 UTC [s=a;i=1;b=aa;m=8ed281;t=1;x=1]\n    _TRANSPORT=kernel\n    \
            MESSAGE=virt/tdx: x\nSun 2026-11-29 10:00:00.000001 UTC [s=a;i=2;b=aa;m=8ed281;t=1;x=1]\n    \
            MESSAGE=virt/tdx: x\n            virt/tdx: y\n    SYSLOG_IDENTIFIER=agent\n-- Boot aa --\n";
        assert_eq!(entries(verbose), [kernel(3), program(5), (8, "-- Boot aa --".to_owned()), (9, String::new())]);
        let json = b"{\n\t\"__MONOTONIC_TIMESTAMP\" : \"9360001\",\n\t\"MESSAGE\" : \"virt/tdx: x\",\n\
            \t\"_TRANSPORT\" : \"kernel\"\n}\n{\n\t\"MESSAGE\" : [\n\t\t27,\n\t\t91,\n\t\t109,\n\t\t97\n\t],\n\
            \t\"SYSLOG_IDENTIFIER\" : \"agent\"\n}\n";
        assert_eq!(entries(json), [kernel(3), (12, "[..] agent[1]: a".to_owned()), (15, String::new())]);
        let dmesg = b"{\n   \"dmesg\": [\n      {\n         \"pri\": 6,\n         \"time\":     9.360001,\n         \
            \"msg\": \"virt/tdx: x\"\n      },{\n         \"pri\": 30,\n         \"time\":     9.360001,\n         \
            \"msg\": \"virt/tdx: x\"\n      }\n   ]\n}";
        let user = "[    9.360001] user[1]: virt/tdx: x";
        assert_eq!(entries(dmesg)[..2], [kernel(6), (10, user.to_owned())]);
        // No entry after all.
        assert_eq!(entries(b"{\n[ 1.0] a"), [(2, "[ 1.0] a".to_owned())]);
        assert_eq!(entries(b"__CURSOR=x\n[ 1.0] a"), [(2, "[ 1.0] a".to_owned())]);
    }

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
            (r#"{"SYSLOG_IDENTIFIER":"my app","MESSAGE":"x"}"#, "[..] my_app[1]: x"),
            (r#"{"_TRANSPORT":"stdout","_COMM":"tdx-agent","MESSAGE":"x"}"#, "[..] tdx-agent[1]: x"),
            (r#"{"_TRANSPORT":"syslog","SYSLOG_IDENTIFIER":"kernel","MESSAGE":"x"}"#, "[..] user[1]: x"),
            (r#"{"pri":6,"time":    9.360001,"msg":"virt/tdx: x"}"#, "[    9.360001] virt/tdx: x"),
            (r#"{"pri":30,"time":    9.360001,"msg":"virt/tdx: x"}"#, "[    9.360001] user[1]: virt/tdx: x"),
            (r#"{"MESSAGE":[27,91,51,49,109,116,100,120,58,32,120,255]}"#, "tdx: x\u{fffd}"),
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
            r#"{"MESSAGE":[1,2,3"#,
            r#"{"MESSAGE":null}"#,
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
