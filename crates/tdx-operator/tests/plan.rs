//! `plan` on every fixture with memory: what Linux would do, against what it did, and what `fit`
//! makes of it.

use std::path::Path;

use tdx_operator::layout::LayoutName;
use tdx_operator::{
    cost::Rates,
    host::{Host, HostOptions},
    plan::plan,
    report::{PlanReport, Share, svg},
    size,
};

fn planned(name: &str, algorithm: LayoutName, borders: &[&str]) -> PlanReport {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name);
    let node_borders = borders.iter().map(|text| tdx_abi::PhysAddr::new(size::parse(text).unwrap())).collect();
    let host = Host::from_path(&path, &HostOptions { node_borders, ..HostOptions::default() })
        .unwrap_or_else(|error| panic!("{error}"));
    plan(&host, algorithm, Rates::assumed(&host))
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
        let report = planned(name, LayoutName::Linux, borders);
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
    let report = planned("hosts/22-intel-tdx-linux-5-256gib.log", LayoutName::Fit, &[]);
    assert_eq!(report.linux.pamt_kb, Some(1_050_640));
    assert_eq!(report.linux.equals_log, Some(false));
    assert!(report.differences[0].contains("--node-border"), "{:?}", report.differences);
}

#[test]
fn the_field_failure_is_predicted_and_fit_comes_up() {
    // INDEX.md note 1: 17 holes from e820 in TDMR [0, 2G), and the kernel printed -28 for exactly
    // this TDMR.
    let report = planned("hosts/02-canonical-135-emr-fail28.log", LayoutName::Fit, &[]);
    assert_eq!(report.linux.result, "-28");
    assert_eq!(report.linux.tdmr.unwrap().to_string(), "[0x0, 0x80000000)");
    assert_eq!((report.linux.needed, report.linux.allowed), (Some(17), Some(16)));
    assert_eq!(report.linux.equals_log, Some(true));
    assert_eq!(report.layout.result, "ok");
    assert_eq!(report.layout.pamt_kb, Some(1_050_644));
    assert_eq!(report.layout.given_up_bytes, 0);
    assert!(report.differences[0].contains("holes"), "{:?}", report.differences);
    let refused = planned("hosts/02-canonical-135-emr-fail28.log", LayoutName::Linux, &[]);
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
        let report = planned(&format!("e820/{name}.log"), LayoutName::Linux, &[]);
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
        let report = planned(&name, LayoutName::Fit, &[]);
        assert_eq!(report.layout.result, "ok", "{name}: {:?}", report.layout.error);
        assert_eq!(report.layout.given_up_bytes, 0, "{name}: {:?}", report.layout.given_up);
        assert!(report.layout.tdmrs.iter().all(|tdmr| tdmr.reserved_count <= 16), "{name}");
    }
}

/// Figures by hand: 8,396,820 KB of PAMT, 2.3 GB/s, and half of what is left.
#[test]
fn what_a_kexec_costs() {
    let report = planned("hosts/01-canonical-385-2tib.log", LayoutName::Fit, &[]);
    let cost = report.cost.unwrap();
    let pamt = 8_396_820 * 1024;
    assert_eq!(cost.pamt.static_bytes, pamt);
    let row = |policy: &str, share: Share| {
        *cost.kexec.iter().find(|row| row.policy == policy && row.memory_in_tds == share).unwrap()
    };
    assert_eq!(row("pamt", Share::All).bytes, pamt);
    assert_eq!(row("tracked", Share::None).bytes, pamt);
    assert_eq!(row("tracked", Share::Half).bytes, pamt + cost.memory_for_tds / 2);
    assert_eq!(row("tracked", Share::All).bytes, pamt + cost.memory_for_tds);
    assert!((row("pamt", Share::None).seconds_one_core - 3.738).abs() < 0.001);
    // 2 TiB by 4 KiB pages: 16 bytes for each, as static PAMT has them; without any, a bit for
    // each.
    let dynamic = cost.pamt.dynamic_bytes.unwrap();
    assert!(dynamic < pamt / 50 && cost.pamt.dynamic_bytes_all_in_tds.unwrap() > pamt * 99 / 100);
    let [least, most] = cost.boot.seconds;
    assert!(least > 3.7 && most < 9.3, "published logs of such hosts say 4.9 to 5.2 s: {least} {most}");
}

