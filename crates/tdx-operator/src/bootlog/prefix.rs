//! Prefixes of log lines: time stamps, log levels, caller ids, syslog and journald headers, serial
//! console names, mail quotes. Tells kernel messages from those of programs.

/// Who wrote a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source<'a> {
    /// The kernel, or a line without an identifier.
    Kernel,
    /// A program, by its syslog identifier, without process id.
    Program(&'a str),
}

/// A log line without its prefixes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Split<'a> {
    /// Who wrote it.
    pub(crate) source: Source<'a>,
    /// The message.
    pub(crate) text: &'a str,
    /// Time since boot in microseconds, if the line has it.
    pub(crate) since_boot: Option<u64>,
    /// The line has a time stamp or a syslog header.
    pub(crate) stamped: bool,
}

/// The message of a kernel's log line, without prefixes and surrounding blanks. The line of a
/// program stays whole.
///
/// Takes off, in any order and number: `[    9.360001]`, `[    9.360001 <    0.000012>]`,
/// `[Tue Mar 21 09:40:00 2023]`, `[  +0.000000]`, `[..]`, `[]`, `[    T0]`,
/// `2023-03-21T09:40:00,360001+00:00`, `<6>`, `6,339,5140900,-;` of /dev/kmsg and netconsole,
/// `kern  :info  :`, `> ` of a quoted mail, a syslog header up to `kernel: `, what a console server
/// puts before a time stamp and a container's log before a line, quotes and HTML around a line.
pub(crate) fn message(line: &str) -> &str {
    let split = split(line);
    if split.source == Source::Kernel { split.text } else { line.trim() }
}

/// The same with the source and the time.
pub(crate) fn split(line: &str) -> Split<'_> {
    let mut rest = contained(unwrapped(unquoted(line.trim().trim_start_matches('\u{feff}'))));
    if let Some((of_kernel, micros, text)) = kmsg(rest) {
        let source = if of_kernel { Source::Kernel } else { Source::Program("user") };
        return Split { source, text, since_boot: Some(micros), stamped: true };
    }
    let mut source = Source::Kernel;
    let mut stamped = false;
    if !rest.starts_with('#') {
        if let Some((ident, after)) = header(rest) {
            stamped = true;
            rest = after;
            if ident != "kernel" {
                return Split { source: Source::Program(ident), text: rest, since_boot: None, stamped };
            }
        } else if rfc5424(rest).is_some() {
            // Below.
        } else if let Some(after) = syslog(rest) {
            stamped = true;
            rest = after;
        } else if let Some(after) = console(rest) {
            rest = after;
        }
    }
    if let Some((ident, after)) = rfc5424(rest) {
        stamped = true;
        rest = after;
        if ident != "kernel" {
            return Split { source: Source::Program(ident), text: rest, since_boot: None, stamped };
        }
    }
    let mut since_boot = None;
    loop {
        let before = rest;
        if let Some((inside, after)) = bracket(rest) {
            stamped = true;
            since_boot = since_boot.or_else(|| seconds(inside));
            rest = after.trim_start();
        } else if let Some(after) = level(rest).or_else(|| facility(rest)).or_else(|| iso(rest)) {
            stamped = true;
            rest = after.trim_start();
        }
        if rest.len() == before.len() {
            break;
        }
    }
    if stamped && let Some((ident, after)) = host(rest).or_else(|| with_pid(rest)) {
        rest = after;
        if ident != "kernel" {
            source = Source::Program(ident);
        } else if let Some((inside, after)) = bracket(rest) {
            // Two clocks: `[Mon Nov 30 06:00:00 2026] node7 kernel: [    9.360001] text`.
            since_boot = since_boot.or_else(|| seconds(inside));
            rest = after.trim_start();
        }
    }
    Split { source, text: rest, since_boot, stamped }
}

/// `> > text` of a quoted mail. A `>` without a blank after it is no quote.
fn unquoted(mut line: &str) -> &str {
    while let Some(inside) = line.strip_prefix("> ").or_else(|| line.strip_prefix('>').filter(|l| l.starts_with('>'))) {
        line = inside.trim_start();
    }
    line
}

