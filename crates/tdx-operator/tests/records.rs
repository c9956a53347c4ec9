//! Records of the firmware that are not about memory, records of rasdaemon, KeyIDs that may be in
//! an address, kdump without memory, and logs that contradict themselves: several wordings of each
//! kind, by the format strings of Linux (cper, extlog, mce_amd, crash_reserve), rasdaemon,
//! kdump-tools, kdump-utils, kexec-tools and systemd.

use tdx_operator::{
    explain::from_reader,
    report::{Judgement, LogFinding, LogReport, Subject},
};

fn explained(text: &str) -> LogReport {
    let report = from_reader("x", text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
    let Subject::Log(log) = report.subject else { panic!() };
    assert_eq!(log.unknown_lines, 0, "{text}: {:?}", log.unknown);
    log
}

fn rules(text: &str) -> Vec<&'static str> {
    explained(text).findings.iter().map(|found| found.rule).collect()
}

/// The finding with a rule.
fn one(text: &str, rule: &str) -> LogFinding {
    let log = explained(text);
    let found = log.findings.iter().find(|found| found.rule == rule);
    found.unwrap_or_else(|| panic!("{text}: no {rule}: {:#?}", log.findings)).clone()
}

const SPR: &str = "[    1.3] smpboot: CPU0: Intel(R) Xeon(R) (family: 0x6, model: 0x8f, stepping: 0x8)\n";

/// Lines of a record, each after these words and the tag.
fn tagged(words: &str, lines: &[&str]) -> String {
    lines.iter().flat_map(|line| [words, "[Hardware Error]: ", line, "\n"]).collect()
}

/// A record of GHES with these lines, each with its tag.
fn ghes(number: u32, lines: &[&str]) -> String {
    tagged(&format!("[ 9000.1] {{{number}}}"), lines)
}

const HEAD: [&str; 3] = [
    "Hardware error from APEI Generic Hardware Error Source: 4",
    "event severity: recoverable",
    " Error 0, type: recoverable",
];
const PCIE: [&str; 5] = [
    "  section_type: PCIe error",
    "  port_type: 4, root port",
    "  command: 0x0547, status: 0x0010",
    "  device_id: 0000:16:01.0",
    "  vendor_id: 0x8086, device_id: 0x352a",
];

#[test]
fn errors_of_devices_are_not_charged_to_tdx() {
    let with = |section: &[&str]| ghes(1, &[&HEAD[..], section].concat());
    let bert = |section: &[&str]| tagged("[   12.1] ", &[&HEAD[1..], section].concat());
    for (section, words) in [
        (&PCIE[..], "PCIe (0000:16:01.0)"),
        (
            &["  section_type: CXL Protocol Error", "  agent_type: 2, CXL 2.0 Device", "  agent_address: 0000:2c:00.0"],
            "CXL (0000:2c:00.0)",
        ),
        (&["  section_type: CXL DRAM Event"], "memory of a CXL device"),
        (
            &[
                "  section type: unknown, 71761d37-32b2-45cd-a7d0-b0fedd93e8cf",
                "  section length: 0x98",
                "  00000000: 1 2 3 4",
            ],
            "IOMMU",
        ),
        (&["  section type: unknown, C5753963-3B84-4095-BF78-EDDAD3F9C9DD", "  section length: 0x48"], "PCI"),
    ] {
        for text in [with(section), bert(section), format!("{SPR}{}", with(section))] {
            assert_eq!(rules(&text), ["device-error"], "{text}");
            let found = one(&text, "device-error");
            assert!(found.cause.contains(words) && !found.remedy.contains("test or replace it"), "{found:#?}");
        }
    }
    // Data that were poisoned before they came to the device.
    let poisoned = [&PCIE[..], &["  aer_uncor_status: 0x00001000, aer_uncor_mask: 0x00010000"]].concat();
    assert_eq!(rules(&with(&poisoned)), ["device-got-poison"]);
    let other = [&PCIE[..], &["  aer_uncor_status: 0x00040000, aer_uncor_mask: 0x00001000"]].concat();
    assert_eq!(rules(&with(&other)), ["device-error"], "a mask is no error");
}

