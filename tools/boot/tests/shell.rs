//! Shell files of the repository against shellcheck.

use std::path::Path;
use std::process::Command;

const FILES: [&str; 9] = [
    "bare/linux/init",
    "linux/crash/initramfs-hook",
    "linux/crash/dump-parameter",
    "linux/crash/dracut/load.sh",
    "linux/crash/dracut/module-setup.sh",
    ".ci/run",
    ".ci/clean-machine",
    ".ci/kdump-tools",
    ".githooks/pre-commit",
];

#[test]
fn shell_files_pass_shellcheck() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let Ok(output) = Command::new("shellcheck").args(FILES).current_dir(&root).output() else {
        return skip::test("shell files", "shellcheck", "apt-get install shellcheck");
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
