//! One test case for each wording in `tdx.rs`. Real logs are in `fixtures/hosts`; these are edge
//! cases.

use super::*;

fn ok(line: &str) -> TdxLine {
    parse(line).unwrap_or_else(|rule| panic!("{line}: {rule}"))
}

fn range(start: u64, end: u64) -> PageRange {
    PageRange::from_addresses(PhysAddr::new(start), PhysAddr::new(end)).unwrap()
}

#[test]
fn key_id_ranges() {
    let split = |line: &str| match ok(line) {
        TdxLine::KeyIds(split) => (split.shared(), split.private()),
        other => panic!("{other:?}"),
    };
    assert_eq!(split("BIOS enabled: private KeyID range [32, 64)"), (31, 32));
    assert_eq!(split("BIOS enabled: private KeyID range [1, 64)"), (0, 63));
    assert_eq!(split("BIOS enabled: private KeyID range [1, 3)"), (0, 2));
    let rule = |range: &str| parse(&format!("BIOS enabled: private KeyID range {range}")).unwrap_err();
    assert_eq!(rule("[1, 2)"), Rule::TooFewKeyIds { count: 1 });
    for range in ["[0, 64)", "[64, 64)", "[64, 32)", "[1, 32769)", "[1, 18446744073709551615)"] {
        assert_eq!(rule(range), Rule::KeyIdRange, "{range}");
    }
    for range in ["[32, 64", "32, 64", "[32 64)", "[a, 64)", "[-1, 64)", "", "[32, 64]"] {
        assert!(matches!(rule(range), Rule::Malformed { .. }), "{range}");
    }
}

#[test]
fn cmrs() {
    assert_eq!(ok("CMR: [0x100000, 0x77800000)"), TdxLine::Cmr(range(0x100000, 0x77800000)));
    let rule = |range: &str| parse(&format!("CMR: {range}")).unwrap_err();
    assert!(matches!(rule("[0x100800, 0x77800000)"), Rule::Range(tdx_abi::RangeError::Unaligned { .. })));
    assert!(matches!(rule("[0x100000, 0x77800400)"), Rule::Range(tdx_abi::RangeError::Unaligned { .. })));
    assert!(matches!(rule("[0x200000, 0x100000)"), Rule::Range(tdx_abi::RangeError::Reversed { .. })));
    assert_eq!(rule("[0x200000, 0x200000)"), Rule::EmptyRange);
    assert!(matches!(rule("[0x200000, 0x10000000001000)"), Rule::BeyondAddressWidth { .. }));
    for cut in ["[0x100000, 0x778", "[0x100000", "", "[0x100000, )", "[0x100000-0x77800000)"] {
        assert!(matches!(rule(cut), Rule::Malformed { .. }), "{cut}");
    }
}

#[test]
fn module_versions() {
    let version = |line: &str| match ok(line) {
        TdxLine::Module(version) => version.to_string(),
        other => panic!("{line}: {other:?}"),
    };
    let fields =
        "attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20240725, build_num 784";
    assert_eq!(version(&format!("TDX module: {fields}")), "1.5 build 784 of 2024-07-25");
    // The typing errors are the kernels' own.
    assert_eq!(version(&format!("TDX module: {}", fields.replace("attr", "atr"))), "1.5 build 784 of 2024-07-25");
    let old = "TDX module: vendor_id 0x8086, major_version 1, minor_version 5, build_date 20230323, build_num 481";
    assert_eq!(version(old), "1.5 build 481 of 2023-03-23");
    assert_eq!(
        version("TDX module 2.0.08.00, build number 882, build date 0134fed5"),
        "2.0.08 build 882 of 2025-03-25"
    );
    assert_eq!(version("TDX module version: 1.5.24"), "1.5.24");
    assert_eq!(version("Module version: 1.5.01"), "1.5.01");
    assert_eq!(version("module verson: 1.5.1.0"), "1.5.01");
    // Fixture 09 ends after the date.
    let cut = "TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version 5, build_date 20240407";
    assert_eq!(version(cut), "1.5 of 2024-04-07");
    for bad in [
        "TDX module: attributes 0x0, vendor_id 0x8086, major_version 1",
        "TDX module: attributes 0x0, vendor_id 0x8086, major_version 1, minor_version x",
        "TDX module: major_version 1, minor_version 5, build_date 2024",
        "TDX module: major_version 1, minor_version 5, build_date 20241301",
        "TDX module 2",
        "TDX module 2.0.08.00, build number x",
        "module verson: 1.5.1.0.0",
        "module version: 1.99999",
    ] {
        assert!(matches!(parse(bad), Err(Rule::Malformed { .. })), "{bad}");
    }
}

