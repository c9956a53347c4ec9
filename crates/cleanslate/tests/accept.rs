//! `cleanslate linux accept` as an operator runs it: with a module, files stand for those of which,
//! without one, and what must not be in its report.

#[path = "common/schema.rs"]
mod schema;

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{fixture, run};
use schema::{Places, Schema, each};
use serde_json::Value;

/// A machine, and what it is called by.
struct Machine(PathBuf);

/// In every file that the report is made of, where it is no number.
const SECRET: &str = "node7-acme";

impl Machine {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("cleanslate-accept-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        Self(root)
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A host on which all is well; `flags` of its CPU.
    fn good(name: &str, flags: &str) -> Self {
        let machine = Self::new(name);
        let block = |number: u32| {
            format!(
                "processor\t: {number}\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n\
                 model name\t: INTEL(R) XEON(R) PLATINUM 8580\nstepping\t: 8\nmicrocode\t: 0x2b000603\nphysical id\t: 0\n\
                 flags\t\t: {flags}\nbugs\t\t: spectre_v1 tdx_pw_mce\nserial\t\t: {SECRET}\n\n"
            )
        };
        machine.put("proc/cpuinfo", &(block(0) + &block(1)));
        machine.put("proc/sys/kernel/osrelease", &format!("7.3.0-{SECRET}\n"));
        machine.put("proc/sys/kernel/hostname", SECRET);
        machine.put("sys/class/dmi/id/sys_vendor", "Dell Inc.\n");
        machine.put("proc/cmdline", &format!("root=UUID={SECRET} crashkernel=512M\n"));
        machine.put("sys/module/cleanslate/version", "0.1.0\n");
        machine.put("sys/module/cleanslate/parameters/policy", "tracked\n");
        machine.put("sys/module/cleanslate/parameters/sweep_rate", "250000\n");
        for (file, value) in [
            ("mode", "watching"),
            ("tds", "4"),
            ("pamt_kb", "4202516"),
            ("given_kb", "400"),
            ("giving_kb", "0"),
            ("returned_kb", "16"),
            ("learned_kb", "0"),
        ] {
            machine.ko(file, &format!("{value}\n"));
        }
        machine.ko("audit", AUDIT);
        machine.ko("measure", MEASURE);
        machine
    }

    fn ko(&self, file: &str, text: &str) {
        self.put(&format!("sys/kernel/cleanslate/{file}"), text);
    }

    fn run(&self, words: &[&str]) -> common::Out {
        run(&[&["linux", "--root", self.0.to_str().unwrap(), "accept"], words].concat())
    }

    fn json(&self, words: &[&str]) -> Value {
        let report = self.run(&[words, &["--format", "json"]].concat()).json();
        assert_eq!(Schema::published("linux-accept.schema.json").problems(&report), [""; 0]);
        report
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const AUDIT: &str = "kind audit\nstate done\npercent 100\ntotal 262144\npages 262144\ncalls 262144\nmilliseconds 1050\n\
    owned 99\nreserved 1088\noutside 0\nmissing 0\nreturned 4\ngiving 0\nstale 0\nleaked 3\nleaked_owned 1\nlearned 0\n\
    changed 0\nbusy 2\nput_off 5\nnot_seen 0\nleaked_at 0x2000\n";
const MEASURE: &str = "state done\nobserver done\nwbinvd_count 2\nwbinvd_min_ns 30000\nwbinvd_mean_ns 45000\n\
    wbinvd_max_ns 60000\nbare_count 1000\nbare_min_ns 20\nbare_mean_ns 25\nbare_max_ns 900\nobserved_count 1000\n\
    observed_min_ns 1500\nobserved_mean_ns 1700\nobserved_max_ns 20000\n";
/// All but what is measured on this machine.
const NO_BENCH: [&str; 2] = ["--skip", "bandwidth"];

fn verdict(report: &Value, id: &str) -> String {
    let all = report["assumptions"].as_array().unwrap();
    all.iter().find(|found| found["id"] == id).unwrap()["verdict"].as_str().unwrap().to_owned()
}

fn missing(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let all = report["missing"].as_array().unwrap();
    all.iter().map(|found| (text(&found["part"]), text(&found["reason"]))).collect()
}

fn parts(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(part, reason)| ((*part).to_owned(), (*reason).to_owned())).collect()
}

#[test]
fn a_host_as_assumed() {
    let machine = Machine::good("good", "fpu movdir64b");
    let out = machine.run(&NO_BENCH);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    for line in [
        "machine   hardware, as far as it shows:",
        "cpu       INTEL(R) XEON(R) PLATINUM 8580: family 6, model 143, stepping 8, microcode 0x2b000603;",
        "module    cleanslate.ko 0.1.0: watching, policy tracked; TDs 4;",
        "audit     262,144 pages in 1.1 s, 262,144 SEAMCALLs (249,660 per second);",
        "wbinvd    2 CPUs, one after the other, caches as they were: 0.030 to 0.060 ms, mean 0.045 ms",
        "observer  1,700 ns for a call that both probes observe",
        "missing   bandwidth: left out (--skip)",
    ] {
        assert!(out.stdout.contains(line), "{line}\n{}", out.stdout);
    }
    assert!(out.stdout.lines().all(|line| line.len() <= 120), "{}", out.stdout);
    let report = machine.json(&[&NO_BENCH[..], &["--rate", "100000"]].concat());
    for (id, expected) in [
        ("erratum-by-model", "confirmed"),
        ("operands-known", "confirmed"),
        ("ledger-complete", "confirmed"),
        ("rdmd-answers", "confirmed"),
        ("wbinvd-below-a-second", "confirmed"),
        // A slower audit, no bandwidth, no kernel log.
        ("audit-rate", "not-tested"),
        ("reset-rate-one-core", "not-tested"),
        ("pamt-complete", "not-tested"),
    ] {
        assert_eq!(verdict(&report, id), expected, "{id}");
    }
    assert_eq!(missing(&report), parts(&[("bandwidth", "skipped")]));
}

/// Every place of the schema, its lists of words included, is in a report; every place of a report
/// is in the schema, which refuses another value there.
#[test]
fn schema_and_reports_have_the_same_places() {
    let schema = Schema::published("linux-accept.schema.json");
    let example: Value =
        serde_json::from_str(&fs::read_to_string(fixture("accept/seamvisor-7.3.json")).unwrap()).unwrap();
    let mut reports = vec![example];
    let machine = Machine::good("places", "fpu movdir64b");
    for mode in [
        "watching",
        "host",
        "failed",
        "learning 43 %",
        "unknown: SEAMCALL with unknown page operands",
        "unknown: missed SEAMCALLs (kprobe nmissed)",
        "unknown: page reset that the TDX module owns",
        "unknown: something else",
        "none of them",
    ] {
        machine.ko("mode", &format!("{mode}\n"));
        reports.push(machine.json(&NO_BENCH));
    }
    for policy in ["module", "refuse", "keep", "none of them"] {
        machine.put("sys/module/cleanslate/parameters/policy", &format!("{policy}\n"));
        reports.push(machine.json(&NO_BENCH));
    }
    let cpuinfo = fs::read_to_string(machine.0.join("proc/cpuinfo")).unwrap();
    machine.put("proc/cpuinfo", &cpuinfo.replace("model\t\t: 143", "model\t\t: 173"));
    fs::remove_dir_all(machine.0.join("sys/kernel/cleanslate")).unwrap();
    reports.push(machine.json(&NO_BENCH));
    fs::remove_file(machine.0.join("proc/cpuinfo")).unwrap();
    reports.push(machine.json(&NO_BENCH));
    reports.push(Machine::good("id", "fpu hypervisor").json(&["--skip", "bandwidth", "--skip", "times"]));
    // What `check` finds.
    for (flags, log) in [
        ("fpu", "6,1,0,-;virt/tdx: BIOS enabled: private KeyID range [32, 64)\n6,2,1,-;virt/tdx: module initialized\n"),
        ("fpu movdir64b", "6,1,0,-;virt/tdx: TDX not enabled by BIOS\n"),
    ] {
        let found = Machine::good("check", flags);
        found.put("dev/kmsg", log);
        reports.push(found.json(&NO_BENCH));
    }

    let (mut seen, mut words) = (BTreeSet::new(), BTreeSet::new());
    for report in &reports {
        assert_eq!(schema.problems(report), [""; 0]);
        each(report, &mut |_, place, value| {
            seen.insert(place.to_owned());
            words.insert(format!("{place} {value}"));
        });
    }
    let places = schema.places();
    for place in places.keys.keys() {
        // Those of `bench` on a machine with several nodes: below.
        assert!(seen.contains(place) || place.starts_with("/bandwidth/nodes/*/"), "{place} is in no report");
    }
    for (place, values) in &places.enums {
        for value in values {
            // Words of `check` are those of its own schema: below. Ctrl-C has a test of its own.
            let elsewhere = place.starts_with("/check/") || value == "interrupted";
            assert!(words.contains(&format!("{place} {value}")) || elsewhere, "{place}: no report has {value}");
        }
    }
    for report in &reports {
        schema.says_no_everywhere(report);
    }

    let bench = Schema::published("bench.schema.json").places();
    let nodes = |places: &Places, below: &str| -> Vec<(String, bool)> {
        let keys = places.keys.iter();
        keys.filter_map(|(place, required)| Some((place.strip_prefix(below)?.to_owned(), *required))).collect()
    };
    assert_eq!(nodes(&places, "/bandwidth/nodes/*/"), nodes(&bench, "/nodes/*/"));
    let check = Schema::published("check.schema.json").places();
    for (place, values) in places.enums.iter().filter(|(place, _)| place.starts_with("/check/")) {
        let set = |values: &[Value]| values.iter().map(Value::to_string).collect::<BTreeSet<_>>();
        assert_eq!(set(values), set(&check.enums[&place.replace("/check/", "/verdict/")]), "{place}");
    }
}

#[test]
fn what_does_not_hold_is_exit_1_on_any_machine() {
    for flags in ["fpu movdir64b", "fpu movdir64b hypervisor"] {
        let machine = Machine::good("missing", flags);
        machine.ko("audit", &AUDIT.replace("missing 0", "missing 1").replace("state done", "state stopped"));
        machine.ko("mode", "unknown: an audit found private pages without a mark\n");
        let out = machine.run(&NO_BENCH);
        assert_eq!(out.code, 1);
        assert!(
            out.stdout.contains("CONTRADICTED") && out.stdout.contains("audit     NOT COMPLETE: "),
            "{}",
            out.stdout
        );
        let report = machine.json(&NO_BENCH);
        assert_eq!(verdict(&report, "ledger-complete"), "contradicted");
        assert_eq!((&report["module"]["lost"], &report["audit"]["complete"]), (&"ledger".into(), &false.into()));
        assert_eq!(missing(&report), parts(&[("bandwidth", "skipped"), ("audit", "failed")]));
        assert_eq!(report["missing"][1]["why"], "the audit was stopped");
    }
}

#[test]
fn a_virtual_machine_confirms_nothing() {
    let machine = Machine::good("virtual", "fpu movdir64b hypervisor");
    let out = machine.run(&NO_BENCH);
    assert_eq!(out.code, 0, "{}", out.stdout);
    assert!(out.stdout.contains("VIRTUAL OR EMULATED"), "{}", out.stdout);
    let report = machine.json(&NO_BENCH);
    assert_eq!((&report["machine"], &report["confirmed"]), (&"virtual".into(), &0.into()));
    // One that hides the bit, by a name; and a CPU without microcode is taken for nothing.
    let hides = Machine::good("hides", "fpu movdir64b");
    hides.put("sys/class/dmi/id/sys_vendor", "QEMU\n");
    let text = fs::read_to_string(hides.0.join("proc/cpuinfo")).unwrap();
    let kind = |expected: &str| {
        let report = hides.json(&NO_BENCH);
        assert_eq!((&report["machine"], &report["confirmed"]), (&expected.into(), &0.into()));
    };
    kind("virtual");
    hides.put("sys/class/dmi/id/sys_vendor", "Dell Inc.\n");
    hides.put("proc/cpuinfo", &text.replace("INTEL(R) XEON(R) PLATINUM 8580", "QEMU TCG CPU version 2.5+"));
    kind("virtual");
    for no_hardware in [
        text.replace("microcode", "micro"),
        text.replace("0x2b000603", "0x1"),
        text.replace("INTEL(R) XEON(R) PLATINUM 8580", "X"),
    ] {
        hides.put("proc/cpuinfo", &no_hardware);
        kind("unknown");
    }
    hides.put("proc/cpuinfo", &text);
    fs::remove_file(hides.0.join("sys/class/dmi/id/sys_vendor")).unwrap();
    kind("unknown");
}

/// Without the module, as on the machine that runs this, and with one that refuses or is older.
#[test]
fn each_part_may_be_missing() {
    let no_module = Machine::good("no-module", "fpu movdir64b");
    fs::remove_dir_all(no_module.0.join("sys")).unwrap();
    no_module.put("sys/class/dmi/id/sys_vendor", "Dell Inc.\n");
    let out = no_module.run(&NO_BENCH);
    assert_eq!(out.code, 3, "{}", out.stdout);
    assert!(out.stdout.contains("modprobe cleanslate"), "{}", out.stdout);
    let absent = [("wbinvd", "failed"), ("observer", "failed"), ("audit", "failed"), ("module", "failed")];
    let report = no_module.json(&NO_BENCH);
    assert_eq!(missing(&report), parts(&[&[("bandwidth", "skipped")], &absent[..]].concat()));
    assert_eq!(verdict(&report, "erratum-by-model"), "confirmed");

    let host = Machine::good("host", "fpu movdir64b");
    host.ko("mode", "host\n");
    host.ko("audit", &AUDIT.replace("state done", "state failed: TDX is not up"));
    host.ko("measure", &MEASURE.replace("observer done", "observer none: this kernel makes no SEAMCALL"));
    let report = host.json(&NO_BENCH);
    let expected = [("bandwidth", "skipped"), ("observer", "not-applicable"), ("audit", "failed")];
    assert_eq!(missing(&report), parts(&expected));
    assert!(report["missing"][2]["why"].as_str().unwrap().contains("cleanslate linux up"));
    assert_eq!(host.run(&[&NO_BENCH[..], &["--skip", "audit"]].concat()).code, 0);

    let older = Machine::good("older", "fpu movdir64b");
    fs::remove_file(older.0.join("sys/kernel/cleanslate/measure")).unwrap();
    fs::remove_file(older.0.join("sys/module/cleanslate/version")).unwrap();
    let report = older.json(&NO_BENCH);
    assert_eq!((&report["module"]["version"], &report["wbinvd"]), (&Value::Null, &Value::Null));
    assert_eq!(missing(&report), parts(&[("bandwidth", "skipped"), ("wbinvd", "failed"), ("observer", "failed")]));
    assert!(report["missing"][1]["why"].as_str().unwrap().contains("older"));

    let nothing = Machine::new("nothing");
    fs::create_dir_all(&nothing.0).unwrap();
    let report = nothing.json(&["--skip", "bandwidth", "--skip", "audit", "--skip", "times"]);
    assert_eq!(
        (&report["machine"], &report["processor"], &report["kernel"]),
        (&"unknown".into(), &Value::Null, &Value::Null)
    );
    assert_eq!((&report["confirmed"], &report["contradicted"]), (&0.into(), &0.into()));
}

/// A pipe stands for the module's file, so that the program is known to be in that part.
#[test]
fn after_an_interrupt_the_report_is_written() {
    let machine = Machine::good("interrupted", "fpu movdir64b");
    let (pipe, file) = (machine.0.join("sys/kernel/cleanslate/measure"), machine.0.join("accept.json"));
    fs::remove_file(&pipe).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut child = Command::new(env!("CARGO_BIN_EXE_cleanslate"))
        .args(["linux", "--root", machine.0.to_str().unwrap(), "accept", "--json", file.to_str().unwrap()])
        .args(NO_BENCH)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(fs::read_to_string(&pipe).unwrap(), "start\n");
    assert!(Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap().success());
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("interrupted: the report is written"), "{said}");
    fs::write(&pipe, MEASURE).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let report: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(Schema::published("linux-accept.schema.json").problems(&report), [""; 0]);
    // What went on came to its end, and what was left did not begin.
    assert_eq!(missing(&report), parts(&[("bandwidth", "skipped"), ("audit", "interrupted")]));
    assert_eq!((&report["wbinvd"]["count"], &report["audit"]), (&2.into(), &Value::Null));
    assert_eq!(verdict(&report, "operands-known"), "confirmed");
}

/// The kernel's figure is that of its start, and with Dynamic PAMT that is not all.
#[test]
fn figures_of_dynamic_pamt_confirm_nothing() {
    let machine = Machine::good("dynamic-pamt", "fpu movdir64b");
    machine.put("proc/meminfo", "MemTotal:       1048576000 kB\n");
    let pamt = |kb: u64, more: &str| {
        machine.ko("pamt_kb", &format!("{kb}\n"));
        machine.put("dev/kmsg", &format!("{more}6,2,2000000,-;virt/tdx: {kb} KB allocated for PAMT\n"));
        let report = machine.json(&NO_BENCH);
        let all = report["assumptions"].as_array().unwrap();
        let ground = all.iter().find(|found| found["id"] == "pamt-complete").unwrap()["ground"].as_str().unwrap();
        (verdict(&report, "pamt-complete"), ground.starts_with("Dynamic PAMT is on: "))
    };
    assert_eq!(pamt(4_202_516, ""), ("confirmed".to_owned(), false));
    let line = "6,1,1000000,-;virt/tdx: Enable Dynamic PAMT\n";
    assert_eq!(pamt(40_000, line), ("not-tested".to_owned(), true));
    // The log has lost that line, and the figure is none of static PAMT.
    assert_eq!(pamt(40_000, ""), ("not-tested".to_owned(), true));
    assert_eq!(pamt(4_202_516, line), ("not-tested".to_owned(), true));
}

/// cleanslate.ko has nothing to do there, and leaves no trace in sysfs.
#[test]
fn a_cpu_without_the_erratum_lacks_no_part() {
    let machine = Machine::good("no-erratum", "fpu movdir64b");
    let text = fs::read_to_string(machine.0.join("proc/cpuinfo")).unwrap();
    machine.put("proc/cpuinfo", &text.replace("model\t\t: 143", "model\t\t: 173").replace(" tdx_pw_mce", ""));
    fs::remove_dir_all(machine.0.join("sys/kernel/cleanslate")).unwrap();
    let out = machine.run(&NO_BENCH);
    assert_eq!(out.code, 0, "{}", out.stdout);
    let report = machine.json(&NO_BENCH);
    let none = ["wbinvd", "observer", "audit", "module"].map(|part| (part, "not-applicable"));
    assert_eq!(missing(&report), parts(&[&[("bandwidth", "skipped")], &none[..]].concat()));
    for row in &report["missing"].as_array().unwrap()[1..] {
        assert!(row["why"].as_str().unwrap().contains("lacks the partial-write erratum"), "{row}");
    }
    assert_eq!((&report["processor"]["partial_write_erratum"], &report["module"]), (&false.into(), &Value::Null));
    // A module that is there nevertheless is asked; a CPU with the erratum and no module lacks it.
    machine.ko("mode", "watching\n");
    assert_eq!(
        missing(&machine.json(&NO_BENCH))[1..],
        parts(&["wbinvd", "observer", "audit"].map(|part| (part, "failed")))
    );
    fs::remove_dir_all(machine.0.join("sys/kernel/cleanslate")).unwrap();
    machine.put("proc/cpuinfo", &text);
    assert_eq!(machine.run(&NO_BENCH).code, 3);
}

#[test]
fn pages_that_the_audit_has_not_seen_are_exit_3_with_a_row() {
    let machine = Machine::good("not-seen", "fpu movdir64b");
    for (number, words) in [(1, "1 page could not"), (1234, "1,234 pages could not")] {
        machine.ko("audit", &AUDIT.replace("not_seen 0", &format!("not_seen {number}")));
        let out = machine.run(&NO_BENCH);
        assert_eq!(out.code, 3, "{}", out.stdout);
        let report = machine.json(&NO_BENCH);
        assert_eq!(missing(&report), parts(&[("bandwidth", "skipped"), ("audit", "failed")]));
        let why = report["missing"][1]["why"].as_str().unwrap();
        assert!(why.starts_with(words) && why.contains("run it again when"), "{why}");
        assert_eq!((&report["audit"]["not_seen"], &report["audit"]["complete"]), (&number.into(), &true.into()));
        for id in ["ledger-complete", "rdmd-answers"] {
            assert_eq!(verdict(&report, id), "not-tested", "{id}");
        }
    }
}

/// No thread has room for such a stack: what an exhausted pids.max is, too, for a program.
#[test]
fn threads_that_are_not_started_are_rows_and_no_end() {
    let machine = Machine::good("no-thread", "fpu movdir64b");
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cleanslate"));
        let output = command.env("RUST_MIN_STACK", (1_u64 << 47).to_string()).args(words).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let linux = ["linux", "--root", machine.0.to_str().unwrap()];
    let (code, stdout, stderr) = run(&[&linux[..], &["accept", "--format", "json"]].concat());
    let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
    assert_eq!((code, missing(&report)), (Some(3), parts(&[("bandwidth", "failed"), ("audit", "failed")])));
    assert_eq!((&report["bandwidth"], &report["audit"]), (&Value::Null, &Value::Null));
    for row in report["missing"].as_array().unwrap() {
        let why = row["why"].as_str().unwrap();
        assert!(why.contains("could not be started: ") && why.contains("raise pids.max"), "{why}");
    }
    for words in [&["bench"][..], &[&linux[..], &["audit"]].concat()] {
        let (code, stdout, stderr) = run(words);
        assert_eq!((code, stdout.as_str()), (Some(3), ""), "{stderr}");
        assert!(stderr.contains("could not be started: ") && stderr.contains("raise pids.max"), "{stderr}");
    }
}

/// The write fails by an errno that no audit ends with, and the file has the numbers of an earlier
/// one.
#[test]
fn an_order_that_was_not_taken_leaves_no_audit() {
    let machine = Machine::good("not-taken", "fpu movdir64b");
    let limited = |words: &[&str]| {
        let output = Command::new("sh")
            .args(["-c", "trap '' XFSZ; ulimit -f 0; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_cleanslate"), "linux"])
            .args(["--root", machine.0.to_str().unwrap()])
            .args(words)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    for earlier in [AUDIT, &AUDIT.replace("missing 0", "missing 1").replace("state done", "state stopped")] {
        machine.ko("audit", earlier);
        let (code, stdout, stderr) = limited(&["accept", "--format", "json", NO_BENCH[0], NO_BENCH[1]]);
        let report: Value = serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"));
        assert_eq!((code, &report["audit"]), (Some(3), &Value::Null));
        assert_eq!(verdict(&report, "ledger-complete"), "not-tested");
        let failed = [("bandwidth", "skipped"), ("wbinvd", "failed"), ("observer", "failed"), ("audit", "failed")];
        assert_eq!(missing(&report), parts(&failed));
        for row in [1, 3] {
            let why = report["missing"][row]["why"].as_str().unwrap();
            assert!(why.contains("(os error 27)"), "{why}");
        }
        assert!(report["missing"][3]["why"].as_str().unwrap().ends_with("there was no audit"));
        let (code, stdout, stderr) = limited(&["audit"]);
        assert_eq!((code, stdout.as_str()), (Some(3), ""));
        assert!(stderr.contains("(os error 27); there was no audit"), "{stderr}");
    }
    // An audit of another task has begun since.
    for other in [AUDIT.replace("state done", "state running"), AUDIT.replace("kind audit", "kind learn")] {
        machine.ko("audit", &other);
        let report = machine.json(&NO_BENCH);
        assert_eq!(missing(&report), parts(&[("bandwidth", "skipped"), ("audit", "failed")]));
        assert!(report["missing"][1]["why"].as_str().unwrap().starts_with("another sweep began"));
    }
}

#[test]
fn both_forms_in_one_run() {
    let machine = Machine::good("json", "fpu movdir64b");
    let file = machine.0.join("accept.json");
    let out = machine.run(&[&NO_BENCH[..], &["--json", file.to_str().unwrap()]].concat());
    assert!(out.stdout.starts_with("machine "), "{}", out.stdout);
    let report: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(Schema::published("linux-accept.schema.json").problems(&report), [""; 0]);
    // A file that cannot be written fails before the work.
    let out = machine.run(&["--json", "/no/such/folder/accept.json"]);
    assert_eq!((out.code, out.stdout.as_str()), (70, ""));
    assert!(out.stderr.contains("/no/such/folder/accept.json"), "{}", out.stderr);
}

/// Whatever the files of a machine say, text of theirs is in no report but what is named.
#[test]
fn no_text_of_the_machine_comes_into_the_report() {
    let machine = Machine::good("secret", "fpu movdir64b");
    let checked = |machine: &Machine| {
        for words in [&NO_BENCH[..], &["--skip", "bandwidth", "--format", "json"]] {
            let out = machine.run(words);
            for part in [SECRET, "node7", "acme", "UUID", "0x2000"] {
                assert!(
                    !out.stdout.contains(part) && !out.stderr.contains(part),
                    "{part}: {}{}",
                    out.stdout,
                    out.stderr
                );
            }
        }
    };
    checked(&machine);
    for (file, text) in [
        ("mode", format!("unknown: {SECRET}\n")),
        ("audit", AUDIT.replace("state done", &format!("state failed: {SECRET}"))),
        ("measure", MEASURE.replace("observer done", &format!("observer failed: {SECRET}"))),
        ("audit", AUDIT.replace("calls 262144", &format!("calls {SECRET}"))),
        ("measure", format!("state {SECRET}\n")),
        ("tds", SECRET.to_owned()),
    ] {
        machine.ko(file, &text);
        checked(&machine);
    }
    for file in ["version", "parameters/policy", "parameters/sweep_rate"] {
        machine.put(&format!("sys/module/cleanslate/{file}"), SECRET);
        checked(&machine);
    }
}

/// What names the machine that runs this test, as far as it can be told from other words.
fn names_of_this_machine() -> Vec<String> {
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let mut names = vec![read(Path::new("/proc/sys/kernel/hostname")), read(Path::new("/etc/machine-id"))];
    names.push(read(Path::new("/proc/sys/kernel/random/boot_id")));
    for file in ["product_serial", "board_serial", "chassis_serial", "product_uuid"] {
        names.push(read(&Path::new("/sys/class/dmi/id").join(file)));
    }
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        names.push(read(&entry.path().join("address")));
    }
    let routes = read(Path::new("/proc/net/fib_trie"));
    names.extend(routes.split_whitespace().filter(|word| word.matches('.').count() == 3).map(str::to_owned));
    names.extend(
        read(Path::new("/proc/cmdline")).split_whitespace().filter(|word| word.contains('=')).map(str::to_owned),
    );
    names.extend(std::env::var("HOME").ok().filter(|home| home != "/root"));
    // A short name is a part of any word.
    names.retain(|name| name.len() >= 6 && name != "localhost");
    names
}

