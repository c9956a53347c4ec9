//! The tasks `test`, `lint` and `bench`.

use crate::deb::Outcome;
use crate::step::{Counts, Parts, cargo, missing, run, run_tests, verdict, word};
use crate::vectors;
use crate::{book, citations, commits, crates, deb, deny, imports, operands, prose};
use anyhow::Result;
use std::ffi::OsString;
use std::process::{Command, ExitCode};

/// Where proptest's random inputs begin.
const SEED: &str = "PROPTEST_RNG_SEED";

/// The tool that runs QEMU, `tools/boot`.
fn boot_tool(task: &str) -> Command {
    let mut command = cargo(&["run", "--quiet", "--package", "boot", "--manifest-path"]);
    command.arg(crate::root().join("Cargo.toml")).args(["--", task]);
    command
}

/// Runs the tool with these arguments; its exit code is this task's.
pub(crate) fn boot(task: &str, arguments: &[OsString]) -> ExitCode {
    // In the caller's folder: files among the arguments are relative to it.
    match boot_tool(task).args(arguments).status() {
        Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(70).into(),
        Err(error) => {
            eprintln!("xtask: cannot run cargo: {error}");
            ExitCode::from(70)
        }
    }
}

/// Every test there is. What cannot run here is reported as skipped; in CI it is a failure. Ends
/// with a line for each part, with its time.
pub(crate) fn test() -> Result<bool> {
    let mut parts = Parts::default();
    parts.run("tests of every crate", || {
        let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
        // The same inputs each time: new ones are for `cargo test`, where a person looks at what
        // they find.
        if std::env::var_os(SEED).is_none() {
            command.env(SEED, "1");
        }
        run_tests("tests of every crate", &mut command)
    })?;
    parts.run("tests of bare/vmx", bare)?;
    parts.run("explorer", explore)?;
    parts.run("interleavings (loom)", loom)?;
    parts.run("no panic", no_panic)?;
    parts.run("independent judge", independent_judge)?;
    parts.run("crates", crates::check)?;
    parts.run("Debian packages", packages)?;
    parts.run("book", book::build)?;
    parts.run("Miri", miri)?;
    parts.run("conformance vectors", vectors::all)?;
    parts.run("boots (QEMU)", || run_tests("boots (QEMU)", &mut boot_tool("boots")))?;
    Ok(parts.end())
}

/// Every instant of every bundled scenario, and every bug of the catalogue; optimized, because
/// there are a million of them.
pub(crate) fn explore() -> Result<Counts> {
    let explorer = ["run", "--release", "--quiet", "--package", "cleanslate", "--", "explore", "--format", "tap"];
    let mut counts = run_tests("every instant of the bundled scenarios", &mut cargo(&explorer))?;
    let mut bugs = cargo(&explorer);
    counts.add(run_tests("every bug of the catalogue is found", bugs.args(["--bug", "all"]))?);
    Ok(counts)
}

/// What seamvisor does with numbers; all else of it is tested by boots.
fn bare() -> Result<Counts> {
    let mut command = cargo(&["test", "--manifest-path", "bare/Cargo.toml", "--package", "vmx", "--no-fail-fast"]);
    command.env("CARGO_TARGET_DIR", crate::root().join("target/bare"));
    run_tests("tests of bare/vmx", &mut command)
}

/// loom replaces the atomics, so it needs a build of its own.
fn loom() -> Result<Counts> {
    let mut command = cargo(&["test", "--package", "tdx-host", "--release", "--test", "loom_*", "--no-fail-fast"]);
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", crate::root().join("target/loom"));
    run_tests("interleavings (loom)", &mut command)
}

/// A program that links only if no path of the product can panic: the linker names the culprit
/// otherwise.
fn no_panic() -> Result<Counts> {
    let mut command = cargo(&["build", "--release", "--quiet", "--manifest-path", "checks/no-panic/Cargo.toml"]);
    command.env("CARGO_TARGET_DIR", crate::root().join("target/no-panic"));
    let ok = run("no path of tdx-host can panic (checks/no-panic links)", &mut command)?;
    Ok(verdict("no path of tdx-host can panic", ok))
}

/// The emulator judges the product, so it must not know it; and what an operator asks needs no
/// emulator.
fn independent_judge() -> Result<Counts> {
    let mut counts = Counts::default();
    for (package, without) in [("tdx-machine", "tdx-host"), ("tdx-operator", "tdx-machine")] {
        let output = cargo(&["tree", "--package", package, "--edges", "normal,build,dev", "--prefix", "none"])
            .current_dir(crate::root())
            .output()?;
        let tree = String::from_utf8_lossy(&output.stdout);
        let has = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
        let ok = output.status.success() && has("tdx-abi") && !has(without);
        counts.add(verdict(&format!("{package} does not depend on {without}"), ok));
    }
    Ok(counts)
}

/// Debian packages, where there is Debian's tool for them.
pub(crate) fn packages() -> Result<Counts> {
    eprintln!("\n== Debian packages");
    for tool in ["dpkg-deb", "dpkg", "gzip", "md5sum", "strip"] {
        if !Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success()) {
            return Ok(missing("Debian packages", tool, "apt-get install dpkg gzip coreutils binutils"));
        }
    }
    let mut counts = Counts::default();
    for (name, outcome) in deb::check()? {
        counts.add(match outcome {
            Outcome::Passed => verdict(name, true),
            Outcome::Failed(why) => {
                let counts = verdict(name, false);
                println!("{why}");
                counts
            }
            Outcome::Missing(tool, install) => missing(name, tool, install),
        });
    }
    Ok(counts)
}

