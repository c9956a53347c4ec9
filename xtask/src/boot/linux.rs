//! Linux for the boots: Debian's own kernel, and one built from Debian's source with TDX host support. Kept under `target/linux`, never
//! in git. Refuses to install packages: it says which are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::{Kernel, initrd, module};
use crate::root;

/// What Linux is told, beside what the caller adds.
pub(super) const COMMAND_LINE: &str = "console=ttyS0 panic=-1 nokaslr rdinit=/init";

/// Fetches or builds a Linux for `boot`.
#[derive(Args, Clone, Debug)]
pub(crate) struct LinuxArgs {
    /// `stock`: Debian's package, unpacked. `tdx`: built from Debian's linux-source-6.12 (ten minutes of two cores).
    #[arg(value_enum)]
    kernel: Kernel,
}

/// Files to boot.
pub(super) struct Linux {
    pub(super) image: PathBuf,
    pub(super) initrd: PathBuf,
}

fn folder(kernel: Kernel) -> PathBuf {
    root().join("target/linux").join(match kernel {
        Kernel::Stock => "stock",
        Kernel::Tdx => "tdx",
    })
}

/// Is it there?
pub(super) fn is_there(kernel: Kernel) -> bool {
    find(kernel).is_ok()
}

/// The initrd of a Linux that loads `cleanslate.ko` before it brings TDX up.
pub(super) fn initrd_with_module() -> Result<PathBuf> {
    let initrd = folder(Kernel::Tdx).join("initrd-module");
    ensure!(initrd.exists(), "there is no module yet: run `cargo xtask linux-module`");
    Ok(initrd)
}

/// The task `linux-module`: builds the module for the Linux of `cargo xtask linux tdx`, and an initrd with it.
pub(crate) fn build_module() -> Result<bool> {
    let folder = folder(Kernel::Tdx);
    let build = folder.join("build").canonicalize().context("run `cargo xtask linux tdx` first")?;
    let module = module::build(&build, &folder.join("cleanslate"))?;
    pack(&folder, &[("modules/cleanslate.ko", &module)], "initrd-module")?;
    println!("{}", module.display());
    Ok(true)
}

/// The first Linux's initrd: the test modules, these files, and the next Linux.
fn pack(folder: &Path, more: &[initrd::Entry<'_>], name: &str) -> Result<()> {
    let (place, busybox) = (folder.join("modules"), folder.join("root/bin/busybox"));
    let (enable, jump) = (place.join("cleanslate_enable.ko"), place.join("jump"));
    let (image, next) = (folder.join("bzImage"), folder.join("next-initrd"));
    let mut files: Vec<initrd::Entry<'_>> = vec![
        ("modules/cleanslate_enable.ko", &enable),
        ("next/jump", &jump),
        ("next/bzImage", &image),
        ("next/initrd", &next),
    ];
    files.extend(more);
    initrd::write(&folder.join(name), &busybox, &files)
}

/// What `provide` has left.
pub(super) fn find(kernel: Kernel) -> Result<Linux> {
    let folder = folder(kernel);
    let linux = Linux { image: folder.join("bzImage"), initrd: folder.join("initrd") };
    ensure!(linux.image.exists() && linux.initrd.exists(), "there is no such Linux yet: run `cargo xtask linux {}`", {
        match kernel {
            Kernel::Stock => "stock",
            Kernel::Tdx => "tdx",
        }
    });
    Ok(linux)
}

/// The task `linux`.
pub(crate) fn provide(args: &LinuxArgs) -> Result<bool> {
    match args.kernel {
        Kernel::Stock => stock()?,
        Kernel::Tdx => tdx()?,
    }
    let linux = find(args.kernel)?;
    println!("{}\n{}", linux.image.display(), linux.initrd.display());
    Ok(true)
}

pub(super) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Fetches Debian packages and unpacks them into `folder/root`; installs nothing.
fn fetch(folder: &Path, packages: &[&str]) -> Result<PathBuf> {
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

/// The newest file of a folder whose name begins so.
fn newest(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found.pop().with_context(|| format!("no {prefix}* in {}", folder.display()))
}

/// The package that a meta package stands for.
fn meta(package: &str, prefix: &str) -> Result<String> {
    let text = run(Command::new("apt-cache").args(["depends", package]))?;
    let name =
        text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).find(|name| name.starts_with(prefix));
    name.map(str::to_owned).with_context(|| format!("{package} depends on no {prefix}*"))
}

