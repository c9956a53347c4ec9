//! What operators really type in: small inputs of public reports (names, numbers and addresses are
//! made up), each with the findings that are right, and the words that the answer must hold.

use std::path::{Path, PathBuf};

use tdx_operator::{
    explain::{from_reader, subject},
    host::{Host, HostOptions},
    report::{Judgement, LogFinding, LogReport, Subject, Topic},
};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/field").join(name)
}

fn explained(name: &str) -> LogReport {
    let report = subject(path(name).to_str().unwrap(), &()).unwrap_or_else(|error| panic!("{error}"));
    let Subject::Log(log) = report.subject else { panic!("{name}") };
    log
}

type Row = (&'static str, &'static [(Topic, Judgement, &'static str)], &'static [&'static str]);

use Judgement::{Failed, Hardware, Info, Undecidable, Up};
use Topic::{BringUp, Kexec, MachineCheck, Seamcall, System};

const UP: (Topic, Judgement, &str) = (BringUp, Up, "initialized");
const LATER: (Topic, Judgement, &str) = (Seamcall, Failed, "seamcall-later");

/// File, findings in their order, words of their texts.
const ROWS: &[Row] = &[
    (
        "01-kvm-seamcall-without-prefix.log",
        &[UP, LATER],
        &["TDH.PHYMEM.PAGE.RECLAIM returned", "2 times", "2 pages stay private", "does not reset them", "At a kexec"],
    ),
    (
        "02-kvm-seamcall-by-name.log",
        &[UP, LATER, LATER, LATER],
        &[
            "TDH.PHYMEM.PAGE.RECLAIM",
            "TDH.MEM.RD",
            "TDX_TD_FATAL",
            "TDH.MEM.RANGE.UNBLOCK",
            "TDX_EPT_WALK_FAILED",
            "The page stays private",
        ],
    ),
    (
        "03-kvm-warn-rax-status.log",
        &[LATER],
        &[
            "TDH.PHYMEM.PAGE.RECLAIM (RAX of the warning) returned TDX_PAGE_METADATA_INCORRECT",
            "The page stays private",
        ],
    ),
    (
        "04-kexec-refused-by-erratum.log",
        &[(BringUp, Undecidable, "silent-after-keyids"), (Kexec, Failed, "kexec-refused-by-erratum")],
        &["EOPNOTSUPP", "not a failed", "reboot through the firmware, use Linux 7.2 or later"],
    ),
    (
        "05-kdump-service-refused.log",
        &[(Kexec, Failed, "kexec-refused-by-erratum")],
        &["EOPNOTSUPP", "use Linux 7.2 or later"],
    ),
    (
        "06-mcelog-plain-all-words.log",
        &[(MachineCheck, Hardware, "controller-names-ecc")],
        &["Uncorrected patrol scrub error", "06_55"],
    ),
    (
        "07-mcelog-by-journal-spr.log",
        &[(MachineCheck, Hardware, "controller-names-ecc")],
        &["Uncorrected read error", "06_8F"],
    ),
    ("08-ras-mc-ctl-errors.txt", &[(MachineCheck, Hardware, "corrected")], &["06_8F"]),
    ("09-bert-memory-corrected.log", &[(MachineCheck, Hardware, "corrected")], &["CPU 1 DIMM 4"]),
    ("10-bert-processor-fatal.log", &[(MachineCheck, Undecidable, "kernel-silent-on-erratum-cpu")], &["06_CF"]),
    ("11-ghes-names-cpu.log", &[(MachineCheck, Undecidable, "kernel-silent-on-erratum-cpu")], &["06_CF"]),
    (
        "12-td-poison-with-keyid-address.log",
        &[LATER, LATER, (MachineCheck, Undecidable, "private-key-id")],
        &["KeyID 0x43", "page 0x2a3b4c5", "is dead", "For a partial write", "For hardware", "06_CF"],
    ),
    (
        "13-optional-field-then-up.log",
        &[(BringUp, Info, "field-not-in-module"), UP],
        &["the module lacks a field that this kernel asks for", "older than the kernel"],
    ),
    ("14-mvp-disabled-platform.log", &[(BringUp, Failed, "no-tdx-here")], &["enable it in the BIOS"]),
    ("15-guest-log-without-detected.log", &[(System, Info, "td-guest")], &["TD guest", "nothing to do here"]),
    ("16-vm-taken-for-a-host.log", &[(System, Info, "virtual-machine")], &["virtual machine"]),
    (
        "17-mail-wrapped-qp.log",
        &[(System, Info, "joined-lines"), (BringUp, Undecidable, "silent-about-tdx")],
        &["quoted-printable"],
    ),
    ("18-panic-words.log", &[(MachineCheck, Hardware, "not-memory")], &["06_8F"]),
    ("19-console-prefix-node.log", &[UP, (MachineCheck, Hardware, "controller-names-ecc")], &["multi-bit ECC"]),
    ("20-tdp-mmu-off.log", &[(BringUp, Failed, "needs-tdp-mmu")], &["kvm.tdp_mmu=1"]),
];

fn kinds(log: &LogReport) -> Vec<(Topic, Judgement, &'static str)> {
    log.findings.iter().map(|found| (found.topic, found.judgement, found.rule)).collect()
}

#[test]
fn every_input_has_its_answer() {
    for (name, findings, words) in ROWS {
        let log = explained(name);
        assert_eq!(kinds(&log), *findings, "{name}: {:#?}", log.findings);
        let text: Vec<_> = log.findings.iter().map(|found| format!("{} {}", found.cause, found.remedy)).collect();
        for word in *words {
            assert!(text.iter().any(|text| text.contains(word)), "{name}: {word}: {text:#?}");
        }
        assert_eq!(log.unknown_lines, 0, "{name}: {:#?}", log.unknown);
    }
    let listed = ROWS.iter().map(|(name, ..)| (*name).to_owned()).collect::<std::collections::BTreeSet<_>>();
    let files = std::fs::read_dir(path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let there = files.filter(|name| name.starts_with(|c: char| c.is_ascii_digit())).collect();
    assert_eq!(listed, there, "every file has a row");
}

fn evidence(found: &LogFinding) -> Vec<u64> {
    found.evidence.iter().map(|line| line.line).collect()
}

#[test]
fn evidence_is_complete() {
    let log = explained("18-panic-words.log");
    assert_eq!(evidence(&log.findings[0]), [1, 2, 3, 4], "both panic lines");
    let log = explained("01-kvm-seamcall-without-prefix.log");
    assert_eq!(evidence(&log.findings[1]), [3, 4]);
    let log = explained("05-kdump-service-refused.log");
    assert_eq!(evidence(&log.findings[0]), [1, 2, 3, 4, 5]);
    let log = explained("12-td-poison-with-keyid-address.log");
    assert_eq!(evidence(&log.findings[2]), [2, 3, 4, 5, 7, 8], "the firmware's record of the same error as well");
}

/// 05 is right without the line of the kernel, too.
#[test]
fn a_refused_image_is_known_by_the_program_alone() {
    let text = std::fs::read_to_string(path("05-kdump-service-refused.log")).unwrap();
    let without: String = text.lines().filter(|line| !line.contains("kernel:")).flat_map(|line| [line, "\n"]).collect();
    let Subject::Log(log) = from_reader("x", without.as_bytes()).unwrap().subject else { panic!() };
    assert_eq!(kinds(&log), [(Kexec, Failed, "kexec-refused-by-erratum")]);
}

#[test]
fn a_plan_says_who_speaks_before_any_figure() {
    let host = |name: &str| Host::from_path(&path(name), &HostOptions::default());
    let vm = host("16-vm-taken-for-a-host.log").unwrap();
    assert_eq!(vm.assumptions()[0].key(), "virtual-machine");
    let mail = host("17-mail-wrapped-qp.log").unwrap();
    assert_eq!(mail.assumptions()[0].key(), "joined-lines");
    assert!(mail.memory_bytes() > 900 << 30, "the joined rows count");
    assert!(!mail.assumptions().iter().any(|assumption| assumption.key() == "cpu"), "the wrapped CPU line counts");
    let guest = host("15-guest-log-without-detected.log").unwrap_err().to_string();
    assert!(guest.contains("TD guest"), "{guest}");
}
