//! The saved machines as they are: every check that does not pass, and the verdict.

use super::*;

#[test]
fn sapphire_rapids_with_6_14_has_no_kexec() {
    let report = check("spr-6.14", &machine("spr-6.14"));
    let warn = Status::Warn;
    assert_eq!(
        not_passed(&report),
        [
            ("cpu.erratum", warn),
            ("kernel.kexec", warn),
            ("kernel.crash-dump", warn),
            ("module.sys-disable", warn),
            ("kexec.jump", warn),
            ("kexec.crash", warn),
        ]
    );
    assert_eq!((report.verdict.status, report.verdict.tdx), (warn, "on"));
    assert_eq!(report.facts.era, Some("excluded"));
    assert!(find(&report, "kexec.jump").text.contains("exclude each other at build time"));
    assert_eq!(report.facts.module.as_deref(), Some("1.5 build 698 of 2024-01-29"));
    assert!(report.unseen.is_empty(), "{:?}", report.unseen);
}

#[test]
fn sapphire_rapids_with_6_18_refuses_images_and_was_saved_without_root() {
    let report = check("spr-6.18", &machine("spr-6.18"));
    let (warn, unknown) = (Status::Warn, Status::Unknown);
    assert_eq!(
        not_passed(&report),
        [
            ("cpu.erratum", warn),
            ("firmware.seamrr", unknown),
            ("firmware.same", unknown),
            ("module.version", unknown),
            ("module.sys-disable", unknown),
            ("kexec.jump", warn),
            ("kexec.crash", warn),
        ]
    );
    assert_eq!((report.verdict.status, report.verdict.tdx), (warn, "on"));
    assert_eq!(report.facts.era, Some("refused"));
    assert!(find(&report, "kexec.jump").text.contains("EOPNOTSUPP"));
    assert!(find(&report, "kexec.crash").text.contains("EOPNOTSUPP"));
    let [msr] = report.unseen.as_slice() else { panic!("{:?}", report.unseen) };
    assert_eq!((msr.item, msr.reason), ("msr", "denied"));
    assert!(msr.hint.contains("root"));
}

#[test]
fn sapphire_rapids_with_7_2_leaves_private_memory() {
    let report = check("spr-7.2", &machine("spr-7.2"));
    let (warn, fail) = (Status::Warn, Status::Fail);
    assert_eq!(
        not_passed(&report),
        [
            ("cpu.erratum", warn),
            ("module.sys-disable", warn),
            ("kexec.jump", fail),
            ("kexec.crash", warn),
            ("kexec.image", fail),
            ("kexec.tdx-again", warn),
        ]
    );
    assert_eq!((report.verdict.status, report.verdict.tdx), (fail, "on"));
    assert!(report.verdict.text.starts_with("kexec.jump: private memory stays private"), "{}", report.verdict.text);
    let jump = find(&report, "kexec.jump");
    assert_eq!(jump.basis, Basis::Deduced);
    assert!(jump.evidence.iter().any(|text| text.contains("1050632 KB of PAMT")), "{:?}", jump.evidence);
    assert_eq!(report.facts.pamt_kb, Some(1_050_632));
    assert_eq!(report.facts.kexec_loaded, Some(true));
}

#[test]
fn granite_rapids_has_nothing_to_fear() {
    let report = check("gnr-7.2", &machine("gnr-7.2"));
    let warn = Status::Warn;
    assert_eq!(not_passed(&report), [("module.sys-disable", warn), ("kexec.tdx-again", warn)]);
    assert_eq!((report.verdict.status, report.verdict.tdx), (warn, "on"));
    assert_eq!(report.facts.partial_write_erratum, Some(false));
    assert!(find(&report, "kexec.jump").text.contains("harmless"));
    assert_eq!(report.facts.module.as_deref(), Some("2.0.08 build 882 of 2025-03-25"));
}

#[test]
fn without_tdx_everything_passes() {
    let report = check("no-tdx", &machine("no-tdx"));
    assert_eq!(not_passed(&report), []);
    assert_eq!((report.verdict.status, report.verdict.tdx), (Status::Pass, "off"));
    assert!(report.verdict.text.contains("MSR 0x87"), "{}", report.verdict.text);
    assert!(report.unseen.is_empty());
}

#[test]
fn the_made_up_pamt_is_what_the_layout_gives() {
    for name in ["spr-6.14", "spr-6.18", "spr-7.2", "gnr-7.2"] {
        let mut machine = machine(name);
        let logged = check(name, &machine).facts.pamt_kb;
        // Without the kernel's line the layout that Linux would make of the same memory map speaks.
        let log = machine.get(Item::BootLog).unwrap().replace("KB allocated", "KB forgotten");
        machine.put(Item::BootLog, Ok(log));
        let report = check(name, &machine);
        let text = &find(&report, "module.pamt").text;
        assert!(text.starts_with(&format!("{} KB", logged.unwrap())), "{name}: {text}");
    }
}
