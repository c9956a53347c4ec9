//! `cleanslate kexec` as a user runs it, on the logs of real hosts.

mod common;

use common::{fixture, run};
use serde_json::Value;

fn kexec(host: &str, more: &[&str]) -> (i32, Value) {
    let path = fixture(host);
    let mut args = vec!["kexec", "--host", &path, "--format", "json"];
    args.extend(more);
    let out = run(&args);
    assert!(out.stderr.is_empty(), "{host}: {}", out.stderr);
    (out.code, out.json())
}

/// Complete logs, what their kernels printed, and what has to be said on top of the log.
const LOGGED: &[(&str, u64, &[&str])] = &[
    ("hosts/01-canonical-385-2tib.log", 8_396_820, &[]),
    ("hosts/03-canonical-135-emr-ok.log", 1_050_644, &[]),
    ("hosts/04-canonical-206-512gib.log", 2_101_260, &[]),
    ("hosts/06-canonical-pr188-256gib.log", 1_050_636, &[]),
    ("hosts/22-intel-tdx-linux-5-256gib.log", 1_050_644, &["--node-border", "258G"]),
    ("hosts/24-canonical-readme-mantic-1tib.log", 4_202_516, &[]),
];

#[test]
fn every_complete_log_gives_its_kilobytes_and_a_clean_machine() {
    for (host, kb, more) in LOGGED {
        for layout in ["linux", "fit"] {
            let (code, report) = kexec(host, &[&["--layout", layout], *more].concat());
            assert_eq!((code, &report["verdict"]), (0, &"clean".into()), "{host} {layout}");
            if layout == "linux" {
                assert_eq!(report["bringup"]["pamt_kb"], *kb, "{host}");
                assert_eq!(report["bringup"]["equals_log"], true, "{host}");
                let log = report["bringup"]["log"].to_string();
                assert!(log.contains(&format!("virt/tdx: {kb} KB allocated for PAMT")), "{log}");
            }
            assert_eq!(report["reset"]["private_lines_left"], 0, "{host} {layout}");
            assert_eq!(report["next_kernel"]["machine_checks"], 0, "{host} {layout}");
            assert_eq!(report["next_kernel"]["bytes_checked"], report["host"]["memory_bytes"], "{host} {layout}");
            private_lines_are_those_of_the_abi(&report);
            assert!(report["reset"]["lines"].as_u64() >= report["private_before"]["lines"].as_u64(), "{host} {layout}");
        }
    }
}

/// `tdx_abi.md` section 8: for each GiB 4 MiB of PAMT_4K and 8 KiB of PAMT_2M, and 16 bytes of
/// PAMT_1G, in whole lines.
fn private_lines_are_those_of_the_abi(report: &Value) {
    let mut all = 0;
    for (tdmr, lines) in report["bringup"]["tdmr_table"]
        .as_array()
        .unwrap()
        .iter()
        .zip(report["private_before"]["by_tdmr"].as_array().unwrap())
    {
        let gib = tdmr["size"].as_u64().unwrap() >> 30;
        let expected = [gib * 65536, gib * 128, gib.div_ceil(4)];
        for (key, expected) in ["pamt_4k", "pamt_2m", "pamt_1g"].iter().zip(expected) {
            assert_eq!(lines[key], expected, "{key} of {tdmr}");
            all += expected;
        }
    }
    assert_eq!(report["private_before"]["lines"], all);
    assert_eq!(report["private_before"]["other"], 0);
}

