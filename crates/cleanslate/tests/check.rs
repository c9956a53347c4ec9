//! `cleanslate check` and `collect` as a user runs them: the built program, its output, its exit
//! codes, its published schema.

#[path = "common/schema.rs"]
mod schema;

mod common;

use std::path::{Path, PathBuf};

use common::{fixture, run};
use schema::Schema;
use serde_json::Value;

const MACHINES: [&str; 5] = ["spr-6.14", "spr-6.18", "spr-7.2", "gnr-7.2", "no-tdx"];

fn machine(name: &str) -> String {
    fixture(&format!("machines/{name}"))
}

/// A folder that does not exist yet, gone when dropped.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cleanslate-cli-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }

    fn path(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn exit_codes_and_verdicts() {
    for (name, code, verdict) in [
        ("spr-6.14", 0, "WARN"),
        ("spr-6.18", 0, "WARN"),
        ("spr-7.2", 1, "FAIL"),
        ("gnr-7.2", 0, "WARN"),
        ("no-tdx", 0, "PASS"),
    ] {
        let out = run(&["check", "--from", &machine(name)]);
        assert_eq!(out.code, code, "{name}: {}{}", out.stdout, out.stderr);
        assert!(out.stderr.is_empty(), "{name}: {}", out.stderr);
        let last = out.stdout.lines().filter(|line| line.starts_with("verdict ")).collect::<Vec<_>>();
        assert_eq!(last.len(), 1, "{name}");
        assert!(last[0].starts_with(&format!("verdict   {verdict} ")), "{name}: {}", last[0]);
        assert!(!out.stdout.contains('\x1b'), "color in a pipe");
        assert!(out.stdout.lines().all(|line| line.len() <= 120), "{}", out.stdout);
    }
}

#[test]
fn every_output_holds_the_published_schema() {
    let schema = Schema::published("check.schema.json");
    let empty = Temp::new("empty");
    std::fs::create_dir(&empty.0).unwrap();
    std::fs::write(empty.0.join("machine.toml"), "schema = \"cleanslate-machine\"\nversion = 1\ntool = \"\"\n")
        .unwrap();
    let folders = MACHINES.map(machine).into_iter().chain([empty.path()]);
    for folder in folders {
        let report = run(&["check", "--from", &folder, "--format", "json"]).json();
        assert_eq!(schema.problems(&report), [""; 0], "{folder}");
    }
    let live = run(&["check", "--format", "json"]).json();
    assert_eq!(schema.problems(&live), [""; 0]);
    // The schema can say no.
    let mut report = run(&["check", "--from", &machine("spr-7.2"), "--format", "json"]).json();
    for (pointer, bad) in [
        ("/verdict/status", Value::from("OK")),
        ("/facts/cpu_model", Value::from(143)),
        ("/facts/era", Value::from("golden")),
        ("/facts/key_ids/first", Value::from(-1)),
        ("/facts/key_ids", Value::from(32)),
        ("/categories", Value::from(Vec::<u64>::new())),
        ("/categories/0/checks/0/evidence/0", Value::Null),
        ("/categories/0/checks/0/id", Value::from("cpu.color")),
        ("/version", Value::from(2)),
    ] {
        let good = std::mem::replace(report.pointer_mut(pointer).unwrap(), bad);
        assert_eq!(schema.problems(&report).len(), 1, "{pointer}");
        *report.pointer_mut(pointer).unwrap() = good;
    }
    report["facts"]["more"] = Value::from(1);
    assert_eq!(schema.problems(&report), ["/facts: additionalProperties"]);
    report["facts"].as_object_mut().unwrap().retain(|key, _| key != "more" && key != "era");
    assert_eq!(schema.problems(&report), ["/facts: required"]);
}

#[test]
fn the_tree_is_always_the_same() {
    let ids = |name: &str| -> Vec<String> {
        let report = run(&["check", "--from", &machine(name), "--format", "json"]).json();
        let categories = report["categories"].as_array().unwrap().iter();
        let checks = categories.flat_map(|category| category["checks"].as_array().unwrap());
        checks.map(|check| check["id"].as_str().unwrap().to_owned()).collect()
    };
    let first = ids(MACHINES[0]);
    assert!(MACHINES.iter().all(|name| ids(name) == first));
    // docs/CHECK.md has a row for each check, and no other.
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/CHECK.md")).unwrap();
    let rows = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(id, _)| id.to_owned());
    assert_eq!(rows.filter(|id| id.contains('.')).collect::<Vec<_>>(), first);
}

