//! One boot in every form in which people have its log: `plan` reads the same host out of each.

mod common;

use common::{fixture, run_with_input};

/// The log with its stamps replaced: `stamp` makes the new one of the number of the line and of its
/// time.
fn in_form(log: &str, stamp: impl Fn(usize, &str) -> String) -> String {
    let line = |(number, line): (usize, &str)| match line.strip_prefix('[').and_then(|line| line.split_once("] ")) {
        Some((time, message)) => format!("{}{message}\n", stamp(number, time)),
        None => format!("{line}\n"),
    };
    log.lines().enumerate().map(line).collect()
}

/// Prints the line of this number as a tool does.
type Form = Box<dyn Fn(usize, &str) -> String>;

#[test]
fn every_form_of_a_log_is_the_same_host() {
    let log = std::fs::read_to_string(fixture("hosts/03-canonical-135-emr-ok.log")).unwrap();
    let plan = |log: &str| run_with_input(&["plan", "--host", "-", "--format", "json"], log.as_bytes());
    let plain = plan(&log);
    assert_eq!((plain.code, plain.json()["pamt_kb"].as_u64()), (0, Some(1_050_644)), "{}", plain.stderr);
    let esc = '\x1b';
    let forms: [(&str, Form); 9] = [
        ("dmesg -t", Box::new(|_, _| String::new())),
        ("dmesg --time-format iso", Box::new(|at, _| format!("2026-11-23T05:10:{at:02},123456+00:00 "))),
        ("dmesg -d", Box::new(|_, time| format!("[{time} <    0.000012>] "))),
        ("dmesg -T -d", Box::new(|_, _| "[Mon Nov 23 05:10:00 2026 <    0.000012>] ".to_owned())),
        ("dmesg --color=always", Box::new(move |_, time| format!("{esc}[32m[{time}] {esc}[0m{esc}[33m"))),
        ("dmesg -x --color=always", Box::new(move |_, time| format!("kern  :info  : {esc}[32m[{time}] {esc}[0m"))),
        ("journalctl -o short-monotonic", Box::new(|_, time| format!("[{time}] node7 kernel: "))),
        ("journalctl -o short", Box::new(|_, _| "Nov 23 05:10:00 node7 kernel: ".to_owned())),
        ("colored journalctl", Box::new(move |_, _| format!("Nov 23 05:10:00 node7 kernel: {esc}[0;1;39m"))),
    ];
    for (form, stamp) in forms {
        let formed = in_form(&log, stamp);
        assert_ne!(formed, log, "{form}");
        let other = plan(&formed);
        assert_eq!((other.code, &other.stdout), (0, &plain.stdout), "{form}: {}", other.stderr);
    }
}