#[test]
fn without_a_reset_the_next_kernel_dies() {
    for (host, _, more) in LOGGED {
        let (code, report) = kexec(host, &[&["--policy", "none"], *more].concat());
        assert_eq!((code, &report["verdict"]), (1, &"machine-check".into()), "{host}");
        let next = &report["next_kernel"];
        assert_eq!(next["machine_checks"], 1, "{host}");
        assert_eq!(next["fatal_lines"], report["private_before"]["lines"], "{host}");
        let check = &next["machine_check"];
        // The address is in the PAMT that the report names, and it is the lowest private line there
        // is.
        let address = hex(&check["address"]);
        let tdmr = &report["bringup"]["tdmr_table"][usize::try_from(check["tdmr"].as_u64().unwrap()).unwrap()];
        let level = check["kind"].as_str().unwrap().strip_prefix("PAMT_").unwrap().to_lowercase();
        let pamt = &tdmr["pamt"][&level];
        assert!((hex(&pamt["base"])..hex(&pamt["end"])).contains(&address), "{host}: {check}");
        let lowest =
            report["bringup"]["tdmr_table"].as_array().unwrap().iter().map(|t| hex(&t["pamt"]["4k"]["base"])).min();
        assert_eq!(Some(address), lowest, "{host}");
        assert_eq!(check["poisoned_by"], "the next kernel: non-temporal store of less than 64 bytes by CPU 0");
        assert_eq!(check["read_by"], "the next kernel: CPU 0");
        assert_eq!(check["key_id"], report["host"]["key_ids"]["first"]);
        // As in fixtures/mce/01: data load, uncorrected, in bank 1.
        assert_eq!(check["mci_status"], "0xbd80000000100134");
        assert!(next["bytes_checked"].as_u64() < report["host"]["memory_bytes"].as_u64());
    }
}

fn hex(value: &Value) -> u64 {
    u64::from_str_radix(value.as_str().unwrap().strip_prefix("0x").unwrap(), 16).unwrap()
}

#[test]
fn the_other_policies() {
    let (code, refused) = kexec("made-up/spr-small.toml", &["--policy", "refuse"]);
    assert_eq!((code, &refused["verdict"]), (0, &"refused".into()));
    assert!(refused["next_kernel"].is_null());
    assert!(refused["handover"]["why"].as_str().unwrap().contains("partial-write erratum"), "{}", refused["handover"]);
    let (code, all) = kexec("made-up/spr-small.toml", &["--policy", "everything"]);
    assert_eq!((code, &all["verdict"]), (0, &"clean".into()));
    // All usable memory but the 112 MiB of the running kernel and the next image.
    let lines = (all["host"]["memory_bytes"].as_u64().unwrap() - (112 << 20)) / 64;
    assert_eq!(all["reset"]["lines"], lines);
    assert_eq!(all["handover"]["lines"], lines);
}

/// TDs in every phase: one that runs, one half built, one half torn down, one gone.
#[test]
fn keep_leaves_the_tds_to_the_next_kernel() {
    let host = "made-up/spr-small.toml";
    let keep = |more: &[&str]| kexec(host, &[&["--tds", "4", "--policy", "keep"], more].concat());
    let (code, runs) = keep(&[]);
    assert_eq!((code, &runs["verdict"], &runs["handover"]["outcome"]), (0, &"clean".into(), &"kept".into()));
    let kept = &runs["kept"];
    let tds = kept["tds"].as_array().unwrap().iter().map(|td| (td["td"].as_u64(), td["runs"].as_bool()));
    assert!(tds.eq([(Some(0), Some(true)), (Some(1), Some(false)), (Some(2), Some(false))]), "{kept}");
    assert_eq!((&kept["vacuum"]["tds"], &kept["new_td"]), (&2.into(), &"built, ran, torn down".into()));
    assert_eq!(kept["private_lines"], kept["private_lines_computed"]);
    assert!(runs["next_kernel"]["tdx"].is_null(), "TDX is not initialized again");
    // PAMT alone is left of TDX where all TDs are torn down; a kexec and a crash differ in the
    // table.
    let pamt = ["pamt_4k", "pamt_2m", "pamt_1g"].map(|table| runs["private_before"][table].as_u64().unwrap());
    for (more, by) in [(&["--next", "vacuum"][..], "kexec"), (&["--crash"], "crash")] {
        let (code, gone) = keep(more);
        assert_eq!((code, &gone["verdict"]), (0, &"clean".into()));
        let kept = &gone["kept"];
        assert_eq!((&kept["vacuum"]["tds"], &kept["record"]["written_by"]), (&3.into(), &by.into()), "{kept}");
        assert_eq!(kept["private_lines"], pamt.iter().sum::<u64>());
    }
    // Without the erratum, too, TDs are lost if the next kernel uses their pages.
    let (code, report) = kexec("made-up/gnr-no-erratum.toml", &["--tds", "1", "--policy", "keep"]);
    assert_eq!((code, &report["verdict"], &report["kept"]["tds"][0]["runs"]), (0, &"clean".into(), &true.into()));
    let wrong = run(&["kexec", "--next", "run"]);
    assert_eq!(wrong.code, 2, "{}", wrong.stderr);
    assert!(wrong.stderr.contains("--policy keep"), "{}", wrong.stderr);
}

