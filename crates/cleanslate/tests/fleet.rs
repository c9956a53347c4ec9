//! `fleet`, `check --log`, several `--from`, `--format short` and `prometheus`, and every file of
//! `docs/operators`.

#[path = "common/schema.rs"]
mod schema;

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use common::{fixture, run, run_with_input};
use schema::Schema;
use serde_json::Value;

fn machine(name: &str) -> String {
    fixture(&format!("machines/{name}"))
}

fn operators(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operators").join(name)
}

/// A folder that does not exist yet, gone when dropped.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("cleanslate-fleet-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy(from: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn one_table_and_one_json() {
    let folder = fixture("machines");
    let out = run(&["fleet", &folder]);
    assert_eq!((out.code, out.stderr.as_str()), (1, ""));
    let machines = fs::read_dir(&folder).unwrap().count();
    assert!(out.stdout.starts_with(&format!("fleet     {machines} machines: ")), "{}", out.stdout);
    assert!(out.stdout.contains("reset now sid-7.3-freed\n"), "{}", out.stdout);
    assert!(out.stdout.lines().all(|line| line.len() <= 110), "{}", out.stdout);
    for name in ["debian13-backports", "ubuntu2604", "sles16", "fedora43", "centos-stream10"] {
        let rows = out.stdout.lines().filter(|line| line.starts_with(&format!("  {name} "))).count();
        assert_eq!(rows, 1, "{name}: {}", out.stdout);
    }
    let report = run(&["fleet", &folder, "--format", "json"]).json();
    assert_eq!(Schema::published("fleet.schema.json").problems(&report), [""; 0]);
    assert_eq!(report["machines"].as_array().unwrap().len(), machines);
    // The same answers as `check` gives, the worst first.
    let order = ["FAIL", "WARN", "UNKNOWN", "PASS"];
    let mut last = 0;
    for one in report["machines"].as_array().unwrap() {
        let name = one["name"].as_str().unwrap();
        let alone = run(&["check", "--from", &machine(name), "--format", "json"]).json();
        assert_eq!((&one["verdict"], &one["facts"]), (&alone["verdict"], &alone["facts"]), "{name}");
        let place = order.iter().position(|status| one["verdict"]["status"] == **status).unwrap();
        assert!(place >= last, "{name}");
        last = place;
    }
    let counted = |key: &str| report["counts"][key].as_u64().unwrap();
    assert_eq!(counted("pass") + counted("warn") + counted("fail") + counted("unknown"), counted("machines"));
}

#[test]
fn a_folder_that_cannot_be_used_is_named() {
    let temp = Temp::new("unusable");
    copy(&machine("icelake"), &temp.0.join("good"));
    fs::create_dir(temp.0.join("half")).unwrap();
    fs::write(temp.0.join("notes.txt"), "no machine").unwrap();
    let out = run(&["fleet", &temp.0.display().to_string()]);
    assert_eq!(out.code, 3, "{}", out.stdout);
    assert!(out.stdout.contains("1 machine: 0 fail, 0 unknown, 0 warn, 1 pass, 1 not read"), "{}", out.stdout);
    assert!(out.stdout.contains("half"), "{}", out.stdout);
    let out = run(&["fleet", &temp.path("half")]);
    assert!(out.code == 3 && out.stderr.contains("machine.toml"), "{}", out.stderr);
    // Two machines of one name are told apart.
    copy(&machine("icelake"), &temp.0.join("a/node1"));
    copy(&machine("icelake"), &temp.0.join("b/node1"));
    let out = run(&["fleet", &temp.path("a"), &temp.path("b"), "--format", "short"]);
    let names: BTreeSet<_> = out.stdout.lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!((out.code, names.len()), (0, 2), "{}", out.stdout);
}

