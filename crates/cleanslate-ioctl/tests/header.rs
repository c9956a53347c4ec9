//! Numbers of the ioctls against the C headers, as a C compiler reads them (`cc`, which is Rust's
//! linker, too).

use std::path::Path;
use std::process::Command;

use cleanslate_ioctl::{TD, TdPhase, UP};

#[test]
fn numbers_are_those_of_the_headers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let headers = ["linux/cleanslate_ioctl.h", "bare/linux/cleanslate_test_ioctl.h"].map(|header| root.join(header));
    let includes = headers.map(|header| format!("#include \"{}\"\n", header.display())).concat();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join("numbers.c"), folder.join("numbers"));
    let names = ["IOCTL_UP", "IOCTL_TD", "TD_RUNNABLE", "TD_HALF_BUILT", "TD_GONE", "TD_HALF_GONE"];
    let line = |name: &&str| format!("printf(\"%lu\\n\", (unsigned long)CLEANSLATE_{name});");
    let lines = names.iter().map(line).collect::<Vec<_>>().join("\n");
    let text = format!("#include <stdio.h>\n{includes}int main(void) {{\n{lines}\nreturn 0;\n}}\n");
    std::fs::write(&source, text).unwrap();
    let built = Command::new("cc").arg("-Werror").arg("-o").arg(&program).arg(&source).status().unwrap();
    assert!(built.success());
    let output = String::from_utf8(Command::new(&program).output().unwrap().stdout).unwrap();
    let numbers: Vec<u64> = output.lines().map(|line| line.parse().unwrap()).collect();
    let phases = [TdPhase::Runnable, TdPhase::HalfBuilt, TdPhase::Gone, TdPhase::HalfGone];
    let phases = phases.map(|phase| u64::from(phase as u32));
    assert_eq!(numbers, [&[u64::from(UP), u64::from(TD)][..], &phases].concat());
}

/// On another device, and on a file that is no device.
#[test]
fn other_files_return_enotty() {
    for path in ["/dev/null", "/proc/self/stat"] {
        let device = std::fs::File::open(path).unwrap();
        for result in [cleanslate_ioctl::up(&device), cleanslate_ioctl::td(&device, TdPhase::Gone)] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(25), "ENOTTY from {path}");
        }
    }
}
