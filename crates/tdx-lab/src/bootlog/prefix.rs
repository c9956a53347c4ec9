//! What stands before a kernel message: time stamps, log levels, caller ids, and what syslog and journald put in front.

/// The message of a log line, without prefixes and surrounding blanks.
///
/// Takes off, in any order and number: `[    9.360001]`, `[Tue Mar 21 09:40:00 2023]`, `[  +0.000000]`, `[..]`, `[]`,
/// `[    T0]`, `<6>`, `<6>1,234,-;`, `kern  :info  :`, and everything up to ` kernel: `.
pub(crate) fn message(line: &str) -> &str {
    let mut rest = line.trim();
    if let Some(after) = syslog(rest) {
        rest = after;
    }
    loop {
        let before = rest;
        if let Some(after) = bracket(rest).or_else(|| level(rest)).or_else(|| facility(rest)) {
            rest = after.trim_start();
        }
        if rest.len() == before.len() {
            return rest;
        }
    }
}

/// `Mar 21 09:40:00 host kernel: text`, as in /var/log/messages and `journalctl -k`.
fn syslog(line: &str) -> Option<&str> {
    // A message that starts with a bracket has its own time stamp and no host name before it.
    if line.starts_with(['[', '<', '#']) {
        return None;
    }
    let (before, after) = line.split_once("kernel: ")?;
    (before.is_empty() || before.ends_with(' ')).then_some(after.trim_start())
}

/// `[...]` with nothing but the characters of time stamps and thread ids inside.
fn bracket(line: &str) -> Option<&str> {
    let (inside, after) = line.strip_prefix('[')?.split_once(']')?;
    // A memory range or a message in brackets is not a prefix.
    let stamp = inside.len() <= 40 && inside.chars().all(|c| c.is_ascii_alphanumeric() || " .:+-,".contains(c));
    (stamp && !inside.starts_with("mem ")).then_some(after)
}

/// `<6>` of a raw kernel buffer.
fn level(line: &str) -> Option<&str> {
    let (inside, after) = line.strip_prefix('<')?.split_once('>')?;
    (!inside.is_empty() && inside.len() <= 3 && inside.bytes().all(|b| b.is_ascii_digit())).then_some(after)
}

/// `kern  :info  :` of `dmesg -x`.
fn facility(line: &str) -> Option<&str> {
    let (facility, rest) = line.split_once(':')?;
    let (level, after) = rest.split_once(':')?;
    let levels = ["emerg", "alert", "crit", "err", "warn", "notice", "info", "debug"];
    (facility.trim() == "kern" && levels.contains(&level.trim())).then_some(after)
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn every_prefix() {
        for prefix in [
            "",
            "  ",
            "[    9.360001] ",
            "[ 10.162072] ",
            "[0.303913] ",
            "[..] ",
            "[] ",
            "  [..] ",
            "[Tue Mar 21 09:40:00 2023] ",
            "[  +0.000000] ",
            "[    0.000000][    T0] ",
            "<6>[    0.000000] ",
            "kern  :info  : [    0.000000] ",
            "Mar 21 09:40:00 node7 kernel: ",
            "Mar 21 09:40:00 node7 kernel: [    0.000000] ",
            "2026-11-23T05:10:00+0000 node7 kernel: ",
            "kernel: ",
        ] {
            let line = format!("{prefix}virt/tdx: module initialized\r");
            assert_eq!(message(&line), "virt/tdx: module initialized", "{prefix:?}");
        }
    }

    #[test]
    fn not_prefixes() {
        for line in ["[mem 0x0-0x1] x", "[firmware_bug] x", "tdx: [firmware bug]: TDX is not enabled", "# kernel: x"] {
            assert_eq!(message(line), line);
        }
        assert_eq!(message("qemu: mykernel: tdx: x"), "qemu: mykernel: tdx: x");
    }
}
