//! One command of a task: run it, show its output as it comes, count what its test runner says.

use anyhow::{Context, Result};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

/// Sums of `test result:` lines.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// `test result: ok. 17 passed; 0 failed; 1 ignored; ...`, or a line of the Test Anything Protocol.
fn parse(line: &str) -> Option<Counts> {
    if line.starts_with("ok ") && line.contains(" # SKIP ") {
        return Some(Counts { skipped: 1, ..Counts::default() });
    }
    if line.starts_with("ok ") {
        return Some(Counts { passed: 1, ..Counts::default() });
    }
    if line.starts_with("not ok ") {
        return Some(Counts { failed: 1, ..Counts::default() });
    }
    let rest = line.strip_prefix("test result: ")?;
    let number = |word: &str| {
        let end = rest.find(word)?;
        rest[..end].rsplit([' ', ';', '.']).find(|part| !part.is_empty())?.parse().ok()
    };
    Some(Counts { passed: number(" passed")?, failed: number(" failed")?, skipped: number(" ignored")? })
}

/// Runs the command in the root of the repository; true if it exited with 0.
pub(crate) fn run(title: &str, command: &mut Command) -> Result<bool> {
    eprintln!("\n== {title}");
    let status = command.current_dir(crate::root()).status().with_context(|| format!("cannot run {command:?}"))?;
    Ok(status.success())
}

/// Runs a test command. A command that fails without a failed test (it did not build) counts as one
/// failure.
pub(crate) fn run_tests(title: &str, command: &mut Command) -> Result<Counts> {
    eprintln!("\n== {title}");
    command.current_dir(crate::root()).stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {command:?}"))?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            if let Some(found) = parse(&line) {
                counts.add(found);
            }
        }
    }
    if !child.wait()?.success() && counts.failed == 0 {
        counts.failed = 1;
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cargo_test_lines() {
        let line = "test result: FAILED. 17 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let counts = parse(line).unwrap();
        assert_eq!((counts.passed, counts.failed, counts.skipped), (17, 2, 1));
        assert!(parse("running 17 tests").is_none());
        assert_eq!(parse("ok 3 - scenario td-life: 1180 instants").unwrap().passed, 1);
        assert_eq!(parse("ok 4 - boots of tdx # SKIP run `cargo xtask linux tdx` once").unwrap().skipped, 1);
        assert_eq!(parse("not ok 4 - bug mark-after-give is found").unwrap().failed, 1);
    }
}
