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
    let output = command.output().with_context(|| format!("cannot run {}", line(command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} failed: {}", line(command), said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as a shell takes it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted = words.map(|word| {
        let word = word.to_string_lossy();
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word.into_owned()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_as_a_shell_takes_it() {
        let mut command = Command::new("qemu");
        command.args(["-append", "cpu=spr -- it's", "-name", "a,b=c", ""]);
        assert_eq!(line(&command), "qemu -append 'cpu=spr -- it'\\''s' -name a,b=c ''");
    }
}