#[test]
fn sections_that_the_kernel_does_not_decode() {
    for section in [
        &[
            "  section_type: Firmware Error Record Reference",
            "  Firmware Error Record Type: SOC Firmware Error Record Type2",
            "  Revision: 2",
            "  00000000: 1 2 3 4",
        ][..],
        // A memory section of a newer version: still about memory.
        &[
            "  section type: unknown, 61ec04fc-48e6-d813-25c9-8daa44750b12",
            "  section length: 0x60",
            "  00000000: 1 2 3 4",
        ],
        &["  section_type: a section of tomorrow"],
    ] {
        for cpu in ["", SPR] {
            let text = format!("{cpu}{}", ghes(4, &[&HEAD[..], section].concat()));
            assert_eq!(rules(&text), ["section-not-decoded"], "{text}");
        }
    }
    assert_eq!(
        one(&ghes(4, &[&HEAD[..], &["  section_type: x"]].concat()), "section-not-decoded").judgement,
        Judgement::Undecidable
    );
}

#[test]
fn each_section_of_an_event_is_judged_by_itself() {
    let memory = [
        " Error 1, type: fatal",
        "  section_type: memory error",
        "  physical_address: 0x0000002a3b4c5640",
        "  node:1 card:3 module:0 rank:0 bank:2 ",
        "  error_type: 3, multi-bit ECC",
        "  DIMM location: not present. DMI handle: 0x0000 ",
    ];
    let event = ghes(2, &[&HEAD[..], &PCIE, &memory].concat());
    assert_eq!(rules(&event), ["device-error", "controller-names-ecc"]);
    let found = one(&event, "controller-names-ecc");
    assert!(found.cause.contains("DIMM: node:1 card:3") && !found.cause.contains("not present"), "{}", found.cause);
    assert!(found.evidence.iter().any(|line| line.text.contains("event severity: recoverable")), "{found:#?}");
    // The record after it, of the kernel, is its own; one of the same page is the same error.
    let bank = |address: &str| {
        format!(
            "[ 9000.2] mce: [Hardware Error]: CPU 12: Machine Check Exception: 5 Bank 1: bd80000000100134\n\
             [ 9000.2] mce: [Hardware Error]: TSC 1 ADDR {address} MISC 86\n\
             [ 9000.2] mce: [Hardware Error]: PROCESSOR 0:806f8 TIME 1 SOCKET 0 APIC 0 microcode 1\n"
        )
    };
    let device = ghes(2, &[&HEAD[..], &PCIE].concat());
    assert_eq!(rules(&format!("{device}{}", bank("2a3b4c5640"))), ["device-error", "kernel-silent-on-erratum-cpu"]);
    assert_eq!(rules(&format!("{event}{}", bank("2a3b4c5000"))), ["device-error", "controller-names-ecc"]);
    let apart = ["device-error", "controller-names-ecc", "kernel-silent-on-erratum-cpu"];
    assert_eq!(rules(&format!("{event}{}", bank("77777000"))), apart);
    // Corrected is what the section says, not the event.
    let mixed = [" Error 1, type: corrected", "  section_type: memory error", "  error_type: 2, single-bit ECC"];
    assert_eq!(rules(&ghes(3, &[&HEAD[..], &PCIE, &mixed].concat())), ["device-error", "corrected"]);
}

#[test]
fn a_fatal_record_ends_in_a_panic() {
    let panic = "[ 9000.3] Kernel panic - not syncing: Fatal hardware error!\n";
    let event = ghes(2, &[&HEAD[..], &PCIE].concat());
    let found = one(&format!("{event}{panic}"), "device-error");
    assert!(found.evidence.iter().any(|line| line.text.contains("Fatal hardware error")), "{found:#?}");
    assert_eq!(rules(panic), ["record-not-in-log"]);
}

#[test]
fn the_extended_log_has_no_tag() {
    let text = "[ 77.1] {1}Hardware error detected on CPU3\n[ 77.1] {1}event severity: corrected\n\
                [ 77.1] {1} Error 0, type: corrected\n[ 77.1] {1}  section_type: memory error\n\
                [ 77.1] {1}  physical_address: 0x0000002a3b4c5640\n[ 77.1] {1}  error_type: 2, single-bit ECC\n\
                [ 78.1] {2}Hardware error detected on CPU7\n[ 78.1] {2}event severity: fatal\n\
                [ 78.1] {2} Error 0, type: fatal\n[ 78.1] {2}  section_type: memory error\n\
                [ 78.1] {2}  error_type: 14, scrub uncorrected error\n";
    assert_eq!(rules(text), ["controller-names-ecc", "corrected"]);
    // Braces of something else.
    assert!(from_reader("x", &b"[ 1.0] {1}text of another driver\n"[..]).is_err());
}

