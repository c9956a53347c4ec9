//! Where `cargo xtask linux` keeps the kernels that can be booted: `target/linux`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::args::Kernel;
use crate::root;

/// Files to boot.
pub(crate) struct Linux {
    pub(crate) image: PathBuf,
    pub(crate) initrd: PathBuf,
}

pub(crate) fn folder(kernel: Kernel) -> PathBuf {
    root().join("target/linux").join(kernel.name())
}

/// Has `provide` made it?
pub(crate) fn is_there(kernel: Kernel) -> bool {
    find(kernel).is_ok()
}

/// Files of a Linux that `provide` has made.
pub(crate) fn find(kernel: Kernel) -> Result<Linux> {
    let folder = folder(kernel);
    let linux = Linux { image: folder.join("bzImage"), initrd: folder.join("initrd") };
    let there = linux.image.exists() && linux.initrd.exists();
    ensure!(there, "there is no Linux {} yet: {}", kernel.name(), kernel.how());
    Ok(linux)
}

/// A kernel's build tree, if there is one.
pub fn some_headers() -> Option<PathBuf> {
    [Kernel::Stock612, Kernel::Tdx, Kernel::Tdx73]
        .into_iter()
        .find_map(|kernel| folder(kernel).join("build").canonicalize().ok())
}

/// The initrd of a Linux that loads `cleanslate.ko`.
pub(crate) fn initrd_with_module(kernel: Kernel) -> Result<PathBuf> {
    let initrd = folder(kernel).join("initrd-module");
    ensure!(initrd.exists(), "there is no module yet: run `cargo xtask linux-module`");
    Ok(initrd)
}

/// The name of a chroot begins so.
pub(crate) const CHROOT: &str = "chroot-";

/// The chroot that a build tree is in, and its path there.
pub(crate) fn chroot_of(build: &Path) -> Option<(&Path, PathBuf)> {
    let is_one = |path: &&Path| path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with(CHROOT));
    let chroot = build.ancestors().find(is_one)?;
    Some((chroot, Path::new("/").join(build.strip_prefix(chroot).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_tree_in_a_chroot_has_its_path_there() {
        let build = Path::new("/repository/target/linux/chroot-trixie/usr/src/linux-headers-7.3.4");
        let (chroot, path) = chroot_of(build).unwrap();
        assert_eq!(chroot, Path::new("/repository/target/linux/chroot-trixie"));
        assert_eq!(path, Path::new("/usr/src/linux-headers-7.3.4"));
        assert!(chroot_of(Path::new("/repository/target/linux/tdx-7.3/build")).is_none());
    }
}