#[test]
fn people_see_what_became_of_the_tds() {
    let host = fixture("made-up/spr-small.toml");
    let printed = run(&["kexec", "--host", &host, "--tds", "4", "--policy", "keep"]).stdout;
    let golden = include_str!("golden/kexec-keep.txt");
    let from = printed.find("kexec     policy").unwrap();
    assert_eq!(&printed[from..], golden);
}

#[test]
fn a_cpu_without_the_erratum_needs_no_reset() {
    for policy in ["none", "pamt", "refuse", "everything"] {
        let (code, report) = kexec("made-up/gnr-no-erratum.toml", &["--policy", policy]);
        assert_eq!((code, &report["verdict"]), (0, &"clean".into()), "{policy}");
        assert_eq!(report["handover"]["outcome"], "nothing-to-do", "{policy}");
        assert_eq!(report["reset"]["private_lines_left"], report["private_before"]["lines"], "{policy}");
        assert!(report["private_before"]["lines"].as_u64().unwrap() > 0);
    }
}

#[test]
fn the_host_that_linux_fails_on() {
    let host = "hosts/02-canonical-135-emr-fail28.log";
    let (code, fit) = kexec(host, &[]);
    assert_eq!((code, &fit["verdict"], &fit["bringup"]["result"]), (0, &"clean".into(), &"ok".into()));
    let (code, linux) = kexec(host, &["--layout", "linux"]);
    assert_eq!((code, &linux["verdict"], &linux["bringup"]["result"]), (1, &"clean".into(), &"-28".into()));
    // The very lines of the log.
    let log = linux["bringup"]["log"].as_array().unwrap();
    let text = std::fs::read_to_string(fixture(host)).unwrap();
    let last: Vec<&str> = log[log.len() - 2..].iter().map(|line| line.as_str().unwrap()).collect();
    for line in &last {
        assert!(text.lines().any(|logged| logged.trim() == *line), "{line}");
    }
    assert_eq!(linux["private_before"]["lines"], 0);
}

#[test]
fn large_servers_with_tdx_assumed() {
    for host in ["e820/02-hp-superdome2-16s-12tib.log", "e820/01-hpe-uv-16node-4tib.log"] {
        let (code, report) = kexec(host, &[]);
        assert_eq!((code, &report["verdict"]), (0, &"clean".into()), "{host}");
        private_lines_are_those_of_the_abi(&report);
    }
}

#[test]
fn people_see_the_kernel_s_words_and_one_verdict() {
    let clean = run(&["kexec"]);
    assert_eq!(clean.code, 0, "{}", clean.stderr);
    for line in [
        "virt/tdx: BIOS enabled: private KeyID range [32, 64)",
        "virt/tdx: CMR: [0x100000, 0x77800000)",
        "virt/tdx: 8396820 KB allocated for PAMT",
        "virt/tdx: module initialized",
        "clean: the next kernel used all of memory and survived",
    ] {
        assert!(clean.stdout.lines().any(|printed| printed == line), "{line}: {}", clean.stdout);
    }
    assert!(!clean.stdout.contains('\x1b') && clean.stderr.is_empty());
    let died = run(&["kexec", "--host", &fixture("made-up/emr-two-nodes.toml"), "--policy", "none"]);
    assert_eq!(died.code, 1);
    for words in [
        "Machine Check Exception: f Bank 1",
        "PAMT_4K of TDMR",
        "poisoned  by the next kernel",
        "machine check: policy `none`",
    ] {
        assert!(died.stdout.contains(words), "{words}: {}", died.stdout);
    }
}