/// A path that is not there does not hide the others, in any format.
#[test]
fn a_missing_path_beside_good_ones() {
    let (good, missing) = (machine("icelake"), "/no/such/machine");
    for format in ["human", "short"] {
        let out = run(&["fleet", &good, missing, "--format", format]);
        assert_eq!(out.code, 3, "{}", out.stderr);
        assert!(
            out.stdout.contains("icelake") && out.stdout.contains("/no/such/machine: cannot be read"),
            "{}",
            out.stdout
        );
    }
    let report = run(&["fleet", &good, missing, "--format", "json"]).json();
    assert_eq!((&report["counts"]["machines"], &report["unreadable"][0]["name"]), (&1.into(), &"machine".into()));
    let out = run(&["fleet", &good, missing, "--format", "prometheus"]);
    assert!(out.stdout.contains("cleanslate_machine_readable{machine=\"icelake\"} 1\n"), "{}", out.stdout);
    assert!(out.stdout.contains("cleanslate_machine_readable{machine=\"machine\"} 0\n"), "{}", out.stdout);
    assert_eq!(out.code, 3);
    // What fails is graver than what is not known.
    assert_eq!(run(&["fleet", &machine("spr-7.2"), missing]).code, 1);
    let out = run(&["fleet", missing, missing]);
    assert!(out.code == 3 && out.stderr.contains(missing) && out.stdout.is_empty(), "{}", out.stderr);
}

/// No two samples have the same labels, however the machines are named.
#[test]
fn every_series_is_unique() {
    let temp = Temp::new("series");
    for name in ["a/node1", "b/node1", "live"] {
        copy(&machine("icelake"), &temp.0.join(name));
    }
    let (a, b, live) = (temp.path("a/node1"), temp.path("b/node1"), temp.path("live"));
    for args in [
        vec!["fleet", &a, &b, &live],
        vec!["fleet", &a, &a],
        vec!["check", "--from", &a, "--from", &b, "--from", &live],
        vec!["check", "--from", &a, "--from", &a],
    ] {
        let out = run(&[&args[..], &["--format", "prometheus"]].concat());
        let series = out.stdout.lines().filter(|line| !line.starts_with('#'));
        let series: Vec<_> = series.map(|line| line.rsplit_once(' ').unwrap().0).collect();
        let distinct: BTreeSet<_> = series.iter().collect();
        assert_eq!(distinct.len(), series.len(), "{args:?}");
        assert!(series.iter().all(|series| series.contains("machine=\"")), "{args:?}");
    }
}

/// A name of a folder does not steer the terminal.
#[test]
fn names_of_folders_are_escaped() {
    let temp = Temp::new("names");
    let name = "no\u{1b}[31mde\n7\u{202e}";
    copy(&machine("icelake"), &temp.0.join(name));
    fs::create_dir(temp.0.join("\u{1b}]0;x\u{7}")).unwrap();
    let (all, one) = (temp.0.display().to_string(), temp.path(name));
    let collected = temp.path("\u{1b}[2Jnew");
    for args in [
        vec!["fleet", &all],
        vec!["fleet", &all, "--format", "short"],
        vec!["fleet", &all, "--format", "prometheus"],
        vec!["check", "--from", &one],
        vec!["check", "--from", &one, "--format", "tap"],
        vec!["check", "--from", &temp.path("\u{1b}[31mgone")],
        vec!["collect", &collected],
        vec!["collect", &collected],
        vec!["check", "--from", &one, "--output", &temp.path("\u{1b}[31m/x")],
        vec!["plan", "--host", &temp.path("\u{1b}[31mgone")],
    ] {
        let out = run(&args);
        let said = format!("{}{}", out.stdout, out.stderr);
        let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!said.is_empty() && !said.contains(steers), "{args:?}: {said:?}");
        assert!(!said.contains("de\n7"), "{args:?}: {said:?}");
    }
}

