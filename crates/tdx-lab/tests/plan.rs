//! `plan` on every fixture with memory: what Linux would do, against what it did, and what `fit` makes of it.

use std::path::Path;

use tdx_host::layout::Algorithm;
use tdx_lab::{
    host::{Host, HostOptions},
    plan::plan,
    report::PlanReport,
    size,
};

fn planned(name: &str, algorithm: Algorithm, borders: &[&str]) -> PlanReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    let node_borders = borders.iter().map(|text| tdx_abi::PhysAddr::new(size::parse(text).unwrap())).collect();
    let host = Host::from_path(&path, &HostOptions { node_borders }).unwrap_or_else(|error| panic!("{error}"));
    plan(&host, algorithm)
}

/// Complete logs: what the kernel printed.
const LOGGED: &[(&str, &[&str], u64, usize)] = &[
    ("hosts/01-canonical-385-2tib.log", &[], 8_396_820, 3),
    ("hosts/03-canonical-135-emr-ok.log", &[], 1_050_644, 5),
    ("hosts/04-canonical-206-512gib.log", &[], 2_101_260, 3),
    ("hosts/06-canonical-pr188-256gib.log", &[], 1_050_636, 3),
    ("hosts/22-intel-tdx-linux-5-256gib.log", &["258G"], 1_050_644, 5),
    ("hosts/24-canonical-readme-mantic-1tib.log", &[], 4_202_516, 5),
];

#[test]
fn linux_is_predicted_to_the_kilobyte() {
    for (name, borders, kb, tdmrs) in LOGGED {
        let report = planned(name, Algorithm::Linux, borders);
        assert_eq!(report.linux.result, "ok", "{name}: {:?}", report.linux.error);
        assert_eq!(report.linux.pamt_kb, Some(*kb), "{name}");
        assert_eq!(report.linux.tdmrs, Some(*tdmrs), "{name}");
        assert_eq!(report.linux.equals_log, Some(true), "{name}");
        assert_eq!(report.layout.pamt_kb, Some(*kb), "{name}");
        assert!(report.differences.is_empty(), "{name}: {:?}", report.differences);
    }
}

#[test]
fn a_missing_node_border_is_pointed_at() {
    let report = planned("hosts/22-intel-tdx-linux-5-256gib.log", Algorithm::Fit, &[]);
    assert_eq!(report.linux.pamt_kb, Some(1_050_640));
    assert_eq!(report.linux.equals_log, Some(false));
    assert!(report.differences[0].contains("--node-border"), "{:?}", report.differences);
}

#[test]
fn the_field_failure_is_predicted_and_fit_comes_up() {
    // INDEX.md note 1: 17 holes from e820 in TDMR [0, 2G), and the kernel printed -28 for exactly this TDMR.
    let report = planned("hosts/02-canonical-135-emr-fail28.log", Algorithm::Fit, &[]);
    assert_eq!(report.linux.result, "-28");
    assert_eq!(report.linux.tdmr.unwrap().to_string(), "[0x0, 0x80000000)");
    assert_eq!((report.linux.needed, report.linux.allowed), (Some(17), Some(16)));
    assert_eq!(report.linux.equals_log, Some(true));
    assert_eq!(report.layout.result, "ok");
    assert_eq!(report.layout.pamt_kb, Some(1_050_644));
    assert_eq!(report.layout.given_up_bytes, 0);
    assert!(report.differences[0].contains("holes"), "{:?}", report.differences);
    let refused = planned("hosts/02-canonical-135-emr-fail28.log", Algorithm::Linux, &[]);
    assert_eq!(refused.layout.result, "-28");
    assert!(refused.layout.tdmrs.is_empty() && refused.layout.pamt_kb.is_none());
}

/// INDEX.md: TDMRs and PAMT KB computed from e820 only, node borders inside one row not counted.
const E820: &[(&str, usize, u64)] = &[
    ("01-hpe-uv-16node-4tib", 17, 16_547_396),
    ("04-lenovo-sr650v2-icx-384gib", 2, 1_575_948),
    ("06-inspur-nf5280m6-icx-512gib", 2, 2_101_260),
    ("08-lenovo-sr950-skx-24gib", 2, 98_504),
    ("09-dell-r7625-amd-768gib-nps4", 9, 3_151_908),
    ("11-hp-dl585g7-amd-1tib", 2, 4_149_164),
    ("13-supermicro-x11dai-skx-192gib", 2, 783_872),
    ("14-xeon-192gib", 2, 783_872),
    ("16-qemu-guest-976gib", 2, 4_009_628),
];

#[test]
fn e820_tables_as_computed_in_the_index() {
    for (name, tdmrs, kb) in E820 {
        let report = planned(&format!("e820/{name}.log"), Algorithm::Linux, &[]);
        assert_eq!(report.linux.tdmrs, Some(*tdmrs), "{name}: {:?}", report.linux.error);
        assert_eq!(report.linux.pamt_kb, Some(*kb), "{name}");
    }
}

#[test]
fn fit_gives_up_nothing_on_any_fixture() {
    let hosts = LOGGED.iter().map(|(name, _, _, _)| (*name).to_owned());
    let e820 = E820.iter().map(|(name, _, _)| format!("e820/{name}.log"));
    let more = ["e820/02-hp-superdome2-16s-12tib.log", "e820/10-dell-r7425-amd-1tib-8node.log"].map(str::to_owned);
    let others = ["hosts/10-canonical-331-module1.0-fail5.log", "made-up/emr-two-nodes.toml"].map(str::to_owned);
    for name in hosts.chain(e820).chain(more).chain(others) {
        let report = planned(&name, Algorithm::Fit, &[]);
        assert_eq!(report.layout.result, "ok", "{name}: {:?}", report.layout.error);
        assert_eq!(report.layout.given_up_bytes, 0, "{name}: {:?}", report.layout.given_up);
        assert!(report.layout.tdmrs.iter().all(|tdmr| tdmr.reserved_count <= 16), "{name}");
    }
}
