//! Every file of `fixtures/`: which are hosts, with what memory, and which are refused, at which
//! line, by which rule. The golden values are from `fixtures/INDEX.md` and from the files, by hand.

use std::path::{Path, PathBuf};

use tdx_operator::{
    cpu_model,
    host::{Assumption, Host, HostOptions},
    input::{InputError, Rule},
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

fn host(name: &str) -> Result<Host, InputError> {
    Host::from_path(&fixture(name), &HostOptions::default())
}

/// Host logs with memory: file, number of CMRs, private KeyIDs, PAMT KB in the log, nodes, what was
/// assumed.
type Row = (&'static str, usize, (u32, u64), Option<u64>, usize, &'static [&'static str]);
const USUAL: &[&str] = &["memory", "nodes", "cpu", "packages", "cpus"];
const USABLE: &[Row] = &[
    ("01-canonical-385-2tib", 3, (32, 64), Some(8_396_820), 2, USUAL),
    (
        "02-canonical-135-emr-fail28",
        5,
        (32, 64),
        None,
        4,
        &["memory", "nodes", "cpu", "packages", "cpus", "linux-failed"],
    ),
    ("03-canonical-135-emr-ok", 5, (32, 64), Some(1_050_644), 4, USUAL),
    ("04-canonical-206-512gib", 3, (32, 64), Some(2_101_260), 2, USUAL),
    ("06-canonical-pr188-256gib", 3, (64, 128), Some(1_050_636), 2, USUAL),
    (
        "10-canonical-331-module1.0-fail5",
        4,
        (32, 64),
        None,
        3,
        &["memory", "key-ids", "nodes", "cpu", "packages", "cpus", "linux-failed"],
    ),
    ("18-canonical-381-partial", 4, (32, 64), None, 3, &["memory", "nodes", "cpu", "packages", "cpus", "cut"]),
    (
        "19-canonical-354-gcp-c3-metal-partial",
        2,
        (2, 128),
        None,
        1,
        &["memory", "nodes", "cpu", "packages", "cpus", "cut"],
    ),
    ("22-intel-tdx-linux-5-256gib", 4, (32, 64), Some(1_050_644), 3, USUAL),
    ("24-canonical-readme-mantic-1tib", 5, (16, 32), Some(4_202_516), 4, USUAL),
];

#[test]
fn hosts_with_memory() {
    for (name, cmrs, key_ids, pamt_kb, nodes, assumed) in USABLE {
        let host = host(&format!("hosts/{name}.log")).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(host.cmrs().len(), *cmrs, "{name}");
        let split = host.key_ids();
        assert_eq!((split.shared() + 1, split.private_end()), *key_ids, "{name}");
        assert_eq!(host.logged().pamt_kb, *pamt_kb, "{name}");
        assert_eq!(host.nodes(), *nodes, "{name}");
        let keys: Vec<_> = host.assumptions().iter().map(Assumption::key).collect();
        assert_eq!(keys, *assumed, "{name}: {:?}", host.assumptions());
        assert_eq!(host.bytes_outside_cmrs(), 0, "{name}");
        assert_eq!((host.packages(), host.cpus()), (2, 8), "{name}");
        for pair in host.memory().windows(2) {
            assert!(pair[0].range.end() <= pair[1].range.start(), "{name}: {pair:?}");
        }
    }
}

#[test]
fn memory_of_the_two_kinds_of_logs() {
    // CMRs only: [1M, 0x77800000) + [4G, 0x1003e000000) + [0x10080000000, 0x20040000000).
    let first = host("hosts/01-canonical-385-2tib.log").unwrap();
    assert_eq!(
        first.memory_bytes(),
        (0x7780_0000 - 0x10_0000) + (0x100_3e00_0000 - 0x1_0000_0000) + (0x200_4000_0000 - 0x100_8000_0000)
    );
    assert_eq!(first.cpu(), cpu_model::SAPPHIRE_RAPIDS);
    assert_eq!(first.logged().module.unwrap().to_string(), "1.5 build 784 of 2024-07-25");
    // Low e820 rows and CMRs above them: 16 usable rows from 1 MiB on (INDEX.md: 17 holes), then
    // the four high CMRs.
    let second = host("hosts/02-canonical-135-emr-fail28.log").unwrap();
    assert_eq!(second.memory().len(), 16 + 4);
    assert_eq!(second.memory()[0].range.to_string(), "[0x100000, 0x5d169000)");
    assert_eq!(second.memory()[16].range.to_string(), "[0x100000000, 0x107a000000)");
    assert_eq!(second.cpu(), cpu_model::EMERALD_RAPIDS);
    assert_eq!(second.memory_bytes() >> 30, 255);
    assert!(second.assumptions().iter().any(|a| a.to_string().contains("entries end at 0x90000000")));
    assert!(second.assumptions().iter().any(|a| a.to_string().contains("reserved areas exhausted")));
}

/// Logs that say something about TDX and nothing about memory, and the line that is quoted.
const WITHOUT_MEMORY: &[(&str, u64, &str)] = &[
    ("09-canonical-314-partial", 6, "build_date 20240407"),
    ("11-canonical-83-spr-fail5", 5, "SEAMCALL (0x0000000000000022) failed"),
    ("12-canonical-161-sysinit-fail", 5, "failed: 0xc000090000000000"),
    ("13-canonical-25-leaf33-fail", 5, "leaf 33, error 0xc000092100000122"),
    ("14-canonical-33-not-enabled", 5, "not enabled by BIOS"),
    ("15-canonical-260-keyid-only", 3, "[32, 64)"),
    ("16-canonical-382-keyid-only", 3, "[64, 128)"),
    ("20-canonical-415-gnr-fail28", 6, "TDMR [0x40000000, 0x80000000): reserved areas exhausted"),
    ("21-canonical-425-module-not-loaded", 5, "module not loaded"),
    ("23-intel-td-partitioning-1-fail19", 4, "[firmware bug]: TDX is not enabled by BIOS"),
    ("25-canonical-readme-noble", 5, "module initialized"),
    ("27-nvidia-guide-2tib", 7, "module initialized"),
    ("29-ubuntu-guide-6.19", 6, "module initialized"),
    ("30-lkml-rbp-1tib", 8, "module initialized"),
    ("32-lkml-loading-situations-384gib", 7, "module initialized"),
    ("33-lkml-dynamic-pamt", 5, "TDX-Module initialized"),
    ("35-module2.0-keyid16-128", 5, "major_version 2"),
    ("36-zh-notes-6.16.9-keyid-only", 3, "[32, 64)"),
    ("37-intel-tdx-tools-488", 3, "build_num 481"),
    ("38-kernel-doc-examples-64gib", 7, "TDX module initialized"),
];

#[test]
fn hosts_without_memory_are_refused_with_the_line_that_says_most() {
    for (name, line, text) in WITHOUT_MEMORY {
        let file = format!("hosts/{name}.log");
        let error = host(&file).expect_err(name);
        assert_eq!(error.rule, Rule::NoMemory, "{error}");
        assert_eq!(error.line, Some(*line), "{error}");
        assert!(error.value.contains(text), "{error}");
        assert!(error.to_string().contains(&format!("{name}.log:{line}: `")), "{error}");
    }
    let tme = host("hosts/39-lkml-tme-keyids.log").unwrap_err();
    assert_eq!(tme.rule, Rule::NotABootLog, "{tme}");
}

/// File, usable ranges from 1 MiB on (cut at node borders), whole GiB, nodes, packages.
const E820: &[(&str, usize, u64, usize, u32)] = &[
    ("01-hpe-uv-16node-4tib", 20, 4031, 16, 2),
    ("02-hp-superdome2-16s-12tib", 20, 12287, 16, 16),
    ("04-lenovo-sr650v2-icx-384gib", 3, 383, 1, 2),
    ("06-inspur-nf5280m6-icx-512gib", 3, 511, 1, 2),
    ("08-lenovo-sr950-skx-24gib", 5, 23, 1, 2),
    ("09-dell-r7625-amd-768gib-nps4", 12, 767, 8, 2),
    ("10-dell-r7425-amd-1tib-8node", 11, 1019, 8, 8),
    ("11-hp-dl585g7-amd-1tib", 3, 1010, 1, 2),
    ("13-supermicro-x11dai-skx-192gib", 4, 190, 1, 2),
    ("14-xeon-192gib", 3, 190, 1, 2),
    ("16-qemu-guest-976gib", 2, 976, 1, 2),
];

#[test]
fn e820_tables_with_tdx_assumed() {
    for (name, ranges, gib, nodes, packages) in E820 {
        let host = host(&format!("e820/{name}.log")).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(host.memory().len(), *ranges, "{name}: {:?}", host.memory());
        assert_eq!(host.memory_bytes() >> 30, *gib, "{name}");
        assert_eq!(host.nodes(), *nodes, "{name}");
        assert_eq!(host.packages(), *packages, "{name}");
        let keys: Vec<_> = host.assumptions().iter().map(Assumption::key).collect();
        assert!(keys.starts_with(&["cmrs", "key-ids"]), "{name}: {keys:?}");
        assert_eq!(host.cpu(), cpu_model::SAPPHIRE_RAPIDS, "{name}");
        // CMRs start at 1 MiB, reach over the firmware's holes, and lose nothing.
        assert_eq!(host.cmrs()[0].base().get(), 1 << 20, "{name}");
        assert_eq!(host.bytes_outside_cmrs(), 0, "{name}");
        assert!(host.cmrs().len() <= 32, "{name}");
    }
    let amd = host("e820/09-dell-r7625-amd-768gib-nps4.log").unwrap();
    assert!(amd.assumptions().iter().any(|a| a.to_string().contains("that of line 2 has no TDX")));
}

#[test]
fn rows_without_usable_memory_are_refused() {
    let error = host("e820/15-partial-pmem-cxl-hotplug-rows.log").unwrap_err();
    assert_eq!(error.rule, Rule::NoUsableMemory, "{error}");
    assert_eq!(error.line, Some(15), "{error}");
}

#[test]
fn machine_check_logs_are_not_hosts() {
    let mut files = 0;
    for entry in std::fs::read_dir(fixture("mce")).unwrap() {
        let error = Host::from_path(&entry.unwrap().path(), &HostOptions::default()).unwrap_err();
        assert_eq!(error.rule, Rule::NotABootLog, "{error}");
        files += 1;
    }
    assert!(files >= 10);
}

#[test]
fn no_fixture_is_forgotten() {
    let count = |dir: &str| std::fs::read_dir(fixture(dir)).unwrap().count();
    assert_eq!(count("hosts"), USABLE.len() + WITHOUT_MEMORY.len() + 1);
    assert_eq!(count("e820"), E820.len() + 1);
    assert_eq!(count("made-up"), 3);
}

#[test]
fn node_border_of_fixture_22() {
    let border = tdx_operator::size::parse("258G").map(tdx_abi::PhysAddr::new).unwrap();
    let options = HostOptions { node_borders: vec![border], ..HostOptions::default() };
    let host = Host::from_path(&fixture("hosts/22-intel-tdx-linux-5-256gib.log"), &options).unwrap();
    let pieces: Vec<_> = host.memory().iter().map(|piece| format!("{} {}", piece.range, piece.node.0)).collect();
    assert_eq!(
        pieces,
        [
            "[0x100000, 0x77800000) 0",
            "[0x100000000, 0x1ffe000000) 0",
            "[0x4000000000, 0x4080000000) 0",
            "[0x4080000000, 0x6000000000) 1",
            "[0x8000000000, 0x8080000000) 1",
        ]
    );
    assert!(host.assumptions().contains(&Assumption::NodeBorders(vec![border])));
    // A log that knows its nodes takes no borders, and a border must cut something.
    let known = Host::from_path(&fixture("e820/02-hp-superdome2-16s-12tib.log"), &options).unwrap_err();
    assert_eq!(known.rule, Rule::NodeBorderKnown);
    let far = HostOptions { node_borders: vec![tdx_abi::PhysAddr::new(1 << 50)], ..HostOptions::default() };
    let error = Host::from_path(&fixture("hosts/22-intel-tdx-linux-5-256gib.log"), &far).unwrap_err();
    assert!(matches!(error.rule, Rule::NodeBorder { .. }), "{error}");
}

#[test]
fn made_up_hosts() {
    let small = host("made-up/spr-small.toml").unwrap();
    assert_eq!(small.name(), "small Sapphire Rapids host");
    assert_eq!((small.packages(), small.cpus(), small.logged().pamt_kb), (2, 4, Some(16424)));
    assert!(small.assumptions().is_empty(), "{:?}", small.assumptions());
    assert_eq!(small.key_id_field().bits(), 6);
    let two = host("made-up/emr-two-nodes.toml").unwrap();
    assert_eq!((two.nodes(), two.cmrs().len(), two.memory().len()), (2, 2, 4));
    assert!(two.cpu().has_partial_write_erratum());
    let without = host("made-up/gnr-no-erratum.toml").unwrap();
    assert!(!without.cpu().has_partial_write_erratum());
    assert_eq!(without.assumptions(), [Assumption::CmrsFromMemory]);
    assert_eq!(without.key_id_field().bits(), 7);
}

#[test]
fn the_bundled_host_is_fixture_01() {
    let bundled = Host::bundled(&HostOptions::default()).unwrap();
    let file = host("hosts/01-canonical-385-2tib.log").unwrap();
    assert_eq!(bundled.memory(), file.memory());
    assert_eq!(bundled.cmrs(), file.cmrs());
}
