//! Input that cannot be used: each case gives the file, the line, the value and the rule, and never
//! a panic.

use std::io::{BufReader, Read, Write};

use tdx_operator::{
    bootlog::BootLog,
    host::{Host, HostOptions},
    input::{InputError, Rule},
};

fn refused(text: &str) -> InputError {
    host(text).expect_err(text)
}

fn host(text: &str) -> Result<Host, InputError> {
    Host::from_reader("test.log", text.as_bytes(), &HostOptions::default())
}

const GOOD: &str = include_str!("../../../fixtures/hosts/03-canonical-135-emr-ok.log");
const E820: &str = include_str!("../../../fixtures/e820/06-inspur-nf5280m6-icx-512gib.log");

#[test]
fn every_message_names_file_line_value_and_rule() {
    let error = refused("virt/tdx: BIOS enabled: private KeyID range [1, 2)\n");
    assert_eq!(error.rule, Rule::TooFewKeyIds { count: 1 });
    assert_eq!(
        error.to_string(),
        "test.log:1: `virt/tdx: BIOS enabled: private KeyID range [1, 2)`: 1 private KeyID: TDX needs at \
         least 2, the global one and one for a TD; increase their number in the BIOS"
    );
}

#[test]
fn truncated_logs() {
    // Every prefix of a good log is a host or an error with a reason; a cut inside a known line
    // says so.
    let mut cut_inside = 0;
    for end in 0..GOOD.len() {
        match host(&GOOD[..end]) {
            Ok(host) => assert!(host.memory_bytes() > 0),
            Err(error) if error.cut => {
                assert!(error.line.is_some() && error.to_string().contains("truncated?"), "{error}");
                cut_inside += 1;
            }
            Err(error) => {
                assert!(matches!(error.rule, Rule::Empty | Rule::NotABootLog | Rule::NoMemory), "{error}");
            }
        }
    }
    assert!(cut_inside > 100, "{cut_inside}");
    let after_key_ids = &GOOD[..GOOD.find("Disable ACPI").unwrap()];
    assert_eq!(refused(after_key_ids).rule, Rule::NoMemory);
    let in_a_row = &E820[..E820.find("ACPI data").unwrap() + 5];
    assert!(matches!(refused(in_a_row), InputError { rule: Rule::E820Type { .. }, cut: true, line: Some(9), .. }));
}

#[test]
fn contradictions() {
    for (text, line, rule) in [
        ("BIOS-e820: [mem 0x100000-0x2fffff] usable\nBIOS-e820: [mem 0x200000-0x3fffff] usable\n", 2, "overlaps"),
        ("BIOS-e820: [mem 0x100000-0x2fffff] usable\nBIOS-e820: [mem 0x200000-0x3fffff] reserved\n", 2, "overlaps"),
        ("BIOS-e820: [mem 0x300000-0x1fffff] usable\n", 1, "ends before it starts"),
        ("00100000-002fffff : System RAM\n00200000-003fffff : System RAM\n", 2, "overlaps"),
        ("00000000-00000000 : System RAM\n", 1, "to root only"),
        ("virt/tdx: CMR: [0x100000, 0x200800)\n", 1, "not a multiple of 4 KiB"),
        ("virt/tdx: CMR: [0x100000, 0x300000)\nvirt/tdx: CMR: [0x200000, 0x400000)\n", 2, "CMRs must be ascending"),
        (
            "virt/tdx: BIOS enabled: private KeyID range [32, 64)\nvirt/tdx: BIOS enabled: private KeyID range [16, 64)\n",
            2,
            "in line 1",
        ),
        ("virt/tdx: 12 KB allocated for PAMT\nvirt/tdx: 4 pages allocated for PAMT\n", 2, "in line 1"),
        ("virt/tdx: x12 KB allocated for PAMT\n", 1, "N KB allocated for PAMT"),
        ("SRAT: Node 0 PXM 0 [mem 0x0-0x1fff]\nSRAT: Node 1 PXM 1 [mem 0x1000-0x2fff]\n", 2, "overlaps"),
        ("tdx: Guest detected\n", 1, "TD guest"),
    ] {
        let error = refused(text);
        assert_eq!(error.line, Some(line), "{error}");
        assert!(error.rule.to_string().contains(rule), "{error}");
        assert!(!error.value.is_empty(), "{error}");
    }
    // Two boots in one file without a time to tell them apart.
    let timeless: String = GOOD.lines().flat_map(|line| [line.rsplit("] ").next().unwrap(), "\n"]).collect();
    assert!(refused(&format!("{timeless}{timeless}")).to_string().contains("two boots"));
    // Memory where the KeyID bits are: [64, 128) needs 7 bits, which leaves 45.
    let high = GOOD.replace("[32, 64)", "[64, 128)").replace("0x407c000000", "0x200000001000");
    assert!(matches!(refused(&high).rule, Rule::BeyondAddressWidth { bits: 45, .. }));
}