/// A line without the quotes or the HTML that a page or a table puts around each.
fn unwrapped(line: &str) -> &str {
    let quoted = line.trim_end_matches(',');
    if let Some(inside) = quoted.strip_prefix('"').and_then(|line| line.strip_suffix('"'))
        && inside.starts_with(['[', '<'])
    {
        return inside;
    }
    let opens = ["<pre>", "<code>", "<p>", "<li>", "<div>", "<td>"];
    let closes = ["</pre>", "</code>", "</p>", "</li>", "</div>", "</td>", "<br>", "<br/>", "<br />"];
    let mut rest = line;
    while let Some(inside) = opens.iter().find_map(|tag| rest.strip_prefix(tag)) {
        rest = inside.trim_start();
    }
    while let Some(inside) = closes.iter().find_map(|tag| rest.strip_suffix(tag)) {
        rest = inside.trim_end();
    }
    rest
}

/// `2026-11-30T06:00:00.123456789Z stdout F text` of a container's log.
fn contained(line: &str) -> &str {
    let inside = || {
        let (time, rest) = line.split_once(' ')?;
        let (stream, rest) = rest.split_once(' ')?;
        let (part, text) = rest.split_once(' ')?;
        let is_log = ["stdout", "stderr"].contains(&stream) && ["F", "P"].contains(&part);
        (is_log && is_iso_of_syslog(time)).then_some(text)
    };
    inside().unwrap_or(line)
}

/// `6,339,5140900,-;text` of /dev/kmsg and of netconsole: whether the kernel wrote it (facility 0),
/// microseconds since boot, and the text.
fn kmsg(line: &str) -> Option<(bool, u64, &str)> {
    if !line.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (head, text) = line.split_once(';')?;
    let mut fields = head.split(',');
    let priority: u32 = fields.next()?.parse().ok()?;
    let _sequence: u64 = fields.next()?.parse().ok()?;
    let micros = fields.next()?.parse().ok()?;
    let flags = fields.next()?;
    (["-", "c", "+"].contains(&flags)).then_some((priority < 8, micros, text))
}

/// `node7 kernel: text` or `node7 mcelog[912]: text` after the stamp of `journalctl -o
/// short-monotonic`.
fn host(text: &str) -> Option<(&str, &str)> {
    // `journalctl --no-hostname`.
    if let Some(after) = text.strip_prefix("kernel: ") {
        return Some(("kernel", after.trim_start()));
    }
    let (name, rest) = text.split_once(' ')?;
    if name.is_empty() || name.ends_with(':') {
        return None;
    }
    match rest.strip_prefix("kernel: ") {
        Some(after) => Some(("kernel", after.trim_start())),
        None => with_pid(rest),
    }
}

/// `mcelog[912]: text`: an identifier with a process id.
fn with_pid(text: &str) -> Option<(&str, &str)> {
    let (word, after) = text.split_once(' ')?;
    let (ident, pid) = word.strip_suffix("]:")?.split_once('[')?;
    let digits = !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit());
    (digits && is_ident(ident)).then_some((ident, after.trim_start()))
}

fn is_ident(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.@()+".contains(&b))
}

/// `Mar 21 09:40:00 host mcelog[912]: text`, `2023-03-21T09:40:00+0000 host kernel: text`, `Tue
/// 2026-11-24 05:10:00 UTC host kernel: text`, `1700000000.123456 host kernel: text`: the
/// identifier, and what follows it. The month may be in any language, the host may be missing.
fn header(line: &str) -> Option<(&str, &str)> {
    if line.starts_with(['[', '<', '{']) {
        return None;
    }
    let mut rest = line;
    for index in 0..5 {
        let (word, after) = rest.split_once(' ')?;
        rest = after.trim_start();
        // An identifier, or a stamp in brackets behind the name of a console.
        if word.ends_with("]:") || word.contains('[') {
            return None;
        }
        if is_time(word) || index == 0 && (is_iso_of_syslog(word) || is_epoch(word)) {
            return identifier(rest);
        }
    }
    None
}