#[test]
fn records_decoded_for_amd() {
    let record = |first: &str, status: &str| {
        format!(
            "[ 9.1] [Hardware Error]: {first}\n\
             [ 9.1] [Hardware Error]: CPU:24 (19:11:1) MC18_STATUS[Over|CE|MiscV|AddrV|-|-|SyndV|CECC]: {status}\n\
             [ 9.1] [Hardware Error]: Error Addr: 0x0000002a3b4c5640\n\
             [ 9.1] [Hardware Error]: IPID: 0x0000009600150f00, Syndrome: 0x9f9e80000a801001\n\
             [ 9.1] [Hardware Error]: Unified Memory Controller Ext. Error Code: 0, DRAM ECC error.\n\
             [ 9.1] [Hardware Error]: cache level: L3/GEN, tx: GEN, mem-tx: RD\n"
        )
    };
    assert_eq!(rules(&record("Corrected error, no action required.", "0xdc2040000000011b")), ["corrected"]);
    for severity in ["Uncorrected, software restartable error.", "System Fatal error."] {
        assert_eq!(rules(&record(severity, "0xbc2020000000011b")), ["controller-names-ecc"], "{severity}");
    }
    assert_eq!(rules(&record("Deferred error, no action required.", "0x9c2041000000011b")), ["controller-names-ecc"]);
    let bus = record("System Fatal error.", "0xbaa000000000080b").replace("DRAM ECC", "Watchdog");
    assert_eq!(rules(&bus), ["cpu-without-erratum"]);
    let next = format!("{bus}[ 9.2] mce: [Hardware Error]: CPU 1: Machine Check: 0 Bank 13: 8c00004000010090\n");
    assert_eq!(rules(&next), ["cpu-without-erratum", "corrected"]);
}

#[test]
fn records_of_rasdaemon() {
    for (text, found) in [
        // The daemon, the kernel's trace event, `ras-mc-ctl --errors`.
        (
            "Feb 03 04:05:06 node5 rasdaemon[912]: <...>-77 [003] 0.1: extlog_mem_event: 2024-02-03 04:05:06 +0000 1 \
             corrected error: single-bit ECC physical addr: 0x2a3b4c5640 mask: 0xfffffffffffff000 node=1 card=3\n",
            &["corrected"][..],
        ),
        (
            "<...>-77 [003] d..1. 77.1: extlog_mem_event: {1} fatal error: multi-bit ECC physical addr: \
             0000002a3b4c5640 (mask lsb: c) node:1 card:3 FRU: 00000000-0000-0000-0000-000000000000\n",
            &["controller-names-ecc"],
        ),
        (
            "Extlog events:\n1 2026-05-06 07:09:11 +0000 error: type=multi-bit ECC, severity=recoverable, \
             address=0x2a3b4c5640, fru_id=00, fru_text='', \n",
            &["controller-names-ecc"],
        ),
        (
            "Extlog events:\n1 2026-05-06 07:09:11 +0000 error: type=unknown, severity=corrected, address=0x2a3b4c5640, \n",
            &["corrected"],
        ),
        (
            "PCIe AER events:\n1 2026-05-06 07:09:10 +0000 0000:16:01.0 Corrected error: Receiver Error\n",
            &["device-error"],
        ),
        (
            "1 2026-05-06 07:09:10 +0000 0000:16:01.0 Uncorrected (Non-Fatal) error: Poisoned TLP\n",
            &["device-got-poison"],
        ),
        // Sections that say nothing on memory, and end none of those that do.
        (
            "Disk errors\n1 2026-05-06 07:10:10 +0000 error: dev=8:0, sector=2048, nr_sector=8, error='I/O error', \n\n\
             MCE events:\n1 2026-05-06 07:12:13 +0000 error: MEMORY CONTROLLER RD_CHANNEL0_ERR, mcg mcgstatus=5, mci \
             Uncorrected_error, mcgcap=0xf000c1c, status=0xbd80000000100134, addr=0x2a3b4c5640, cpuid=0x000806f8\n",
            &["kernel-silent-on-erratum-cpu"],
        ),
        (
            "CXL AER uncorrectable events:\n1 2026-05-06 07:11:12 +0000 error: memdev=mem0, host=0000:2c:00.0, serial=0x0, \
             error_status: 'Cache Data ECC Error', \n",
            &["device-error"],
        ),
        (
            "Memory errors\nSOCKET 0 CHANNEL 0 DIMM 0\ncorrected memory errors:\n\t3 total\n\t3 in 24h\n\
             uncorrected memory errors:\n\t0 total\n\t0 in 24h\n",
            &["record-not-in-log"],
        ),
        ("No Memory errors.\n\nNo PCIe AER errors.\n\nNo MCE errors.\n\n", &["none-recorded"]),
        ("No MCE errors.\n", &["none-recorded"]),
        ("No CXL AER uncorrectable errors.\nNo disk errors.\n", &["none-recorded"]),
        ("No Memory errors.\n\nMCE records summary:\n\t3 corrected filtering errors\n", &["record-not-in-log"]),
        (
            "Memory controller events summary:\n\tCorrected on DIMM Label(s): 'CPU_SrcID#0_MC#0_Chan#0_DIMM#0' location: \
             0:0:0:-1 errors: 3\n\nNo PCIe AER errors.\n",
            &["corrected"],
        ),
    ] {
        assert_eq!(rules(text), found, "{text}");
    }
    // Only what says something on memory is an answer to the question for it.
    assert!(one("No disk errors.\n", "none-recorded").cause.contains("says nothing on memory"));
    assert!(!one("No MCE errors.\n", "none-recorded").cause.contains("says nothing on memory"));
    for other in ["No such errors.\n", "No I/O errors.\n", "[ 1.0] x: No errors.\n"] {
        assert!(from_reader("x", other.as_bytes()).is_err(), "{other}");
    }
}

