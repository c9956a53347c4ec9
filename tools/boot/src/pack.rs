//! Root file systems of the Linuxes that are booted: test modules, programs, `cleanslate.ko` and
//! the next kernels.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::args::Kernel;
use crate::fetch::{fetch, run};
use crate::initrd;
use crate::place::{chroot_of, find, folder, initrd_with_module};
use crate::root;

/// Test modules: `enable` calls `tdx_enable()`, which has no caller in 6.12; `tds` builds TDs as
/// KVM does; `use` uses free memory as a driver may; `wild` stores through a wild pointer; `stuck`
/// keeps a CPU from stopping; `poison_td` stores to memory of a TD that runs; `noreset` keeps
/// `cleanslate.ko` from resetting; `canary` fills free memory, which a reset must not overwrite;
/// `storm` makes SEAMCALLs in interrupts and on CPUs that go offline; `poison` takes a page out of
/// the direct map; `refuse` refuses images as Linux 6.18 does; `away` keeps a CPU from answering at
/// a kexec; `tear` overwrites the table for a crash kernel; `fault` makes what an audit must find;
/// `unseen` has functions that the module does not see;
/// `dynamic_pamt` makes the kernel's TDMRs those of Dynamic PAMT.
pub(crate) fn test_modules(kernel: Kernel) -> &'static [&'static str] {
    match kernel.reference() {
        Kernel::Stock => &["cleanslate_use"],
        kernel if kernel.has_no_tdx_code() => {
            const NAMES: [&str; 6] = [
                "cleanslate_noreset",
                "cleanslate_poison",
                "cleanslate_stuck",
                "cleanslate_tear",
                "cleanslate_use",
                "cleanslate_wild",
            ];
            &NAMES
        }
        Kernel::Tdx | Kernel::TdxDebug | Kernel::TdxOwn => {
            &["cleanslate_enable", "cleanslate_noreset", "cleanslate_use", "cleanslate_wild", "cleanslate_stuck"]
        }
        _ => &[
            "cleanslate_away",
            "cleanslate_canary",
            "cleanslate_dynamic_pamt",
            "cleanslate_fault",
            "cleanslate_noreset",
            "cleanslate_poison",
            "cleanslate_poison_td",
            "cleanslate_refuse",
            "cleanslate_storm",
            "cleanslate_tds",
            "cleanslate_unseen",
            "cleanslate_use",
            "cleanslate_wild",
            "cleanslate_stuck",
        ],
    }
}

/// Builds test modules for a Linux, and the VMM for one whose KVM builds TDs.
pub(crate) fn modules(kernel: Kernel, build: &Path) -> Result<PathBuf> {
    let names = test_modules(kernel);
    let place = folder(kernel).join("modules");
    fs::create_dir_all(&place)?;
    let sources = names.iter().chain(&PROGRAMS).map(|name| format!("{name}.c"));
    let headers = ["cleanslate_find.h", "cleanslate_guest_page.h", "cleanslate_pairs.h"];
    for file in sources.chain(headers.map(str::to_owned)) {
        fs::copy(root().join("bare/linux").join(&file), place.join(&file)).with_context(|| file.clone())?;
    }
    let objects: Vec<String> = names.iter().map(|name| format!("{name}.o")).collect();
    fs::write(place.join("Kbuild"), format!("obj-m := {}\n", objects.join(" ")))?;
    let place = place.canonicalize()?;
    run(&mut make_modules(build, &place))?;
    if kernel.builds_tds() {
        vmm(build, &place)?;
    }
    Ok(place)
}

/// Builds the VMM of TDs against the headers of this kernel: Debian's own do not know TDX.
fn vmm(build: &Path, place: &Path) -> Result<()> {
    let headers = build.join("usr/include");
    if !headers.join("linux/kvm.h").exists() {
        run(Command::new("make").arg("-s").arg("-C").arg(build).arg("headers"))?;
    }
    let source = root().join("bare/linux");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror", "-isystem"]).arg(&headers);
    run(cc.arg("-o").arg(place.join("vmm")).arg(source.join("vmm.c")).arg(source.join("guest.S")))?;
    Ok(())
}