/// What an earlier collection left in the folder is not taken for what the last one saw.
#[test]
fn files_of_an_earlier_collection_are_not_used() {
    let temp = Temp::new("stale");
    let folder = temp.0.join("node1");
    copy(&machine("icelake"), &folder);
    let about = folder.join("machine.toml");
    let text = fs::read_to_string(&about).unwrap();
    let unseen = "kexec_crash_loaded = \"denied\"\n";
    let text = if text.contains("[unseen]\n") {
        text.replace("[unseen]\n", &format!("[unseen]\n{unseen}"))
    } else {
        format!("{text}\n[unseen]\n{unseen}")
    };
    fs::write(&about, text).unwrap();
    let out = run(&["check", "--from", &temp.path("node1"), "--format", "json"]).json();
    assert_eq!(out["verdict"]["kdump"], "unknown");
    assert_eq!(out["unseen"][0]["item"], "kexec_crash_loaded");
}

#[test]
fn requirements_of_a_fleet() {
    let (icelake, refused) = (machine("icelake"), machine("debian13-backports"));
    assert_eq!(run(&["fleet", &icelake, "--require", "kdump"]).code, 0);
    assert_eq!(run(&["fleet", &icelake, &refused]).code, 0);
    assert_eq!(run(&["fleet", &icelake, &refused, "--require", "kdump"]).code, 1);
    assert_eq!(run(&["check", "--from", &icelake, "--from", &refused, "--require", "kexec"]).code, 1);
    assert_eq!(run(&["check", "--from", &icelake, "--from", &machine("sles16")]).code, 3);
}

#[test]
fn several_machines_and_one_line_each() {
    let (first, second) = (machine("icelake"), machine("sid-7.3-freed"));
    let out = run(&["check", "--from", &first, "--from", &second, "--format", "short"]);
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert_eq!((out.code, lines.len()), (1, 2));
    assert!(
        lines[0].starts_with(&format!("{first} PASS tdx=off kexec=safe kdump=ready power-cycle=no ")),
        "{}",
        lines[0]
    );
    let says = " FAIL tdx=on kexec=unsafe kdump=ready power-cycle=now kexec.still-safe: no: ";
    assert!(lines[1].starts_with(&format!("{second}{says}")), "{}", lines[1]);
    let all = run(&["check", "--from", &first, "--from", &second, "--format", "json"]).json();
    let schema = Schema::published("check.schema.json");
    assert_eq!(all.as_array().unwrap().len(), 2);
    assert!(all.as_array().unwrap().iter().all(|report| schema.problems(report).is_empty()));
    let tap = run(&["check", "--from", &first, "--from", &second, "--format", "tap"]).stdout;
    let plan: usize = tap.lines().nth(1).unwrap().strip_prefix("1..").unwrap().parse().unwrap();
    assert_eq!(tap.lines().filter(|line| line.starts_with("ok ") || line.starts_with("not ok ")).count(), plan);
}

