//! Kernel coding style of the C files: `checkpatch.pl --strict` of the newest Debian kernel source
//! that `cargo xtask linux` fetches. What it finds must be in `linux/checkpatch.txt`, with a
//! reason, and what is listed there must be found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Count and reason of a kind of finding in a file.
type Findings = BTreeMap<(String, String), (usize, String)>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Lines `FILE TYPE COUNT REASON`.
fn listed() -> Findings {
    let text = std::fs::read_to_string(root().join("linux/checkpatch.txt")).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let words: Vec<&str> = line.splitn(4, char::is_whitespace).collect();
            let [file, kind, count, reason] = words[..] else { panic!("not FILE TYPE COUNT REASON: {line}") };
            assert!(reason.trim().len() > 10, "no reason: {line}");
            ((file.to_owned(), kind.to_owned()), (count.parse().unwrap(), reason.to_owned()))
        })
        .collect()
}

/// The C files of the module, and those of its test variant.
fn files() -> Vec<String> {
    let mut files: Vec<String> = std::fs::read_dir(root().join("linux"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "c" || extension == "h"))
        .map(|name| format!("linux/{name}"))
        .collect();
    files.sort();
    assert!(files.len() > 10);
    files.extend(["noreset.c", "test.c", "test.h", "test_ioctl.h"].map(|name| format!("bare/linux/cleanslate_{name}")));
    files
}

#[test]
fn findings_are_those_of_the_list() {
    let script = root().join("target/linux/tdx-7.3/build/source/scripts/checkpatch.pl");
    if !script.exists() {
        skip::test_with_kernel("kernel coding style", "tdx-7.3", "checkpatch.pl");
        return;
    }
    let mut command = Command::new("perl");
    command.arg(&script).args(["--strict", "--no-tree", "--terse", "--show-types", "-f"]);
    let output = command.args(files()).current_dir(root()).output().unwrap();
    // A file that it cannot read, for example.
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let output = String::from_utf8(output.stdout).unwrap();
    let mut found: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    for line in output.lines() {
        // FILE:LINE: LEVEL:TYPE: text
        let parts: Vec<&str> = line.splitn(4, ':').collect();
        if line.starts_with("total:") {
            continue;
        }
        if let [file, _, _, rest] = parts[..] {
            let kind = rest.split(':').next().unwrap();
            found.entry((file.to_owned(), kind.to_owned())).or_default().push(line);
        }
    }
    let listed = listed();
    for (key, lines) in &found {
        let count = listed.get(key).map_or(0, |(count, _)| *count);
        assert_eq!(lines.len(), count, "fix them, or adapt linux/checkpatch.txt:\n{}", lines.join("\n"));
    }
    let gone: Vec<_> = listed.keys().filter(|key| !found.contains_key(key)).collect();
    assert!(gone.is_empty(), "no longer found, remove from linux/checkpatch.txt: {gone:?}");
}