#[test]
fn an_address_that_may_carry_a_key_id() {
    let bank = |address: &str, signature: &str| {
        format!(
            "[ 9000.2] mce: [Hardware Error]: CPU 12: Machine Check Exception: 5 Bank 1: bd80000000100134\n\
             [ 9000.2] mce: [Hardware Error]: TSC 1 ADDR {address} MISC 86\n\
             [ 9000.2] mce: [Hardware Error]: PROCESSOR 0:{signature} TIME 1 SOCKET 0 APIC 0 microcode 1\n"
        )
    };
    let high = "8602a3b4c5640";
    let found = one(&bank(high, "806f8"), "perhaps-key-id");
    assert!(found.cause.contains("above 2 TiB") && found.remedy.contains("rdmsr 0x982"), "{found:#?}");
    assert_eq!(found.judgement, Judgement::Undecidable);
    let map = "[    0.0] BIOS-e820: [mem 0x0000000000100000-0x000000407fffffff] usable\n";
    assert!(one(&format!("{map}{}", bank(high, "c06f2")), "perhaps-key-id").cause.contains("its end is 0x4080000000"));
    // Memory, a CPU without the erratum, a KeyID that is known: other rules.
    assert_eq!(rules(&bank("2a3b4c5640", "806f8")), ["kernel-silent-on-erratum-cpu"]);
    assert_eq!(rules(&bank(high, "606a6")), ["cpu-without-erratum"]);
    let keys = "[    1.0] virt/tdx: BIOS enabled: private KeyID range [64, 128)\n";
    assert!(rules(&format!("{keys}{}", bank(high, "806f8"))).contains(&"private-key-id"));
    let mcelog = format!("MCE 0\nCPU 3 BANK 1\nADDR {high}\nSTATUS bd80000000100134 MCGSTATUS 5\n");
    assert_eq!(rules(&mcelog), ["perhaps-key-id"]);
}

