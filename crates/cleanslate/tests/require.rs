//! `check --require`: the exit code on made-up machines with and without what is required.

mod common;

use common::{fixture, run};

fn code(machine: &str, require: &[&str]) -> i32 {
    let path = fixture(&format!("machines/{machine}"));
    let mut args = vec!["check", "--from", &path];
    args.extend(require.iter().flat_map(|what| ["--require", what]));
    run(&args).code
}

fn kdump(machine: &str) -> String {
    let report = run(&["check", "--from", &fixture(&format!("machines/{machine}")), "--format", "json"]).json();
    report["verdict"]["kdump"].as_str().unwrap().to_owned()
}

#[test]
fn a_host_that_cannot_dump() {
    for (machine, kdump_is) in [("gnr-7.2", "ready"), ("spr-6.18", "not-ready"), ("spr-6.14", "not-ready")] {
        assert_eq!(kdump(machine), kdump_is, "{machine}");
        let met = kdump_is == "ready";
        assert_eq!(code(machine, &["kdump"]), i32::from(!met), "{machine}");
    }
}

#[test]
fn each_requirement_decides() {
    // Without the erratum a kexec is safe, and TDX is on.
    assert_eq!(code("gnr-7.2", &["kexec", "tdx", "kdump"]), 0);
    // Refused images: a warning by itself, no kexec if it is required.
    assert_eq!((code("spr-6.18", &[]), code("spr-6.18", &["kexec"]), code("spr-6.18", &["tdx"])), (0, 1, 0));
    assert_eq!((code("no-tdx", &["tdx"]), code("no-tdx", &["kexec"])), (1, 0));
    assert_eq!(run(&["check", "--require", "luck"]).code, 2);
}