#[test]
fn people_see_what_a_crash_kernel_did() {
    let host = fixture("made-up/spr-small.toml");
    let crash = |policy: &str| {
        let out = run(&["kexec", "--host", &host, "--crash", "--policy", policy]);
        out.stdout.replace("\n          ", " ")
    };
    let clean = crash("tracked");
    assert!(
        clean.contains(
            "clean: the crash kernel used its reserved memory, read all other memory, and \
        survived\n"
        ),
        "{clean}"
    );
    assert!(!clean.contains("used all of memory"), "{clean}");
    let refuse = crash("refuse");
    assert!(refuse.contains("`refuse` applies to kexec images: at a crash it resets like `tracked`"), "{refuse}");
    let help = run(&["kexec", "--help"]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("A crash cannot be refused: it resets like `tracked`"), "{help}");
    // Three lines hit, one poisoned, and why.
    let none = crash("none");
    assert!(
        none.contains("a wild pointer made partial writes to 3 lines") && none.contains("1 line is poisoned"),
        "{none}"
    );
    assert!(none.contains("a store to any other line, e.g. one still held by a cache, poisons nothing"), "{none}");
}

#[test]
fn what_is_printed_can_be_read_back_as_a_host() {
    // The log of the emulated bring-up is a boot log: the same CMRs, KeyIDs and PAMT.
    let path = fixture("hosts/24-canonical-readme-mantic-1tib.log");
    let printed = run(&["kexec", "--host", &path, "--layout", "linux"]).stdout;
    let again =
        common::run_with_input(&["kexec", "--host", "-", "--layout", "linux", "--format", "json"], printed.as_bytes());
    assert_eq!(again.code, 0, "{}", again.stderr);
    let (_, first) = kexec("hosts/24-canonical-readme-mantic-1tib.log", &["--layout", "linux"]);
    let again = again.json();
    for key in ["cmrs", "key_ids", "memory_bytes"] {
        assert_eq!(again["host"][key], first["host"][key], "{key}");
    }
    assert_eq!(again["bringup"]["equals_log"], true);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let args = ["kexec", "--host", &fixture("made-up/emr-two-nodes.toml"), "--policy", "none", "--format", "json"];
    assert_eq!(run(&args).stdout, run(&args).stdout);
}

#[test]
fn a_host_that_cannot_be_emulated() {
    let text = "schema = \"cleanslate-host\"\nversion = 1\n[cpu]\npackages = 40\ncpus = \
        40\n[[memory]]\nrange = \"[1M, 4G)\"\n";
    let out = common::run_with_input(&["kexec", "--host", "-"], text.as_bytes());
    assert_eq!(out.code, 3, "{}", out.stderr);
    assert!(out.stderr.contains("40 packages; at most 32 are possible"), "{}", out.stderr);
}

/// The next kernel is dead whether or not anybody reads the report to its end.
#[test]
#[cfg(target_os = "linux")]
fn a_closed_pipe_and_a_full_stderr_keep_the_exit_code() {
    use std::process::{Command, Stdio};
    let cleanslate = || Command::new(env!("CARGO_BIN_EXE_cleanslate"));
    let host = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/made-up/spr-small.toml");
    for (policy, code) in [("none", 1), ("pamt", 0)] {
        let mut child = cleanslate()
            .args(["kexec", "--host", host, "--policy", policy, "--format", "json"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(code), "{policy}");
    }
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let status = cleanslate().args(["kexec", "--host", "/nonexistent"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(3));
}

/// What README shows of the command is what the command prints.
#[test]
fn readme_shows_what_the_command_prints() {
    let readme = include_str!("../../../README.md");
    let printed = format!("{}{}", run(&["kexec"]).stdout, run(&["kexec", "--policy", "none"]).stdout);
    let blocks = readme.split("```text\n").skip(1).map(|block| block.split("```").next().unwrap());
    let lines: Vec<_> = blocks.flat_map(str::lines).collect();
    assert!(lines.len() > 8);
    for line in lines {
        assert!(printed.contains(line), "{line}");
    }
}
