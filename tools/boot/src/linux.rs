//! Linux for the boots: Debian's own kernel, and one built from Debian's source with TDX host
//! support. Kept under `target/linux`, never in git. Refuses to install packages: it says which are
//! missing.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::args::{BootArgs, Kernel, NextKernel};
use crate::root;
use crate::{initrd, module};

/// Linux's command line; bare/linux/init reads its words `cleanslate.*`.
pub(crate) fn command_line(args: &BootArgs) -> String {
    // Without the limit of messages that user space may log: events are such messages.
    let mut line = String::from("console=ttyS0 panic=-1 nokaslr rdinit=/init printk.devkmsg=on");
    // Writing to a string never fails. Debian's kernels clear pages when they hand them out, by
    // stores that do no harm; a driver's pages may not be cleared. Nor may memtest run: its
    // whole-word stores make every private line a shared one, and a line that was not reset would
    // pass for clean.
    line.push_str(" cleanslate.next=init_on_alloc=0");
    match args.kernel {
        Kernel::Tdx73 => {
            let _ = write!(line, " cleanslate.cleanslate_tds=tds={}", args.tds);
        }
        kernel if kernel.has_no_tdx_code() && args.module => {
            let _ = write!(line, " cleanslate.tds={}", args.tds);
        }
        _ => {}
    }
    if args.module {
        let _ = write!(line, " cleanslate.cleanslate=policy={}", args.policy);
    }
    if args.crash {
        // KASAN takes an eighth of a crash kernel's memory, lockdep its tables.
        let reserved = if args.kernel.debugs() { 448 } else { 256 };
        let _ = write!(line, " crashkernel={reserved}M cleanslate.crash cleanslate.wild");
    } else if let Some(next) = match args.next {
        NextKernel::None => None,
        NextKernel::Own | NextKernel::Linux => Some("self"),
        NextKernel::Stock => Some("stock"),
    } {
        let _ = write!(line, " cleanslate.kexec={next}");
    }
    let _ = write!(line, " {}", args.append);
    line
}

/// Fetches or builds a Linux for `boot`.
#[derive(Args, Clone, Debug)]
pub struct LinuxArgs {
    /// `stock`: Debian's package, unpacked. `stock-6.12`: Debian's 6.12 from its security archive,
    /// with headers. `tdx`: built from Debian's linux-source-6.12 (ten minutes of two cores).
    /// `tdx-7.3`: built from linux-source-7.3 of trixie-backports, unchanged. `tdx-debug`,
    /// `host-debug`: 6.12 once more with lockdep, KASAN and fault injection, with TDX host support
    /// and without.
    #[arg(value_enum)]
    kernel: Kernel,
}

/// Files to boot.
pub(crate) struct Linux {
    pub(crate) image: PathBuf,
    pub(crate) initrd: PathBuf,
}

fn folder(kernel: Kernel) -> PathBuf {
    root().join("target/linux").join(kernel.name())
}

/// Is it there?
pub(crate) fn is_there(kernel: Kernel) -> bool {
    find(kernel).is_ok()
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

/// The task `linux-module`.
#[derive(Args, Clone, Debug)]
pub struct ModuleArgs {
    /// Build for this kernel alone: `tdx`, `stock-6.12`, or a kernel whose headers are installed
    /// here, as in /lib/modules. Without it: for all that `cargo xtask linux` has provided.
    #[arg(long)]
    kernel: Option<String>,
}

/// Builds the module, and for the Linuxes of `cargo xtask linux` an initrd with it.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn build_module(args: &ModuleArgs) -> Result<bool> {
    let ours = [Kernel::Tdx, Kernel::Tdx73, Kernel::Stock612, Kernel::TdxDebug, Kernel::HostDebug];
    if let Some(version) = args.kernel.as_deref().filter(|name| ours.iter().all(|kernel| kernel.name() != *name)) {
        let headers = Path::new("/lib/modules").join(version).join("build").canonicalize().with_context(|| {
            format!("there are no headers of {version} here: on Debian, `apt-get install linux-headers-{version}`")
        })?;
        println!("{}", module::build(&headers, &root().join("target/linux").join(version))?.display());
        return Ok(true);
    }
    let wanted = |kernel: &Kernel| match &args.kernel {
        Some(name) => kernel.name() == name,
        None => is_there(*kernel),
    };
    let mut some = false;
    for kernel in ours.into_iter().filter(wanted) {
        let folder = folder(kernel);
        let build = folder.join("build").canonicalize();
        let build = build.with_context(|| format!("run `cargo xtask linux {}` first", kernel.name()))?;
        let module = module::build(&build, &folder.join("cleanslate"))?;
        // The test modules may be newer than the Linux that was provided.
        programs(&modules(&folder, &build, test_modules(kernel))?)?;
        pack_next(kernel)?;
        pack(kernel, &[], "initrd")?;
        pack_with_module(kernel, &module)?;
        println!("{}", module.display());
        some = true;
    }
    ensure!(some, "there is no kernel to build for: run `cargo xtask linux stock-6.12` (or `tdx`) first");
    Ok(true)
}

