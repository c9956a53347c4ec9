//! Lint: licenses, wildcard versions and sources of all dependencies, judged by cargo-deny after
//! `deny.toml`. An extra, also in CI: it takes minutes to build, and it changes nothing here.

use std::process::Command;

use anyhow::Result;

use crate::step::{cargo, run};

/// Workspaces with dependencies that end up in what is shipped or booted.
const WORKSPACES: [&str; 4] =
    ["Cargo.toml", "bare/Cargo.toml", "linux/object/Cargo.toml", "bare/linux/object/Cargo.toml"];

/// How to get it.
const INSTALL: &str = "cargo install cargo-deny --locked";

/// Checks every workspace; true where cargo-deny is not installed, which is said.
pub(crate) fn check() -> Result<bool> {
    if !Command::new("cargo-deny").arg("--version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: licenses and sources of dependencies (no cargo-deny: {INSTALL})");
        return Ok(true);
    }
    let mut ok = true;
    for manifest in WORKSPACES {
        // Without the advisories: their database is not on every machine. Two versions of a crate
        // are no fault, and a license that nobody uses today may be used tomorrow.
        let arguments = ["check", "--allow", "duplicate", "--allow", "license-not-encountered"];
        let mut command = cargo(&["deny", "--offline", "--manifest-path", manifest]);
        ok &= run(&format!("cargo deny ({manifest})"), command.args(arguments).args(["licenses", "bans", "sources"]))?;
    }
    Ok(ok)
}