#[test]
fn kdump_without_memory() {
    for (text, words) in [
        ("Nov 29 10:00:00 f kdumpctl[1398]: kdump: No memory reserved for crash kernel\n", "no memory is reserved"),
        (
            "Nov 29 10:00:00 deb kdump-tools[700]: no crashkernel= parameter in the kernel cmdline ... failed!\n",
            "is not on the",
        ),
        (
            "Nov 29 10:00:00 u systemd[1]: kdump.service - Crash recovery kernel arming was skipped because of an unmet \
             condition check (ConditionKernelCommandLine=crashkernel).\n",
            "is not on the",
        ),
        ("  └─ ConditionKernelCommandLine=crashkernel was not met\n", "is not on the"),
        (
            "Memory for crashkernel is not reserved\nPlease reserve memory by passing\"crashkernel=Y@X\" parameter to \
             kernel\nThen try to loading kdump kernel\n",
            "no memory is reserved",
        ),
        ("[    0.01] crashkernel reservation failed - No suitable area found.\n", "no free range"),
        ("[    0.01] crashkernel reservation failed - memory is in use.\n", "no free range"),
        ("[    0.01] cannot allocate crashkernel (size:0x40000000)\n", "no free range"),
        ("[    0.01] crashkernel: Memory value expected\n", "does not understand"),
        ("[    0.01] crashkernel: unrecognized char: G\n", "does not understand"),
        ("Reserved 0MB memory for crash kernel\n", "no memory is reserved"),
        ("[    0.01] crashkernel size resulted in zero bytes\n", "no size for the memory"),
        ("USE_KDUMP:\t\t1\ncrashkernel addr: \ncurrent state:    Not ready to kdump\n", "no memory is reserved"),
        // A program makes less of it than the kernel.
        (
            "[    0.01] cannot allocate crashkernel (size:0x40000000)\n\
             Nov 29 10:00:00 f kdumpctl[1398]: kdump: No memory reserved for crash kernel\n\
             Nov 29 10:00:00 f systemd[1]: kdump.service: Failed with result 'exit-code'.\n",
            "no free range",
        ),
    ] {
        assert_eq!(rules(text), ["no-crash-memory"], "{text}");
        let found = one(text, "no-crash-memory");
        assert!(found.judgement == Judgement::Failed && found.cause.contains(words), "{text}: {found:#?}");
        assert!(found.remedy.contains("this is not for TDX"));
    }
    for (text, words) in [
        ("x kdump-tools[1]: /etc/default/kdump-tools: USE_KDUMP is not set or zero ... failed!\n", "USE_KDUMP"),
        (
            "x kdump-tools[1]: /etc/default/kdump-tools: KDUMP_INITRD does not exist: /var/lib/kdump/initrd.img\n",
            "no initrd",
        ),
        ("x kdumpctl[1]: kdump: mkdumprd: failed to make kdump initrd\n", "dracut"),
        ("x kdumpctl[1]: kdump: No kdump initial ramdisk found.\n", "kdumpctl rebuild"),
    ] {
        let found = one(&format!("Nov 29 10:00:00 {text}"), "kdump-not-set-up");
        assert!(found.cause.contains(words), "{text}: {found:#?}");
    }
    // A refusal says more, and the missing memory is said with it.
    let both = "kexec_load failed: Operation not supported\nx kdumpctl: No memory reserved for crash kernel\n";
    assert!(one(both, "kexec-refused-by-erratum").cause.contains("Besides, no memory is reserved"));
    let tdx = "[    0.0] Linux version 6.18.3\n[    1.0] virt/tdx: BIOS enabled: private KeyID range [64, 128)\n\
               [    1.1] virt/tdx: module initialized\n";
    let refuses = format!("{tdx}{SPR}[    2.0] cannot allocate crashkernel (size:0x40000000)\n");
    assert!(one(&refuses, "no-crash-memory").remedy.contains("still refuses the image"));
    let unit = "[Unit]\nDescription=Crash recovery kernel arming\nConditionKernelCommandLine=crashkernel\n";
    assert!(from_reader("x", unit.as_bytes()).is_err(), "the file of the unit says nothing of this boot");
    // Memory was reserved.
    let there = "[    0.01] crashkernel reserved: 0x000000005f000000 - 0x000000006f000000 (256 MB)\n";
    assert!(from_reader("x", there.as_bytes()).is_err(), "no finding");
    let found = one(&format!("{there}kdump: No memory reserved for crash kernel\n"), "no-crash-memory");
    assert!(found.judgement == Judgement::Undecidable && found.cause.contains("line 1 says"), "{found:#?}");
}