/// The command that builds the modules in `place` against the build folder or headers `kernel`.
pub fn make_modules(kernel: &Path, place: &Path) -> Command {
    let mut make;
    if let Some((chroot, kernel)) = chroot_of(kernel) {
        // In a name space of its own, so that the mounts are gone when make is. objtool reads
        // /proc.
        let script = r#"mount --bind "$1" "$2/mnt" && mount --bind /proc "$2/proc" &&
            exec chroot "$2" make -s -C "$3" M=/mnt "$4" "$5""#;
        make = Command::new("unshare");
        make.args(["--mount", "sh", "-c", script, "sh"]).arg(place).arg(chroot).arg(kernel);
    } else {
        make = Command::new("make");
        make.arg("-s").arg("-C").arg(kernel).arg(format!("M={}", place.display()));
    }
    // BTF of a module is for tracers only and needs pahole, on which Debian's headers do not
    // depend.
    make.arg("CONFIG_DEBUG_INFO_BTF_MODULES=").arg("modules");
    make
}

/// Programs for the root file systems: kexec, reader of a crash dump, fault injection.
pub(crate) const PROGRAMS: [&str; 3] = ["jump", "dump", "starve"];

/// Builds them.
pub(crate) fn programs(place: &Path) -> Result<()> {
    for name in PROGRAMS {
        let compile = ["-O2", "-static", "-Wall", "-Wextra", "-Werror", "-o"];
        run(Command::new("cc").args(compile).arg(place.join(name)).arg(place.join(format!("{name}.c"))))?;
    }
    Ok(())
}

/// The first Linux's initrd: the test modules, these files, and the next Linuxes.
pub(crate) fn pack(kernel: Kernel, more: &[initrd::Entry<'_>], name: &str) -> Result<()> {
    let folder = folder(kernel);
    let (place, busybox) = (folder.join("modules"), folder.join("root/bin/busybox"));
    let (enable, jump) = (place.join("cleanslate_enable.ko"), place.join("jump"));
    let (tds, wild) = (place.join("cleanslate_tds.ko"), place.join("cleanslate_wild.ko"));
    let (stuck, noreset) = (place.join("cleanslate_stuck.ko"), place.join("cleanslate_noreset.ko"));
    let (canary, poison) = (place.join("cleanslate_canary.ko"), place.join("cleanslate_poison_td.ko"));
    let (storm, fault) = (place.join("cleanslate_storm.ko"), place.join("cleanslate_fault.ko"));
    let unseen = place.join("cleanslate_unseen.ko");
    let (away, refuse) = (place.join("cleanslate_away.ko"), place.join("cleanslate_refuse.ko"));
    let dynamic_pamt = place.join("cleanslate_dynamic_pamt.ko");
    let (tear, dump) = (place.join("cleanslate_tear.ko"), place.join("dump"));
    let (image, next) = (folder.join("bzImage"), folder.join("next-initrd"));
    let stock = find(Kernel::Stock).ok();
    let unmapped = place.join("cleanslate_poison.ko");
    let mut files: Vec<initrd::Entry<'_>> = vec![
        ("next/jump", &jump),
        ("next/cleanslate_wild.ko", &wild),
        ("next/cleanslate_stuck.ko", &stuck),
        ("next/cleanslate_noreset.ko", &noreset),
        ("next/dump", &dump),
        ("next/self/bzImage", &image),
        ("next/self/initrd", &next),
    ];
    if test_modules(kernel).contains(&"cleanslate_tear") {
        files.push(("next/cleanslate_tear.ko", &tear));
    }
    let (starve, vmm) = (place.join("starve"), place.join("vmm"));
    if kernel.debugs() {
        files.push(("next/starve", &starve));
    }
    if test_modules(kernel).contains(&"cleanslate_poison") {
        files.push(("next/cleanslate_poison.ko", &unmapped));
    }
    match kernel.reference() {
        Kernel::Tdx | Kernel::TdxDebug => files.push(("modules/cleanslate_enable.ko", &enable)),
        // After cleanslate.ko, which must be there before the first TD.
        kernel if kernel.builds_tds() => {
            files.extend([("modules/last/cleanslate_tds.ko", tds.as_path()), ("next/cleanslate_canary.ko", &canary)]);
            files.extend([("next/cleanslate_poison_td.ko", poison.as_path()), ("bin/vmm", &vmm)]);
            files.extend([("next/cleanslate_away.ko", away.as_path()), ("next/cleanslate_refuse.ko", &refuse)]);
            files.extend([("next/cleanslate_storm.ko", storm.as_path()), ("next/cleanslate_fault.ko", &fault)]);
            files.push(("next/cleanslate_dynamic_pamt.ko", &dynamic_pamt));
            files.push(("next/cleanslate_unseen.ko", &unseen));
        }
        _ => {}
    }
    if let Some(stock) = &stock {
        files.extend([("next/stock/bzImage", stock.image.as_path()), ("next/stock/initrd", stock.initrd.as_path())]);
    }
    files.extend(more);
    initrd::write(&folder.join(name), &busybox, &files)
}

