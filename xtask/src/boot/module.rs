//! The task `linux-module`: `cleanslate.ko` for a kernel's build tree. The Rust object is built for a target without vector registers, cut down
//! to what the shim calls, and checked; Kbuild does the rest. Refuses an object that could not live in a kernel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::linux::run;
use crate::root;

/// The functions that the shim calls.
const EXPORTS: [&str; 8] = [
    "cleanslate_detect",
    "cleanslate_cpus",
    "cleanslate_pamt",
    "cleanslate_publish",
    "cleanslate_private_kb",
    "cleanslate_seamcall",
    "cleanslate_stop_this_cpu",
    "cleanslate_hand_over",
];
/// What the object may want of others: the shim's own functions.
const IMPORTS: [&str; 2] = ["cleanslate_panic", "cleanslate_rdmsr"];
/// Sections that the kernel's module loader knows what to do with.
const SECTIONS: [&str; 4] = [".text", ".rodata", ".data", ".bss"];

const TARGET: &str = "x86_64-unknown-none";

/// Builds the Rust object and checks it.
fn object(place: &Path) -> Result<PathBuf> {
    let target = root().join("target/linux-object");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--quiet", "--target", TARGET, "--manifest-path", "linux/object/Cargo.toml"])
        // The kernel links at the top of the address space, has no procedure linkage table, and refuses jump tables.
        .env("RUSTFLAGS", "-C relocation-model=static -C code-model=kernel -C embed-bitcode=no -C jump-tables=no")
        .env("CARGO_TARGET_DIR", &target)
        .current_dir(root())
        .status()?;
    ensure!(status.success(), "the Rust object does not build; is the target there? `rustup target add {TARGET}`");
    let library = target.join(TARGET).join("release/libcleanslate_linux.a");
    let object = place.join("object.o_shipped");
    let mut link = Command::new("ld");
    link.args(["-r", "--gc-sections", "-e", EXPORTS[0], "-T"]).arg(root().join("linux/object.lds"));
    for export in EXPORTS {
        link.args(["-u", export]);
    }
    run(link.arg(&library).arg("-o").arg(&object))?;
    let mut hide = Command::new("objcopy");
    hide.args(EXPORTS.map(|export| format!("--keep-global-symbol={export}")));
    run(hide.arg(&object))?;
    let relaxed = relax(&fs::read(&object)?)?;
    fs::write(&object, relaxed)?;
    check(&object)?;
    Ok(object)
}

/// A field of an ELF file, little-endian.
fn field<const N: usize>(file: &[u8], at: usize) -> Result<usize> {
    let bytes: &[u8] = file.get(at..at + N).context("the object is cut off")?;
    Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
}

/// Makes direct what goes through the global offset table, which a module does not have: the compiler reaches `memcpy` in that way
/// whatever it is told. `call [rip + f]` becomes `addr32 call f`, `mov r, [rip + f]` becomes `lea r, [rip + f]`: what a linker does
/// too, when it makes a program (x86-64 psABI, "Optimize GOTPCRELX Relocations").
fn relax(file: &[u8]) -> Result<Vec<u8>> {
    const RELA: usize = 4;
    const GOT: [usize; 3] = [9, 41, 42];
    const PC32: u8 = 2;
    const PLT32: u8 = 4;
    let mut relaxed = file.to_vec();
    let (headers, size, count) = (field::<8>(file, 40)?, field::<2>(file, 58)?, field::<2>(file, 60)?);
    let header = |index: usize| headers + index * size;
    for table in (0..count).map(header) {
        if field::<4>(file, table + 4)? != RELA {
            continue;
        }
        let (start, bytes) = (field::<8>(file, table + 24)?, field::<8>(file, table + 32)?);
        let section = field::<8>(file, header(field::<4>(file, table + 44)?) + 24)?;
        for entry in (start..start + bytes).step_by(24) {
            if !GOT.contains(&field::<4>(file, entry + 8)?) {
                continue;
            }
            let at = section + field::<8>(file, entry)?;
            let opcode = file.get(at - 2..at).context("a relocation outside its section")?;
            let (new, kind): ([u8; 2], u8) = match *opcode {
                [0xff, 0x15] => ([0x67, 0xe8], PLT32),
                [0x8b, register] => ([0x8d, register], PC32),
                _ => bail!("a use of the global offset table at {at:#x} that is neither a call nor a load"),
            };
            relaxed[at - 2..at].copy_from_slice(&new);
            relaxed[entry + 8] = kind;
        }
    }
    Ok(relaxed)
}

/// No vector register, no symbol that the kernel does not have, no section that it does not know.
fn check(object: &Path) -> Result<()> {
    let code = run(Command::new("objdump").args(["--disassemble", "--no-show-raw-insn"]).arg(object))?;
    let vector = code.lines().find(|line| ["%xmm", "%ymm", "%zmm", "%st("].iter().any(|name| line.contains(name)));
    if let Some(line) = vector {
        bail!("the object uses registers that a kernel must not touch: {}", line.trim());
    }
    let wanted = run(Command::new("nm").arg("--undefined-only").arg(object))?;
    let strange = wanted.split_whitespace().find(|word| word.len() > 1 && !IMPORTS.contains(word));
    if let Some(symbol) = strange {
        bail!("the object wants {symbol}, which the shim does not have");
    }
    let headers = run(Command::new("objdump").arg("--section-headers").arg(object))?;
    for row in headers.lines().filter(|row| row.trim_start().starts_with(|c: char| c.is_ascii_digit())) {
        let section = row.split_whitespace().nth(1).unwrap_or_default();
        ensure!(SECTIONS.contains(&section), "the object has a section {section} that no kernel expects");
    }
    Ok(())
}

/// Builds `cleanslate.ko` against a kernel's build tree, in a folder of its own.
pub(super) fn build(kernel: &Path, place: &Path) -> Result<PathBuf> {
    fs::create_dir_all(place)?;
    let place = place.canonicalize()?;
    for file in ["shim.c", "Kbuild"] {
        fs::copy(root().join("linux").join(file), place.join(file)).with_context(|| format!("linux/{file}"))?;
    }
    object(&place)?;
    // Kbuild wants to know how each object was made.
    fs::write(place.join(".object.o.cmd"), "savedcmd_object.o := true\n")?;
    let output = Command::new("make")
        .arg("-s")
        .arg("-C")
        .arg(kernel)
        .arg(format!("M={}", place.display()))
        .arg("modules")
        .output()
        .context("cannot run make")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cleanslate.ko does not build:\n{said}");
    // objtool warns and goes on: stable Rust has no return thunks and no retpolines (linux/README.md).
    let warnings = said.lines().filter(|line| line.contains("warning:")).count();
    let mitigations =
        said.lines().filter(|line| ["RETHUNK", "RETPOLINE", "!ENDBR"].iter().any(|word| line.contains(word)));
    eprintln!("linux-module: {warnings} warnings of objtool, {} of them about mitigations", mitigations.count());
    Ok(place.join("cleanslate.ko"))
}