/// The journal's log of the boot gives what the ring buffer has lost.
#[test]
fn the_log_of_the_boot_from_a_file() {
    let lost = machine("long-uptime");
    let status = |args: &[&str], id: &str| {
        let report = run(args).json();
        let categories = report["categories"].as_array().unwrap().clone();
        let checks = categories.iter().flat_map(|category| category["checks"].as_array().unwrap());
        let check = checks.into_iter().find(|check| check["id"] == id).unwrap();
        (check["status"].as_str().unwrap().to_owned(), check["hint"].as_str().unwrap_or_default().to_owned())
    };
    let before = ["check", "--from", &lost, "--format", "json"];
    let (unknown, hint) = status(&before, "kexec.still-safe");
    assert!(unknown == "UNKNOWN" && hint.contains("journalctl -k -b > FILE"), "{unknown} {hint}");
    let temp = Temp::new("log");
    let whole = fs::read_to_string(fixture("machines/sid-7.3-freed/boot.log")).unwrap();
    let earlier = "Nov 01 09:00:00 node7.acme.example kernel: Linux version 6.1.0 (builder@farm)\n\
                   Nov 01 09:00:00 node7.acme.example kernel: virt/tdx: module not loaded\n";
    let journal: String =
        whole.lines().flat_map(|line| ["Nov 20 10:00:00 node7.acme.example kernel: ", line, "\n"]).collect();
    fs::write(temp.0.join("kernel.log"), format!("{earlier}{journal}")).unwrap();
    let log = temp.path("kernel.log");
    let args = ["check", "--from", &lost, "--log", &log, "--format", "json"];
    assert_eq!(status(&args, "kexec.still-safe").0, "FAIL");
    assert_eq!(status(&args, "module.bring-up").0, "PASS", "the last boot counts");
    assert_eq!(status(&args, "data.agree").0, "PASS");
    let by_pipe = run_with_input(&["check", "--from", &lost, "--log", "-", "--format", "short"], journal.as_bytes());
    assert!(by_pipe.stdout.contains("power-cycle=now"), "{}", by_pipe.stdout);
    // The log of another machine is noticed, and no name of a host is saved with one.
    let other = run_with_input(
        &["check", "--from", &machine("sid-7.3-freed"), "--log", "-"],
        journal.replace("7.3.1-amd64", "7.2.9-amd64").as_bytes(),
    );
    assert!(other.stdout.contains("the boot log is of Linux 7.2.9-amd64"), "{}", other.stdout);
    let saved = run(&["collect", &temp.path("saved"), "--log", &log]);
    assert_eq!(saved.code, 0, "{}", saved.stderr);
    for entry in fs::read_dir(temp.0.join("saved")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("acme") && !text.contains("node7") && !text.contains("builder"), "{text}");
    }
    let bad = run_with_input(&["check", "--from", &lost, "--log", "-"], b"once upon a time\n");
    assert!(bad.code == 3 && bad.stderr.contains("journalctl -k -b"), "{}", bad.stderr);
    assert_eq!(run(&["check", "--from", &lost, "--from", &lost, "--log", &log]).code, 2);
}

#[test]
fn an_output_file_is_whole_or_not_there() {
    let temp = Temp::new("output");
    let path = temp.path("cleanslate.prom");
    let out = run(&["check", "--from", &machine("spr-7.2"), "--format", "prometheus", "--output", &path]);
    assert_eq!((out.code, out.stdout.as_str()), (1, ""));
    assert!(fs::read_to_string(&path).unwrap().contains("cleanslate_kexec_safe{machine=\"spr-7.2\"} 0\n"));
    assert_eq!(fs::read_dir(&temp.0).unwrap().count(), 1);
    let out = run(&["check", "--from", &machine("spr-7.2"), "--output", "/no/such/folder/x"]);
    assert_eq!((out.code, out.stdout.as_str()), (70, ""));
    assert!(out.stderr.contains("/no/such/folder/x: No such file or directory"), "{}", out.stderr);
    let out = run(&["fleet", &machine("spr-7.2"), "--output", &temp.path("table")]);
    assert!(out.code == 1 && fs::read_to_string(temp.0.join("table")).unwrap().contains("spr-7.2"));
}

fn metrics() -> String {
    run(&["fleet", &fixture("machines"), "--format", "prometheus"]).stdout
}

