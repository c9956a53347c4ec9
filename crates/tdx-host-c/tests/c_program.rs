//! The static library as a C kernel gets it: what it exports and what it needs, and a C11 program
//! that drives the software machine through it, with gcc and with clang, warnings as errors, under
//! the address and undefined-behavior sanitizers.
//!
//! A compiler that is missing fails the test in CI; elsewhere its part is reported as skipped.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use iced_x86::{Decoder, DecoderOptions, InstructionInfoFactory, UsedRegister};
use object::read::archive::ArchiveFile;
use object::{Object, ObjectSection, ObjectSymbol, SectionKind};

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

/// The directory of `libsoftware_machine.so`: an example of this crate, in the target directory
/// that this test came from. A run of this test alone has not built it.
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

/// The target of Rust for code without an operating system and without SSE registers.
const BARE: &str = "x86_64-unknown-none";

/// The same for [`BARE`], as a kernel wants it; none if its `core` is not installed.
static BARE_LIBRARY: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
    let folder = succeed(Command::new("rustc").args(["--print", "target-libdir", "--target", BARE]));
    if !Path::new(folder.trim()).exists() {
        skip::test("the library for a kernel", &format!("target {BARE}"), &format!("rustup target add {BARE}"));
        return None;
    }
    let target = Path::new(SCRATCH).join("staticlib");
    let manifest = ["--release", "--manifest-path", "staticlib/Cargo.toml", "--target", BARE, "--target-dir"];
    succeed(cargo().args(manifest).arg(&target));
    Some(target.join(BARE).join("release/libtdxhost.a"))
});

/// Looks at the product's own object. The rest of the archive is compiler_builtins, which comes
/// with every Rust static library; a linker takes nothing of it here but memcpy and the like, where
/// a program brings none.
fn look(library: &Path, mut at: impl FnMut(&object::File<'_>)) {
    let archive = std::fs::read(library).unwrap();
    let members = ArchiveFile::parse(&*archive).unwrap().members().map(Result::unwrap);
    let ours: Vec<_> = members.filter(|member| member.name().starts_with(b"tdxhost")).collect();
    assert_eq!(ours.len(), 1, "one object: nothing of core is apart from it");
    at(&object::File::parse(ours[0].data(&*archive).unwrap()).unwrap());
}

/// Its symbols: defined and visible, undefined.
fn symbols(library: &Path) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut defined, mut undefined) = (BTreeSet::new(), BTreeSet::new());
    look(library, |file| {
        for symbol in file.symbols().filter(ObjectSymbol::is_global) {
            let list = if symbol.is_undefined() { &mut undefined } else { &mut defined };
            list.insert(symbol.name().unwrap().to_owned());
        }
    });
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
    let (defined, _) = symbols(&LIBRARY);
    let ours: BTreeSet<String> = defined.iter().filter(|name| name.starts_with("tdxh_")).cloned().collect();
    assert_eq!(ours, declared());
    assert!(ours.len() > 50);
    let mangled = |name: &&String| name.starts_with("_R") || name.starts_with("_ZN");
    let others: Vec<&String> = defined.iter().filter(|name| !ours.contains(*name) && !mangled(name)).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// No allocator, no unwinder, and no panic: the optimizer has thrown away every path to one,
/// messages included.
#[test]
fn the_library_needs_three_functions_and_cannot_panic() {
    // The last two are made by the linker: the borders of a section.
    let expected = ["memcpy", "memmove", "memset", "__start_cleanslate_fixups", "__stop_cleanslate_fixups"];
    for library in BARE_LIBRARY.iter().chain([&*LIBRARY]) {
        let (defined, undefined) = symbols(library);
        let extra: Vec<&String> = undefined.iter().filter(|name| !expected.contains(&name.as_str())).collect();
        assert!(extra.is_empty(), "{}: {extra:?}", library.display());
        let is_panic = |name: &&String| name.contains("panic") || name.contains("unwind");
        let panics: Vec<&String> = defined.iter().filter(is_panic).collect();
        assert!(panics.is_empty(), "{}: {panics:?}", library.display());
    }
}

/// Instructions that touch a vector register: a kernel saves none of them on entry.
fn vector_instructions(library: &Path) -> usize {
    let mut found = 0;
    look(library, |file| {
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            let code = section.uncompressed_data().unwrap();
            let mut info = InstructionInfoFactory::new();
            for instruction in &mut Decoder::with_ip(64, &code, 0, DecoderOptions::NONE) {
                let is_vector = |used: &UsedRegister| used.register().is_vector_register();
                found += usize::from(info.info(&instruction).used_registers().iter().any(is_vector));
            }
        }
    });
    found
}

#[test]
fn the_library_for_a_kernel_leaves_vector_registers_alone() {
    // The other one has many: the counter counts.
    assert!(vector_instructions(&LIBRARY) > 100);
    let Some(library) = &*BARE_LIBRARY else { return };
    assert_eq!(vector_instructions(library), 0);
}

const WARNINGS: [&str; 6] = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-Wstrict-prototypes"];

fn compiler(name: &str) -> Option<Command> {
    let there = Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        skip::test("the C program", name, &format!("apt-get install {name}"));
        return None;
    }
    let mut command = Command::new(name);
    command.current_dir(Path::new(CRATE).join("tests/c")).args(WARNINGS).args(["-I../../include", "-I."]);
    Some(command)
}

const SANITIZERS: [&str; 4] =
    ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"];

/// Can it link a program with the sanitizers? Debian's clang does not bring their runtime.
fn has_sanitizers(name: &str) -> bool {
    let (source, program) =
        (Path::new(SCRATCH).join(format!("empty-{name}.c")), Path::new(SCRATCH).join(format!("empty-{name}")));
    fs::write(&source, "int main(void) { return 0; }\n").unwrap();
    Command::new(name).args(SANITIZERS).arg(&source).arg("-o").arg(program).output().is_ok_and(|it| it.status.success())
}

/// Tests in the C program.
const TESTS: usize = 24;

fn drive_the_machine(name: &str) {
    let Some(mut compiler) = compiler(name) else { return };
    if !has_sanitizers(name) {
        let tool = format!("runtime of the sanitizers for {name}");
        skip::test("the C program", &tool, "apt-get install libclang-rt-dev");
        return;
    }
    let program = Path::new(SCRATCH).join(format!("c-program-{name}"));
    compiler
        .arg("-O1")
        .args(SANITIZERS)
        .args(["main.c", "handover.c", "kernel.c", "-pthread", "-o"])
        .arg(&program)
        .arg(&*LIBRARY)
        .arg("-L")
        .arg(&*MACHINE)
        .arg(format!("-Wl,-rpath,{}", MACHINE.display()))
        .arg("-lsoftware_machine");
    succeed(&mut compiler);
    let output = succeed(&mut Command::new(program));
    assert_eq!(output.lines().filter(|line| line.starts_with("ok ")).count(), TESTS, "{output}");
    assert!(output.ends_with(&format!("1..{TESTS}\n")), "{output}");
}

/// The header is C++ as well.
#[test]
fn the_header_is_cpp_too() {
    let header = Path::new(CRATE).join("include/tdx_host.h");
    for name in ["g++", "clang++"] {
        let mut command = Command::new(name);
        command.args(["-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-fsyntax-only"]);
        match command.arg(&header).output() {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(_) => skip::test("the header as C++", name, "apt-get install g++ clang"),
        }
    }
}

#[test]
fn gcc_drives_the_machine() {
    drive_the_machine("gcc");
}

#[test]
fn clang_drives_the_machine() {
    drive_the_machine("clang");
}
