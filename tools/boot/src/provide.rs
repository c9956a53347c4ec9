//! The task `linux`: Debian's own kernels, fetched and unpacked under `target/linux`, never in git.
//! Does not install packages: what is missing is named.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::args::Kernel;
use crate::fetch::{fetch, newest, run};
use crate::pack::{dump_tools, finish, modules, pack_stock};
use crate::place::{find, folder};
use crate::release;
use crate::source::{from_source, patched, source};

/// Fetches or builds a Linux for `boot`. With --source or --patch it is kept beside the one that it
/// replaces, as `tdx-own` or `tdx-7.3-own`.
#[derive(Args, Clone, Debug)]
pub struct LinuxArgs {
    /// `stock`: Debian's package, unpacked. `stock-6.12`: Debian's 6.12 from its security archive,
    /// with headers. `stock-6.12-trixie` to `stock-7.2-sid`: those of newer releases, with a
    /// chroot that has their compiler. `tdx`: built from Debian's linux-source-6.12 (ten minutes of
    /// two cores). `tdx-7.2`, `tdx-7.3`: built from linux-source-7.2 and 7.3 of trixie-backports,
    /// unchanged. `tdx-6.18`, `tdx-7.1`: the same of their upstream source in Debian's archive,
    /// without Debian's patches. `tdx-debug`, `host-debug`: 6.12 once more with lockdep, KASAN and
    /// fault injection, with TDX host support and without. `tdx-7.3-debug`: 7.3 with the same.
    #[arg(value_enum)]
    kernel: Kernel,
    /// With `tdx` or `tdx-7.3`: builds this source tree, with the same configuration.
    #[arg(long, value_name = "DIR", conflicts_with = "patch")]
    source: Option<PathBuf>,
    /// With `tdx` or `tdx-7.3`: builds Debian's source with this patch. May be given more than
    /// once.
    #[arg(long, value_name = "FILE")]
    patch: Vec<PathBuf>,
}

/// The task `linux`.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn provide(args: &LinuxArgs) -> Result<bool> {
    if args.source.is_some() || !args.patch.is_empty() {
        let name = args.kernel.name();
        let own =
            args.kernel.own().with_context(|| format!("--source and --patch are for tdx and tdx-7.3, not {name}"))?;
        match &args.source {
            Some(source) => from_source(own, &source.canonicalize().with_context(|| source.display().to_string())?)?,
            None => from_source(own, &patched(own, &args.patch)?)?,
        }
        let linux = find(own)?;
        println!("{}\n{}", linux.image.display(), linux.initrd.display());
        println!("boot it with: cargo xtask boot linux --kernel {}", own.name());
        return Ok(true);
    }
    provide_kernel(args.kernel)?;
    let linux = find(args.kernel)?;
    println!("{}\n{}", linux.image.display(), linux.initrd.display());
    Ok(true)
}

/// Fetches or builds a kernel of Debian's.
pub(crate) fn provide_kernel(kernel: Kernel) -> Result<()> {
    match kernel {
        Kernel::Stock => stock()?,
        Kernel::Stock612 => stock_6_12()?,
        Kernel::Stock612Trixie
        | Kernel::Stock612Rt
        | Kernel::Stock72
        | Kernel::Stock73
        | Kernel::Stock73Rt
        | Kernel::Stock72Sid => release::provide(kernel)?,
        Kernel::TdxOwn | Kernel::Tdx73Own => bail!("{}", kernel.how()),
        Kernel::Tdx
        | Kernel::Tdx618
        | Kernel::Tdx71
        | Kernel::Tdx72
        | Kernel::Tdx73
        | Kernel::TdxDebug
        | Kernel::Tdx73Debug
        | Kernel::HostDebug => from_source(kernel, &source(kernel)?)?,
    }
    Ok(())
}

/// The package that a metapackage depends on.
fn meta(package: &str, prefix: &str) -> Result<String> {
    let text = run(Command::new("apt-cache").args(["depends", package]))?;
    let name =
        text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|name| name.starts_with(prefix));
    name.map(str::to_owned).with_context(|| format!("{package} depends on no {prefix}*"))
}

/// Headers that are unpacked and not installed: their Makefile names the installed path.
fn relocate(root: &Path, abi: &str) -> Result<PathBuf> {
    let root = root.canonicalize()?;
    let headers = root.join("usr/src").join(format!("linux-headers-{abi}"));
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile)?;
    // 7.x and later set KBUILD_OUTPUT, too.
    let moved = text
        .replace("include /usr/src/", &format!("include {}/usr/src/", root.display()))
        .replace("KBUILD_OUTPUT=/usr/src/", &format!("KBUILD_OUTPUT={}/usr/src/", root.display()));
    fs::write(&makefile, moved)?;
    Ok(headers)
}

/// A kernel of Debian's with its headers: image, build tree, busybox.
pub(crate) fn with_headers(folder: &Path, meta_package: &str) -> Result<PathBuf> {
    let image = meta(meta_package, "linux-image-")?;
    let abi = image.trim_start_matches("linux-image-");
    // 6.12.117+deb12-cloud-amd64 shares headers with 6.12.117+deb12-amd64.
    let version = abi.trim_end_matches("-amd64").trim_end_matches("-cloud");
    let names = [
        image.clone(),
        format!("linux-headers-{abi}"),
        format!("linux-headers-{version}-common"),
        meta(&format!("linux-headers-{abi}"), "linux-kbuild-")?,
        "busybox-static".to_owned(),
    ];
    let root = fetch(folder, &names.each_ref().map(String::as_str))?;
    fs::copy(newest(&root.join("boot"), "vmlinuz-")?, folder.join("bzImage"))?;
    relocate(&root, abi)
}

pub(crate) fn stock() -> Result<()> {
    let folder = folder(Kernel::Stock);
    let headers = with_headers(&folder, "linux-image-amd64")?;
    pack_stock(&modules(Kernel::Stock, &headers)?)
}

pub(crate) fn stock_6_12() -> Result<()> {
    let folder = folder(Kernel::Stock612);
    let headers = with_headers(&folder, "linux-image-6.12-cloud-amd64")?;
    let link = folder.join("build");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(&headers, &link)?;
    dump_tools(&folder.join("dump-tools"))?;
    let place = modules(Kernel::Stock612, &headers)?;
    finish(Kernel::Stock612, &place)
}