/// The text format by our own reading: HELP, TYPE, then the samples of one metric without a gap,
/// no label set twice.
#[test]
fn metrics_have_the_form_of_prometheus() {
    let text = metrics();
    let live = run(&["check", "--format", "prometheus"]).stdout;
    assert!(!live.contains("machine="), "the scraper names a live host: {live}");
    for text in [&text, &live] {
        let (mut current, mut done, mut seen) = (String::new(), BTreeSet::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                current = rest.split(' ').next().unwrap().to_owned();
                assert!(done.insert(current.clone()), "{current} comes twice");
                assert!(rest.len() > current.len() + 10 && rest.ends_with('.'), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                assert_eq!(rest, format!("{current} gauge"));
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                assert!(value.parse::<u64>().is_ok(), "{line}");
                assert_eq!(series.split('{').next().unwrap(), current, "{line}");
                assert!(seen.insert(series.to_owned()), "{series} comes twice");
            }
        }
        assert!(done.contains("cleanslate_verdict_status") && seen.len() > 30, "{text}");
        assert!(text.ends_with('\n'));
    }
    assert!(text.contains("cleanslate_power_cycle_needed{machine=\"sid-7.3-freed\"} 2\n"));
    assert!(text.contains("cleanslate_leaked_pages{machine=\"sid-7.3-freed\"} 1\n"));
    // All pages of a TD are lost with its KeyID: how many is not known.
    assert!(text.contains("cleanslate_lost_key_ids{machine=\"fedora44-reclaim\"} 1\n"));
    assert!(!text.contains("cleanslate_leaked_pages{machine=\"fedora44-reclaim\"}"));
    assert!(text.contains("cleanslate_check_status{machine=\"spr-7.2\",check=\"kexec.jump\"} 3\n"));
    // What is not known has no sample.
    assert!(!text.contains("cleanslate_power_cycle_needed{machine=\"long-uptime\"}"));
    for name in ["leaked_pages", "lost_key_ids"] {
        assert!(!text.contains(&format!("cleanslate_{name}{{machine=\"long-uptime\"}}")), "{name}");
    }
    assert!(text.contains("cleanslate_verdict_status{machine=\"long-uptime\"} 1\n"));
}

/// A program of a package, or `None` if it is not installed outside of CI.
fn program(check: &str, name: &str, package: &str) -> Option<Command> {
    let there = Command::new(name).arg("--version").output().is_ok();
    if !there {
        skip::test(check, name, &format!("apt-get install {package}"));
    }
    there.then(|| Command::new(name))
}

#[test]
fn promtool_accepts_metrics_and_alerts() {
    let Some(mut promtool) = program("metrics by promtool", "promtool", "prometheus") else { return };
    let mut child = promtool.args(["check", "metrics"]).stdin(std::process::Stdio::piped());
    child = child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = child.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), metrics().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    let rules = Command::new("promtool").args(["check", "rules"]).arg(operators("alerts.yml")).output().unwrap();
    let said = String::from_utf8_lossy(&rules.stdout);
    assert!(rules.status.success() && said.contains("3 rules found"), "{said}");
}

/// Names of our metrics in a query.
fn queried(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("cleanslate_")).map(str::to_owned).collect()
}

fn expressions(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            into.extend(object.get("expr").and_then(Value::as_str).map(str::to_owned));
            object.values().for_each(|value| expressions(value, into));
        }
        Value::Array(list) => list.iter().for_each(|value| expressions(value, into)),
        _ => {}
    }
}

#[test]
fn the_dashboard_queries_what_there_is() {
    let text = metrics();
    let exists = |name: &String| text.contains(&format!("# TYPE {name} gauge\n"));
    let board: Value = serde_json::from_str(&fs::read_to_string(operators("grafana.json")).unwrap()).unwrap();
    let mut all = Vec::new();
    expressions(&board, &mut all);
    assert!(all.len() >= 10, "{all:?}");
    for expression in &all {
        let names = queried(expression);
        assert!(!names.is_empty() && names.iter().all(exists), "{expression}");
    }
    let alerts = queried(&fs::read_to_string(operators("alerts.yml")).unwrap());
    assert!(alerts.len() >= 4 && alerts.iter().all(exists), "{alerts:?}");
    // What Grafana needs of a panel, and panels that do not cover each other.
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()));
        assert!(!panel["title"].as_str().unwrap().is_empty() && panel["type"].is_string());
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24);
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(cells.insert((x, y)), "{} covers another panel", panel["title"]);
            }
        }
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}");
        }
    }
    assert_eq!(board["templating"]["list"][0]["name"], "datasource");
    assert!(board["schemaVersion"].is_u64() && board["uid"].is_string());
    // The table of the page names every metric.
    let page = queried(&fs::read_to_string(operators("README.md")).unwrap());
    let missing = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<_> = missing.filter(|name| !page.contains(*name)).collect();
    assert!(missing.is_empty(), "docs/operators/README.md does not name {missing:?}");
}