#[test]
fn logs_that_contradict_themselves() {
    let up = "[    9.0] virt/tdx: module initialized\n";
    let amd = "[    1.0] smpboot: CPU0: AMD EPYC 9654 96-Core Processor (family: 0x19, model: 0x11, stepping: 0x1)\n";
    for text in [
        format!("{up}[    9.1] virt/tdx: module initialization failed (-28)\n"),
        format!("{up}[    9.1] virt/tdx: TDX-Module initialization failed (-5)\n"),
        format!("{up}[    9.1] virt/tdx: initialization failed: TDMR [0x0, 0x80000000): reserved areas exhausted.\n"),
        format!("{amd}{up}"),
        format!("[    0.1] tdx: Guest detected\n{up}"),
        format!("{up}{}", amd.replace("    1.0", "    9.5")),
    ] {
        let found = one(&text, "log-contradicts-itself");
        assert_eq!((found.judgement, found.evidence.len()), (Judgement::Undecidable, 2), "{text}: {found:#?}");
        assert!(!rules(&text).contains(&"initialized"), "{text}");
    }
    // A call may fail later, and an attempt before.
    let later = format!("{up}[   99.0] virt/tdx: SEAMCALL (0x1c) failed: 0xc000030000000001\n");
    assert_eq!(rules(&later), ["initialized", "seamcall-later"]);
    assert_eq!(rules(&format!("[    8.0] virt/tdx: module not loaded\n{up}")), ["module-not-loaded", "initialized"]);
}

#[test]
fn each_status_has_its_answer() {
    let one_line =
        "[9.1] kvm_intel: SEAMCALL TDH_MEM_RANGE_BLOCK failed: 0xc0000b0d00000001, then 0x8000020000000092\n";
    let cause = one(one_line, "seamcall-later").cause;
    assert!(
        cause.contains("TDX_EPT_ENTRY_STATE_INCORRECT") && cause.contains("Line 1 also shows TDX_OPERAND_BUSY"),
        "{cause}"
    );
    let bring_up = "[9.1] virt/tdx: SEAMCALL (0x21) failed: 0x8000020000000000\n\
                    [9.2] virt/tdx: SEAMCALL (0x23) failed: 0xc000092100000122\n\
                    [9.2] virt/tdx: SEAMCALL (0x23) failed: 0xc000092100000122\n\
                    [9.3] virt/tdx: module initialization failed (-5)\n";
    let log = explained(bring_up);
    let causes: Vec<_> = log.findings.iter().map(|found| found.cause.as_str()).collect();
    assert_eq!(causes.len(), 2, "{causes:#?}");
    assert!(causes[0].contains("TDX_OPERAND_BUSY") && causes[1].contains("besides: "), "{causes:#?}");
    let same =
        "[9.1] SEAMCALL TDH_MEM_RD failed: 0xc000010000000001\n[9.2] SEAMCALL TDH_MEM_RD failed: 0xc000010000000001\n";
    assert!(!one(same, "seamcall-later").cause.contains("also shows"));
}

#[test]
fn calls_of_the_loader_are_not_those_of_the_module() {
    for text in [
        "[900.0] seamldr: SEAMCALL (0x8000000000000001) failed: 0x8000000000000003\n",
        "[900.0] virt/tdx: SEAMCALL (0x8000000000000001) failed: 0x8000000000000003\n",
        "[900.0] seamldr: SEAMLDR.INSTALL failed: 0x8000020000000000\n",
    ] {
        let found = one(text, "seamldr-call");
        assert!(found.cause.contains("SEAMLDR.INSTALL") && found.judgement == Judgement::Failed, "{found:#?}");
        assert!(
            !found.cause.contains("TDX_OPERAND_BUSY") && found.remedy.contains("through the firmware"),
            "{found:#?}"
        );
    }
    for text in ["transferring:firmware-invalid\n", "[900.0] virt/tdx: TDX module update failed\n"] {
        assert!(rules(text).contains(&"module-update-failed"), "{text}");
    }
    let info = one("[900.0] seamldr: SEAMCALL (0x8000000000000000) failed: 0x8000000000000003\n", "seamldr-call");
    assert!(info.cause.contains("SEAMLDR.INFO") && info.judgement == Judgement::Undecidable);
}

