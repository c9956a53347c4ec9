//! `cleanslate plan` as a user runs it: the built program, its output and its exit codes.

mod common;

use common::{fixture, run};

#[test]
fn json_has_what_programs_need() {
    let out = run(&["plan", "--host", &fixture("hosts/03-canonical-135-emr-ok.log"), "--format", "json"]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let report = out.json();
    assert_eq!(report["schema"], "cleanslate/plan");
    assert_eq!(report["version"], 1);
    assert_eq!(report["pamt_kb"], 1_050_644);
    assert_eq!(report["given_up_bytes"], 0);
    assert_eq!(report["linux"]["result"], "ok");
    assert_eq!(report["linux"]["pamt_kb"], 1_050_644);
    assert_eq!(report["linux"]["equals_log"], true);
    let tdmrs = report["tdmrs"].as_array().unwrap();
    assert_eq!(tdmrs.len(), 5);
    assert_eq!(tdmrs[4]["base"], "0x3080000000");
    assert_eq!(tdmrs[4]["size"], 64u64 << 30);
    assert_eq!(tdmrs[4]["reserved_count"], tdmrs[4]["reserved"].as_array().unwrap().len());
    assert!(report["host"]["assumptions"].as_array().unwrap().iter().any(|a| a["about"] == "memory"));
}

#[test]
fn what_linux_cannot_do() {
    let host = fixture("hosts/02-canonical-135-emr-fail28.log");
    let fit = run(&["plan", "--host", &host, "--format", "json"]);
    assert_eq!(fit.code, 0);
    let report = fit.json();
    assert_eq!(report["result"], "ok");
    assert_eq!(report["linux"]["result"], "-28");
    assert_eq!(report["linux"]["tdmr"]["base"], "0x0");
    assert_eq!(report["linux"]["tdmr"]["end"], "0x80000000");
    assert_eq!((&report["linux"]["needed"], &report["linux"]["allowed"]), (&17.into(), &16.into()));
    assert!(report["linux"]["pamt_kb"].is_null());
    let linux = run(&["plan", "--host", &host, "--layout", "linux"]);
    assert_eq!(linux.code, 1);
    assert!(
        linux.stdout.contains("no layout (-28): TDMR [0x0, 0x80000000): reserved areas exhausted"),
        "{}",
        linux.stdout
    );
}

#[test]
fn people_get_a_table_without_colour_in_a_pipe() {
    let out = run(&["plan"]);
    assert_eq!(out.code, 0);
    assert!(!out.stdout.contains('\x1b'), "colour in a pipe");
    assert!(out.stdout.contains("[0x100000000, 0x10040000000)    1021 GiB"), "{}", out.stdout);
    assert!(
        out.stdout.contains("Linux     ok: 3 TDMRs, 8396820 KB allocated for PAMT, as in the log\n"),
        "{}",
        out.stdout
    );
    assert!(out.stdout.contains("\nfits: 3 TDMRs of at most 64, 8396820 KB for PAMT, nothing given up\n"));
    assert!(out.stdout.lines().all(|line| line.len() <= 120), "{}", out.stdout);
    assert!(out.stderr.is_empty(), "{}", out.stderr);
}

#[test]
fn a_node_border_is_taken() {
    let host = fixture("hosts/22-intel-tdx-linux-5-256gib.log");
    let without = run(&["plan", "--host", &host, "--layout", "linux"]);
    assert!(without.stdout.contains("--node-border"), "{}", without.stdout);
    let with = run(&["plan", "--host", &host, "--layout", "linux", "--node-border", "258G", "--format", "json"]).json();
    assert_eq!(with["linux"]["equals_log"], true);
    assert_eq!(with["tdmrs"].as_array().unwrap().len(), 5);
    let text = with["host"]["assumptions"].to_string();
    assert!(text.contains("borders given at 0x4080000000"), "{text}");
}

#[test]
fn standard_input() {
    let log = std::fs::read(fixture("hosts/03-canonical-135-emr-ok.log")).unwrap();
    let out = common::run_with_input(&["plan", "--host", "-", "--format", "json"], &log);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert_eq!(out.json()["pamt_kb"], 1_050_644);
}