#[test]
fn one_boot_of_several_is_used() {
    let first = GOOD.replace("[32, 64)", "[16, 64)");
    let twice = format!("{first}{GOOD}");
    let of_boot = |boot| {
        let options = HostOptions { boot, ..HostOptions::default() };
        Host::from_reader("test.log", twice.as_bytes(), &options)
    };
    let range = |host: &Host| (host.key_ids().shared() + 1, host.key_ids().private_end());
    let last = of_boot(None).unwrap();
    assert_eq!((range(&last), last.assumptions()[0].key()), ((32, 64), "boot"));
    assert_eq!(range(&of_boot(Some(1)).unwrap()), (16, 64));
    for missing in [0, 3] {
        assert_eq!(of_boot(Some(missing)).unwrap_err().rule, Rule::NoSuchBoot { boots: 2 });
    }
}

#[test]
fn limits() {
    let line = |i: u64| format!("virt/tdx: CMR: [{:#x}, {:#x})", (i + 1) << 30, ((i + 1) << 30) + 0x1000);
    let cmrs = (0..33).map(line).collect::<Vec<_>>().join("\n");
    assert_eq!(refused(&cmrs).rule, Rule::TooMany { limit: 32 });
    let long = format!("virt/tdx: CMR: [0x100000, {}\n", "0".repeat(5000));
    assert!(matches!(refused(&long).rule, Rule::LineTooLong { .. }));
    let row = |i: u64| format!("BIOS-e820: [mem {:#x}-{:#x}] usable", i << 13, (i << 13) + 0xfff);
    let rows = (0..5000).map(row).collect::<Vec<_>>().join("\n");
    assert!(matches!(refused(&rows).rule, Rule::TooMany { limit: 4096 }));
}

#[test]
fn what_is_not_text() {
    let read = |bytes: &[u8]| Host::from_reader("x", bytes, &HostOptions::default());
    let rule = |bytes: &[u8]| read(bytes).unwrap_err().rule;
    assert_eq!(rule(b"a\nb\0c\n"), Rule::Binary);
    assert_eq!(read(b"a\nb\0c\n").unwrap_err().line, Some(2));
    assert_eq!(rule(&[0; 10000]), Rule::Binary);
    assert_eq!(rule(b"\xff\xfev\0"), Rule::Encoded("UTF-16"));
    assert_eq!(rule(b"\x1f\x8b\x08"), Rule::Encoded("compressed with gzip"));
    assert_eq!(rule(b""), Rule::Empty);
    assert_eq!(rule(b"\n"), Rule::NotABootLog);
    // Bytes that are not UTF-8 matter only in lines that are read.
    let mut log = b"DMI: \xff\xfe board\n".to_vec();
    log.extend_from_slice(GOOD.as_bytes());
    assert!(read(&log).is_ok());
    assert_eq!(rule(b"virt/tdx: CMR: [0x100000, 0x2\xff00000)\n"), Rule::NotUtf8);
}