/// Miri is an extra, in CI too: it needs a nightly toolchain.
fn miri() -> Result<Counts> {
    let there = Command::new("cargo").args(["+nightly", "miri", "--version"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        println!(
            "\nskipped: Miri on tdx-abi and tdx-host (no nightly toolchain with Miri; rustup +nightly component add miri)"
        );
        return Ok(Counts { skipped: 1, ..Counts::default() });
    }
    let mut command = Command::new("cargo");
    command
        .args(["+nightly", "miri", "test", "--package", "tdx-abi", "--package", "tdx-host", "--lib"])
        .env("CARGO_TARGET_DIR", crate::root().join("target/miri"));
    run_tests("undefined behavior in tdx-abi and tdx-host (Miri)", &mut command)
}

/// Formatting, clippy, rustdoc and import circles; all run, so that one call shows everything.
pub(crate) fn lint() -> Result<bool> {
    let format = run("cargo fmt", &mut cargo(&["fmt", "--all", "--check"]))?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "--deny", "warnings"];
    let clippy = run("cargo clippy", &mut cargo(&clippy))?;
    let (staticlib_format, staticlib_clippy) = lint_staticlib()?;
    let (bare_format, bare_clippy) = lint_bare()?;
    let (format, clippy) = (format && staticlib_format && bare_format, clippy && staticlib_clippy && bare_clippy);
    let mut command = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    let doc = run("cargo doc", command.env("RUSTDOCFLAGS", "--deny warnings"))?;
    eprintln!("\n== import circles");
    let imports = imports::check(&crate::root())?;
    eprintln!("\n== citations");
    let citations = citations::check(&crate::root())?;
    eprintln!("\n== width of prose");
    let prose = prose::check(&crate::root())?;
    eprintln!("\n== page operands");
    let operands = operands::check()?;
    eprintln!("\n== commits");
    let commits = commits::check()?;
    let deny = deny::check()?;
    let parts = [
        ("fmt", format),
        ("clippy", clippy),
        ("doc", doc),
        ("imports", imports),
        ("citations", citations),
        ("prose", prose),
        ("page operands", operands),
        ("commits", commits),
        ("deny", deny),
    ];
    eprintln!("\n{}", parts.map(|(name, ok)| format!("{name} {}", word(ok))).join(", "));
    Ok(parts.iter().all(|(_, ok)| *ok))
}

/// What of `lint` needs no build.
pub(crate) fn lint_quick() -> Result<bool> {
    let manifests = BARE.iter().map(|(_, manifest, _)| *manifest).chain(["Cargo.toml", STATICLIB]);
    let mut ok = true;
    for manifest in manifests {
        let mut command = cargo(&["fmt", "--all", "--check", "--manifest-path", manifest]);
        ok &= command.current_dir(crate::root()).status()?.success();
    }
    ok &= imports::check(&crate::root())?;
    ok &= citations::check(&crate::root())?;
    ok &= prose::check(&crate::root())?;
    ok &= commits::check()?;
    Ok(ok)
}

/// The programs of the bare machine and the object of the Linux module are workspaces of their own,
/// too: name, manifest, folder of builds.
const BARE: [(&str, &str, &str); 3] = [
    ("bare", "bare/Cargo.toml", "target/bare"),
    ("linux/object", "linux/object/Cargo.toml", "target/linux-object/lint"),
    ("bare/linux/object", "bare/linux/object/Cargo.toml", "target/linux-object/lint"),
];

/// So is the static library for C.
const STATICLIB: &str = "crates/tdx-host-c/staticlib/Cargo.toml";

fn lint_bare() -> Result<(bool, bool)> {
    let mut all = (true, true);
    for (name, manifest, target) in BARE {
        let manifest = ["--manifest-path", manifest];
        all.0 &= run(&format!("cargo fmt ({name})"), cargo(&["fmt", "--all", "--check"]).args(manifest))?;
        let mut command = cargo(&["clippy", "--release", "--quiet"]);
        command.args(manifest).env("CARGO_TARGET_DIR", crate::root().join(target));
        all.1 &= run(&format!("cargo clippy ({name})"), command.args(["--", "--deny", "warnings"]))?;
    }
    Ok(all)
}

fn lint_staticlib() -> Result<(bool, bool)> {
    let manifest = ["--manifest-path", STATICLIB];
    let format = run("cargo fmt (staticlib)", cargo(&["fmt", "--check"]).args(manifest))?;
    let mut command = cargo(&["clippy", "--release", "--quiet"]);
    command.args(manifest).env("CARGO_TARGET_DIR", crate::root().join("target/staticlib"));
    let clippy = run("cargo clippy (staticlib)", command.args(["--", "--deny", "warnings"]))?;
    Ok((format, clippy))
}

/// Benchmarks print their figures and leave them as JSON.
pub(crate) fn bench() -> Result<bool> {
    run("benchmarks", &mut cargo(&["bench", "--workspace", "--benches"]))
}
