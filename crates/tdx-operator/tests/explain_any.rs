//! Any bytes, and real logs with any damage, end in an explanation or in an error; the same bytes
//! in the same one.

use std::path::Path;

use proptest::prelude::*;
use tdx_operator::{
    explain::{from_reader, msr, register, subject},
    report::{ExplainReport, Judgement, Subject, Topic},
};

fn poison(report: &ExplainReport) -> usize {
    let Subject::Log(log) = &report.subject else { return 0 };
    log.findings.iter().filter(|found| found.judgement == Judgement::TdxPoison).count()
}

fn fixtures() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let mut paths: Vec<_> = ["mce", "hosts"]
        .iter()
        .flat_map(|name| std::fs::read_dir(folder.join(name)).unwrap())
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let first = from_reader("x", &bytes[..]);
        prop_assert_eq!(first, from_reader("x", &bytes[..]));
    }

    #[test]
    fn any_text(text in "\\PC{0,80}") {
        let _ = subject(&format!("/nowhere/{text}"), &());
        let _ = msr(&text).map(|found| register(found, &text));
    }

    #[test]
    fn damaged_logs(which in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(), byte in any::<u8>(), at in any::<prop::sample::Index>()) {
        let all = fixtures();
        let mut log = which.get(&all).clone();
        let place = at.index(log.len());
        log[place] = byte;
        log.truncate(cut.index(log.len()) + 1);
        if let Ok(report) = from_reader("x", &log[..]) {
            // Damage never makes poison of another error.
            let says = log.windows(24).any(|text| text == b"TDX private memory error");
            prop_assert!(says || poison(&report) == 0);
        }
    }
}

#[test]
fn each_boot_is_judged_by_itself() {
    let text = "Linux version 6.14\nvirt/tdx: BIOS enabled: private KeyID range [32, 64)\nvirt/tdx: \
         module not loaded\n\
        Linux version 6.15\nvirt/tdx: BIOS enabled: private KeyID range [64, 128)\nvirt/tdx: module initialized\n\
        mce: [Hardware Error]: CPU 1: Machine Check Exception: f Bank 1: bd80000000100134\n";
    let report = from_reader("x", text.as_bytes()).unwrap();
    let Subject::Log(log) = report.subject else { panic!() };
    let rules: Vec<_> = log.findings.iter().map(|found| found.rule).collect();
    assert_eq!(rules, ["module-not-loaded", "initialized", "cpu-not-shown"]);
}