#[test]
fn tap_is_tap() {
    let out = run(&["check", "--from", &machine("spr-7.2"), "--format", "tap"]);
    assert_eq!(out.code, 1);
    let mut lines = out.stdout.lines();
    assert_eq!(lines.next(), Some("TAP version 13"));
    let plan: usize = lines.next().unwrap().strip_prefix("1..").unwrap().parse().unwrap();
    let (tests, notes): (Vec<_>, Vec<_>) = lines.partition(|line| !line.starts_with("# "));
    assert_eq!(tests.len(), plan);
    assert!(!notes.is_empty());
    for (number, line) in (1..).zip(&tests) {
        let rest = line.strip_prefix("not ").unwrap_or(line);
        assert!(rest.starts_with(&format!("ok {number} - ")), "{line}");
    }
    let failed: Vec<_> = tests.iter().filter(|line| line.starts_with("not ok")).collect();
    assert_eq!(failed.len(), 2, "{failed:?}");
    assert!(failed[0].contains("kexec.jump"));
    let skipped = run(&["check", "--from", &machine("spr-6.18"), "--format", "tap"]).stdout;
    assert_eq!(skipped.matches(" # SKIP ").count(), 4, "{skipped}");
}

#[test]
fn verbose_shows_evidence_and_source_of_all() {
    let out = run(&["check", "--from", &machine("gnr-7.2"), "--verbose"]).stdout;
    assert_eq!(out.matches("source: ").count(), 29, "{out}");
    assert!(out.contains("seen: MSR 0x87 = 0x200000001f"), "{out}");
    assert!(!run(&["check", "--from", &machine("gnr-7.2")]).stdout.contains("0x200000001f"));
}

#[test]
fn this_machine_live_and_saved() {
    let folder = Temp::new("live");
    let saved = run(&["collect", &folder.path()]);
    assert_eq!(saved.code, 0, "{}", saved.stderr);
    assert!(saved.stdout.contains("machine.toml"), "{}", saved.stdout);
    let live = run(&["check", "--format", "json"]);
    let again = run(&["check", "--from", &folder.path(), "--format", "json"]);
    assert_eq!(live.code, again.code, "{}{}", live.stderr, again.stderr);
    let (mut live, mut again) = (live.json(), again.json());
    assert_eq!(live["machine"], "live");
    for report in [&mut live, &mut again] {
        report["machine"] = Value::Null;
    }
    assert_eq!(live, again);
    let twice = run(&["collect", &folder.path()]);
    assert_eq!(twice.code, 3);
    assert!(twice.stderr.contains("not empty"), "{}", twice.stderr);
}

#[test]
fn what_cannot_be_checked() {
    let nowhere = run(&["check", "--from", "/nowhere/at/all"]);
    assert_eq!((nowhere.code, nowhere.stderr.lines().count()), (3, 1), "{}", nowhere.stderr);
    let other = run(&["check", "--from", &fixture("hosts")]);
    assert_eq!(other.code, 3);
    assert!(other.stderr.contains("machine.toml") && other.stdout.is_empty(), "{}", other.stderr);
    let unknown = Temp::new("unknown");
    std::fs::create_dir(&unknown.0).unwrap();
    std::fs::write(unknown.0.join("machine.toml"), "schema = \"cleanslate-machine\"\nversion = 1\ntool = \"\"\n")
        .unwrap();
    let out = run(&["check", "--from", &unknown.path()]);
    assert_eq!(out.code, 3, "{}", out.stdout);
    assert!(out.stdout.contains("verdict   UNKNOWN"), "{}", out.stdout);
}

#[test]
fn a_hostile_folder_ends_in_unknown() {
    let hostile = Temp::new("hostile");
    std::fs::create_dir(&hostile.0).unwrap();
    std::fs::write(hostile.0.join("machine.toml"), "schema = \"cleanslate-machine\"\nversion = 1\ntool = \"\"\n")
        .unwrap();
    for (name, target) in
        [("cpuinfo", "/etc/passwd"), ("boot.log", "/dev/zero"), ("msr", "/dev/kmsg"), ("config", "config")]
    {
        std::os::unix::fs::symlink(target, hostile.0.join(name)).unwrap();
    }
    std::fs::File::create(hostile.0.join("meminfo")).unwrap().set_len(1 << 40).unwrap();
    std::fs::write(hostile.0.join("osrelease"), [0xff; 100]).unwrap();
    std::fs::write(hostile.0.join("kexec_loaded"), "\x1b[31m2\u{202e}\n").unwrap();
    std::fs::write(hostile.0.join("cleanslate-mode"), "unknown: \u{2067}\x1b[2J\n").unwrap();
    for format in ["human", "json", "tap"] {
        let out = run(&["check", "--from", &hostile.path(), "--format", format]);
        assert_eq!(out.code, 3, "{}", out.stderr);
        assert!(
            out.stderr.is_empty()
                && !out.stdout.contains("root:")
                && !out.stdout.contains(['\x1b', '\u{202e}', '\u{2067}']),
            "{}",
            out.stdout
        );
    }
}

#[test]
fn the_saved_log_is_a_host() {
    let log = format!("{}/boot.log", machine("spr-7.2"));
    let report = run(&["plan", "--host", &log, "--layout", "linux", "--format", "json"]).json();
    assert_eq!(report["linux"]["equals_log"], true);
}
