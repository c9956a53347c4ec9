//! What the crates promise to those who depend on them: they build for a target without an
//! operating system, with the oldest dependencies they allow, and from their packages. Publishes
//! nothing.

use crate::step::{Counts, cargo, missing, run, verdict};
use anyhow::{Context, Result};
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a kernel links.
const FOR_KERNELS: [&str; 5] = ["tdx-abi", "tdx-machine", "tdx-host", "tdx-host-c", "first-kernel"];
/// What a tool needs besides. Cargo finds the order in which they can be published.
const FOR_TOOLS: [&str; 5] = ["tdx-operator", "tdx-lab", "tdx-explorer", "cleanslate-ioctl", "cleanslate"];

const BARE: &str = "x86_64-unknown-none";

/// All of it.
pub(crate) fn check() -> Result<Counts> {
    let mut counts = no_features()?;
    counts.add(no_std()?);
    counts.add(minimal_versions()?);
    counts.add(packages()?);
    Ok(counts)
}

/// Without features there are no combinations of them to build.
fn no_features() -> Result<Counts> {
    let output = cargo(&["metadata", "--no-deps", "--format-version", "1"]).current_dir(crate::root()).output()?;
    let metadata = String::from_utf8_lossy(&output.stdout);
    // A package's features are an object, those it wants of a dependency a list.
    let (all, empty) = (metadata.matches("\"features\":{").count(), metadata.matches("\"features\":{}").count());
    Ok(verdict("no crate has a cargo feature", output.status.success() && all > 0 && all == empty))
}

/// `std` does not exist for this target, so a crate that wants it does not build.
fn no_std() -> Result<Counts> {
    let libraries = Command::new("rustc").args(["--print", "target-libdir", "--target", BARE]).output()?;
    let folder = String::from_utf8_lossy(&libraries.stdout).trim().to_owned();
    if !libraries.status.success() || !std::path::Path::new(&folder).is_dir() {
        let install = format!("rustup target add {BARE}");
        return Ok(missing("the crates for kernels build without std", &format!("target {BARE}"), &install));
    }
    let mut command = cargo(&["build", "--quiet", "--target", BARE]);
    command.args(FOR_KERNELS.iter().flat_map(|name| ["--package", name]));
    let ok = run("the crates for kernels build without std", &mut command)?;
    Ok(verdict("the crates for kernels build without std", ok))
}

/// The lock file is part of the check: it names the oldest versions.
fn minimal_versions() -> Result<Counts> {
    let mut command = cargo(&["build", "--quiet", "--locked", "--manifest-path", "checks/minimal-versions/Cargo.toml"]);
    command.env("CARGO_TARGET_DIR", crate::root().join("target/minimal-versions"));
    let ok = run("the crates for kernels build with the oldest dependencies they allow", &mut command)?;
    Ok(verdict("the crates for kernels build with the oldest dependencies they allow", ok))
}

/// Each package is unpacked and built with the packages of the others: from the beginning, because
/// cargo takes a package of the same version for the same package, and would build with an old one.
fn packages() -> Result<Counts> {
    let target = crate::root().join("target/packages");
    remove(&target)?;
    for unpacked in old_packages()? {
        remove(&unpacked)?;
    }
    let mut command = cargo(&["package", "--quiet", "--allow-dirty"]);
    command.args(FOR_KERNELS.iter().chain(&FOR_TOOLS).flat_map(|name| ["--package", name]));
    let ok = run("every crate builds from its package", command.env("CARGO_TARGET_DIR", &target))?;
    remove(&target)?;
    Ok(verdict("every crate builds from its package", ok))
}

/// Packages of these crates that cargo has unpacked for an earlier check, from a registry without a
/// host: `$CARGO_HOME/registry/src/-HASH/NAME-VERSION`.
fn old_packages() -> Result<Vec<PathBuf>> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let Some(sources) = home.map(|home| home.join("registry/src")).filter(|sources| sources.is_dir()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for registry in fs::read_dir(sources)? {
        let registry = registry?;
        if !registry.file_name().to_string_lossy().starts_with('-') {
            continue;
        }
        for name in FOR_KERNELS.iter().chain(&FOR_TOOLS) {
            found.push(registry.path().join(format!("{name}-{}", env!("CARGO_PKG_VERSION"))));
        }
    }
    Ok(found)
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
