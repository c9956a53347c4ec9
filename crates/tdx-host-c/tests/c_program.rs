//! The static library as a C kernel gets it: what it exports and what it needs, and a C11 program that drives the software machine
//! through it, with gcc and with clang, warnings as errors, under the address and undefined-behaviour sanitizers.
//!
//! A compiler that is not there is named on stderr, and its part is skipped.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use object::read::archive::ArchiveFile;
use object::{Object, ObjectSymbol};

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// Scratch space of this test, inside the target directory.
const SCRATCH: &str = env!("CARGO_TARGET_TMPDIR");

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}\n{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn cargo() -> Command {
    // Flags of the outer build (loom) are not those of a kernel.
    let mut command = Command::new(env!("CARGO"));
    command.env_remove("RUSTFLAGS").arg("build").arg("--quiet").current_dir(CRATE);
    command
}

/// `libtdxhost.a`, built as README says, in a target directory of its own.
static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| {
    let target = Path::new(SCRATCH).join("staticlib");
    succeed(cargo().args(["--release", "--manifest-path", "staticlib/Cargo.toml", "--target-dir"]).arg(&target));
    target.join("release/libtdxhost.a")
});

/// The directory of `libsoftware_machine.so`: an example of this crate, in the target directory that this test came from. A run of
/// this test alone has not built it.
static MACHINE: LazyLock<PathBuf> = LazyLock::new(|| {
    let test = std::env::current_exe().unwrap();
    let profile = test.ancestors().nth(2).unwrap();
    let mut build = cargo();
    build.args(["--example", "software_machine", "--target-dir"]).arg(profile.parent().unwrap());
    if profile.ends_with("release") {
        build.arg("--release");
    }
    succeed(&mut build);
    profile.join("examples")
});

/// The symbols of the product's own objects in the library: defined and visible, undefined.
fn symbols() -> (BTreeSet<String>, BTreeSet<String>) {
    let archive = std::fs::read(&*LIBRARY).unwrap();
    let (mut defined, mut undefined) = (BTreeSet::new(), BTreeSet::new());
    for member in ArchiveFile::parse(&*archive).unwrap().members() {
        let member = member.unwrap();
        // The rest is compiler_builtins, which comes with every Rust static library; a linker takes nothing of it here.
        if !member.name().starts_with(b"tdxhost") {
            continue;
        }
        let file = object::File::parse(member.data(&*archive).unwrap()).unwrap();
        for symbol in file.symbols().filter(ObjectSymbol::is_global) {
            let name = symbol.name().unwrap().to_owned();
            if symbol.is_undefined() {
                undefined.insert(name)
            } else {
                defined.insert(name)
            };
        }
    }
    (defined, undefined)
}

/// Function names that the header declares.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(Path::new(CRATE).join("include/tdx_host.h")).unwrap();
    let code = header.split("/*").map(|part| part.split_once("*/").map_or(part, |(_, code)| code)).collect::<String>();
    let words = code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '('));
    words
        .filter_map(|word| word.split_once('('))
        .filter(|(name, _)| name.starts_with("tdxh_"))
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[test]
fn the_library_exports_the_functions_of_the_header_and_nothing_else() {
    let (defined, _) = symbols();
    let ours: BTreeSet<String> = defined.iter().filter(|name| name.starts_with("tdxh_")).cloned().collect();
    assert_eq!(ours, declared());
    assert!(ours.len() > 50);
    let mangled = |name: &&String| name.starts_with("_R") || name.starts_with("_ZN");
    let others: Vec<&String> = defined.iter().filter(|name| !ours.contains(*name) && !mangled(name)).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// No allocator, no unwinder, and no panic: the optimiser has thrown away every path to one, messages included.
#[test]
fn the_library_needs_three_functions_and_cannot_panic() {
    let (defined, undefined) = symbols();
    // The last two are made by the linker: the borders of a section.
    let expected = ["memcpy", "memmove", "memset", "__start_cleanslate_fixups", "__stop_cleanslate_fixups"];
    let extra: Vec<&String> = undefined.iter().filter(|name| !expected.contains(&name.as_str())).collect();
    assert!(extra.is_empty(), "{extra:?}");
    let panics: Vec<&String> =
        defined.iter().filter(|name| name.contains("panic") || name.contains("unwind")).collect();
    assert!(panics.is_empty(), "{panics:?}");
}

/// Says aloud, past the capture of the test runner, that a part was not run.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}

const WARNINGS: [&str; 6] = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wstrict-prototypes"];

fn compiler(name: &str) -> Option<Command> {
    let there = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        skipped(&format!("the C program with {name}, which is not there (Debian: apt-get install {name})"));
        return None;
    }
    let mut command = Command::new(name);
    command.current_dir(Path::new(CRATE).join("tests/c")).args(WARNINGS).args(["-I../../include", "-I."]);
    Some(command)
}

fn drive_the_machine(name: &str) {
    let Some(mut compiler) = compiler(name) else { return };
    let program = Path::new(SCRATCH).join(format!("c-program-{name}"));
    compiler
        .args(["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"])
        .args(["main.c", "kernel.c", "-o"])
        .arg(&program)
        .arg(&*LIBRARY)
        .arg("-L")
        .arg(&*MACHINE)
        .arg(format!("-Wl,-rpath,{}", MACHINE.display()))
        .arg("-lsoftware_machine");
    succeed(&mut compiler);
    let output = succeed(&mut Command::new(program));
    assert_eq!(output.lines().filter(|line| line.starts_with("ok ")).count(), 17, "{output}");
    assert!(output.ends_with("1..17\n"), "{output}");
}

#[test]
fn gcc_drives_the_machine() {
    drive_the_machine("gcc");
}

#[test]
fn clang_drives_the_machine() {
    drive_the_machine("clang");
}