#[test]
fn windows_line_ends() {
    let unix = host(GOOD).unwrap();
    let windows = host(&GOOD.replace('\n', "\r\n")).unwrap();
    assert_eq!(unix.memory(), windows.memory());
    assert_eq!(unix.logged(), windows.logged());
}

#[test]
fn files_that_are_none() {
    let from = |path: &std::path::Path| Host::from_path(path, &HostOptions::default()).unwrap_err();
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    assert_eq!(from(here).rule, Rule::Directory);
    let missing = from(&here.join("no-such-file"));
    assert!(matches!(missing.rule, Rule::Unreadable(_)), "{missing}");
    assert!(missing.to_string().contains("no-such-file: cannot be read"), "{missing}");
}

#[test]
fn noise_of_100_mb_is_read_in_bounded_memory() {
    // Printable noise with and without line ends, from a seeded generator; a reader that keeps
    // nothing.
    struct Noise {
        left: usize,
        state: u64,
        newlines: bool,
    }
    impl Read for Noise {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let count = out.len().min(self.left);
            for byte in &mut out[..count] {
                self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let value = u8::try_from(self.state >> 56).unwrap_or(0) % 96;
                *byte = if value == 95 && self.newlines { b'\n' } else { 0x20 + value % 95 };
            }
            self.left -= count;
            Ok(count)
        }
    }
    for newlines in [true, false] {
        let noise = BufReader::new(Noise { left: 100 << 20, state: 1, newlines });
        let error = Host::from_reader("noise", noise, &HostOptions::default()).unwrap_err();
        assert_eq!(error.rule, Rule::NotABootLog, "{error}");
    }
    // Facts at the end of a large log are found.
    let padding = BufReader::new(Noise { left: 1 << 20, state: 1, newlines: true });
    let mut all = Vec::new();
    padding.chain(&b"\n"[..]).chain(GOOD.as_bytes()).read_to_end(&mut all).unwrap();
    assert_eq!(BootLog::read("x", &all[..]).unwrap().cmrs.len(), 5);
}

#[test]
fn iomem() {
    let text = "00000000-00000fff : Reserved\n00001000-0009efff : System RAM\n00100000-5d168fff : System RAM\n  \
                01000000-01e02557 : Kernel code\n5d169000-5d22afff : ACPI Tables\n100000000-207fffffff : \
                System RAM\n";
    let host = host(text).unwrap();
    let ranges: Vec<_> = host.memory().iter().map(|piece| piece.range.to_string()).collect();
    assert_eq!(ranges, ["[0x100000, 0x5d169000)", "[0x100000000, 0x2080000000)"]);
    // As a user sees it: every address is zero.
    assert_eq!(refused("00000000-00000000 : System RAM\n").rule, Rule::IomemHidden);
}