#[test]
fn a_report_of_this_machine_does_not_name_it() {
    let names = names_of_this_machine();
    assert!(!names.is_empty());
    for format in ["human", "json"] {
        let out = run(&["linux", "accept", "--skip", "audit", "--skip", "times", "--format", format]);
        assert!([0, 1, 3].contains(&out.code), "{}", out.stderr);
        for name in &names {
            assert!(!out.stdout.contains(name) && !out.stderr.contains(name), "{name}: {}", out.stdout);
        }
    }
}

/// The report of a boot under seamvisor, as it was printed.
#[test]
fn the_example_is_of_this_version() {
    let json: Value = serde_json::from_str(&fs::read_to_string(fixture("accept/seamvisor-7.3.json")).unwrap()).unwrap();
    assert_eq!(Schema::published("linux-accept.schema.json").problems(&json), [""; 0]);
    let text = fs::read_to_string(fixture("accept/seamvisor-7.3.txt")).unwrap();
    let now = Machine::good("example", "fpu").json(&NO_BENCH);
    let ids = |report: &Value| -> Vec<String> {
        let all = report["assumptions"].as_array().unwrap();
        all.iter()
            .map(|found| format!("{}: {}", found["id"].as_str().unwrap(), found["text"].as_str().unwrap()))
            .collect()
    };
    assert_eq!(ids(&json), ids(&now));
    assert_eq!((&json["machine"], &json["confirmed"]), (&"virtual".into(), &0.into()));
    // Broken between words.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for id in ids(&json) {
        assert!(text.contains(&id), "{id}");
    }
}
