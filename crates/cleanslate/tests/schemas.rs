//! Every JSON output against its published schema. `check` and `explain` have their own files.

#[path = "common/schema.rs"]
mod schema;

use std::{fs, path::PathBuf, process::Command};

use schema::Schema;
use serde_json::Value;

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

fn json(words: &[&str]) -> Value {
    let output =
        Command::new(env!("CARGO_BIN_EXE_cleanslate")).args(words).args(["--format", "json"]).output().unwrap();
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{words:?}: {error}: {}", String::from_utf8_lossy(&output.stderr)))
}

fn holds(schema: &Schema, words: &[&str]) -> Value {
    let report = json(words);
    assert_eq!(schema.problems(&report), [""; 0], "{words:?}");
    report
}

/// The schema can say no: to a key that nobody has described, to a missing one, to a wrong type.
fn says_no(schema: &Schema, good: &Value) {
    let object = good.as_object().unwrap();
    for key in object.keys() {
        let mut without = object.clone();
        without.remove(key);
        without.insert("unheard-of".to_owned(), Value::Null);
        assert!(schema.problems(&without.into()).len() >= 2, "{key} is not required");
        let mut wrong = object.clone();
        wrong.insert(key.clone(), serde_json::json!([[{}]]));
        assert!(!schema.problems(&wrong.into()).is_empty(), "{key} may be anything");
    }
}

fn some_hosts() -> Vec<String> {
    [
        "02-canonical-135-emr-fail28.log",
        "06-canonical-pr188-256gib.log",
        "04-canonical-206-512gib.log",
        "22-intel-tdx-linux-5-256gib.log",
    ]
    .map(|name| fixtures().join("hosts").join(name).display().to_string())
    .into()
}

#[test]
fn kexec() {
    let schema = Schema::published("kexec.schema.json");
    let small = &some_hosts()[1];
    for policy in ["tracked", "module", "module-only", "pamt", "none", "everything", "refuse", "keep"] {
        holds(&schema, &["kexec", "--host", small, "--tds", "4", "--policy", policy]);
    }
    for more in [&["--next", "vacuum"][..], &["--crash"]] {
        holds(&schema, &[&["kexec", "--host", small, "--tds", "4", "--policy", "keep"], more].concat());
    }
    for hole in ["old-module", "bring-up", "returned", "dead-module"] {
        holds(&schema, &["kexec", "--host", small, "--hole", hole, "--policy", "module"]);
    }
    for host in some_hosts() {
        holds(&schema, &["kexec", "--host", &host, "--layout", "linux"]);
    }
    says_no(&schema, &holds(&schema, &["kexec", "--host", small, "--tds", "4", "--crash"]));
}

#[test]
fn plan() {
    let schema = Schema::published("plan.schema.json");
    let mut logs: Vec<PathBuf> =
        fs::read_dir(fixtures().join("hosts")).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.sort();
    let mut planned = 0;
    for log in logs {
        let output = Command::new(env!("CARGO_BIN_EXE_cleanslate"))
            .args(["plan", "--format", "json", "--host"])
            .arg(&log)
            .output();
        let output = output.unwrap();
        // Logs without a memory map are refused, and say so.
        if output.status.code() == Some(3) {
            continue;
        }
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(schema.problems(&report), [""; 0], "{}", log.display());
        planned += 1;
    }
    assert!(planned >= 9, "{planned}");
    for rates in ["11.5,38", "0.001", "100000"] {
        holds(&schema, &["plan", "--layout", "linux", "--bandwidth", rates]);
    }
    says_no(&schema, &holds(&schema, &["plan"]));
}

#[test]
fn explore() {
    let schema = Schema::published("explore.schema.json");
    holds(&schema, &["explore", "--scenario", "td-life", "--every", "50"]);
    let report = holds(&schema, &["explore", "--bug", "mark-after-give"]);
    assert_eq!(report["bugs_found"], 1);
    let mut searched = report.as_object().unwrap().clone();
    // Only there if bugs were looked for.
    searched.remove("bugs");
    searched.remove("bugs_found");
    says_no(&schema, &searched.into());
}

#[test]
fn bench() {
    let schema = Schema::published("bench.schema.json");
    says_no(&schema, &holds(&schema, &["bench"]));
}

