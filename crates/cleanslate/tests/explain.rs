//! `cleanslate explain` as a user runs it: values, every log of the fixtures, its published schema,
//! and input that means harm.

#[path = "common/schema.rs"]
mod schema;

mod common;

use std::path::{Path, PathBuf};

use common::{Out, fixture, run, run_with_input};
use schema::Schema;
use serde_json::Value;

const FOLDERS: [&str; 6] = ["mce", "hosts", "linux-7.3", "field", "pasted", "e820"];

/// Every log, `folder/name`, in order.
fn logs() -> Vec<String> {
    let mut logs = Vec::new();
    for folder in FOLDERS {
        let names = std::fs::read_dir(fixture(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        logs.extend(names.map(|name| format!("{folder}/{}", name.to_str().unwrap())));
    }
    logs.sort_by_key(|name| (FOLDERS.iter().position(|f| name.starts_with(f)), name.clone()));
    let machines =
        ["gnr-7.2", "no-tdx", "spr-6.14", "spr-6.18", "spr-7.2"].map(|name| format!("machines/{name}/boot.log"));
    logs.extend(machines);
    logs
}

fn explained(name: &str) -> Out {
    run(&["explain", &fixture(name), "--format", "json"])
}

/// `judgement by rule` of each finding.
fn findings(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found = report["log"]["findings"].as_array().unwrap();
    found.iter().map(|found| (text(&found["judgement"]), text(&found["rule"]))).collect()
}

/// One line of standard error, without the name of the file.
fn refusal(out: &Out, name: &str) -> String {
    assert_eq!((out.code, out.stderr.lines().count()), (3, 1), "{name}: {}", out.stderr);
    let rest = out.stderr.trim_end().rsplit_once(&format!("{}: ", fixture(name)));
    rest.map_or_else(|| out.stderr.trim_end().rsplit(": ").next().unwrap().to_owned(), |(_, rest)| rest.to_owned())
}

fn explain_cell(name: &str) -> String {
    let out = explained(name);
    if out.stdout.is_empty() {
        assert!(refusal(&out, name).starts_with("contains nothing to explain"), "{}", out.stderr);
        return "nothing to explain".to_owned();
    }
    let report = out.json();
    let mut cells: Vec<_> = findings(&report).iter().map(|(judged, rule)| format!("{judged}: `{rule}`")).collect();
    if report["log"]["unknown_lines"] != 0 {
        cells.push(format!("{} unknown", report["log"]["unknown_lines"]));
    }
    cells.join(", ")
}

fn plan_cell(name: &str) -> String {
    let out = run(&["plan", "--host", &fixture(name), "--format", "json"]);
    if out.stdout.is_empty() {
        let why = [
            ("is not a boot log", "not a boot log"),
            ("no memory map", "no memory in the log"),
            ("overlaps", "overlapping rows"),
            ("TD guest", "a TD guest"),
            ("usable", "no usable memory"),
        ];
        assert_eq!(out.code, 3, "{name}: {}", out.stderr);
        let why = why.iter().find(|(words, _)| out.stderr.contains(words));
        return why.unwrap_or_else(|| panic!("{name}: {}", out.stderr)).1.to_owned();
    }
    let report = out.json();
    let linux = &report["linux"];
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let kb = |value: &Value| value.as_u64().map_or_else(String::new, |kb| format!(" {kb} KB"));
    let log = if linux["equals_log"] == true { ", as logged" } else { "" };
    format!(
        "{}{}; Linux {}{}{log}",
        text(&report["result"]),
        kb(&report["pamt_kb"]),
        text(&linux["result"]),
        kb(&linux["pamt_kb"])
    )
}

#[test]
fn every_log_of_the_fixtures() {
    let mut table = String::from("| log | explain | plan |\n| --- | --- | --- |\n");
    for name in logs() {
        table.extend(["| ", &name, " | ", &explain_cell(&name), " | ", &plan_cell(&name), " |\n"]);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/EXPLAIN.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- begin: golden -->\n", "<!-- end: golden -->\n");
    let (before, rest) = text.split_once(begin).unwrap();
    let (golden, after) = rest.split_once(end).unwrap();
    if std::env::var_os("CLEANSLATE_BLESS").is_some() {
        std::fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(golden, table, "if this is meant: CLEANSLATE_BLESS=1 cargo test -p cleanslate --test explain");
    }
}

/// What `fixtures/INDEX.md`, the names and the heads of the files say; nothing here comes from a
/// run of the program.
#[test]
fn no_log_is_judged_against_its_fixture() {
    for name in logs().iter().filter(|name| name.starts_with("mce/") || name.starts_with("hosts/")) {
        let out = explained(name);
        let found = if out.stdout.is_empty() { Vec::new() } else { findings(&out.json()) };
        let poison = found.iter().any(|(judged, _)| judged == "tdx-poison");
        assert_eq!(poison, name.contains("01-tdx-partial-write-erratum"), "{name}");
        let failed = found.iter().any(|(judged, _)| judged == "failed");
        let says = ["fail", "not-enabled", "module-not-loaded", "30-lkml-rbp"];
        assert_eq!(failed, says.iter().any(|word| name.contains(word)), "{name}: {found:?}");
        let silent = found.iter().any(|(_, rule)| rule == "silent-after-keyids");
        assert_eq!(silent, name.contains("keyid-only"), "{name}: {found:?}");
    }
    let rule = |name: &str| findings(&explained(name).json())[0].1.clone();
    assert_eq!(rule("hosts/02-canonical-135-emr-fail28.log"), "reserved-areas-exhausted");
    assert_eq!(rule("hosts/20-canonical-415-gnr-fail28.log"), "reserved-areas-exhausted");
    assert_eq!(rule("hosts/10-canonical-331-module1.0-fail5.log"), "module-too-old");
    assert_eq!(rule("hosts/21-canonical-425-module-not-loaded.log"), "module-not-loaded");
    for name in ["05-icx-copyin-kernel-load", "09-ivb-patrol-scrub-ce", "10-apei-multibit-recoverable"] {
        assert_eq!(findings(&explained(&format!("mce/{name}.log")).json())[0].0, "hardware", "{name}");
    }
}

/// The words of Linux 7.3, of a kernel that comes up, of one without a module, and of one that
/// kexecs while the module cannot be taken back.
#[test]
fn linux_7_3_is_understood() {
    let of = |name: &str| {
        let report = explained(&format!("linux-7.3/{name}.log")).json();
        assert_eq!(report["log"]["unknown_lines"], 0, "{name}");
        report
    };
    let up = of("01-up");
    assert_eq!(findings(&up), [("up".to_owned(), "initialized".to_owned())]);
    assert_eq!(up["log"]["findings"][0]["cause"], "TDX is initialized, module 1.5.01, 4108 KB of PAMT");
    assert_eq!(findings(&of("02-no-module")), [("failed".to_owned(), "module-not-loaded".to_owned())]);
    let kexec = of("03-kexec-old-module");
    let rules: Vec<_> = findings(&kexec).into_iter().map(|(_, rule)| rule).collect();
    assert_eq!(rules, ["initialized", "module-without-disable", "module-used-before"]);
    let found = &kexec["log"]["findings"];
    assert_eq!(found[1]["topic"], "handover");
    for words in ["no memory was released or reset: 4108 KB of PAMT", "This CPU has the partial-write erratum"] {
        assert!(found[1]["cause"].as_str().unwrap().contains(words), "{}", found[1]["cause"]);
    }
    assert!(
        found[2]["cause"].as_str().unwrap().contains("already initialized by the previous kernel"),
        "{}",
        found[2]["cause"]
    );
    let plan = run(&["plan", "--host", &fixture("linux-7.3/01-up.log"), "--format", "json"]).json();
    assert_eq!((&plan["linux"]["equals_log"], &plan["pamt_kb"]), (&true.into(), &4108.into()));
}

#[test]
fn every_rule_is_in_the_docs() {
    let docs = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/EXPLAIN.md")).unwrap();
    let cells = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
    let rules: std::collections::BTreeSet<_> =
        cells.flat_map(|cell| cell.trim_end_matches('`').split("`, `")).collect();
    for name in logs() {
        let out = explained(&name);
        if !out.stdout.is_empty() {
            assert!(findings(&out.json()).iter().all(|(_, rule)| rules.contains(rule.as_str())), "{name}");
        }
    }
}

#[test]
fn a_status_by_number_and_by_name() {
    let by_number = run(&["explain", "0x8000020000000001"]);
    assert_eq!(by_number.code, 0, "{}", by_number.stderr);
    for text in ["TDX_OPERAND_BUSY", "about     RCX", "TDH.MNG.CREATE", "resource busy; error", "retry"] {
        assert!(by_number.stdout.contains(text), "{text}: {}", by_number.stdout);
    }
    let same = |text: &str| run(&["explain", text, "--format", "json"]).json()["status"].clone();
    for text in ["c000050500000000", "13835063574315139072", "-4611680499394412544"] {
        assert_eq!(same(text), same("0xc000050500000000"), "{text}");
    }
    let name = same("sys_not_ready");
    assert_eq!((&name["name"], &name["given"]), (&"TDX_SYS_NOT_READY".into(), &"name".into()));
    assert!(name["detail"].is_null() && same("OPERAND_BUSY")["detail"].is_null(), "a name has no operand");
    let shut = run(&["explain", "TDX_SYS_SHUTDOWN"]).stdout;
    assert!(shut.contains("any leaf but TDH.SYS.LP.SHUTDOWN, from the dispatcher"), "{shut}");
    let unknown = run(&["explain", "0xc000424200000007"]);
    assert_eq!(unknown.code, 3);
    assert!(unknown.stdout.contains("name      unknown"), "{}", unknown.stdout);
}

#[test]
fn a_number_that_is_something_else() {
    let bare = run(&["explain", "28"]);
    assert_eq!((bare.code, bare.stdout.as_str()), (3, ""));
    assert!(bare.stderr.contains("did you mean -28?"), "{}", bare.stderr);
    let bank = run(&["explain", "bd80000000100134"]);
    assert_eq!(bank.code, 0, "{}", bank.stderr);
    for words in ["IA32_MCi_STATUS", "no completion status", "cache hierarchy error"] {
        assert!(bank.stdout.contains(words), "{words}: {}", bank.stdout);
    }
    let impossible = run(&["explain", "0x1234000000000000"]);
    assert_eq!(impossible.code, 3);
    assert!(impossible.stdout.contains("impossible"), "{}", impossible.stdout);
}

#[test]
fn one_boot_of_a_log() {
    let log =
        b"[    1.0] virt/tdx: BIOS enabled: private KeyID range [32, 64)\n[    9.0] virt/tdx: module not loaded\n\
        [    1.1] virt/tdx: BIOS enabled: private KeyID range [32, 64)\n[    9.1] virt/tdx: module initialized\n";
    let rules = |args: &[&str]| {
        let args: Vec<_> = ["explain", "-", "--format", "json"].iter().chain(args).copied().collect();
        findings(&run_with_input(&args, log).json()).into_iter().map(|(_, rule)| rule).collect::<Vec<_>>()
    };
    assert_eq!(rules(&[]), ["module-not-loaded", "initialized"]);
    assert_eq!(rules(&["--boot", "1"]), ["module-not-loaded"]);
    assert_eq!(rules(&["--boot", "2"]), ["initialized"]);
    let text = run_with_input(&["explain", "-"], log).stdout;
    assert!(text.contains("boot      1 of 2") && text.contains("boot      2 of 2"), "{text}");
    for number in ["0", "3"] {
        let missing = run_with_input(&["explain", "-", "--boot", number], log);
        assert!(missing.code == 3 && missing.stderr.contains("holds 2 boots"), "{}", missing.stderr);
    }
}

#[test]
fn an_errno() {
    for words in [&["explain", "-28"][..], &["explain", "--", "-28"], &["explain", "enospc"]] {
        let out = run(words);
        assert_eq!(out.code, 0, "{}", out.stderr);
        for text in ["ENOSPC", "reserved-areas-exhausted", "tdmrs-exhausted", "cleanslate plan"] {
            assert!(out.stdout.contains(text), "{text}: {}", out.stdout);
        }
    }
    let causes = |number: &str| {
        let report = run(&["explain", number, "--format", "json"]).json();
        let rules = report["errno"]["causes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|cause| cause["rule"].as_str().unwrap().to_owned());
        rules.collect::<Vec<_>>()
    };
    assert!(causes("-5").contains(&"module-too-old".to_owned()));
    assert!(causes("-19").contains(&"module-not-loaded".to_owned()));
    assert_eq!(run(&["explain", "-1"]).code, 3, "an errno that says nothing here");
}

#[test]
fn several_values() {
    let out = run(&["explain", "0xc000050500000000 0x8000020000000092"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    for name in ["TDX_SYS_NOT_READY", "TDX_OPERAND_BUSY"] {
        assert_eq!(out.stdout.matches(name).count(), 1, "{}", out.stdout);
    }
    let photo = run(&["explain", "OxcOOO0505OOOOOOOO"]);
    assert!(photo.code == 3 && photo.stderr.contains("was 0xc000050500000000 meant"), "{}", photo.stderr);
}

#[test]
fn a_register() {
    let out = run(&["explain", "--msr", "0x87", "200000001f"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stdout.contains("private KeyIDs [32, 64): one for the module, 31 for TDs"), "{}", out.stdout);
    let off = run(&["explain", "--msr", "0x1401", "0x3fffe000400"]).stdout;
    assert!(off.contains("no TDX module can be loaded") && !off.contains("BIOS reserved memory"), "{off}");
    assert_eq!(run(&["explain", "--msr", "0x10", "5"]).code, 3);
    // Digits that are a register of ours in one reading only.
    for register in ["87", "135", "87h", "MSR_IA32_MKTME_KEYID_PARTITIONING"] {
        let same = run(&["explain", "--msr", register, "200000001f"]);
        assert_eq!((same.code, same.stdout), (0, out.stdout.clone()), "{register}");
    }
    assert_eq!(run(&["explain", "--msr", "99", "5"]).code, 2);
    // As `rdmsr -a` prints it.
    let piped = common::run_with_input(&["explain", "--msr", "0x87", "-"], b"200000001f\n200000001f\n");
    assert!(piped.code == 0 && piped.stdout.contains("private KeyIDs [32, 64)"), "{}{}", piped.stdout, piped.stderr);
    let differ = common::run_with_input(&["explain", "--msr", "0x87", "-"], b"200000001f\n200000001e\n");
    assert!(differ.code == 3 && differ.stderr.contains("INCONSISTENT_MSR"), "{}", differ.stderr);
    let bad = run(&["explain", "--msr", "0x87", "much"]);
    assert_eq!((bad.code, bad.stdout.as_str()), (3, ""));
    assert!(bad.stderr.contains("expected up to 64 bits in hex"), "{}", bad.stderr);
}

#[test]
fn every_output_holds_the_published_schema() {
    let schema = Schema::published("explain.schema.json");
    let holds = |args: &[&str]| {
        let report = run(args).json();
        assert_eq!(schema.problems(&report), [""; 0], "{args:?}");
        report
    };
    for name in logs() {
        if !explained(&name).stdout.is_empty() {
            holds(&["explain", &fixture(&name), "--format", "json"]);
        }
    }
    for value in [
        "-28",
        "-1",
        "EIO",
        "0",
        "0xc000050500000000",
        "0xc0000505",
        "TD_FATAL",
        "0xc000424200000007",
        "TDX_SEAMCALL_UD",
        "0xc000050500000000, -28",
    ] {
        holds(&["explain", value, "--format", "json"]);
    }
    for msr in ["0x3a", "0x87", "0x122", "0x17a", "0x981", "0x982", "0x1400", "0x1401", "0x10"] {
        holds(&["explain", "--msr", msr, "0x200000001f", "--format", "json"]);
    }
    // The schema can say no.
    let file = Temp::new("unknown-line", b"virt/tdx: module initialized\nvirt/tdx: a form of tomorrow\n");
    let mut report = holds(&["explain", &file.0.display().to_string(), "--format", "json"]);
    for (pointer, bad) in [
        ("/log/findings/0/judgement", Value::from("fine")),
        ("/log/findings/0/evidence/0/line", Value::from(0)),
        ("/log/findings/0/topic", Value::Null),
        ("/log/findings/0/topic", Value::from("weather")),
        ("/log/unknown/0/text", Value::from(1)),
        ("/log/unknown_lines", Value::from(-1)),
        ("/version", Value::from(2)),
    ] {
        let good = std::mem::replace(report.pointer_mut(pointer).unwrap(), bad);
        assert_eq!(schema.problems(&report).len(), 1, "{pointer}");
        *report.pointer_mut(pointer).unwrap() = good;
    }
    report["status"] = holds(&["explain", "0", "--format", "json"])["status"].clone();
    assert_eq!(schema.problems(&report), [": oneOf"]);
}

/// A file in the temporary directory, gone when dropped.
struct Temp(PathBuf);

impl Temp {
    fn new(name: &str, content: &[u8]) -> Self {
        let path = std::env::temp_dir().join(format!("cleanslate-explain-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        Self(path)
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn input_that_cannot_be_used() {
    let noise: Vec<u8> = (0..8u32 << 20).map(|i| 33 + (i.wrapping_mul(2_654_435_761) >> 25) as u8 % 90).collect();
    for (name, content, words) in [
        ("empty", &b""[..], "is empty; if it is the output of a command, check for its errors: `dmesg` may need root"),
        ("other", b"May 1 10:00:00 host sshd[1]: Accepted\n", "contains nothing to explain"),
        ("binary", b"\x7fELF\x02\x01\x01\0\0\0", "contains NUL bytes"),
        ("gzip", b"\x1f\x8b\x08\0\0\0", "compressed with gzip"),
        ("one-line", &noise, "contains nothing to explain"),
    ] {
        let file = Temp::new(name, content);
        let path = file.0.display().to_string();
        for out in [run(&["explain", &path]), run_with_input(&["explain", "-"], content)] {
            assert_eq!((out.code, out.stdout.as_str()), (3, ""), "{name}");
            assert_eq!(out.stderr.lines().count(), 1, "{name}: {}", out.stderr);
            assert!(out.stderr.contains(words) && !out.stderr.contains("panicked"), "{name}: {}", out.stderr);
        }
    }
    let long = "A".repeat(100_000);
    for value in ["", "no-such-thing", "0x1ffffffffffffffff", "0x", "99999999999999999999", &long, &fixture("hosts")] {
        let out = run(&["explain", value]);
        assert_eq!((out.code, out.stderr.lines().count()), (3, 1), "{value:.40}: {}", out.stderr);
        assert!(out.stderr.len() < 1000 && out.stdout.is_empty(), "{}", out.stderr);
    }
    assert_eq!(run(&["explain"]).code, 2);
}

#[test]
fn a_hostile_log_is_explained_in_bounded_space() {
    let mut text =
        String::from("virt/tdx: BIOS enabled: private KeyID range [32, 64)\n\x1b[31mmce: [Hardware Error]: \x1b[2J\n");
    for number in 0..5000 {
        text.extend([
            "Linux version 6.",
            &number.to_string(),
            "\n[ 1.0] mce: [Hardware Error]: CPU 1: Machine Check: 0 ",
        ]);
        text += "Bank 1: bd80000000100134\n";
        text += "virt/tdx: \x1b]0;title\x07 a form of \u{202e}tomorrow\u{2066}\n";
    }
    for format in ["human", "json"] {
        let out = run_with_input(&["explain", "-", "--format", format], text.as_bytes());
        assert_eq!(out.code, 0, "{}", out.stderr);
        let steers = ['\x1b', '\x07', '\u{202e}', '\u{2066}'];
        assert!(!out.stdout.contains(steers), "control characters");
        assert!(out.stdout.len() < 1 << 20, "{}", out.stdout.len());
        assert!(out.stdout.contains("tomorrow"));
    }
}

#[test]
fn people_get_rows_that_fit() {
    for name in logs() {
        let out = run(&["explain", &fixture(&name)]);
        assert!(out.stdout.lines().all(|line| line.len() <= 180), "{name}: {}", out.stdout);
        assert!(!out.stdout.contains('\x1b'), "color in a pipe");
    }
}
