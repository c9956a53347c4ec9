//! Input that cannot be used ends with exit 3 and one line on standard error that names file, line,
//! value and rule; wrong usage ends with exit 2. Never a panic, never output that looks like a
//! result.

mod common;

use std::path::PathBuf;

use common::{fixture, run};

/// A file in the temporary directory, gone when dropped.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("cleanslate-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn refused(path: &str) -> String {
    let out = run(&["plan", "--host", path]);
    assert_eq!(out.code, 3, "{path}: {}{}", out.stdout, out.stderr);
    assert!(out.stdout.is_empty(), "{}", out.stdout);
    assert_eq!(out.stderr.lines().count(), 1, "{}", out.stderr);
    assert!(out.stderr.starts_with(&format!("cleanslate: {path}")), "{}", out.stderr);
    assert!(!out.stderr.contains("panicked"), "{}", out.stderr);
    out.stderr
}

#[test]
fn each_bad_input_of_the_issue() {
    let log = std::fs::read(fixture("hosts/03-canonical-135-emr-ok.log")).unwrap();
    let cut = log.windows(10).position(|text| text == b"0x100000, ").unwrap() + 4;
    let overlapping = b"BIOS-e820: [mem 0x100000-0x3fffff] usable\nBIOS-e820: [mem 0x200000-0x5fffff] usable\n";
    let noise: Vec<u8> = (0..100u32 << 20)
        .map(|i| if i % 61 == 0 { b'\n' } else { 33 + (i.wrapping_mul(2_654_435_761) >> 25) as u8 % 90 })
        .collect();
    let cases: [(&str, &[u8], &str); 8] = [
        (
            "truncated",
            &log[..cut],
            ":6: `[    8.222929] virt/tdx: CMR: [0x10`: is not of the form `CMR: [0xBASE, 0xEND)` (the file ends",
        ),
        ("no-memory", b"virt/tdx: BIOS enabled: private KeyID range [32, 64)\n", ":1: `virt/tdx: BIOS enabled"),
        (
            "overlap",
            overlapping,
            ":2: `BIOS-e820: [mem 0x200000-0x5fffff] usable`: overlaps [mem 0x100000-0x3fffff] of line 1",
        ),
        (
            "key-ids",
            b"virt/tdx: BIOS enabled: private KeyID range [1, 2)\n",
            ":1: `virt/tdx: BIOS enabled: private KeyID range [1, 2)`: 1 private KeyID: TDX",
        ),
        ("other", b"May 1 10:00:00 host sshd[1]: Accepted\n", ": is not a boot log"),
        ("empty", b"", ": is empty; if it is the output of a command, check for its errors: `dmesg` may need root"),
        ("binary", b"\x7fELF\x02\x01\x01\0\0\0", ":1: contains NUL bytes"),
        ("noise", &noise, ": is not a boot log"),
    ];
    for (name, content, message) in cases {
        let file = Temp::new(name, content);
        let stderr = refused(&file.path());
        assert!(stderr.contains(message), "{name}: {stderr}");
    }
    // Of a host that has been up long, the ring buffer has lost the boot.
    for lost in [&b"virt/tdx: module initialized\n"[..], b"systemd[1]: Started\n"] {
        let file = Temp::new("lost", lost);
        let stderr = refused(&file.path());
        assert!(stderr.contains("`journalctl -k -b`"), "{stderr}");
    }
    let stdin = run(&["plan", "--host", "-"]);
    assert_eq!((stdin.code, stdin.stderr.starts_with("cleanslate: <stdin>: is empty")), (3, true), "{}", stdin.stderr);
    let directory = refused(&fixture("hosts"));
    assert!(directory.contains(": is a directory"), "{directory}");
    let missing = refused(&fixture("no-such-file"));
    assert!(missing.contains(": cannot be read: "), "{missing}");
    let made_up =
        Temp::new("host.toml", b"schema = \"cleanslate-host\"\nversion = 1\n[[memory]]\nrange = \"[2G, 1G)\"\n");
    let toml = refused(&made_up.path());
    assert!(toml.contains(":4: `range = \"[2G, 1G)\"`: [0x80000000, 0x40000000) ends before it starts"), "{toml}");
}

/// `yes | cleanslate plan --host -` ends by itself.
#[test]
fn endless_input_is_no_log() {
    let lines = b"y\n".repeat((1 << 21) + 10);
    for args in [&["plan", "--host", "-"][..], &["explain", "-"]] {
        let out = common::run_with_input(args, &lines);
        assert_eq!((out.code, out.stdout.as_str()), (3, ""), "{args:?}");
        assert!(out.stderr.contains("lines in a row without a time stamp"), "{args:?}: {}", out.stderr);
    }
}

#[test]
fn wrong_usage() {
    for args in
        [&["plan", "--layout", "best"][..], &["plan", "--node-border", "here"], &["plan", "--hots", "x"], &["fly"], &[]]
    {
        let out = run(args);
        assert_eq!(out.code, 2, "{args:?}: {}", out.stderr);
        assert!(out.stdout.is_empty());
    }
    let border = run(&["plan", "--node-border", "1.5G"]);
    assert!(border.stderr.contains("expected an address such as 0x4080000000, 258G or 4096"), "{}", border.stderr);
    // A border that does not fit the host is a problem of input, not of usage.
    let outside = run(&["plan", "--node-border", "4096T"]);
    assert_eq!(outside.code, 3, "{}", outside.stderr);
    assert!(outside.stderr.contains("node border 0x10000000000000"), "{}", outside.stderr);
}

#[test]
fn help_and_version() {
    let help = run(&["--help"]);
    assert_eq!(help.code, 0);
    assert!(help.stdout.contains("Exit codes:") && help.stdout.contains("plan"), "{}", help.stdout);
    let plan = run(&["plan", "--help"]);
    assert!(plan.stdout.contains("Examples:"), "{}", plan.stdout);
    assert_eq!(run(&["-V"]).stdout, concat!("cleanslate ", env!("CARGO_PKG_VERSION"), "\n"));
    let version = run(&["--version"]).stdout;
    assert!(version.contains("has limits:") && version.lines().count() > 5, "{version}");
}