fn stock() -> Result<()> {
    let folder = folder(Kernel::Stock);
    let image = meta("linux-image-amd64", "linux-image-")?;
    let root = fetch(&folder, &[&image, "busybox-static"])?;
    fs::copy(newest(&root.join("boot"), "vmlinuz-")?, folder.join("bzImage"))?;
    initrd::write(&folder.join("initrd"), &root.join("bin/busybox"), &[])
}

const SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";

/// Linux 6.12 with TDX host support. Its Kconfig excludes kexec, which is lifted; nothing else is changed.
fn tdx() -> Result<()> {
    let folder = folder(Kernel::Tdx);
    let (source, build) = (folder.join("linux-source-6.12"), folder.join("build"));
    if !Path::new(SOURCE).exists() {
        bail!(
            "{SOURCE} is missing: apt-get install --no-install-recommends linux-source-6.12 flex bison bc libelf-dev libssl-dev \
             kmod cpio xz-utils"
        );
    }
    fs::create_dir_all(&build)?;
    if !source.exists() {
        run(Command::new("tar").arg("xf").arg(SOURCE).arg("-C").arg(&folder))?;
        let kconfig = source.join("arch/x86/Kconfig");
        let text = fs::read_to_string(&kconfig)?;
        let (before, after) = text.split_once("config INTEL_TDX_HOST\n").context("this Linux has no INTEL_TDX_HOST")?;
        let lifted = after.replacen("\tdepends on !KEXEC_CORE\n", "", 1);
        fs::write(&kconfig, format!("{before}config INTEL_TDX_HOST\n{lifted}"))?;
    }
    let make = || {
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(&source).arg(format!("O={}", build.display()));
        make
    };
    run(make().arg("tinyconfig"))?;
    let merge = source.join("scripts/kconfig/merge_config.sh");
    let fragment = root().canonicalize()?.join("bare/linux/tdx-host.config");
    run(Command::new(merge).args(["-m", "-O", "."]).arg(".config").arg(fragment).current_dir(&build))?;
    run(make().arg("olddefconfig"))?;
    ensure!(
        fs::read_to_string(build.join(".config"))?.contains("CONFIG_INTEL_TDX_HOST=y"),
        "INTEL_TDX_HOST did not stick: see {}/.config",
        build.display()
    );
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    eprintln!("building Linux with {jobs} jobs: about ten minutes on two cores");
    let status = make().arg(format!("-j{jobs}")).args(["bzImage", "modules"]).status()?;
    ensure!(status.success(), "Linux does not build");
    fs::copy(build.join("arch/x86/boot/bzImage"), folder.join("bzImage"))?;
    let busybox = fetch(&folder, &["busybox-static"])?.join("bin/busybox");
    let place = modules(&folder, &build)?;
    let jump = place.join("jump");
    run(Command::new("cc")
        .args(["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&jump)
        .arg(place.join("jump.c")))?;
    let next = folder.join("next-initrd");
    initrd::write(&next, &busybox, &[("modules/cleanslate_use.ko", &place.join("cleanslate_use.ko"))])?;
    pack(&folder, &[], "initrd")
}

/// The test modules: one makes Linux bring TDX up, because 6.12 has no caller of `tdx_enable()` in its tree; one uses free memory.
fn modules(folder: &Path, build: &Path) -> Result<PathBuf> {
    let place = folder.join("modules");
    fs::create_dir_all(&place)?;
    for file in ["cleanslate_enable.c", "cleanslate_use.c", "jump.c", "Kbuild"] {
        fs::copy(root().join("bare/linux").join(file), place.join(file))?;
    }
    let place = place.canonicalize()?;
    run(Command::new("make").arg("-s").arg("-C").arg(build).arg(format!("M={}", place.display())).arg("modules"))?;
    Ok(place)
}
