//! Commands, and packages of Debian that are fetched and unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Runs a command; its output, or an error with its stderr.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fetches Debian packages and unpacks them into `folder/root`; installs nothing.
pub(crate) fn fetch(folder: &Path, packages: &[&str]) -> Result<PathBuf> {
    let root = folder.join("root");
    fs::create_dir_all(&root)?;
    run(Command::new("apt-get").arg("download").args(packages).current_dir(folder))
        .context("run `apt-get update` first if the list of packages is old")?;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&path).arg(&root))?;
            fs::remove_file(path)?;
        }
    }
    Ok(root)
}

/// The last file of a folder, by name, whose name has this prefix.
pub(crate) fn newest(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found.pop().with_context(|| format!("no {prefix}* in {}", folder.display()))
}
