//! The task `linux-module`: `cleanslate.ko` for a kernel's build tree. The Rust object is built for
//! a target without vector registers, as assembly; Kbuild does the rest. Refuses a module of which
//! the kernel's own objtool or modpost complains.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use cleanslate_kbuild::{Input, header};

use crate::args::Kernel;
use crate::pack::{make_modules, modules, pack, pack_next, pack_with_module, programs};
use crate::place::{folder, is_there};
use crate::root;

/// Sources of the C part.
pub const SOURCES: [&str; 20] = [
    "Kbuild",
    "cleanslate.h",
    "cleanslate_ioctl.h",
    "object.h",
    "main.c",
    "watch.c",
    "follow.c",
    "unseen.c",
    "sweep.c",
    "measure.c",
    "hooks.c",
    "handover.c",
    "parallel.c",
    "dump.c",
    "image.c",
    "keep.c",
    "memory.c",
    "host.c",
    "device.c",
    "report.c",
];

/// Functions of the kernel that the compiler calls.
const KERNEL: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];

const TARGET: &str = "x86_64-unknown-none";

/// Which module.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// As it is shipped.
    Product,
    /// The same, and `/dev/cleanslate_test`, which builds TDs (`bare/linux/cleanslate_test.c`).
    Test,
}

impl Variant {
    /// The crate of its Rust object.
    fn object(self) -> &'static str {
        match self {
            Self::Product => "linux/object",
            Self::Test => "bare/linux/object",
        }
    }
}

/// Builds the Rust object of the shipped module: assembly that Kbuild can assemble.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn object() -> Result<String> {
    object_of(Variant::Product)
}

fn object_of(variant: Variant) -> Result<String> {
    let target = root().join("target/linux-object").join(variant.object().replace('/', "-"));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["rustc", "--release", "--quiet", "--target", TARGET, "--manifest-path"])
        .arg(Path::new(variant.object()).join("Cargo.toml"))
        .args(["--crate-type", "staticlib", "--", "--emit=asm"])
        // The kernel links at the top of the address space; objtool refuses jump tables.
        .env(
            "RUSTFLAGS",
            "-C relocation-model=static -C code-model=kernel -C llvm-args=-min-jump-table-entries=4294967295",
        )
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(root())
        .status()?;
    ensure!(status.success(), "the Rust object does not build; is the target there? `rustup target add {TARGET}`");
    let folder = target.join(TARGET).join("release/deps");
    let made = fs::read_dir(&folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let made = made.filter(|path| path.extension().is_some_and(|extension| extension == "s"));
    let newest = made.max_by_key(|path| path.metadata().and_then(|metadata| metadata.modified()).ok());
    let path = newest.context("the compiler has left no assembly")?;
    let made = fs::read_to_string(&path)?;
    let header = fs::read_to_string(root().join("linux/object.h"))?;
    let (mut exports, mut imports) = header::functions(&header).context("linux/object.h has no functions")?;
    if variant == Variant::Test {
        exports.extend(["cleanslate_td", "cleanslate_adopt", "cleanslate_fill"]);
        imports.extend(["cleanslate_quietly", "cleanslate_interrupt", "cleanslate_counted", "cleanslate_entered"]);
    }
    imports.extend(KERNEL);
    let input = Input { file: &path.display().to_string(), assembly: &made, exports: &exports, imports: &imports };
    Ok(cleanslate_kbuild::for_kernel(&input)?)
}

/// Builds `cleanslate.ko` against a kernel's build tree, in a folder of its own.
fn build_ko(kernel: &Path, place: &Path, variant: Variant) -> Result<PathBuf> {
    fs::create_dir_all(place)?;
    let place = place.canonicalize()?;
    let copy = |folder: &str, file: &str| -> Result<()> {
        let path = root().join(folder).join(file);
        fs::copy(&path, place.join(file)).with_context(|| path.display().to_string())?;
        Ok(())
    };
    for file in SOURCES {
        copy("linux", file)?;
    }
    if variant == Variant::Test {
        copy("bare/linux", "cleanslate_test.c")?;
        copy("bare/linux", "cleanslate_test.h")?;
        copy("bare/linux", "cleanslate_test_ioctl.h")?;
        let kbuild = fs::read_to_string(place.join("Kbuild"))?;
        // It includes device.c.
        fs::write(place.join("Kbuild"), kbuild.replace("device.o", "cleanslate_test.o"))?;
    }
    fs::write(place.join("object.S"), object_of(variant)?)?;
    let output = make_modules(kernel, &place).output().context("cannot run make")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cleanslate.ko does not build:\n{said}");
    // Of the compiler, of objtool (returns, indirect calls, branch targets, stack), of modpost
    // (symbols, sections).
    // Not of pahole, which is another than the kernel was built with where headers are unpacked.
    let is_ours =
        |line: &&str| line.contains("warning:") && !line.contains("pahole version") || line.contains("WARNING:");
    if let Some(line) = said.lines().find(is_ours) {
        bail!("cleanslate.ko builds with warnings, the first is: {line}\nall of them:\n{said}");
    }
    Ok(place.join("cleanslate.ko"))
}