/// The initrd with `cleanslate.ko`.
fn pack_with_module(kernel: Kernel, module: &Path) -> Result<()> {
    let strangers = strangers(kernel, module)?;
    let mut files = vec![("modules/cleanslate.ko", module)];
    files.extend(strangers.iter().map(|(name, path)| (name.as_str(), path.as_path())));
    let tool = if kernel == Kernel::Stock612 { Some(tool()?) } else { None };
    files.extend(tool.iter().map(|tool| ("bin/cleanslate", tool.as_path())));
    pack(kernel, &files, "initrd-module")
}

/// When a file of `bare/linux` was last changed.
fn sources_changed() -> Result<SystemTime> {
    let folder = root().join("bare/linux");
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
        newest = newest.max(entry?.metadata()?.modified()?);
    }
    Ok(newest)
}

/// A Linux of `provide`, with what is in `bare/linux` now: if a file there is newer than the initrd,
/// test modules, programs and initrds are made again.
pub(crate) fn current(kernel: Kernel) -> Result<Linux> {
    let linux = find(kernel)?;
    if linux.initrd.metadata()?.modified()? >= sources_changed()? {
        return Ok(linux);
    }
    eprintln!("{}: bare/linux has changed, its initrds are packed again", kernel.name());
    let folder = folder(kernel);
    if kernel == Kernel::Stock {
        // The part that architectures share sorts after the one of this architecture.
        let common = newest(&folder.join("root/usr/src"), "linux-headers-")?.display().to_string();
        let headers = PathBuf::from(common.replace("-common", "-amd64"));
        pack_stock(&modules(&folder, &headers, test_modules(kernel))?)?;
    } else {
        // Part of this one's initrd.
        let _ = current(Kernel::Stock);
        let build = folder.join("build").canonicalize()?;
        finish(kernel, &modules(&folder, &build, test_modules(kernel))?)?;
        let module = folder.join("cleanslate/cleanslate.ko");
        if module.exists() {
            pack_with_module(kernel, &module)?;
        }
    }
    Ok(linux)
}

/// The program `cleanslate` for a root file system that has no libraries: it gives the orders of
/// /dev/cleanslate.
fn tool() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let target = root().join("target/static");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // With a target of its own, build scripts stay as they are.
    run(Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "cleanslate", "--target", TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(root()))?;
    Ok(target.join(TARGET).join("release/cleanslate"))
}

/// Copies of the module for kernels that there are not: of each the name of one function is
/// changed, and this kernel has none of that name. The file has the name of the function as it was.
fn strangers(kernel: Kernel, module: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut functions = vec!["machine_kexec_prepare", "kdump_nmi_callback"];
    if kernel != Kernel::Stock612 {
        functions.push("__seamcall_ret");
    }
    let part_of_a_name = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
    let mut made = Vec::new();
    for function in functions {
        let name = format!("unknown/{function}.ko");
        let path = module.with_file_name(format!("unknown-{function}.ko"));
        run(Command::new("objcopy").arg("--strip-debug").arg(module).arg(&path))?;
        let mut bytes = fs::read(&path)?;
        let text = [function.as_bytes(), &[0]].concat();
        let last = text.len() - 2;
        let whole = |at: &usize| bytes[*at..].starts_with(&text) && !part_of_a_name(bytes[..*at].last());
        let places: Vec<usize> = (0..bytes.len()).filter(whole).collect();
        ensure!(!places.is_empty(), "{} does not name {function}", module.display());
        for at in places {
            bytes[at + last] = b'X';
        }
        fs::write(&path, bytes)?;
        made.push((name, path));
    }
    Ok(made)
}