/// Every element is closed, every attribute is quoted, and nothing of a name gets out of its text.
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    let mut rest = svg;
    while let Some(at) = rest.find('<') {
        assert!(!rest[..at].contains('>'), "a stray > before {}", &rest[at..rest.len().min(at + 60)]);
        let end = at + rest[at..].find('>').expect("a tag that ends");
        let tag = &rest[at + 1..end];
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "in {tag}");
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_picture_of_every_host() {
    for (name, borders, ..) in LOGGED {
        let report = planned(name, LayoutName::Fit, borders);
        let svg = svg::memory_map(&report);
        assert_well_formed(&svg);
        for tdmr in &report.layout.tdmrs {
            assert!(svg.contains(&format!("{} {} node {}", tdmr.index, tdmr.range, tdmr.node)), "{name}");
            for pamt in [tdmr.pamt.small, tdmr.pamt.large, tdmr.pamt.huge] {
                assert!(svg.contains(&pamt.to_string()), "{name}: {pamt}");
            }
        }
        for given in &report.layout.given_up {
            assert!(svg.contains(&format!("({}) {}", given.reason, given.range)), "{name}");
        }
    }
}

/// Where Linux gives -28, the TDMR and every hole in it are drawn, whatever layout was asked for.
#[test]
fn the_tdmr_at_which_linux_fails_is_drawn() {
    for layout in [LayoutName::Fit, LayoutName::Linux] {
        let report = planned("hosts/02-canonical-135-emr-fail28.log", layout, &[]);
        let (tdmr, holes) = (report.linux.tdmr.unwrap(), &report.linux.holes);
        let needed = report.linux.needed.unwrap();
        assert!(holes.len() as u64 <= needed && needed > report.linux.allowed.unwrap(), "{}", holes.len());
        let svg = svg::memory_map(&report);
        assert_well_formed(&svg);
        assert!(svg.contains(&format!("Linux fails here (-28): {tdmr}")), "{svg}");
        assert_eq!(svg.matches("class=\"hole\"").count(), holes.len());
        assert!(holes.iter().all(|hole| svg.contains(&hole.to_string())));
        for pair in holes.windows(2) {
            assert!(pair[0].end.0 <= pair[1].base.0);
        }
    }
    let good = planned("hosts/01-canonical-385-2tib.log", LayoutName::Linux, &[]);
    assert!(good.linux.holes.is_empty() && !svg::memory_map(&good).contains("Linux fails"));
}

/// Labels that stand in one row, on a phone and on a desk: each has room in its own block, also
/// with the 17 TDMRs of a host with 16 nodes.
#[test]
fn labels_never_collide() {
    for name in [
        "e820/01-hpe-uv-16node-4tib.log",
        "e820/02-hp-superdome2-16s-12tib.log",
        "hosts/02-canonical-135-emr-fail28.log",
    ] {
        let svg = svg::memory_map(&planned(name, LayoutName::Fit, &[]));
        for width in [380.0, 780.0, 1160.0] {
            let mut rows: std::collections::BTreeMap<String, Vec<(f64, f64)>> = std::collections::BTreeMap::new();
            for tag in svg.split("<text class=\"in").skip(1) {
                if tag.starts_with(" wide") && width < 780.0 {
                    continue;
                }
                let value = |name: &str| {
                    tag.split_once(&format!(" {name}=\"")).unwrap().1.split('"').next().unwrap().to_owned()
                };
                let x: f64 = value("x").trim_end_matches('%').parse().unwrap();
                let text = tag.split_once('>').unwrap().1.split('<').next().unwrap();
                // 12 pixels of a sans-serif font: less than 7.5 for a character.
                let half = text.chars().count() as f64 * 7.5 / 2.0;
                let middle = x / 100.0 * width;
                rows.entry(value("y")).or_default().push((middle - half, middle + half));
            }
            assert!(!rows.is_empty(), "{name}");
            for (y, mut labels) in rows {
                labels.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(labels.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{name} at {width}, row {y}: {labels:?}");
                assert!(labels.first().is_none_or(|label| label.0 >= -4.0), "{name}: {labels:?}");
            }
        }
    }
}

#[test]
fn a_name_cannot_leave_its_text() {
    let mut report = planned("hosts/01-canonical-385-2tib.log", LayoutName::Fit, &[]);
    report.host.name = "</text><script>\"&".to_owned();
    let svg = svg::memory_map(&report);
    assert_well_formed(&svg);
    assert!(!svg.contains("<script"));
}
