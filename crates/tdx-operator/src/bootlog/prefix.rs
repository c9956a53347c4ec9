//! Prefixes of kernel messages: time stamps, log levels, caller ids, syslog and journald prefixes.

/// The message of a log line, without prefixes and surrounding blanks.
///
/// Takes off, in any order and number: `[    9.360001]`, `[    9.360001 <    0.000012>]`,
/// `[Tue Mar 21 09:40:00 2023]`, `[  +0.000000]`, `[..]`, `[]`, `[    T0]`,
/// `2023-03-21T09:40:00,360001+00:00`, `<6>`, `<6>1,234,-;`, `kern  :info  :`; and everything up to
/// ` kernel: `, before which only a host name may stand after a bracket.
pub(crate) fn message(line: &str) -> &str {
    let mut rest = line.trim();
    if let Some(after) = syslog(rest) {
        rest = after;
    }
    let mut stamped = false;
    loop {
        let before = rest;
        if let Some(after) = bracket(rest) {
            stamped = true;
            rest = after.trim_start();
        } else if let Some(after) = level(rest).or_else(|| facility(rest)).or_else(|| iso(rest)) {
            rest = after.trim_start();
        }
        if rest.len() == before.len() {
            return if stamped { host(rest).unwrap_or(rest) } else { rest };
        }
    }
}

/// `node7 kernel: text` after the stamp of `journalctl -o short-monotonic`.
fn host(text: &str) -> Option<&str> {
    let (before, after) = text.split_once("kernel: ")?;
    let name = before.strip_suffix(' ')?;
    (!name.is_empty() && !name.contains(' ')).then_some(after.trim_start())
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
    // The time since the line before; the address of an old stack trace stands in such brackets,
    // too, and is no prefix.
    let inside = match inside.strip_suffix('>').and_then(|inside| inside.split_once('<')) {
        Some((stamp, delta)) if delta.bytes().all(|b| b.is_ascii_digit() || b" .-+".contains(&b)) => stamp,
        _ => inside,
    };
    // A memory range or a message in brackets is not a prefix.
    let stamp = inside.len() <= 40 && inside.chars().all(|c| c.is_ascii_alphanumeric() || " .:+-,".contains(c));
    (stamp && !inside.starts_with("mem ")).then_some(after)
}

/// `2023-03-21T09:40:00,360001+00:00 ` of `dmesg --time-format iso`.
fn iso(line: &str) -> Option<&str> {
    let (stamp, after) = line.split_once(' ')?;
    let digits = |from: usize, to: usize| stamp.get(from..to).is_some_and(|s| s.bytes().all(|b| b.is_ascii_digit()));
    let date = digits(0, 4) && digits(5, 7) && digits(8, 10);
    let between = [(4, b'-'), (7, b'-'), (10, b'T')].iter().all(|(at, byte)| stamp.as_bytes().get(*at) == Some(byte));
    let time = stamp.get(11..).is_some_and(|time| time.bytes().all(|b| b.is_ascii_digit() || b":.,+-Z".contains(&b)));
    (date && between && time).then_some(after)
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
            "2026-11-23T05:10:00,123456+00:00 ",
            "2026-11-23T05:10:00,123456-08:00 ",
            "kern  :info  : 2026-11-23T05:10:00,123456+00:00 ",
            "[    0.000000 <    0.000000>] ",
            "[   12.345678 <   -0.000002>] ",
            "[Tue Mar 21 09:40:00 2023 <    0.000012>] ",
            "[<    0.000012>] ",
            "[Mar21 09:40] ",
            "[    0.000000] node7 kernel: ",
            "[    9.360001] node-7.example.org kernel: ",
            "[    9.360001 <    0.000012 >] node7 kernel: ",
            "Tue 2026-11-24 05:10:00 UTC node7 kernel: ",
            "1700000000.123456 node7 kernel: ",
        ] {
            let line = format!("{prefix}virt/tdx: module initialized\r");
            assert_eq!(message(&line), "virt/tdx: module initialized", "{prefix:?}");
        }
    }

    #[test]
    fn not_prefixes() {
        for line in [
            "[mem 0x0-0x1] x",
            "[firmware_bug] x",
            "tdx: [firmware bug]: TDX is not enabled",
            "# kernel: x",
            "[<ffffffff81234567>] tdx_enable+0x12/0x340",
            "2026-11-23 virt/tdx: x",
            "2026-11-23Tea virt/tdx: x",
        ] {
            assert_eq!(message(line), line);
        }
        assert_eq!(message("[    1.0] Booting the kernel: tdx: x"), "Booting the kernel: tdx: x");
        assert_eq!(message("qemu: mykernel: tdx: x"), "qemu: mykernel: tdx: x");
    }
}