#[test]
fn better_sources_win() {
    // The kernel's own node ranges over SRAT and e820.
    let text = format!(
        "{E820}[0.0] SRAT: Node 0 PXM 0 [mem 0x0-0x407fffffff]\n[0.0]   node   0: [mem 0x100000-0x6713dfff]\n[0.0]   node   1: [mem 0x100000000-0x1ffffffff]\n"
    );
    let host_ = host(&text).unwrap();
    assert_eq!((host_.memory().len(), host_.nodes(), host_.packages()), (2, 2, 2));
    // A map from the command line replaces the firmware's.
    let user = format!("{E820}[0.0] user: [mem 0x100000-0x3fffffff] usable\n");
    assert_eq!(host(&user).unwrap().memory_bytes(), 0x3ff0_0000);
    // The kernel's CPU line over a comment; counts of CPUs and packages.
    let cpu = "# cpu: Emerald Rapids\nsmpboot: CPU0: Intel(R) Xeon(R) Platinum 8480CTDX (family: 0x6, \
         model: 0x8f, stepping: 0x8)\n\
               smpboot: Max logical packages: 4\nsmp: Brought up 2 nodes, 224 CPUs\n";
    let host_ = host(&format!("{cpu}{GOOD}")).unwrap();
    assert_eq!((host_.cpu().model, host_.packages(), host_.cpus()), (0x8f, 4, 224));
    // CPUs that came up over those that are there.
    for (lines, cpus) in [
        ("smpboot: Allowing 256 CPUs, 32 hotplug CPUs\n", 224),
        ("CPU topo: Allowing 224 present CPUs plus 0 hotplug CPUs\n", 224),
        (
            "smpboot: Allowing 224 CPUs, 0 hotplug CPUs\nsmpboot: Total of 112 processors activated (1.0 BogoMIPS)\n",
            112,
        ),
        ("smp: Brought up 2 nodes, 112 CPUs\nsmpboot: Total of 112 processors activated (1.0 BogoMIPS)\n", 112),
    ] {
        let host_ = host(&format!("{lines}{GOOD}")).unwrap();
        assert_eq!(host_.cpus(), cpus, "{lines}");
        assert!(host_.assumptions().iter().all(|assumption| assumption.key() != "cpus"), "{lines}");
    }
    let two_boots = "smp: Brought up 2 nodes, 224 CPUs\nsmpboot: Total of 112 processors activated (1.0 BogoMIPS)\n";
    assert!(matches!(refused(&format!("{two_boots}{GOOD}")).rule, Rule::Contradiction { line: 1, .. }));
}

const TOML: &str = include_str!("../../../fixtures/made-up/spr-small.toml");

#[test]
fn host_files() {
    for (from, to, line, rule) in [
        ("version = 1", "version = 2", 4, "version 1"),
        ("cleanslate-host", "other", 3, "cleanslate-host"),
        ("model = \"spr\"", "model = \"i486\"", 8, "spr, emr, gnr, srf"),
        ("packages = 2", "packages = 9", 9, "at least one CPU for each package"),
        ("packages = 2", "packages = -1", 9, "invalid value"),
        ("packages = 2", "pakages = 2", 9, "unknown field"),
        ("[32, 64)", "[1, 2)", 13, "at least 2"),
        ("[32, 64)", "[32 64)", 13, "[START, END)"),
        ("[1M, 2G)", "[1M, 5G)", 22, "overlaps [0x100000, 0x140000000) of line 18"),
        ("[1M, 2G)", "[2G, 1M)", 18, "ends before it starts"),
        ("[1M, 2G)", "[1M, 2Gi)", 18, "expected a range"),
        ("[4G, 6G)", "[4G, 65T)", 22, "maximum physical address 2^46"),
        ("[0x100000000, 0x180000000)", "[0x40000000, 0x180000000)", 30, "CMRs must be ascending"),
        ("[[memory]]", "[[memory]", 17, "unclosed array table"),
    ] {
        assert!(TOML.contains(from), "{from}");
        let error = refused(&TOML.replacen(from, to, 1));
        assert_eq!(error.line, Some(line), "{error}");
        assert!(error.rule.to_string().contains(rule), "{error}");
    }
    let empty = refused("schema = \"cleanslate-host\"\nversion = 1\n");
    assert!(empty.to_string().contains("[[memory]]"), "{empty}");
    let cmrs_only = "schema = \"cleanslate-host\"\nversion = 1\n[[cmr]]\nrange = \"[1M, 2G)\"\n";
    assert_eq!(host(cmrs_only).unwrap().memory_bytes(), (2 << 30) - (1 << 20));
}

#[test]
fn a_file_on_disk() {
    let path = std::env::temp_dir().join(format!("cleanslate-lab-{}.log", std::process::id()));
    std::fs::File::create(&path).unwrap().write_all(GOOD.as_bytes()).unwrap();
    let host = Host::from_path(&path, &HostOptions::default());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(host.unwrap().cmrs().len(), 5);
}