/// The root file system of a next Linux.
pub(crate) fn pack_next(kernel: Kernel) -> Result<()> {
    let folder = folder(kernel);
    let place = folder.join("modules");
    let (using, dump) = (place.join("cleanslate_use.ko"), place.join("dump"));
    let files = [("modules/cleanslate_use.ko", using.as_path()), ("next/dump", &dump)];
    initrd::write(&folder.join("next-initrd"), &folder.join("root/bin/busybox"), &files)
}

/// The root file system of a crash kernel that leaves private memory out of its dump: with
/// `cleanslate.ko`, and with Debian's makedumpfile for Debian's own kernel.
fn pack_crash(kernel: Kernel, module: &Path) -> Result<PathBuf> {
    let folder = folder(kernel);
    let place = folder.join("modules");
    let (using, dump, tear) = (place.join("cleanslate_use.ko"), place.join("dump"), place.join("cleanslate_tear.ko"));
    let mut files = vec![
        ("modules/cleanslate_use.ko", using.as_path()),
        ("next/cleanslate.ko", module),
        ("next/dump", dump.as_path()),
    ];
    if test_modules(kernel).contains(&"cleanslate_tear") {
        files.push(("next/cleanslate_tear.ko", &tear));
    }
    let tools = if kernel == Kernel::Stock612 { dump_tools(&folder.join("dump-tools"))? } else { Vec::new() };
    files.extend(tools.iter().map(|(name, path)| (name.as_str(), path.as_path())));
    let path = folder.join("crash-initrd");
    initrd::write(&path, &folder.join("root/bin/busybox"), &files)?;
    Ok(path)
}

/// Debian's makedumpfile with its libraries, fetched once.
pub(crate) fn dump_tools(place: &Path) -> Result<Vec<(String, PathBuf)>> {
    const PACKAGES: [&str; 8] =
        ["makedumpfile", "libc6", "libdw1", "libelf1", "liblzo2-2", "zlib1g", "liblzma5", "libbz2-1.0"];
    const LIBRARIES: [&str; 7] =
        ["libc.so.6", "libdw.so.1", "libelf.so.1", "liblzo2.so.2", "libz.so.1", "liblzma.so.5", "libbz2.so.1.0"];
    let root = place.join("root");
    if !root.join("usr/bin/makedumpfile").exists() {
        fs::create_dir_all(place)?;
        fetch(place, &PACKAGES)?;
    }
    let folders = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|folder| root.join(folder));
    let library = |name: &str| {
        let path = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
        path.with_context(|| format!("{} has no {name}", root.display()))
    };
    let mut files = vec![("next/makedumpfile".to_owned(), root.join("usr/bin/makedumpfile"))];
    files.push(("lib64/ld-linux-x86-64.so.2".to_owned(), library("ld-linux-x86-64.so.2")?));
    for name in LIBRARIES {
        files.push((format!("next/lib/{name}"), library(name)?));
    }
    Ok(files)
}

pub(crate) fn pack_stock(place: &Path) -> Result<()> {
    let (folder, using) = (folder(Kernel::Stock), place.join("cleanslate_use.ko"));
    initrd::write(&folder.join("initrd"), &folder.join("root/bin/busybox"), &[("modules/cleanslate_use.ko", &using)])
}

