//! TDs, panics and the four holes, as a user runs them:
//! `cleanslate kexec --tds N --hole H --crash`.

mod common;

use common::{fixture, run};
use serde_json::Value;

/// Three real hosts: 2 TiB, an Emerald Rapids with 256 GiB, 512 GiB.
const HOSTS: &[&str] =
    &["hosts/01-canonical-385-2tib.log", "hosts/03-canonical-135-emr-ok.log", "hosts/04-canonical-206-512gib.log"];

fn kexec(host: &str, more: &[&str]) -> (i32, Value) {
    let path = fixture(host);
    let out = run(&[&["kexec", "--host", &path, "--format", "json"], more].concat());
    assert!(out.stderr.is_empty(), "{host} {more:?}: {}", out.stderr);
    (out.code, out.json())
}

fn verdict(host: &str, more: &[&str]) -> Value {
    let (code, report) = kexec(host, more);
    assert_eq!(code == 0, report["verdict"] == "clean", "{host} {more:?}: {}", report["verdict"]);
    report
}

#[test]
fn tds_in_every_phase_are_clean_under_tracked_and_module_and_fatal_under_pamt() {
    for host in HOSTS {
        for crash in [&[][..], &["--crash"][..]] {
            for policy in ["tracked", "module"] {
                let report = verdict(host, &[&["--tds", "5", "--policy", policy], crash].concat());
                assert_eq!(report["verdict"], "clean", "{host} {policy} {crash:?}");
                assert_eq!(report["reset"]["private_lines_left"], 0);
                assert_eq!(report["reset"]["poisoned_lines_left"], 0);
                assert_eq!(report["uncleaned"], Value::Array(vec![]));
                every_kind_was_there(&report);
            }
            let report = verdict(host, &[&["--tds", "5", "--policy", "pamt"], crash].concat());
            assert_eq!(report["verdict"], "machine-check", "{host} {crash:?}");
            assert!(!report["uncleaned"].as_array().unwrap().is_empty());
            // Whoever reads the table and keeps off what it lists, lives.
            assert_eq!(report["leftover_table"]["verdict_if_heeded"], "clean");
            let explained = report["next_kernel"]["machine_check"]["explained"].as_str().unwrap();
            assert!(explained.contains(": page of a TD in TDMR"), "{explained}");
            let kind = report["next_kernel"]["machine_check"]["kind"].as_str().unwrap();
            assert!(!kind.starts_with("PAMT"), "{kind}: PAMT was reset");
        }
    }
}