#[test]
fn linux_status() {
    let schema = Schema::published("linux-status.schema.json");
    let root = std::env::temp_dir().join(format!("cleanslate-linux-{}", std::process::id()));
    let folder = root.join("sys/kernel/cleanslate");
    fs::create_dir_all(folder.join("pages")).unwrap();
    fs::create_dir_all(root.join("sys/module/cleanslate/parameters")).unwrap();
    fs::write(root.join("sys/module/cleanslate/parameters/policy"), "tracked\n").unwrap();
    let numbers = [
        "pamt_kb",
        "given_kb",
        "giving_kb",
        "returned_kb",
        "held",
        "tds",
        "pages/tdr",
        "pages/tdcx",
        "pages/tdvpr",
        "pages/sept",
        "pages/guest",
    ];
    fs::write(folder.join("mode"), "host\n").unwrap();
    fs::write(folder.join("verdict"), "kexec image refused: why\n").unwrap();
    for (index, name) in numbers.iter().enumerate() {
        fs::write(folder.join(name), format!("{index}\n")).unwrap();
    }
    let words = ["linux", "--root", root.to_str().unwrap(), "status"];
    let report = holds(&schema, &words);
    assert_eq!(
        (&report["mode"], &report["given_kb"], &report["pages"]["guest"]),
        (&"host".into(), &1.into(), &10.into())
    );
    assert_eq!(report["pages"]["pamt_pair"], Value::Null, "of a module that has no such file");
    fs::write(folder.join("pages/pamt_pair"), "6\n").unwrap();
    assert_eq!(holds(&schema, &words)["pages"]["pamt_pair"], 6);
    let output = Command::new(env!("CARGO_BIN_EXE_cleanslate")).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("guest 10, PAMT pair pages 6; 5 TDs"), "{said}");
    fs::remove_dir_all(folder.join("pages")).unwrap();
    assert_eq!(holds(&schema, &words)["pages"], Value::Null);
    // A module that writes nonsense, and none.
    fs::write(folder.join("tds"), "many\n").unwrap();
    let refused = |what: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_cleanslate")).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(what), "{said}");
    };
    refused("tds:1: `many`: is not of the form `NUMBER`");
    fs::remove_dir_all(&root).unwrap();
    refused("modprobe cleanslate");
}

/// A file stands for that of the module, which audits while `start` is written to it.
#[test]
fn linux_audit() {
    let schema = Schema::published("linux-audit.schema.json");
    let root = std::env::temp_dir().join(format!("cleanslate-audit-{}", std::process::id()));
    let file = root.join("sys/kernel/cleanslate/audit");
    let words = ["linux", "--root", root.to_str().unwrap(), "audit"];
    let code = |what: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_cleanslate")).args(words).output().unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(said.contains(what), "{said}");
        output.status.code()
    };
    assert_eq!(code("modprobe cleanslate"), Some(3));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let said = |state: &str, missing: u64, not_seen: u64| {
        let numbers = "percent 100\ntotal 262144\npages 262144\ncalls 262144\nmilliseconds 2000\nowned 99\nreserved 1088\n\
                       outside 0\nreturned 4\ngiving 0\nstale 0\nleaked 3\nleaked_owned 1\nlearned 0\nchanged 0\nbusy 2\nput_off 5\n";
        let at = if missing > 0 { "missing_at 0x1000\n" } else { "" };
        let text = format!(
            "kind audit\nstate {state}\n{numbers}missing {missing}\nnot_seen {not_seen}\n{at}leaked_at 0x2000\nnew 1\n"
        );
        fs::write(&file, text).unwrap();
    };
    said("done", 0, 0);
    let report = holds(&schema, &words);
    assert_eq!((&report["agree"], &report["pages_per_second"]), (&true.into(), &131_072.into()));
    says_no(&schema, &report);
    assert_eq!(code("every page that the TDX module has is marked"), Some(0));
    said("done", 1, 0);
    assert_eq!(code("missing  1: 0x1000"), Some(1));
    assert_eq!(holds(&schema, &words)["agree"], false);
    // Not to its end; not everywhere; and no numbers.
    said("failed: not in VMX operation (load kvm_intel)", 0, 0);
    assert_eq!(code("not in VMX operation"), Some(3));
    // What was found counts, whatever ended it.
    for state in ["stopped", "failed: the TDX module refused", "running"] {
        said(state, 1, 0);
        assert_eq!(code("missing  1: 0x1000"), Some(1));
        assert_eq!(code("not all pages were looked at"), Some(1));
        assert_eq!(holds(&schema, &words)["agree"], false);
        said(state, 0, 0);
        assert_eq!(code(state), Some(3));
    }
    said("done", 0, 7);
    assert_eq!(code("7 pages could not be looked at"), Some(3));
    fs::write(&file, "state done\n").unwrap();
    assert_eq!(code("no line `not_seen`"), Some(3));
    fs::remove_dir_all(&root).unwrap();
}
