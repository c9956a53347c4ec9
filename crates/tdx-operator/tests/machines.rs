//! The made-up saved machines of the fixtures, one or more for each era and distribution: every
//! check that does not pass, against the table in docs/CHECK.md.

use std::path::{Path, PathBuf};

use tdx_operator::{
    check::{check, load},
    report::{CheckReport, Status},
};

const BEGIN: &str = "<!-- begin: machines -->\n";
const END: &str = "<!-- end: machines -->";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn machines() -> Vec<(String, CheckReport)> {
    let entries = std::fs::read_dir(root().join("fixtures/machines")).unwrap();
    let mut machines: Vec<_> = entries
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let report = check(&name, &load(&path).unwrap());
            (name, report)
        })
        .collect();
    machines.sort_by(|(a, _), (b, _)| a.cmp(b));
    machines
}

fn row(name: &str, report: &CheckReport) -> String {
    let ids = |status| {
        let ids = report.checks().filter(|check| check.status == status).map(|check| check.id);
        ids.collect::<Vec<_>>().join(", ")
    };
    let verdict = &report.verdict;
    let (fail, warn, unknown) = (ids(Status::Fail), ids(Status::Warn), ids(Status::Unknown));
    let (status, tdx, kexec) = (verdict.status.name(), verdict.tdx, verdict.kexec);
    let (kdump, reset) = (verdict.kdump, verdict.power_cycle);
    format!("| {name} | {status} | {tdx} | {kexec} | {kdump} | {reset} | {fail} | {warn} | {unknown} |\n")
}

#[test]
fn the_table_of_the_docs() {
    let mut table = "| machine | verdict | TDX | kexec | kdump | reset | fail | warn | unknown |\n".to_owned();
    table.push_str("| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (name, report) in machines() {
        table.push_str(&row(&name, &report));
    }
    let docs = std::fs::read_to_string(root().join("docs/CHECK.md")).unwrap();
    let (_, rest) = docs.split_once(BEGIN).expect(BEGIN);
    let (written, _) = rest.split_once(END).expect(END);
    assert!(written == table, "docs/CHECK.md does not have this table:\n{table}");
}

/// The same by hand, from the references: what mainline of each version does.
#[test]
fn each_era_and_distribution() {
    let machines = machines();
    assert!(machines.len() >= 5 + 12);
    for (name, kexec, kdump, reset) in [
        ("debian13", "safe", "ready", "no"),
        ("debian13-cleanslate", "safe", "ready", "no"),
        ("debian13-backports", "refused", "not-ready", "no"),
        ("ubuntu2404", "refused", "not-ready", "no"),
        ("ubuntu2510", "refused", "not-ready", "no"),
        ("ubuntu2604", "refused", "not-ready", "no"),
        // Hibernation keeps TDX away, so that nothing is refused.
        ("ubuntu2604-hibernation", "safe", "ready", "no"),
        ("sles15sp7", "safe", "ready", "no"),
        // TDX host code and kexec in versions of which mainline has one of them only.
        ("sles16", "unknown", "unknown", "no"),
        ("centos-stream9", "unknown", "unknown", "no"),
        // No erratum.
        ("centos-stream10", "safe", "ready", "no"),
        ("fedora43", "refused", "not-ready", "no"),
        ("fedora44-reclaim", "unsafe", "ready", "planned"),
        ("sid-7.3-cleanslate", "safe", "ready", "no"),
        ("sid-7.3-freed", "unsafe", "ready", "now"),
        ("long-uptime", "unknown", "ready", "unknown"),
        ("icelake", "safe", "ready", "no"),
    ] {
        let (_, report) = machines.iter().find(|(other, _)| other == name).unwrap_or_else(|| panic!("{name}"));
        let verdict = &report.verdict;
        assert_eq!((verdict.kexec, verdict.kdump, verdict.power_cycle), (kexec, kdump, reset), "{name}");
    }
}

/// What gives TDX on 7.0 takes kexec and kdump away, and the answer says so.
#[test]
fn nohibernate_has_its_price() {
    let machines = machines();
    let of = |name: &str| machines.iter().find(|(other, _)| other == name).map(|(_, report)| report).unwrap();
    let find = |name, id| of(name).checks().find(|check| check.id == id).unwrap();
    let hibernation = find("ubuntu2604-hibernation", "kernel.hibernation");
    assert!(hibernation.hint.as_ref().unwrap().contains("gives up kexec and kdump"), "{:?}", hibernation.hint);
    assert!(hibernation.remedies[0].costs.contains("kdump"));
    // And the other way round.
    let jump = find("ubuntu2604", "kexec.jump");
    assert!(jump.remedies.iter().any(|remedy| remedy.what.contains("remove `nohibernate`")), "{:?}", jump.remedies);
}

#[test]
fn data_that_contradict_are_named() {
    let machines = machines();
    for (name, report) in &machines {
        let agree = report.checks().find(|check| check.id == "data.agree").unwrap();
        let expected = if name == "contradiction" { Status::Warn } else { Status::Pass };
        assert_eq!(agree.status, expected, "{name}: {:?}", agree.evidence);
        if expected == Status::Warn {
            let all = agree.evidence.join("\n");
            for words in ["7.0.0-14-generic", "no memory is reserved"] {
                assert!(all.contains(words), "{all}");
            }
        }
    }
}