#[test]
fn ansible_understands_the_playbook() {
    let Some(mut ansible) = program("the playbook by ansible", "ansible-playbook", "ansible-core") else { return };
    let temp = Temp::new("ansible");
    let output = ansible
        .args(["--syntax-check", "-i", "localhost,"])
        .arg(operators("collect.yml"))
        .env("HOME", &temp.0)
        .env("ANSIBLE_LOCAL_TEMP", &temp.0)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}");
}

/// The command of the service is one of this program, and the unit's paths belong together.
#[test]
fn the_service_runs_a_command_of_this_version() {
    let unit = fs::read_to_string(operators("cleanslate.service")).unwrap();
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/bin/cleanslate ")).unwrap();
    let temp = Temp::new("unit");
    let args: Vec<String> = command
        .split(' ')
        .map(|word| if word.starts_with('/') { temp.path("x.prom") } else { word.to_owned() })
        .collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let out = run(&args);
    assert!([0, 1, 3].contains(&out.code), "{}: {}", out.code, out.stderr);
    assert!(fs::read_to_string(temp.0.join("x.prom")).unwrap().contains("cleanslate_verdict_status "));
    assert!(fs::read_to_string(operators("cleanslate.timer")).unwrap().contains("[Timer]"));
}

/// A link to a saved machine is that machine, once; one that leads nowhere is named.
#[cfg(unix)]
#[test]
fn links_in_a_folder_of_machines() {
    use std::os::unix::fs::symlink;

    let temp = Temp::new("links");
    let names = |folder: &str| {
        let report = run(&["fleet", folder, "--format", "json"]).json();
        let of = |key: &str, field: &str| -> BTreeSet<String> {
            let rows = report[key].as_array().unwrap();
            let text = |row: &Value| row[field].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
            rows.iter().map(text).collect()
        };
        (of("machines", "name"), of("unreadable", "name"))
    };
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    copy(&machine("gnr-7.2"), &temp.0.join("fleet/node1"));
    copy(&machine("spr-7.2"), &temp.0.join("elsewhere/node2"));
    let folder = temp.path("fleet");
    let link = |target: &str, name: &str| symlink(target, temp.0.join("fleet").join(name)).unwrap();
    link("node1", "a-second-name");
    link("../elsewhere/node2", "node2");
    // Back to the folder itself, to its parent, to a file.
    link("../fleet", "self");
    link("..", "up");
    link("node1/machine.toml", "file");
    assert_eq!(names(&folder), (set(&["node1", "node2"]), set(&[])));
    link("no-such-folder", "broken");
    link("loop", "loop");
    assert_eq!(names(&folder), (set(&["node1", "node2"]), set(&["broken", "loop"])));
    assert_eq!(
        run(&["fleet", &folder]).code,
        run(&["fleet", &temp.path("elsewhere")]).code,
        "that of the worst machine"
    );
}

/// The log of another machine tells nothing of the module of this one.
#[test]
fn the_log_of_another_machine_gives_no_sample() {
    let log = format!("{}/boot.log", machine("gnr-7.2"));
    let of = |folder: &str, log: &str| {
        let args = ["check", "--from", folder, "--log", log, "--format", "prometheus"];
        run(&args).stdout
    };
    let own = of(&machine("gnr-7.2"), &log);
    assert!(own.contains("\ncleanslate_pamt_bytes"), "{own}");
    let foreign = of(&machine("spr-7.2"), &log);
    assert!(!foreign.contains("\ncleanslate_pamt_bytes") && foreign.contains("module=\"\""), "{foreign}");
    let report = run(&["check", "--from", &machine("spr-7.2"), "--log", &log, "--format", "json"]).json();
    assert!(report["facts"]["pamt_kb"].is_null() && report["facts"]["module"].is_null(), "{}", report["facts"]);
}