#[test]
fn rules_that_no_fixture_has() {
    let keys = "virt/tdx: BIOS enabled: private KeyID range [32, 64)\n";
    for (text, judgement, rule) in [
        ("Command line: ro kvm_inte.tdx=1 secret=5\n", Judgement::Failed, "option-misspelt"),
        ("Command line: kvm_intel.tdx=1 kvm_inte.tdx=1\n", Judgement::Undecidable, "silent-after-keyids"),
        ("virt/tdx: module initialization failed (-28)\n", Judgement::Failed, "errno-alone"),
        ("virt/tdx: module initialization failed (-5)\n", Judgement::Undecidable, "errno-alone"),
        ("virt/tdx: initialization failed: TDMRs exhausted.\n", Judgement::Failed, "tdmrs-exhausted"),
        ("virt/tdx: initialization failed: the moon is full.\n", Judgement::Undecidable, "words-not-known"),
        ("virt/tdx: too few private KeyIDs available.\n", Judgement::Failed, "too-few-keyids"),
        ("virt/tdx: initialization failed: Hibernation support is enabled\n", Judgement::Failed, "hibernation"),
        (
            "virt/tdx: initialization failed: register_memory_notifier() failed (-12)\n",
            Judgement::Failed,
            "memory-notifier",
        ),
        ("virt/tdx: SEAMCALL failed: CPU 3 is not in VMX operation.\n", Judgement::Failed, "cpu-not-in-vmx"),
        ("virt/tdx: TDX module is outdated. Use v1.0.3 or newer.\n", Judgement::Failed, "module-and-cpu"),
        ("virt/tdx: MOVDIR64B is required for TDX\n", Judgement::Failed, "needs-movdir64b"),
        ("kvm_intel: tdx: MOVDIR64B is required for TDX\n", Judgement::Failed, "needs-movdir64b"),
        ("virt/tdx: XSAVE is required for TDX\n", Judgement::Failed, "needs-xsave"),
        ("virt/tdx: Self-snoop is required for TDX\n", Judgement::Failed, "needs-self-snoop"),
        ("virt/tdx: TDX not supported by the host platform\n", Judgement::Failed, "no-tdx-here"),
        (
            "virt/tdx: frame pointer (RBP) clobber bug present, upgrade TDX module\n",
            Judgement::Failed,
            "module-changes-rbp",
        ),
        (
            "virt/tdx: TDMR [0x0, 0x80000000): unable to find local NUMA node for PAMT allocation, fallback to use node 0.\n",
            Judgement::Undecidable,
            "log-ends-in-bring-up",
        ),
        ("virt/tdx: the moon is full\n", Judgement::Undecidable, "words-not-known"),
        (
            "kvm_intel: TDP MMU and MMIO caching and EPT A/D bit is required for TDX\n",
            Judgement::Failed,
            "needs-tdp-mmu",
        ),
        ("kvm_intel: a form of tomorrow on TDX\n", Judgement::Undecidable, "words-not-known"),
        ("kvm_intel: EPT is required for TDX\n", Judgement::Failed, "needs-ept"),
        ("TDX requires mmio caching.  Please enable mmio caching for TDX.\n", Judgement::Failed, "needs-mmio-caching"),
        ("kvm_intel: APICv is required for TDX\n", Judgement::Failed, "needs-apicv"),
        (
            "kvm_intel: Disable TDX: MAX_VCPU_PER_TD (8) smaller than number of logical CPUs (224).\n",
            Judgement::Failed,
            "max-vcpus-below-cpus",
        ),
        ("kvm_intel: MSR 122 isn't included by kvm_find_user_return_msr\n", Judgement::Failed, "kvm-msr-unknown"),
        (
            "kvm_intel: All packages need to have online CPU to create TD. Online CPU and retry.\n",
            Judgement::Failed,
            "package-offline",
        ),
        ("tdx: Cannot enable TDX with SEAMRR disabled\n", Judgement::Failed, "seam-off"),
        ("virt/tdx: SEAMCALL (0x22) failed: 0xc0000c0000000000\n", Judgement::Failed, "field-not-in-module"),
        ("SEAMCALL (0x22) failed: 0xc000050500000000\n", Judgement::Failed, "module-too-old"),
        ("SEAMCALL[TDH_SYS_INIT] failed on cpu 0: 0xc000090000000000\n", Judgement::Failed, "module-and-cpu"),
        ("virt/tdx: SEAMCALL (69) failed: 0xc000010000000000\n", Judgement::Failed, "module-without-disable"),
        ("virt/tdx: TDH.SYS.DISABLE failed: 0xc000050500000000\n", Judgement::Failed, "disable-failed"),
        ("virt/tdx: SEAMCALL (0x0000000000000008) failed: 0xc000030000000001\n", Judgement::Failed, "seamcall-later"),
        ("virt/tdx: SEAMCALL (0x21) failed: 0xc000050000000000\n", Judgement::Failed, "module-used-before"),
        ("virt/tdx: SEAMCALL (0x2d) failed: 0xc0000a0200000001\n", Judgement::Failed, "seamcall-failed"),
        ("virt/tdx: SEAMCALL (0x2d) failed: 0xc0004242_00000000\n", Judgement::Undecidable, "line-does-not-hold"),
        ("virt/tdx: SEAMCALL (0x2d) failed: 0xc000424200000000\n", Judgement::Undecidable, "seamcall-failed"),
        ("mce: [Hardware Error]: Machine check events logged\n", Judgement::Undecidable, "silent-after-keyids"),
    ] {
        let report = from_reader("x", format!("{keys}{text}").as_bytes()).unwrap();
        let Subject::Log(log) = report.subject else { panic!() };
        let found = log.findings.iter().find(|found| found.rule == rule);
        let all: Vec<_> = log.findings.iter().map(|found| (found.judgement, found.rule)).collect();
        assert_eq!(found.map(|found| found.judgement), Some(judgement), "{text}: {all:?}");
        assert!(log.findings.iter().all(|found| !found.cause.is_empty() && !found.remedy.is_empty()));
        assert!(!format!("{log:?}").contains("secret"), "the rest of a command line is not repeated");
    }
    let logged = from_reader("x", &b"mce: [Hardware Error]: Machine check events logged\n"[..]).unwrap();
    let Subject::Log(log) = logged.subject else { panic!() };
    assert_eq!(log.findings[0].rule, "record-not-in-log");
}

/// A call that fails when TDX is up says nothing on whether it came up.
#[test]
fn what_comes_after_the_bring_up_is_no_failed_bring_up() {
    let up = "virt/tdx: BIOS enabled: private KeyID range [32, 64)\nvirt/tdx: module initialized\n";
    for (line, rule, topic) in [
        ("virt/tdx: SEAMCALL (69) failed: 0xc000010000000000\n", "module-without-disable", Topic::Handover),
        ("virt/tdx: TDH.SYS.DISABLE failed: 0xc000010000000000\n", "module-without-disable", Topic::Handover),
        ("virt/tdx: SEAMCALL (0x0000000000000022) failed: 0xc000050200000000\n", "seamcall-later", Topic::Seamcall),
    ] {
        for (cpu, words) in [
            ("", "On a CPU with the partial-write erratum"),
            (
                "smpboot: CPU0: Intel X (family: 0x6, model: 0x8f, stepping: 0x8)\n",
                "This CPU has the partial-write erratum",
            ),
            ("smpboot: CPU0: Intel X (family: 0x6, model: 0xad, stepping: 0x1)\n", "Harmless without"),
        ] {
            let report = from_reader("x", format!("{cpu}{up}{line}").as_bytes()).unwrap();
            let Subject::Log(log) = report.subject else { panic!() };
            let found: Vec<_> = log.findings.iter().map(|found| (found.judgement, found.rule, found.topic)).collect();
            assert_eq!(
                found,
                [(Judgement::Up, "initialized", Topic::BringUp), (Judgement::Failed, rule, topic)],
                "{line}"
            );
            let cause = &log.findings[1].cause;
            assert!(
                topic == Topic::Seamcall || cause.contains("no memory was released or reset") && cause.contains(words),
                "{cause}"
            );
            assert_eq!(log.unknown_lines, 0);
        }
    }
}

#[test]
fn unknown_forms_are_listed() {
    let text = "mce: [Hardware Error]: a form of tomorrow\nvirt/tdx: something new\nEDAC MC0: MCE of a new kind\nusb 1-1: new\n";
    let report = from_reader("x", text.as_bytes()).unwrap();
    let Subject::Log(log) = report.subject else { panic!() };
    assert_eq!((log.unknown_lines, log.unknown.len()), (3, 3));
    assert!(log.findings.iter().all(|found| found.judgement == Judgement::Undecidable));
}