/// The first Linux's initrd: the test modules, these files, and the next Linuxes.
fn pack(kernel: Kernel, more: &[initrd::Entry<'_>], name: &str) -> Result<()> {
    let folder = folder(kernel);
    let (place, busybox) = (folder.join("modules"), folder.join("root/bin/busybox"));
    let (enable, jump) = (place.join("cleanslate_enable.ko"), place.join("jump"));
    let (tds, wild) = (place.join("cleanslate_tds.ko"), place.join("cleanslate_wild.ko"));
    let stuck = place.join("cleanslate_stuck.ko");
    let (image, next) = (folder.join("bzImage"), folder.join("next-initrd"));
    let stock = find(Kernel::Stock).ok();
    let mut files: Vec<initrd::Entry<'_>> = vec![
        ("next/jump", &jump),
        ("next/cleanslate_wild.ko", &wild),
        ("next/cleanslate_stuck.ko", &stuck),
        ("next/self/bzImage", &image),
        ("next/self/initrd", &next),
    ];
    let starve = place.join("starve");
    if kernel.debugs() {
        files.push(("next/starve", &starve));
    }
    match kernel {
        Kernel::Tdx | Kernel::TdxDebug => files.push(("modules/cleanslate_enable.ko", &enable)),
        // After cleanslate.ko, which must be there before the first TD.
        Kernel::Tdx73 => files.push(("modules/last/cleanslate_tds.ko", &tds)),
        Kernel::Stock | Kernel::Stock612 | Kernel::HostDebug => {}
    }
    if let Some(stock) = &stock {
        files.extend([("next/stock/bzImage", stock.image.as_path()), ("next/stock/initrd", stock.initrd.as_path())]);
    }
    files.extend(more);
    initrd::write(&folder.join(name), &busybox, &files)
}

/// The Linux that runs first: one of `provide`, or the user's own.
pub(crate) fn first(args: &BootArgs) -> Result<Linux> {
    let Some(image) = &args.image else {
        let linux = current(args.kernel)?;
        return Ok(if args.module { Linux { initrd: initrd_with_module(args.kernel)?, ..linux } } else { linux });
    };
    ensure!(image.is_file(), "--image: there is no file {}", image.display());
    let initrd = match &args.initrd {
        Some(initrd) => initrd.clone(),
        None => own_initrd(image)?,
    };
    ensure!(initrd.is_file(), "--initrd: there is no file {}", initrd.display());
    Ok(Linux { image: image.clone(), initrd })
}

/// A root file system for the user's own kernel: busybox, bare/linux/init, and the same kernel as
/// the next one. No modules, because there is no build tree to build them in.
fn own_initrd(image: &Path) -> Result<PathBuf> {
    let folder = root().join("target/linux/own");
    fs::create_dir_all(&folder)?;
    let busybox = folder.join("root/bin/busybox");
    if !busybox.exists() {
        fetch(&folder, &["busybox-static"])?;
    }
    for name in PROGRAMS {
        let source = format!("{name}.c");
        fs::copy(root().join("bare/linux").join(&source), folder.join(&source)).with_context(|| source.clone())?;
    }
    programs(&folder)?;
    let (jump, dump, next) = (folder.join("jump"), folder.join("dump"), folder.join("next-initrd"));
    initrd::write(&next, &busybox, &[("next/dump", &dump)])?;
    let initrd = folder.join("initrd");
    let files = [("next/jump", jump.as_path()), ("next/self/bzImage", image), ("next/self/initrd", &next)];
    initrd::write(&initrd, &busybox, &files)?;
    Ok(initrd)
}

/// What `provide` has left.
pub(crate) fn find(kernel: Kernel) -> Result<Linux> {
    let folder = folder(kernel);
    let linux = Linux { image: folder.join("bzImage"), initrd: folder.join("initrd") };
    let there = linux.image.exists() && linux.initrd.exists();
    ensure!(there, "there is no such Linux yet: run `cargo xtask linux {}`", kernel.name());
    Ok(linux)
}

/// The task `linux`.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn provide(args: &LinuxArgs) -> Result<bool> {
    match args.kernel {
        Kernel::Stock => stock()?,
        Kernel::Stock612 => stock_6_12()?,
        Kernel::Tdx | Kernel::Tdx73 | Kernel::TdxDebug | Kernel::HostDebug => from_source(args.kernel)?,
    }
    let linux = find(args.kernel)?;
    println!("{}\n{}", linux.image.display(), linux.initrd.display());
    Ok(true)
}

/// Runs a command to its end; what it prints, or what it complains of.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn run(command: &mut Command) -> Result<String> {
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

