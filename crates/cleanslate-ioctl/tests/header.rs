//! The numbers are those of the kernel's header, as a C compiler reads it: `cc`, by which Rust
//! links, too.

use std::path::Path;
use std::process::Command;

use cleanslate_ioctl::{Fate, TD, UP};

#[test]
fn the_numbers_are_those_of_the_header() {
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../linux/cleanslate_ioctl.h");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join("numbers.c"), folder.join("numbers"));
    let names = ["IOCTL_UP", "IOCTL_TD", "TD_RUNNABLE", "TD_HALF_BUILT", "TD_GONE", "TD_HALF_GONE"];
    let line = |name: &&str| format!("printf(\"%lu\\n\", (unsigned long)CLEANSLATE_{name});");
    let lines = names.iter().map(line).collect::<Vec<_>>().join("\n");
    let text =
        format!("#include <stdio.h>\n#include \"{}\"\nint main(void) {{\n{lines}\nreturn 0;\n}}\n", header.display());
    std::fs::write(&source, text).unwrap();
    let built = Command::new("cc").arg("-Werror").arg("-o").arg(&program).arg(&source).status().unwrap();
    assert!(built.success());
    let told = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
    let told: Vec<u64> = told.lines().map(|line| line.parse().unwrap()).collect();
    let fates = [Fate::Runnable, Fate::HalfBuilt, Fate::Gone, Fate::HalfGone].map(|fate| u64::from(fate as u32));
    assert_eq!(told, [&[u64::from(UP), u64::from(TD)][..], &fates].concat());
}

/// A device that is none of ours, and a file that is no device: an error, and nothing else.
#[test]
fn others_refuse_the_orders() {
    for path in ["/dev/null", "/proc/self/stat"] {
        let device = std::fs::File::open(path).unwrap();
        for result in [cleanslate_ioctl::up(&device), cleanslate_ioctl::td(&device, Fate::Gone)] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(25), "ENOTTY from {path}");
        }
    }
}
