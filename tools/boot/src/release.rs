//! Debian's kernels of other releases than this machine's: image and headers are unpacked, and a
//! chroot has the compiler and the tools that the headers need. Nothing is installed here.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::apt::{Archive, KEYS, MIRROR};
use crate::args::Kernel;
use crate::fetch::{fetch, run};
use crate::pack::{finish, modules};
use crate::place::{CHROOT, folder};
use crate::root;

/// Where a kernel comes from.
struct Release {
    /// The suite of its packages.
    suite: &'static str,
    /// The suite of the chroot that builds for it.
    chroot: &'static str,
    /// Debian's compiler for it.
    compiler: &'static str,
    series: &'static str,
    flavour: &'static str,
}

fn release(kernel: Kernel) -> Option<Release> {
    let release = |suite, chroot, compiler, series, flavour| Some(Release { suite, chroot, compiler, series, flavour });
    match kernel {
        Kernel::Stock612Trixie => release("trixie", "trixie", "gcc-14", "6.12", "cloud-amd64"),
        Kernel::Stock612Rt => release("trixie", "trixie", "gcc-14", "6.12", "rt-amd64"),
        Kernel::Stock72 => release("trixie-backports", "trixie", "gcc-14", "7.2", "cloud-amd64"),
        Kernel::Stock73 => release("trixie-backports", "trixie", "gcc-14", "7.3", "cloud-amd64"),
        Kernel::Stock73Rt => release("trixie-backports", "trixie", "gcc-14", "7.3", "rt-amd64"),
        Kernel::Stock72Sid => release("sid", "sid", "gcc-16", "7.2", "cloud-amd64"),
        _ => None,
    }
}

/// A chroot with this compiler, as Debian's package of the headers wants it.
fn chroot(release: &Release) -> Result<PathBuf> {
    let place = root().join("target/linux").join(format!("{CHROOT}{}", release.chroot));
    if !place.exists() {
        let part = place.with_extension("part");
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        let compiler = release.compiler;
        let packages = format!("--include={compiler},{compiler}-x86-64-linux-gnu,make,libelf1t64");
        eprintln!("making a chroot of {} with {compiler}: some minutes", release.chroot);
        // Of the unstable release the signed list is valid for days only.
        run(Command::new("mmdebstrap")
            .args(["--quiet", "--mode=root", "--variant=essential", "--aptopt=Acquire::Check-Valid-Until \"false\""])
            .args([&packages, &format!("--keyring={KEYS}"), release.chroot])
            .arg(&part)
            .arg(MIRROR))
        .context("apt-get install mmdebstrap; it needs root")?;
        fs::rename(&part, &place)?;
    }
    Ok(place.canonicalize()?)
}

/// Fetches a kernel of another release, with its headers; its test modules are built.
pub(crate) fn provide(kernel: Kernel) -> Result<()> {
    let release = release(kernel).with_context(|| format!("{} is of this release", kernel.name()))?;
    let chroot = chroot(&release)?;
    let folder = folder(kernel);
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let archive = Archive::update(&folder, &[&format!("deb {}", release.suite)])?;
    let headers = archive.newest(&format!("linux-headers-{}.", release.series), &format!("-{}", release.flavour))?;
    let abi = headers.trim_start_matches("linux-headers-").to_owned();
    let version = abi.trim_end_matches(release.flavour).trim_end_matches('-');
    let unpacked = folder.join("headers");
    // PREEMPT_RT has its own in 6.12, and shares them in 7.3.
    let real_time = format!("linux-headers-{version}-common-rt");
    let has_its_own = release.flavour.starts_with("rt-") && archive.has(&real_time)?;
    let common = if has_its_own { real_time } else { format!("linux-headers-{version}-common") };
    for package in [&headers, &common, &format!("linux-kbuild-{version}")].map(String::as_str) {
        archive.unpack(package, &unpacked)?;
    }
    // Not unpacked there at once: /lib is a link in the chroot.
    run(Command::new("cp").arg("--archive").arg(unpacked.join("usr/.")).arg(chroot.join("usr")))?;
    fs::remove_dir_all(&unpacked)?;
    let image = folder.join("image");
    // Later packages of the image are empty and depend on one of the kernel alone.
    let binary = format!("linux-binary-{abi}");
    let package = if archive.has(&binary)? { binary } else { format!("linux-image-{abi}") };
    archive.unpack(&package, &image)?;
    let places = [format!("usr/lib/modules/{abi}/vmlinuz"), format!("boot/vmlinuz-{abi}")];
    let kernel_file = places.iter().map(|place| image.join(place)).find(|path| path.is_file());
    fs::copy(kernel_file.with_context(|| format!("{package} has no kernel"))?, folder.join("bzImage"))?;
    fs::remove_dir_all(image)?;
    fetch(&folder, &["busybox-static"])?;
    let link = folder.join("build");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    let build = chroot.join("usr/src").join(&headers);
    std::os::unix::fs::symlink(&build, &link)?;
    finish(kernel, &modules(kernel, &build)?)
}