/// The initrd with `cleanslate.ko`, and with its test variant.
pub(crate) fn pack_with_module(kernel: Kernel, module: &Path, test: Option<&Path>) -> Result<()> {
    let strangers = strangers(kernel, module)?;
    let crash = pack_crash(kernel, module)?;
    let mut files = vec![("modules/cleanslate.ko", module), ("next/crash/initrd", crash.as_path())];
    files.extend(test.iter().map(|test| ("test/cleanslate.ko", *test)));
    files.extend(strangers.iter().map(|(name, path)| (name.as_str(), path.as_path())));
    // Of 7.3 for its report (`cleanslate.accept`).
    let tool = if matches!(kernel.reference(), Kernel::Stock612 | Kernel::Tdx73) { Some(tool()?) } else { None };
    files.extend(tool.iter().map(|tool| ("bin/cleanslate", tool.as_path())));
    pack(kernel, &files, "initrd-module")
}

/// The initrd of a Linux that hands TDX over to `next`, a kernel of another release: the one with
/// `cleanslate.ko`, and in it `next` with its own `cleanslate.ko`. Made when something in it is
/// newer.
pub(crate) fn pack_successor(kernel: Kernel, next: Kernel) -> Result<PathBuf> {
    let (base, theirs) = (initrd_with_module(kernel)?, folder(next));
    let module = |variant: &str| theirs.join(variant).join("cleanslate.ko");
    let (module, test, jump) = (module("cleanslate"), module("cleanslate-test"), theirs.join("modules/jump"));
    let (image, last) = (theirs.join("bzImage"), theirs.join("next-initrd"));
    let (path, init) = (folder(kernel).join(format!("initrd-{}", next.name())), root().join("bare/linux/init"));
    let changed = |path: &Path| {
        let changed = path.metadata().and_then(|metadata| metadata.modified());
        changed.with_context(|| format!("cannot read {}: run `cargo xtask linux-module`", path.display()))
    };
    let mut newest = SystemTime::UNIX_EPOCH;
    for part in [&base, &module, &test, &jump, &image, &last, &init] {
        newest = newest.max(changed(part)?);
    }
    if changed(&path).is_ok_and(|made| made >= newest) {
        return Ok(path);
    }
    let initrd = theirs.join("successor-initrd");
    let files = [
        ("modules/cleanslate.ko", module.as_path()),
        ("test/cleanslate.ko", &test),
        ("next/jump", &jump),
        ("next/self/bzImage", &image),
        ("next/self/initrd", &last),
    ];
    initrd::write(&initrd, &theirs.join("root/bin/busybox"), &files)?;
    let (to_image, to_initrd) = (format!("next/{}/bzImage", next.name()), format!("next/{}/initrd", next.name()));
    initrd::append(&path, &base, &format!("next/{}", next.name()), &[(&to_image, &image), (&to_initrd, &initrd)])?;
    Ok(path)
}

/// Programs and initrds of a Linux that kexecs.
pub(crate) fn finish(kernel: Kernel, place: &Path) -> Result<()> {
    programs(place)?;
    pack_next(kernel)?;
    pack(kernel, &[], "initrd")
}

/// Copies of the module that hook a function which no kernel has: in each, the name of one function
/// is changed. The file is named after the function.
fn strangers(kernel: Kernel, module: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut functions = vec!["machine_kexec_prepare", "kdump_nmi_callback"];
    if kernel.reference() != Kernel::Stock612 {
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

/// The program `cleanslate` for a root file system that has no libraries: it sends commands to
/// /dev/cleanslate.
fn tool() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let target = root().join("target/static");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // With --target, the flags do not apply to build scripts.
    run(Command::new(cargo)
        .args(["build", "--release", "--quiet", "--package", "cleanslate", "--target", TARGET])
        .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(root()))?;
    Ok(target.join(TARGET).join("release/cleanslate"))
}

/// A root file system for the user's own kernel: busybox, bare/linux/init, and the same kernel as
/// the next one. No modules, because there is no build tree to build them in.
pub(crate) fn own_initrd(image: &Path) -> Result<PathBuf> {
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
