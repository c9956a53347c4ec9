//! What people see on a terminal of 80 columns, and of 300: no line is longer than the terminal,
//! nor than one can read.
#![cfg(target_os = "linux")]

mod common;

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    process::{Command, Stdio},
};

use common::{fixture, run};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

/// What the program shows on a terminal of so many columns, without colors.
fn shown(columns: u16, args: &[&str]) -> String {
    let master: OwnedFd = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = File::options().read(true).write(true).open(OsStr::from_bytes(name.as_bytes())).unwrap();
    tcsetwinsize(&terminal, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_cleanslate"))
        .args(args)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(terminal)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut bytes = Vec::new();
    // It ends with an error when the last writer closes the terminal.
    let _ = File::from(master).read_to_end(&mut bytes);
    child.wait().unwrap();
    let mut text = String::from_utf8(bytes).unwrap().replace('\r', "");
    while let Some(start) = text.find("\x1b[") {
        let end = text[start..].find(|c: char| c.is_ascii_alphabetic()).unwrap();
        text.replace_range(start..=start + end, "");
    }
    text
}

/// Lines that are longer, but those of a kernel's log, which are as the kernel prints them, and
/// those of one word or one path.
fn too_long(text: &str, columns: usize) -> Vec<&str> {
    let kernels = |line: &str| {
        line.starts_with("host      /")
            || line.starts_with("log       /")
            || line.starts_with("machine   /")
            || line.starts_with("virt/tdx:")
            || line.starts_with("mce:")
            || line.starts_with("[Hardware")
    };
    let is_long = |line: &&str| line.chars().count() > columns && line.split_whitespace().count() > 1;
    text.lines().filter(is_long).filter(|line| !kernels(line)).collect()
}

#[test]
fn reports_fit_the_terminal() {
    let host = fixture("made-up/spr-small.toml");
    let log = fixture("hosts/02-canonical-135-emr-fail28.log");
    let machine = fixture("machines/spr-7.2");
    let reports: [&[&str]; 9] = [
        &["plan"],
        &["plan", "--host", &log],
        &["plan", "--host", &log, "--layout", "linux"],
        &["kexec", "--host", &host, "--tds", "4"],
        &["kexec", "--host", &host, "--policy", "none"],
        &["kexec", "--host", &host, "--crash", "--policy", "refuse"],
        &["explore", "--list"],
        &["explore", "--scenario", "key-config-fails"],
        &["check", "--from", &machine],
    ];
    for args in reports {
        let narrow = shown(80, args);
        assert!(narrow.lines().count() > 3, "{args:?}: {narrow}");
        assert_eq!(too_long(&narrow, 80), [""; 0], "{args:?}");
        let piped = run(args).stdout;
        for word in piped.split_whitespace() {
            assert!(narrow.contains(word), "{args:?}: no word is lost, but {word}: {narrow}");
        }
        // However wide it is, it is as in a file.
        assert_eq!(shown(300, args), piped, "{args:?}");
        assert_eq!(too_long(&piped, 120), [""; 0], "{args:?}");
    }
}

/// A telephone, or a terminal beside three others.
#[test]
fn forty_columns_are_readable() {
    let log = fixture("field/12-td-poison-with-keyid-address.log");
    let machine = fixture("machines/spr-7.2");
    let host = fixture("made-up/spr-small.toml");
    let reports: [&[&str]; 6] = [
        &["explain", &log],
        &["explain", "0xc000050500000000"],
        &["explain", "-5"],
        &["explain", "--msr", "0x87", "200000001f"],
        &["check", "--from", &machine],
        &["plan", "--host", &host],
    ];
    for args in reports {
        let narrow = shown(40, args);
        assert_eq!(too_long(&narrow, 40), [""; 0], "{args:?}");
        // Text has at least half of the columns.
        let words = |line: &&str| line.trim().len() < 12 && line.starts_with(&" ".repeat(24));
        assert!(narrow.lines().filter(words).count() < 5, "{args:?}: {narrow}");
    }
}

#[test]
fn help_fits_the_terminal() {
    for command in ["kexec", "plan", "check", "collect", "explain", "explore", "bench", "linux"] {
        assert_eq!(too_long(&shown(80, &[command, "--help"]), 80), [""; 0], "{command}");
    }
    for args in [&["--help"][..], &["-h"], &["--version"]] {
        assert_eq!(too_long(&shown(80, args), 80), [""; 0], "{args:?}");
    }
    assert!(run(&["explore", "--help"]).stdout.lines().any(|line| line.len() > 80));
}