/// After the time: an optional zone, an optional host, the identifier.
fn identifier(text: &str) -> Option<(&str, &str)> {
    let mut rest = text;
    let mut zone = true;
    let mut index = 0;
    while index < 2 {
        let (word, after) = rest.split_once(' ')?;
        let after = after.trim_start();
        if std::mem::take(&mut zone) && is_zone(word) {
            rest = after;
            continue;
        }
        if let Some(name) = word.strip_suffix(':') {
            let (ident, pid) = name.strip_suffix(']').and_then(|name| name.split_once('[')).unwrap_or((name, ""));
            let known = index > 0 || ident == "kernel" || !pid.is_empty();
            return (known && is_ident(ident)).then_some((ident, after));
        }
        rest = after;
        index += 1;
    }
    None
}

/// `UTC`, `CEST`, `+0100`.
fn is_zone(word: &str) -> bool {
    let offset =
        word.strip_prefix(['+', '-']).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b':'));
    offset || (2..=5).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_uppercase())
}

/// `09:40:00`, `09:40:00.123456`.
fn is_time(word: &str) -> bool {
    let (clock, fraction) = word.split_once('.').unwrap_or((word, ""));
    let digits = |text: &str| text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
    let mut parts = clock.split(':');
    parts.by_ref().take(3).filter(|part| digits(part)).count() == 3
        && parts.next().is_none()
        && fraction.bytes().all(|b| b.is_ascii_digit())
}

/// An ISO time of journald or rsyslog; that of `dmesg` has a comma and no host after it.
fn is_iso_of_syslog(word: &str) -> bool {
    word.contains('T') && !word.contains(',') && iso(&format!("{word} x")).is_some()
}

/// `1700000000.123456` of `journalctl -o short-unix`.
fn is_epoch(word: &str) -> bool {
    let number = word.split_once('.');
    number.is_some_and(|(seconds, fraction)| {
        seconds.len() == 10
            && fraction.len() == 6
            && (seconds.bytes().chain(fraction.bytes())).all(|b| b.is_ascii_digit())
    })
}

/// Anything up to ` kernel: `.
fn syslog(line: &str) -> Option<&str> {
    // A message that starts with a bracket has its own time stamp and no host name before it.
    if line.starts_with(['[', '<', '#']) {
        return None;
    }
    let (before, after) = line.split_once("kernel: ")?;
    // `Cannot load kdump kernel: ..` is a message.
    let words =
        ["kdump", "kexec", "crash", "capture", "panic", "new", "next", "old", "guest", "running", "the", "this"];
    if before.split_whitespace().last().is_some_and(|last| words.iter().any(|word| last.ends_with(word))) {
        return None;
    }
    (before.is_empty() || before.ends_with(' ')).then_some(after.trim_start())
}

/// Bytes that a console server may put before a time stamp.
const CONSOLE: usize = 48;

/// `node5:[Wed Feb  7 13:24:07 2024] text`, `ttyS0: [    9.360001] text`: what follows a short
/// name, from the time stamp on.
fn console(line: &str) -> Option<&str> {
    let at = line.find('[').filter(|&at| 0 < at && at <= CONSOLE)?;
    let (before, from) = line.split_at(at);
    let (inside, _) = bracket(from)?;
    let stamp = seconds(inside).is_some() || inside.split(' ').any(is_time);
    // A kernel message has words of its own before a bracket.
    let name = before.trim_end_matches([' ', '|', '>', ':', '-']);
    let short = !name.contains(' ') && !["mce", "kvm", "tdx", "EDAC"].iter().any(|word| name.contains(word));
    (stamp && short).then_some(from)
}