/// Headers that were unpacked and not installed know each other by where they would be installed.
fn relocate(root: &Path, abi: &str) -> Result<PathBuf> {
    let root = root.canonicalize()?;
    let headers = root.join("usr/src").join(format!("linux-headers-{abi}"));
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile)?;
    let moved = text.replace("include /usr/src/", &format!("include {}/usr/src/", root.display()));
    fs::write(&makefile, moved)?;
    Ok(headers)
}

/// A kernel of Debian's with its headers: image, build tree, busybox.
fn with_headers(folder: &Path, meta_package: &str) -> Result<PathBuf> {
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

fn stock() -> Result<()> {
    let folder = folder(Kernel::Stock);
    let headers = with_headers(&folder, "linux-image-amd64")?;
    pack_stock(&modules(&folder, &headers, test_modules(Kernel::Stock))?)
}

fn pack_stock(place: &Path) -> Result<()> {
    let (folder, using) = (folder(Kernel::Stock), place.join("cleanslate_use.ko"));
    initrd::write(&folder.join("initrd"), &folder.join("root/bin/busybox"), &[("modules/cleanslate_use.ko", &using)])
}

fn stock_6_12() -> Result<()> {
    let folder = folder(Kernel::Stock612);
    let headers = with_headers(&folder, "linux-image-6.12-cloud-amd64")?;
    let link = folder.join("build");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    std::os::unix::fs::symlink(&headers, &link)?;
    let place = modules(&folder, &headers, test_modules(Kernel::Stock612))?;
    finish(Kernel::Stock612, &place)
}

/// Programs for the root file systems: one kexecs, one reads a dump, one lets allocations fail.
const PROGRAMS: [&str; 3] = ["jump", "dump", "starve"];

/// Builds them.
fn programs(place: &Path) -> Result<()> {
    for name in PROGRAMS {
        let compile = ["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o"];
        run(Command::new("cc").args(compile).arg(place.join(name)).arg(place.join(format!("{name}.c"))))?;
    }
    Ok(())
}

/// The root file system of a next Linux.
fn pack_next(kernel: Kernel) -> Result<()> {
    let folder = folder(kernel);
    let place = folder.join("modules");
    let (using, dump) = (place.join("cleanslate_use.ko"), place.join("dump"));
    let files = [("modules/cleanslate_use.ko", using.as_path()), ("next/dump", &dump)];
    initrd::write(&folder.join("next-initrd"), &folder.join("root/bin/busybox"), &files)
}

/// Programs and initrds of a Linux that kexecs.
fn finish(kernel: Kernel, place: &Path) -> Result<()> {
    programs(place)?;
    pack_next(kernel)?;
    pack(kernel, &[], "initrd")
}

/// The source of Linux 6.12: Debian's package, installed.
fn source_6_12() -> Result<PathBuf> {
    const PACKED: &str = "/usr/src/linux-source-6.12.tar.xz";
    if !Path::new(PACKED).exists() {
        bail!("{PACKED} is missing: apt-get install --no-install-recommends linux-source-6.12 {BUILD_PACKAGES}");
    }
    // One for all kernels that are built from it, each in a folder of its own.
    let folder = folder(Kernel::Tdx);
    fs::create_dir_all(&folder)?;
    let source = folder.join("linux-source-6.12");
    if !source.exists() {
        run(Command::new("tar").arg("xf").arg(PACKED).arg("-C").arg(&folder))?;
        // Its Kconfig excludes kexec, which is lifted; nothing else is changed.
        let kconfig = source.join("arch/x86/Kconfig");
        let text = fs::read_to_string(&kconfig)?;
        let (before, after) = text.split_once("config INTEL_TDX_HOST\n").context("this Linux has no INTEL_TDX_HOST")?;
        let lifted = after.replacen("\tdepends on !KEXEC_CORE\n", "", 1);
        fs::write(&kconfig, format!("{before}config INTEL_TDX_HOST\n{lifted}"))?;
    }
    Ok(source)
}

/// The source of Linux 7.3, unchanged: a package of Debian's backports, fetched with lists of its
/// own, so that the machine's stay as they are.
fn source_7_3(folder: &Path) -> Result<PathBuf> {
    let source = folder.join("linux-source-7.3");
    if source.exists() {
        return Ok(source);
    }
    let here = folder.canonicalize()?;
    let list = here.join("sources.list");
    fs::write(
        &list,
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie-backports main\n",
    )?;
    fs::create_dir_all(here.join("lists/partial"))?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        let settings = [
            format!("Dir::Etc::sourcelist={}", list.display()),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::Lists={}", here.join("lists").display()),
            // An archive that one may read from anywhere is not one to be written by another user.
            "APT::Sandbox::User=root".to_owned(),
        ];
        for setting in settings {
            apt.arg("-o").arg(setting);
        }
        apt.current_dir(&here);
        apt
    };
    run(apt().arg("update"))?;
    run(apt().args(["download", "linux-source-7.3"]))?;
    let package = newest(&here, "linux-source-7.3_")?;
    run(Command::new("dpkg").arg("-x").arg(&package).arg(here.join("source")))?;
    fs::remove_file(package)?;
    let packed = here.join("source/usr/src/linux-source-7.3.tar.xz");
    run(Command::new("tar").arg("xf").arg(&packed).arg("-C").arg(&here))?;
    fs::remove_dir_all(here.join("source"))?;
    Ok(source)
}

