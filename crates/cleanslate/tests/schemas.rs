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
