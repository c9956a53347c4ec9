//! What every command owes its users: exit codes that keep their meaning, a version that says what
//! it is, manual pages, completions, no color where nobody sees it, and an end that leaves nothing
//! behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

fn cleanslate() -> Command {
    Command::new(env!("CARGO_BIN_EXE_cleanslate"))
}

fn run(words: &[&str]) -> Output {
    cleanslate().args(words).stdin(Stdio::null()).output().unwrap()
}

fn host(name: &str) -> String {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/hosts").join(name).display().to_string()
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("cleanslate-{name}-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn exit_codes() {
    let small = host("06-canonical-pr188-256gib.log");
    for (code, words) in [
        (0, vec!["kexec", "--host", &small]),
        (0, vec!["kexec", "--host", &small, "--policy", "refuse"]),
        (1, vec!["kexec", "--host", &small, "--policy", "none"]),
        (1, vec!["plan", "--host", &host("02-canonical-135-emr-fail28.log"), "--layout", "linux"]),
        (2, vec!["kexec", "--polcy", "none"]),
        (2, vec![]),
        (3, vec!["kexec", "--host", "/no/such/log"]),
        (3, vec!["explain", "0x8000aaaa00000000"]),
        (3, vec!["linux", "--root", "/nonexistent", "up"]),
        (70, vec!["plan", "--svg", "/no/such/folder/map.svg"]),
    ] {
        let output = run(&words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // The table that people read is in the help, and names all of them.
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let table = help.split_once("Exit codes:").unwrap().1;
    for code in ["0 ", "1 ", "2 ", "3 ", "70 ", "130 "] {
        assert!(table.contains(&format!("\n  {code}")), "{code}");
    }
}

#[test]
fn the_version_says_where_it_comes_from() {
    let said = String::from_utf8(run(&["--version"]).stdout).unwrap();
    let first = said.lines().next().unwrap();
    let commit = first.strip_prefix(concat!("cleanslate ", env!("CARGO_PKG_VERSION"), " (commit ")).unwrap();
    let commit = commit.strip_suffix(')').unwrap();
    assert!(commit == "unknown" || commit.len() == 12 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{commit}");
    assert!(said.contains("TDX module: 1.5 (1.5.01 and 1.5.25 as observed; "));
}

#[test]
fn manual_pages_and_completions() {
    let folder = folder("man");
    assert!(run(&["man", folder.to_str().unwrap()]).status.success());
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    assert!(help.contains("except `linux up` and"), "commands that change the machine are named: {help}");
    let commands: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(commands.len() >= 9, "{commands:?}");
    for name in &commands {
        let page = fs::read_to_string(folder.join(format!("cleanslate-{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS") && page.contains(".SH EXAMPLES\n.nf\n"), "{name}: {page}");
        assert!(
            page.lines().any(|line| line.starts_with("cleanslate ") || line.contains("| cleanslate ")),
            "{name}: {page}"
        );
    }
    let root = fs::read_to_string(folder.join("cleanslate.1")).unwrap();
    assert!(root.contains(".SH \"EXIT STATUS\"\n.nf\n"), "{root}");
    // Every page that a page refers to is there, at any depth.
    let mut references = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let page = fs::read_to_string(entry.unwrap().path()).unwrap();
        for line in page.lines().filter(|line| line.starts_with("cleanslate") && line.ends_with("(1)")) {
            let name = line.trim_end_matches("(1)").replace("\\-", "-");
            assert!(folder.join(format!("{name}.1")).exists(), "{name}");
            references += 1;
        }
    }
    assert!(references >= commands.len() + 3, "{references}");
    for name in ["status", "up", "vacuum", "td-test"] {
        let page = fs::read_to_string(folder.join(format!("cleanslate-linux-{name}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
    fs::remove_dir_all(folder).unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(run(&["completions", shell]).stdout).unwrap();
        for name in commands.iter().chain(&["td-test"]) {
            assert!(script.contains(name), "{shell}: {name}");
        }
        // What the help hides is not offered either.
        let words = || script.split(|c: char| !c.is_alphanumeric() && !"_-".contains(c));
        for hidden in ["man", "--root"] {
            assert!(!words().any(|word| word == hidden), "{shell}: {hidden}");
        }
    }
}

#[test]
fn no_color_where_nobody_sees_it() {
    for words in [
        vec!["kexec", "--host", &host("06-canonical-pr188-256gib.log"), "--policy", "none"],
        vec!["plan"],
        vec!["--help"],
    ] {
        let output = cleanslate().args(&words).env("CLICOLOR", "1").output().unwrap();
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{words:?}");
        // Whoever insists gets it, unless NO_COLOR is set.
        let output = cleanslate().args(&words).env("CLICOLOR_FORCE", "1").env("NO_COLOR", "1").output().unwrap();
        assert!(!output.stderr.contains(&0x1b), "{words:?}");
    }
}

#[test]
fn an_interrupt_ends_it_and_leaves_nothing() {
    let folder = folder("interrupt");
    let page = folder.join("page.html");
    let child = cleanslate()
        .args(["explore", "--sequences", "5,3", "--report"])
        .arg(&page)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty());
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
    fs::remove_dir_all(folder).unwrap();
}

/// A label and the text behind it, or two parts of a sentence, begin and end with the same word.
#[test]
fn no_word_stands_twice_in_a_row() {
    let hosts = fs::read_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/hosts")).unwrap();
    let mut hosts: Vec<String> = hosts.map(|entry| entry.unwrap().path().display().to_string()).collect();
    hosts.retain(|host| Path::new(host).extension().is_some_and(|extension| extension == "log"));
    hosts.sort();
    let small = host("06-canonical-pr188-256gib.log");
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["--help"],
        vec!["explain", "0xc000020700000000"],
        vec!["explain", "0x8000020300000000"],
        vec!["explain", "ENOSPC"],
        vec!["explore", "--help"],
        vec!["kexec", "--help"],
        vec!["plan", "--help"],
        vec!["check", "--help"],
    ];
    for policy in ["tracked", "module", "module-only", "pamt", "none", "everything", "refuse"] {
        commands.push(vec!["kexec", "--host", &small, "--policy", policy, "--tds", "1"]);
        commands.push(vec!["kexec", "--host", &small, "--policy", policy, "--crash"]);
        for hole in ["old-module", "bring-up", "returned", "dead-module"] {
            commands.push(vec!["kexec", "--host", &small, "--policy", policy, "--hole", hole]);
        }
    }
    for host in &hosts {
        commands.push(vec!["plan", "--host", host]);
        commands.push(vec!["explain", host]);
    }
    for words in commands {
        let output = run(&words);
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        for line in text.lines() {
            let tokens: Vec<&str> = line.split_whitespace().collect();
            for pair in tokens.windows(2) {
                let is_word = pair[0].len() > 1 && pair[0].chars().all(char::is_alphabetic);
                assert!(!is_word || !pair[0].eq_ignore_ascii_case(pair[1]), "{words:?}: {line}");
            }
        }
    }
}