const BUILD_PACKAGES: &str = "flex bison bc libelf-dev libssl-dev kmod cpio xz-utils";

/// A Linux built from Debian's source: with TDX host support, but for `host-debug`.
fn from_source(kernel: Kernel) -> Result<()> {
    let folder = folder(kernel);
    let build = folder.join("build");
    fs::create_dir_all(&build)?;
    let source = if kernel == Kernel::Tdx73 { source_7_3(&folder)? } else { source_6_12()? };
    let fragments: &[&str] = match kernel {
        Kernel::TdxDebug => &["tdx-host.config", "debug.config"],
        Kernel::HostDebug => &["tdx-host.config", "debug.config", "no-tdx-host.config"],
        _ => &["tdx-host.config"],
    };
    let make = || {
        let mut make = Command::new("make");
        make.arg("-s").arg("-C").arg(&source).arg(format!("O={}", build.display()));
        make
    };
    run(make().arg("tinyconfig"))
        .with_context(|| format!("apt-get install --no-install-recommends {BUILD_PACKAGES}"))?;
    let merge = source.join("scripts/kconfig/merge_config.sh");
    let place = root().canonicalize()?.join("bare/linux");
    let paths = fragments.iter().map(|fragment| place.join(fragment));
    run(Command::new(merge).args(["-m", "-O", "."]).arg(".config").args(paths).current_dir(&build))?;
    run(make().arg("olddefconfig"))?;
    // An option whose dependencies are not there goes without a word, and with it what the kernel
    // is for.
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
    let place = modules(&folder, &build, test_modules(kernel))?;
    finish(kernel, &place)
}

/// Test modules: `enable` makes Linux bring TDX up, because 6.12 has no caller of `tdx_enable()` in
/// its tree; `tds` builds TDs as KVM does; `use` uses free memory as a driver may; `wild` writes
/// where it must not; `stuck` keeps a CPU from stopping.
fn test_modules(kernel: Kernel) -> &'static [&'static str] {
    match kernel {
        Kernel::Stock => &["cleanslate_use"],
        Kernel::Stock612 | Kernel::HostDebug => &["cleanslate_use", "cleanslate_wild", "cleanslate_stuck"],
        Kernel::Tdx | Kernel::TdxDebug => {
            &["cleanslate_enable", "cleanslate_use", "cleanslate_wild", "cleanslate_stuck"]
        }
        Kernel::Tdx73 => &["cleanslate_tds", "cleanslate_use", "cleanslate_wild", "cleanslate_stuck"],
    }
}

/// Builds test modules for a Linux.
fn modules(folder: &Path, build: &Path, names: &[&str]) -> Result<PathBuf> {
    let place = folder.join("modules");
    fs::create_dir_all(&place)?;
    for file in names.iter().chain(&PROGRAMS).map(|name| format!("{name}.c")) {
        fs::copy(root().join("bare/linux").join(&file), place.join(&file)).with_context(|| file.clone())?;
    }
    let objects: Vec<String> = names.iter().map(|name| format!("{name}.o")).collect();
    fs::write(place.join("Kbuild"), format!("obj-m := {}\n", objects.join(" ")))?;
    let place = place.canonicalize()?;
    run(&mut make_modules(build, &place))?;
    Ok(place)
}

/// What builds the modules in `place` for the kernel whose build folder or headers are `kernel`.
pub fn make_modules(kernel: &Path, place: &Path) -> Command {
    let mut make = Command::new("make");
    make.arg("-s").arg("-C").arg(kernel).arg(format!("M={}", place.display()));
    // BTF of a module serves tracers only, and needs pahole, which Debian's headers do not bring.
    make.arg("CONFIG_DEBUG_INFO_BTF_MODULES=").arg("modules");
    make
}