#[test]
fn pamt_figures() {
    for line in [
        "1050644 KB allocated for PAMT",
        "1050644 KBs allocated for PAMT",
        "1050644 KBs allocated for PAMT.",
        "1050644 KB? allocated for PAMT",
        "262661 pages allocated for PAMT.",
        "1050644 KB",
    ] {
        assert_eq!(ok(line), TdxLine::PamtKb(1_050_644), "{line}");
    }
    for line in [
        "105o644 KB allocated for PAMT",
        "-5 KB allocated for PAMT",
        "0 KB allocated for PAMT",
        "99999999999999999999 KB allocated for PAMT",
        "18446744073709551615 pages allocated for PAMT",
        "many KB allocated for PAMT",
        "5 MB allocated for PAMT",
    ] {
        assert!(matches!(parse(line), Err(Rule::Malformed { .. })), "{line}");
    }
    assert_eq!(ok("5 KB of something"), TdxLine::Other);
}

#[test]
fn failures() {
    use Failure::{Errno, ReservedAreasExhausted, Seamcall};
    for (line, failure) in [
        (
            "SEAMCALL (0x0000000000000022) failed: 0xc000050500000000",
            Seamcall(Leaf(0x22), Status::new(0xc000_0505_0000_0000)),
        ),
        (
            "SEAMCALL failed: CPU 94: leaf 33, error 0xc000092100000122.",
            Seamcall(Leaf(33), Status::new(0xc000_0921_0000_0122)),
        ),
        ("module initialization failed (-28)", Errno(28)),
        ("initialization failed (-19)", Errno(19)),
        (
            "initialization failed: TDMR [0x0, 0x80000000): reserved areas exhausted.",
            ReservedAreasExhausted(range(0, 0x8000_0000)),
        ),
        ("initialization failed: T", Failure::Words(Words::Unknown)),
        ("initialization failed: Hibernation support is enabled", Failure::Words(Words::Hibernation)),
        ("SEAMCALL failed: CPU 3 is not in VMX operation.", Failure::Words(Words::NotInVmx)),
        ("SEAMCALL failed: in a way of tomorrow.", Failure::Words(Words::Unknown)),
        ("not enabled by BIOS.", Failure::Words(Words::NotEnabled)),
        ("[firmware bug]: TDX is not enabled by BIOS.", Failure::Words(Words::NotEnabled)),
        ("module not loaded", Failure::Words(Words::NotLoaded)),
        ("NO_RBP_MOD feature is not supported", Failure::Words(Words::ChangesRbp)),
        // Linux 7.3.
        ("TDX-Module initialization failed (-19)", Errno(19)),
        (
            "SEAMCALL (0x0000000000000021) failed: 0xc000050000000000",
            Seamcall(Leaf::SYS_INIT, Status::new(0xc000_0500_0000_0000)),
        ),
    ] {
        assert_eq!(ok(line), TdxLine::Failed(failure), "{line}");
    }
    for line in [
        "SEAMCALL (0x22) failed: 0xzz",
        "SEAMCALL (0x22) failed: 0x",
        "SEAMCALL failed: CPU 94: leaf 33, error",
        "module initialization failed (-2",
        "module initialization failed (28)",
        "initialization failed: TDMR [0x0, 0x800: reserved areas exhausted.",
        "TDX-Module initialization failed (-1",
        "TDH.SYS.DISABLE failed: 0x",
        "TDH.SYS.DISABLE failed: much",
    ] {
        assert!(matches!(parse(line), Err(Rule::Malformed { .. })), "{line}");
    }
}

#[test]
fn calls_of_a_later_time() {
    let refused = TdxLine::NotDisabled(Status::new(0xc000_0100_0000_0000));
    for line in [
        "TDH.SYS.DISABLE failed: 0xc000010000000000",
        "SEAMCALL (69) failed: 0xc000010000000000",
        "SEAMCALL (0x0000000000000045) failed: 0xc000010000000000",
    ] {
        assert_eq!(ok(line), refused, "{line}");
    }
    let later = TdxLine::Later(Leaf::MNG_CREATE, Status::new(0xc000_0820_0000_0001));
    assert_eq!(ok("SEAMCALL (0x0000000000000009) failed: 0xc000082000000001"), later);
    for line in [
        "TDMR [0x0, 0x80000000): unable to find local NUMA node for PAMT allocation, fallback to use node 0.",
        "consumed TDMRs reaching limit: 61 used out of 64",
    ] {
        assert_eq!(ok(line), TdxLine::UnderWay, "{line}");
    }
}

#[test]
fn other_lines() {
    for line in ["module initialized", "module initialized.", "TDX module initialized.", "TDX-Module initialized"] {
        assert_eq!(ok(line), TdxLine::Initialized, "{line}");
    }
    assert_eq!(ok("Enable Dynamic PAMT"), TdxLine::DynamicPamt);
    assert_eq!(parse("Guest detected"), Err(Rule::Guest));
    for line in [
        "Disable ACPI S3. Turn off TDX in the BIOS to use ACPI S3.",
        "Disable Kexec. Turn off TDX in the BIOS to use KEXEC.",
        "RCX 0x0000000000000000 RDX 0x9100000100000008 R08 0x0000000000000000",
        "additional output: rcx 0x0, rdx 0x0, r8 0x0, r9 0x0, r10 0x0, r11 0x0.",
        "a line of a future kernel",
        "",
    ] {
        assert_eq!(ok(line), TdxLine::Other, "{line}");
    }
}