/// The task `linux-module`.
#[derive(Args, Clone, Debug)]
pub struct ModuleArgs {
    /// Build for this kernel alone: `tdx`, `stock-6.12`, or a kernel whose headers are installed
    /// here, as in /lib/modules. Without it: for all that `cargo xtask linux` has provided.
    #[arg(long)]
    kernel: Option<String>,
}

/// Builds the module for a Linux of `cargo xtask linux`, and an initrd with it.
pub(crate) fn build_for(kernel: Kernel) -> Result<PathBuf> {
    let folder = folder(kernel);
    let build = folder.join("build").canonicalize().with_context(|| kernel.how())?;
    stay_here(&build)?;
    let module = build_ko(&build, &folder.join("cleanslate"), Variant::Product)?;
    // Where the module is the host, somebody must build TDs, or try to.
    let test = if kernel.has_test_variant() {
        Some(build_ko(&build, &folder.join("cleanslate-test"), Variant::Test)?)
    } else {
        None
    };
    // The test modules may be newer than the Linux that was provided.
    programs(&modules(kernel, &build)?)?;
    pack_next(kernel)?;
    pack(kernel, &[], "initrd")?;
    pack_with_module(kernel, &module, test.as_deref())?;
    Ok(module)
}

/// The Makefile of a Linux that was built from source names where that was, and so does the one of
/// a copy: a module would be built in the other tree, or not at all. Writes one that names this
/// place.
fn stay_here(build: &Path) -> Result<()> {
    let path = build.join("Makefile");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    if let Some(text) = makefile_here(&text, build) {
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// That Makefile, if this is one of Linux's that names another place (or a module: an attempt to
/// build one from elsewhere leaves that).
fn makefile_here(text: &str, build: &Path) -> Option<String> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let of = value("export KBUILD_OUTPUT = ")?;
    let source = Path::new(value("include ")?).parent()?;
    if Path::new(of) == build && value("export KBUILD_EXTMOD = ").is_none() {
        return None;
    }
    // The source lies beside what is built of it.
    let source = build.parent()?.join(source.file_name()?);
    let (source, build) = (source.display(), build.display());
    Some(format!(
        "# Automatically generated by {source}/Makefile: don't edit\n\
         export KBUILD_OUTPUT = {build}\n\
         include {source}/Makefile\n"
    ))
}

/// Builds the module, and for the Linuxes of `cargo xtask linux` an initrd with it.
///
/// # Errors
/// What it needs is missing, or a command failed.
pub fn build_module(args: &ModuleArgs) -> Result<bool> {
    let ours = [
        Kernel::Tdx,
        Kernel::Tdx618,
        Kernel::Tdx71,
        Kernel::Tdx72,
        Kernel::Tdx73,
        Kernel::Stock612,
        Kernel::Stock612Trixie,
        Kernel::Stock612Rt,
        Kernel::Stock72,
        Kernel::Stock73,
        Kernel::Stock73Rt,
        Kernel::Stock72Sid,
        Kernel::TdxDebug,
        Kernel::Tdx73Debug,
        Kernel::HostDebug,
        Kernel::TdxOwn,
        Kernel::Tdx73Own,
    ];
    if let Some(version) = args.kernel.as_deref().filter(|name| ours.iter().all(|kernel| kernel.name() != *name)) {
        let headers = Path::new("/lib/modules").join(version).join("build").canonicalize().with_context(|| {
            format!("there are no headers of {version} here: on Debian, `apt-get install linux-headers-{version}`")
        })?;
        println!("{}", build_ko(&headers, &root().join("target/linux").join(version), Variant::Product)?.display());
        return Ok(true);
    }
    let wanted = |kernel: &Kernel| match &args.kernel {
        Some(name) => kernel.name() == name,
        None => is_there(*kernel),
    };
    let mut some = false;
    for kernel in ours.into_iter().filter(wanted) {
        let module = build_for(kernel)?;
        println!("{}", module.display());
        some = true;
    }
    ensure!(some, "there is no kernel to build for: run `cargo xtask linux stock-6.12` (or `tdx`) first");
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copied_tree_builds_in_its_own_place() {
        let makefile = |root: &str, more: &str| {
            format!(
                "# Automatically generated by {root}/t/linux-source-7.3/Makefile: don't edit\n\
                 export KBUILD_OUTPUT = {root}/t/build\n{more}\
                 include {root}/t/linux-source-7.3/Makefile\n"
            )
        };
        let build = Path::new("/b/t/build");
        assert_eq!(makefile_here(&makefile("/a", ""), build), Some(makefile("/b", "")));
        assert_eq!(makefile_here(&makefile("/b", ""), build), None);
        let of_module = "export KBUILD_EXTMOD = /b/t/cleanslate\n";
        assert_eq!(makefile_here(&makefile("/b", of_module), build), Some(makefile("/b", "")));
        assert_eq!(makefile_here("# Debian's headers\ninclude /usr/src/x/Makefile\n", build), None);
    }
}
