//! Kernels that are built from Debian's source or from a source of the user's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::apt::Archive;
use crate::args::Kernel;
use crate::fetch::{fetch, newest, run};
use crate::pack::{finish, modules};
use crate::place::folder;
use crate::root;

/// The source of Linux 6.12: Debian's package, installed.
fn source_6_12() -> Result<PathBuf> {
    const PACKED: &str = "/usr/src/linux-source-6.12.tar.xz";
    if !Path::new(PACKED).exists() {
        bail!("{PACKED} is missing: apt-get install --no-install-recommends linux-source-6.12 {BUILD_PACKAGES}");
    }
    // Shared by all kernels that are built from it.
    let folder = folder(Kernel::Tdx);
    fs::create_dir_all(&folder)?;
    let source = folder.join("linux-source-6.12");
    if !source.exists() {
        run(Command::new("tar").arg("xf").arg(PACKED).arg("-C").arg(&folder))?;
        // Its Kconfig excludes kexec; this line is removed, nothing else is changed.
        let kconfig = source.join("arch/x86/Kconfig");
        let text = fs::read_to_string(&kconfig)?;
        let (before, after) = text.split_once("config INTEL_TDX_HOST\n").context("this Linux has no INTEL_TDX_HOST")?;
        let lifted = after.replacen("\tdepends on !KEXEC_CORE\n", "", 1);
        fs::write(&kconfig, format!("{before}config INTEL_TDX_HOST\n{lifted}"))?;
    }
    Ok(source)
}

/// The source of a kernel, unchanged but for 6.12's Kconfig.
pub(crate) fn source(kernel: Kernel) -> Result<PathBuf> {
    match kernel {
        Kernel::Tdx618 => upstream(kernel, "6.18"),
        Kernel::Tdx71 => upstream(kernel, "7.1"),
        Kernel::Tdx72 => package(kernel, "7.2"),
        // One source for both.
        Kernel::Tdx73 | Kernel::Tdx73Debug => package(Kernel::Tdx73, "7.3"),
        _ => source_6_12(),
    }
}

/// Debian's source package of a series, of its backports: for the newest ones.
fn package(kernel: Kernel, series: &str) -> Result<PathBuf> {
    let folder = folder(kernel);
    fs::create_dir_all(&folder)?;
    let source = folder.join(format!("linux-source-{series}"));
    if source.exists() {
        return Ok(source);
    }
    let here = folder.canonicalize()?;
    let archive = Archive::update(&here, &["deb trixie-backports"])?;
    archive.unpack(&format!("linux-source-{series}"), &here.join("source"))?;
    let packed = here.join(format!("source/usr/src/linux-source-{series}.tar.xz"));
    run(Command::new("tar").arg("xf").arg(&packed).arg("-C").arg(&here))?;
    fs::remove_dir_all(here.join("source"))?;
    Ok(source)
}

/// Linux as Debian has packed it, without Debian's patches: of series whose package of the source
/// has left the archive.
fn upstream(kernel: Kernel, series: &str) -> Result<PathBuf> {
    let folder = folder(kernel);
    fs::create_dir_all(&folder)?;
    let prefix = format!("linux-{series}.");
    if let Ok(source) = newest(&folder, &prefix) {
        return Ok(source);
    }
    let here = folder.canonicalize()?;
    let archive = Archive::update(&here, &["deb-src trixie-backports"])?;
    let (packed, version) = archive.upstream(series)?;
    // Under another name until it is complete.
    let part = here.join("part");
    fs::create_dir_all(&part)?;
    run(Command::new("tar").arg("xf").arg(&packed).arg("-C").arg(&part))?;
    let source = here.join(format!("linux-{version}"));
    fs::rename(part.join(format!("linux-{version}")), &source)?;
    fs::remove_dir_all(part)?;
    fs::remove_file(packed)?;
    Ok(source)
}

const BUILD_PACKAGES: &str = "flex bison bc libelf-dev libssl-dev kmod cpio xz-utils";

/// Debian's source with patches of the user's. The copy shares its files with the original, of
/// which `patch` replaces those that it changes.
pub(crate) fn patched(own: Kernel, patches: &[PathBuf]) -> Result<PathBuf> {
    let original = source(own.reference())?;
    let source = folder(own).join("source");
    if source.exists() {
        fs::remove_dir_all(&source)?;
    }
    fs::create_dir_all(folder(own))?;
    run(Command::new("cp").args(["--archive", "--link"]).arg(&original).arg(&source))?;
    for patch in patches {
        let file = patch.canonicalize().with_context(|| patch.display().to_string())?;
        let mut command = Command::new("patch");
        command.args(["--strip=1", "--forward", "--batch", "--reject-file=-", "--input"]).arg(&file);
        let output = command.current_dir(&source).output().context("cannot run patch: apt-get install patch")?;
        // It reports hunks that do not apply on stdout.
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{} does not apply to {}:\n{said}", patch.display(), original.display());
    }
    source.canonicalize().context("the source has vanished")
}

/// A Linux built from a source tree: with TDX host support, but for `host-debug`.
pub(crate) fn from_source(kernel: Kernel, source: &Path) -> Result<()> {
    let folder = folder(kernel);
    let build = folder.join("build");
    fs::create_dir_all(&build)?;
    let fragments: &[&str] = match kernel {
        Kernel::TdxDebug | Kernel::Tdx73Debug => &["tdx-host.config", "debug.config"],
        Kernel::HostDebug => &["tdx-host.config", "debug.config", "no-tdx-host.config"],
        _ => &["tdx-host.config"],
    };
    let make = || {
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(source).arg(format!("O={}", build.display()));
        make
    };
    run(make().arg("tinyconfig"))
        .with_context(|| format!("apt-get install --no-install-recommends {BUILD_PACKAGES}"))?;
    let merge = source.join("scripts/kconfig/merge_config.sh");
    let place = root().canonicalize()?.join("bare/linux");
    let paths = fragments.iter().map(|fragment| place.join(fragment));
    run(Command::new(merge).args(["-m", "-O", "."]).arg(".config").args(paths).current_dir(&build))?;
    run(make().arg("olddefconfig"))?;
    // Kconfig drops an option whose dependencies are missing without a message.
    let config = fs::read_to_string(build.join(".config"))?;
    let wanted =
        ["INTEL_TDX_HOST", "PROVE_LOCKING", "DEBUG_ATOMIC_SLEEP", "KASAN_VMALLOC", "FAILSLAB", "FAIL_PAGE_ALLOC"];
    for (index, option) in wanted.into_iter().enumerate() {
        let want = if index == 0 { kernel != Kernel::HostDebug } else { kernel.debugs() };
        let is = config.lines().any(|line| line == format!("CONFIG_{option}=y"));
        ensure!(is == want, "{option} is {is} and should be {want}: see {}/.config", build.display());
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    eprintln!("building Linux with {jobs} jobs: about ten minutes on two cores");
    let status = make().arg(format!("-j{jobs}")).args(["bzImage", "modules"]).status()?;
    ensure!(status.success(), "Linux does not build");
    fs::copy(build.join("arch/x86/boot/bzImage"), folder.join("bzImage"))?;
    fetch(&folder, &["busybox-static"])?;
    let place = modules(kernel, &build.canonicalize()?)?;
    finish(kernel, &place)
}