/// Microseconds of `    9.360001`.
pub(super) fn seconds(inside: &str) -> Option<u64> {
    let (whole, fraction) = inside.trim().split_once('.')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(fraction) || fraction.len() > 6 {
        return None;
    }
    let micros: u64 = format!("{fraction:0<6}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros)
}

/// `[...]` with nothing but the characters of time stamps and thread ids inside, and what follows.
fn bracket(line: &str) -> Option<(&str, &str)> {
    let (inside, after) = line.strip_prefix('[')?.split_once(']')?;
    // The time since the line before; the address of an old stack trace stands in such brackets,
    // too, and is no prefix.
    let inside = match inside.strip_suffix('>').and_then(|inside| inside.split_once('<')) {
        Some((stamp, delta)) if delta.bytes().all(|b| b.is_ascii_digit() || b" .-+".contains(&b)) => stamp,
        _ => inside,
    };
    // A memory range or a message in brackets is not a prefix: `[Hardware Error]` has no digit.
    let words = inside.bytes().any(|b| b.is_ascii_alphabetic()) && !inside.bytes().any(|b| b.is_ascii_digit());
    let stamp = inside.len() <= 40 && inside.chars().all(|c| c.is_ascii_alphanumeric() || " .:+-,".contains(c));
    (stamp && !words && !inside.starts_with("mem ")).then_some((inside, after))
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

/// `<6>1 2026-11-29T10:00:00.123456+01:00 node7 kernel - - - text` of RFC 5424; the time may be
/// missing, and structured data and the mark of UTF-8 may stand before the text.
fn rfc5424(line: &str) -> Option<(&str, &str)> {
    let rest = level(line).unwrap_or(line).strip_prefix("1 ")?;
    let rest = iso(rest).or_else(|| rest.strip_prefix("- "))?;
    let mut fields = rest.splitn(5, ' ');
    let (_host, ident) = (fields.next()?, fields.next()?);
    let (_pid, _id, data) = (fields.next()?, fields.next()?, fields.next()?);
    let text = data.strip_prefix('-').or_else(|| structured_data(data))?.strip_prefix(' ')?;
    Some((ident, text.trim_start().trim_start_matches('\u{feff}')))
}

/// What follows `[id name="value"][id name="value"]`. A bracket in a value is no end.
fn structured_data(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(element) = rest.strip_prefix('[') {
        let (mut quoted, mut escaped) = (false, false);
        let end = element.find(|c| {
            let was_escaped = std::mem::take(&mut escaped);
            match c {
                '\\' => escaped = !was_escaped,
                '"' if !was_escaped => quoted = !quoted,
                ']' if !quoted => return true,
                _ => {}
            }
            false
        })?;
        rest = element.get(end + 1..)?;
    }
    (rest.len() < text.len()).then_some(rest)
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
    use super::{Source, message, split};

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
            "[    0.000000] kernel: ",
            "[    9.360001] node-7.example.org kernel: ",
            "[    9.360001 <    0.000012 >] node7 kernel: ",
            "Tue 2026-11-24 05:10:00 UTC node7 kernel: ",
            "1700000000.123456 node7 kernel: ",
            "mär 02 08:15:41 node7 kernel: ",
            "2026-11-23T05:10:00.123456+00:00 node7 kernel: ",
            "Mar 21 09:40:00 kernel: ",
            "r1c3s2b0n1:[Wed Feb  7 13:24:07 2024] ",
            "node-12: [    9.360001] ",
            "ttyS0 | [    9.360001] ",
            "> > [    9.360001] ",
            ">> [    9.360001] ",
            "<6>1 2026-11-29T10:00:00.123456+01:00 node7 kernel - - - ",
            "<6>1 2026-11-29T10:00:00Z node7 kernel - - - [    9.360001] ",
            "<6>1 2026-11-29T10:00:00Z node7 kernel - - - \u{feff}[    9.360001] ",
            "<6>1 2026-11-29T10:00:00Z node7 kernel - - [origin ip=\"::1\" x=\"a \\\" ] b\"][meta n=\"1\"] ",
            "<6>1 - node7 kernel - - [timeQuality] \u{feff}",
            "1 2026-11-29T10:00:00Z node7 kernel - - [timeQuality tzKnown=\"1\"] ",
            "\u{feff}[    9.360001] ",
            "6,339,9360001,-;",
            "3,340,9360001,-,caller=T1;",
            "2026-11-30T06:00:00.123456789Z stdout F [    9.360001] ",
            "2026-11-30T06:00:00.123456789Z stderr F ",
            "[Mon Nov 30 06:00:00 2026] node7 kernel: [    9.360001] ",
            "<pre>[    9.360001] ",
            "<p>[    9.360001] ",
        ] {
            let line = format!("{prefix}virt/tdx: module initialized\r");
            assert_eq!(message(&line), "virt/tdx: module initialized", "{prefix:?}");
        }
    }

    #[test]
    fn programs() {
        for line in
            ["\"[    9.360001] virt/tdx: x\",", "<p>[    9.360001] virt/tdx: x</p>", "<3>[ 1.0] virt/tdx: x<br>"]
        {
            assert_eq!(message(line), "virt/tdx: x", "{line}");
        }
        for (line, ident, text) in [
            ("14,341,9360001,-;systemd: virt/tdx: x", "user", "systemd: virt/tdx: x"),
            ("Feb 03 04:05:06 node5 mcelog[912]: MCE 0", "mcelog", "MCE 0"),
            ("2024-02-03T04:05:06.000001+00:00 node5 rasdaemon[9]: x y", "rasdaemon", "x y"),
            ("2024-02-03T04:05:06+0000 node5 kdumpctl[1411]: a: b", "kdumpctl", "a: b"),
            ("Tue 2026-11-24 05:10:00 UTC node7 systemd[1]: kdump.service: x", "systemd", "kdump.service: x"),
            ("[ 9031.220417] node5 mcelog[912]: MCE 0", "mcelog", "MCE 0"),
            ("[ 9031.220417] systemd[1]: Started x", "systemd", "Started x"),
            ("févr. 03 04:05:06 node5 libvirtd[7]: internal error: x", "libvirtd", "internal error: x"),
            ("Mar 21 09:40:00 node5 kdump-tools: x", "kdump-tools", "x"),
            ("<29>1 2026-11-29T10:00:00Z node5 kdumpctl 77 - - x y", "kdumpctl", "x y"),
            ("<29>1 2026-11-29T10:00:00Z node5 kdumpctl 77 id [a b=\"c\"] \u{feff}x y", "kdumpctl", "x y"),
        ] {
            let split = split(line);
            assert_eq!((split.source, split.text), (Source::Program(ident), text), "{line}");
            assert_eq!(message(line), line);
        }
        for line in [
            "[ 9031.2] kvm_intel: kvm [5101]: TD exit 0x0",
            "7 2024-05-06 07:08:09 +0000 error: MEMORY CONTROLLER x",
            "1 2024-05-06 07:08:09 +0000 2 Corrected error(s): x",
            "2026-11-23T05:10:00,123456+00:00 Memory failure: 0x1: x",
            "Memory failure: 0x1: x",
            "[ 1.0] mce: [Hardware Error]: x",
        ] {
            assert_eq!(split(line).source, Source::Kernel, "{line}");
        }
    }

    #[test]
    fn time_since_boot() {
        assert_eq!(split("[    9.360001] x").since_boot, Some(9_360_001));
        assert_eq!(split("6,339,9360001,-;x").since_boot, Some(9_360_001));
        assert_eq!(split("[Mon Nov 30 06:00:00 2026] n1 kernel: [    9.360001] x").since_boot, Some(9_360_001));
        assert_eq!(split("Mar 21 09:40:00 node7 kernel: [ 10.16] x").since_boot, Some(10_160_000));
        for line in ["x", "[Tue Mar 21 09:40:00 2023] x", "[  +0.000000] x", "[..] x", "[99999999999999999999.1] x"] {
            assert_eq!(split(line).since_boot, None, "{line}");
        }
    }

    #[test]
    fn not_prefixes() {
        for line in [
            "[mem 0x0-0x1] x",
            "[firmware_bug] x",
            "[Hardware Error]: event severity: fatal",
            "mce: [Hardware Error]: x",
            "kvm [5101]: x",
            "tdx: [firmware bug]: TDX is not enabled",
            "# kernel: x",
            "[<ffffffff81234567>] tdx_enable+0x12/0x340",
            "2026-11-23 virt/tdx: x",
            "2026-11-23Tea virt/tdx: x",
            "Cannot load kdump kernel: Operation not supported",
            "failed to load crash kernel: x",
        ] {
            assert_eq!(message(line), line);
        }
        assert_eq!(message("[    1.0] Booting the kernel: tdx: x"), "Booting the kernel: tdx: x");
        assert_eq!(message("qemu: mykernel: tdx: x"), "qemu: mykernel: tdx: x");
    }
}