#[test]
fn text_of_a_picture_is_not_read_as_numbers() {
    let photo = "[ 9.1] mce: [Hardware Error]: CPU 12: Machine Check: 0 Bank 1: bd80000000100134\n\
                 [ 9.1] mce: [Hardware Error]: TSC 49a1e6OO1c1 ADDR 2a3b4c5640 MISC 86\n\
                 [ 9.1] mce: [Hardware Error]: PROCESSOR O:806f8 TIME 1 SOCKET 0 APIC 0 microcode 1\n";
    let found = rules(photo);
    assert_eq!(found, ["letters-for-digits", "cpu-not-shown"], "a letter is no other vendor");
    let status = "virt/tdx: SEAMCALL (0x22) failed: OxcOOO0505OOOOOOOO\n";
    assert!(rules(status).contains(&"letters-for-digits"));
    let calm = "[ 9.1] virt/tdx: SEAMCALL (0x22) failed: 0xc000050500000000\n";
    assert!(!rules(calm).contains(&"letters-for-digits"));
}

#[test]
fn an_access_and_its_bank_are_one_error() {
    let access = "[ 9.2] mce: Uncorrected hardware memory error in user-access at 2a3b4c5640\n";
    let bank = |address: &str| {
        format!(
            "[ 9.3] mce: [Hardware Error]: CPU 12: Machine Check: 0 Bank 1: bc00000000000134\n\
             [ 9.3] mce: [Hardware Error]: TSC 0 ADDR {address} MISC 8c\n\
             [ 9.3] mce: [Hardware Error]: PROCESSOR 0:c06f2 TIME 1 SOCKET 0 APIC 0 microcode 1\n"
        )
    };
    let both = format!("{access}{}", bank("2a3b4c5640"));
    assert_eq!(rules(&both), ["kernel-silent-on-erratum-cpu"]);
    assert_eq!(one(&both, "kernel-silent-on-erratum-cpu").evidence.len(), 4);
    assert_eq!(rules(&format!("{access}{}", bank("77777000"))).len(), 2);
}

/// The name of the CPU in capitals, as Emerald Rapids writes it, is Intel's.
#[test]
fn emerald_rapids_has_the_erratum() {
    let cpu = "[    1.3] smpboot: CPU0: INTEL(R) XEON(R) PLATINUM 8592+ (family: 0x6, model: 0xcf, stepping: 0x2)\n";
    let call = "[ 9.1] SEAMCALL TDH_PHYMEM_PAGE_RECLAIM failed: 0xc000030000000001\n";
    assert!(one(&format!("{cpu}{call}"), "seamcall-later").cause.contains("on this CPU a write of less than 64 bytes"));
    let check = "[ 9.1] mce: [Hardware Error]: CPU 1: Machine Check Exception: f Bank 1: bd80000000100134\n";
    assert_eq!(rules(&format!("{cpu}{check}")), ["kernel-silent-on-erratum-cpu"]);
}

#[test]
fn the_hypervisor_below_dom0() {
    let found = one("(XEN) Xen version 4.19.0 (x@y) (gcc 13.2.0) debug=n\n(XEN) text\n", "xen-hypervisor");
    assert_eq!(found.judgement, Judgement::Info);
    for text in ["Could not find a free area of memory of 0x1a2b000 bytes...\n", "locate_hole failed\n"] {
        assert!(one(text, "kexec-load-failed").cause.contains("does not fit"), "{text}");
    }
}

#[test]
fn dom0_and_root_partition() {
    let dmi = "[    0.0] DMI: Dell Inc. PowerEdge R760/0VRV9X, BIOS 2.1.5 03/14/2024\n";
    for text in [
        format!("{dmi}[    0.0] Hypervisor detected: Xen PV\n"),
        "[    0.0] Hypervisor detected: Xen PV\n[    9.0] xen_acpi_processor: Uploading Xen processor PM info\n"
            .to_owned(),
        "[    0.0] Hypervisor detected: Xen PV\n[    9.0] xen_pciback: backend is vpci\n".to_owned(),
        "[    0.0] Hypervisor detected: Microsoft Hyper-V\n[    0.1] Hyper-V: running as root partition\n".to_owned(),
    ] {
        assert_eq!(rules(&text), ["root-partition"], "{text}");
    }
    for text in [
        "[    0.0] Hypervisor detected: Xen PV\n".to_owned(),
        format!("{dmi}[    0.0] Hypervisor detected: KVM\n"),
        "[    0.0] DMI: Xen HVM domU, BIOS 4.17 01/01/2024\n[    0.1] Hypervisor detected: Xen HVM\n".to_owned(),
    ] {
        assert_eq!(rules(&text), ["virtual-machine"], "{text}");
    }
}