/// A machine check in private memory of TDX is no host that is safe.
#[test]
fn machine_checks_since_boot() {
    let temp = Temp::new("checks");
    let check = |name: &str, lines: &str| {
        let mut log = fs::read_to_string(format!("{}/boot.log", machine(name))).unwrap();
        log.push_str(lines);
        let path = temp.path("log");
        fs::write(&path, log).unwrap();
        let report = run(&["check", "--from", &machine(name), "--log", &path, "--format", "json"]).json();
        let checks = report["categories"].as_array().unwrap().iter().flat_map(|c| c["checks"].as_array().unwrap());
        let safe = checks.clone().find(|check| check["id"] == "kexec.still-safe").unwrap()["status"].clone();
        (safe.as_str().unwrap().to_owned(), report["verdict"]["power_cycle"].as_str().unwrap().to_owned())
    };
    let text = |status: &str, power: &str| (status.to_owned(), power.to_owned());
    let bank = |address: &str| {
        format!(
            "[ 9000.2] mce: [Hardware Error]: CPU 12: Machine Check Exception: 5 Bank 1: bd80000000100134\n\
             [ 9000.2] mce: [Hardware Error]: TSC 1 ADDR {address} MISC 86 PPIN 77\n\
             [ 9000.2] mce: [Hardware Error]: PROCESSOR 0:806f8 TIME 1 SOCKET 0 APIC 0 microcode 1\n"
        )
    };
    let said = "[ 9000.3] mce: [Hardware Error]: Machine check: TDX private memory error. Possible kernel bug.\n";
    assert_eq!(check("spr-7.2", ""), text("PASS", "no"));
    let private = text("FAIL", "now");
    assert_eq!(check("spr-7.2", &format!("{}{said}", bank("2a3b4c5640"))), private);
    assert_eq!(check("spr-7.2", said), private, "the kernel's words alone");
    let keyed = check("spr-7.2", &bank("8802a3b4c5640"));
    assert_eq!(keyed, private, "a KeyID in the address");
    assert_eq!(check("spr-7.2", &bank("2a3b4c5640")), text("UNKNOWN", "unknown"));
    // An error of a device, one that was corrected, and a CPU without the erratum.
    let device = "[ 9000.1] {1}[Hardware Error]: event severity: fatal\n[ 9000.1] {1}[Hardware Error]:  Error 0, type: \
                  fatal\n[ 9000.1] {1}[Hardware Error]:   section_type: PCIe error\n";
    assert_eq!(check("spr-7.2", device), text("PASS", "no"));
    let before = "[ 12.1] [Hardware Error]: event severity: fatal\n[ 12.1] [Hardware Error]:  Error 0, type: fatal\n\
                  [ 12.1] [Hardware Error]:   section_type: memory error\n";
    assert_eq!(check("spr-7.2", before), text("PASS", "no"), "BERT: the boot before");
    let corrected = "[ 9000.2] mce: [Hardware Error]: CPU 0: Machine Check: 0 Bank 13: 8c00004001010091\n";
    assert_eq!(check("spr-7.2", corrected), text("PASS", "no"));
    assert_eq!(check("gnr-7.2", &bank("2a3b4c5640").replace("806f8", "a06d1")), text("PASS", "no"));
    // A kernel without TDX host code.
    assert_eq!(check("debian13", &bank("2a3b4c5640").replace("806f8", "c06f2")), text("PASS", "no"));
    // A module update that failed leaves no module.
    let update = "[ 9000.2] seamldr: SEAMCALL (0x8000000000000001) failed: 0x8000000000000003\n";
    assert_eq!(check("spr-7.2", update), text("WARN", "planned"));
}
