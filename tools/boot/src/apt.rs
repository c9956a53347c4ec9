//! Debian's archive with package lists of its own: releases other than the one of this machine.
//! Debian's keys verify the lists, which have the hash of every file. Nothing is installed.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::fetch::{newest, run};

pub(crate) const MIRROR: &str = "http://deb.debian.org/debian";
pub(crate) const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Package lists in a folder.
pub(crate) struct Archive {
    /// Absolute.
    folder: PathBuf,
}

impl Archive {
    /// Fetches the lists of these releases. An entry is `deb SUITE` or `deb-src SUITE`.
    pub(crate) fn update(folder: &Path, entries: &[&str]) -> Result<Self> {
        fs::create_dir_all(folder.join("lists/partial"))?;
        let archive = Self { folder: folder.canonicalize()? };
        let mut list = String::new();
        for entry in entries {
            let (kind, suite) = entry.split_once(' ').with_context(|| format!("{entry} is no KIND SUITE"))?;
            writeln!(list, "{kind} [signed-by={KEYS}] {MIRROR} {suite} main")?;
        }
        fs::write(archive.folder.join("sources.list"), list)?;
        run(archive.tool("apt-get").arg("update"))?;
        Ok(archive)
    }

    /// A program of apt's that uses these lists and no others.
    fn tool(&self, program: &str) -> Command {
        let mut tool = Command::new(program);
        let settings = [
            format!("Dir::Etc::sourcelist={}", self.folder.join("sources.list").display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", self.folder.join("lists").display()),
            // The folder belongs to this user, not to `_apt`.
            "APT::Sandbox::User=root".to_owned(),
        ];
        for setting in settings {
            tool.arg("-o").arg(setting);
        }
        tool.current_dir(&self.folder);
        tool
    }

    /// The newest package whose name begins and ends so, by the number behind the beginning.
    pub(crate) fn newest(&self, begin: &str, end: &str) -> Result<String> {
        let names = run(self.tool("apt-cache").args(["pkgnames", begin]))?;
        newest_name(&names, begin, end).with_context(|| format!("the lists have no package {begin}*{end}"))
    }

    /// Is there a package of this name?
    pub(crate) fn has(&self, package: &str) -> Result<bool> {
        Ok(run(self.tool("apt-cache").args(["pkgnames", package]))?.lines().any(|name| name == package))
    }

    /// Fetches a package and unpacks it into `root`.
    pub(crate) fn unpack(&self, package: &str, root: &Path) -> Result<()> {
        run(self.tool("apt-get").args(["download", package]))?;
        let name = package.split('=').next().unwrap_or(package);
        let file = newest(&self.folder, &format!("{name}_"))?;
        fs::create_dir_all(root)?;
        run(Command::new("dpkg").arg("-x").arg(&file).arg(root))?;
        fs::remove_file(file)?;
        Ok(())
    }

    /// Fetches the newest upstream source of a series of Linux that the mirror still has. It
    /// keeps the lists of a package longer than its files.
    pub(crate) fn upstream(&self, series: &str) -> Result<(PathBuf, String)> {
        let known = sources(&run(self.tool("apt-cache").args(["showsrc", "linux"]))?, series);
        ensure!(!known.is_empty(), "the lists have no source of Linux {series}");
        for source in known.iter().rev() {
            let name = format!("linux_{}.orig.tar.xz", source.version);
            let file = self.folder.join(&name);
            let mut helper = self.tool("/usr/lib/apt/apt-helper");
            helper.arg("download-file").arg(format!("{MIRROR}/pool/main/l/linux/{name}")).arg(&file);
            match run(helper.arg(format!("SHA256:{}", source.sha256))) {
                Ok(_) => return Ok((file, source.version.clone())),
                Err(why) if format!("{why:#}").contains("404") => {}
                Err(why) => return Err(why),
            }
        }
        let versions: Vec<&str> = known.iter().map(|source| source.version.as_str()).collect();
        anyhow::bail!("the mirror has none of the sources that its lists name: {}", versions.join(", "))
    }
}

/// A source in the lists.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    version: String,
    sha256: String,
}

/// Sources of a series in the output of `apt-cache showsrc linux`, ascending.
fn sources(text: &str, series: &str) -> Vec<Source> {
    let source = |line: &str| {
        let mut words = line.split_whitespace();
        let (sha256, _size, name) = (words.next()?, words.next()?, words.next()?);
        let version = name.strip_prefix("linux_")?.strip_suffix(".orig.tar.xz")?;
        let is_hash = sha256.len() == 64 && sha256.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_of = version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'));
        (is_hash && is_of).then(|| Source { version: version.to_owned(), sha256: sha256.to_owned() })
    };
    let mut found: Vec<Source> = text.lines().filter_map(source).collect();
    found.sort_by_key(|source| patch(&source.version));
    found.dedup();
    found
}

/// The name with the largest number behind the beginning. Other flavours end in the same letters:
/// what is between has no dash.
fn newest_name(names: &str, begin: &str, end: &str) -> Option<String> {
    let number = |name: &str| {
        let middle = name.strip_prefix(begin)?.strip_suffix(end)?;
        let digits = middle.split(|c: char| !c.is_ascii_digit()).next()?;
        if middle.contains('-') { None } else { digits.parse::<u32>().ok() }
    };
    names.lines().filter(|name| number(name).is_some()).max_by_key(|name| number(name)).map(str::to_owned)
}

/// 15 of `6.18.15`; a release candidate is before all.
fn patch(version: &str) -> Option<u32> {
    version.rsplit('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_package_of_a_flavour() {
        let names = "linux-headers-7.2.9+deb13-amd64\nlinux-headers-7.2.12+deb13-amd64\n\
            linux-headers-7.2.13+deb13-cloud-amd64\nlinux-headers-7.2.12+deb13-common\n";
        let newest = |end| newest_name(names, "linux-headers-7.2.", end);
        assert_eq!(newest("-amd64").as_deref(), Some("linux-headers-7.2.12+deb13-amd64"));
        assert_eq!(newest("-cloud-amd64").as_deref(), Some("linux-headers-7.2.13+deb13-cloud-amd64"));
        assert_eq!(newest("-rt-amd64"), None);
    }

    #[test]
    fn sources_of_a_series_by_their_version() {
        let (one, two) = ("1".repeat(64), "2".repeat(64));
        let text = format!(
            "Package: linux\nVersion: 6.18.15-1~bpo13+1\nFiles:\n {md5} 157 linux_6.18.15.orig.tar.xz\n\
             Checksums-Sha256:\n {one} 203 linux_6.18.15-1.dsc\n {one} 157 linux_6.18.15.orig.tar.xz\n \
             {two} 157 linux_6.18.9.orig.tar.xz\n {two} 157 linux_6.1.9.orig.tar.xz\n \
             {one} 157 linux_6.18.15.orig.tar.xz\n",
            md5 = "3".repeat(32)
        );
        let versions = |series| sources(&text, series).into_iter().map(|source| source.version).collect::<Vec<_>>();
        assert_eq!(versions("6.18"), ["6.18.9", "6.18.15"]);
        assert_eq!(versions("6.1"), ["6.1.9"]);
        assert_eq!(sources(&text, "6.18")[1].sha256, one);
        assert!(versions("7.0").is_empty());
    }
}