fn every_kind_was_there(report: &Value) {
    for kind in ["pamt_4k", "tdr", "control", "sept", "guest"] {
        assert!(report["private_before"][kind].as_u64().unwrap() > 0, "{kind}");
    }
    let states: Vec<&str> = report["tds"].as_array().unwrap().iter().map(|td| td["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["running", "half-built", "half-torn-down", "gone", "running"]);
    let ledger = &report["ledger"];
    let (bytes, covered) = (ledger["bytes"].as_u64().unwrap(), ledger["covered_bytes"].as_u64().unwrap());
    assert!(bytes * 10_000 <= covered, "{bytes} of {covered}");
    assert_eq!(ledger["leaked_pages"], 0);
}

/// The reset writes each marked page and each PAMT once, and nothing else.
#[test]
fn the_reset_is_exact() {
    for host in HOSTS {
        let report = verdict(host, &["--tds", "4"]);
        let pamt: u64 = report["bringup"]["tdmr_table"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|tdmr| ["4k", "2m", "1g"].map(|level| tdmr["pamt"][level]["size"].as_u64().unwrap()))
            .sum();
        let marked = report["ledger"]["marked_pages"].as_u64().unwrap() * 4096;
        assert_eq!(report["reset"]["lines"].as_u64().unwrap() * 64, pamt + marked, "{host}");
        assert_eq!(report["handover"]["lines"], report["reset"]["lines"], "{host}");
    }
}

#[test]
fn each_hole_kills_the_next_kernel_under_module_only_and_not_under_tracked_or_module() {
    let kinds = [
        // The lowest private line: a TDR or PAMT, as memory lies.
        ("old-module", &["TDR", "PAMT_4K"][..], "0xc000010000000000 TDX_OPERAND_INVALID (RAX)"),
        ("bring-up", &["PAMT_4K"], "0xc000050500000000 TDX_SYS_NOT_READY"),
        ("returned", &["returned page"], "TDH.SYS.DISABLE cleared all memory the module knows"),
        ("dead-module", &["TDR", "PAMT_4K"], "TDX_SEAMCALL_VMFAILINVALID"),
    ];
    for host in HOSTS {
        for (hole, kinds, module) in kinds {
            for crash in [&[][..], &["--crash"][..]] {
                let args = |policy| [&["--hole", hole, "--policy", policy], crash].concat();
                let report = verdict(host, &args("module-only"));
                assert_eq!(report["verdict"], "machine-check", "{host} {hole} {crash:?}");
                assert_eq!(report["scenario"]["hole"]["name"], hole);
                let kind = report["next_kernel"]["machine_check"]["kind"].as_str().unwrap();
                assert!(kinds.contains(&kind), "{host} {hole} {crash:?}: {kind}");
                let said = report["handover"]["module"].as_str().unwrap();
                assert!(said.contains(module), "{said}");
                for policy in ["tracked", "module"] {
                    let report = verdict(host, &args(policy));
                    assert_eq!(report["verdict"], "clean", "{host} {hole} {policy} {crash:?}");
                }
            }
        }
    }
}

/// What the module cleared is not written again: only the page that it had returned.
#[test]
fn after_sys_disable_only_what_the_module_cannot_know_is_reset_and_tdx_comes_up_again() {
    let report = verdict(HOSTS[2], &["--hole", "returned", "--policy", "module"]);
    assert_eq!(report["ledger"]["unknown_to_module_pages"], 1);
    assert_eq!(report["reset"]["lines"], 64);
    assert_eq!(report["next_kernel"]["tdx"], "TDX brought up again");
    let tracked = verdict(HOSTS[2], &["--tds", "1"]);
    let tdx = tracked["next_kernel"]["tdx"].as_str().unwrap();
    assert!(tdx.contains("TDX_SYS_LP_INIT_NOT_PENDING"), "{tdx}");
}

/// Each kind of private memory was poisoned by the dying kernel; the crash kernel reads all of
/// memory but writes only its own.
#[test]
fn a_crash_kernel_reads_all_of_memory() {
    let report = verdict(HOSTS[0], &["--tds", "4", "--crash"]);
    let stray: Vec<&str> = report["scenario"]["stray_lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect();
    for kind in ["PAMT_4K", "PAMT_2M", "PAMT_1G", "TDR", "TDCX", "TDVPR", "SEPT", "guest page"] {
        assert!(stray.contains(&kind), "{kind}: {stray:?}");
    }
    assert_eq!(report["next_kernel"]["bytes_checked"], report["host"]["memory_bytes"]);
    assert_eq!(report["next_kernel"]["bytes_written"], report["scenario"]["crash_kernel"]["size"]);
}

#[test]
fn people_see_the_hole_and_the_line() {
    let out = run(&["kexec", "--hole", "returned", "--policy", "module-only"]);
    assert_eq!(out.code, 1, "{}", out.stderr);
    for words in
        ["hole      returned: the module has returned pages", "returned page of TDMR", "of them unknown to the module"]
    {
        assert!(out.stdout.contains(words), "{words}: {}", out.stdout);
    }
}

#[test]
fn more_tds_than_key_ids() {
    let path = fixture("made-up/spr-small.toml");
    let out = run(&["kexec", "--host", &path, "--tds", "80"]);
    assert_eq!(out.code, 3, "{}", out.stdout);
    assert!(out.stderr.contains("private KeyIDs"), "{}", out.stderr);
    let out = run(&["kexec", "--host", &path, "--tds", "0", "--hole", "returned"]);
    assert_eq!(out.code, 3, "{}", out.stdout);
    assert!(out.stderr.contains("one TD at least"), "{}", out.stderr);
}
