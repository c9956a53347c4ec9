//! One command of a task: run it, show its output as it comes, count what its test runner says.

use anyhow::{Context, Result};
use skip::Missing;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Sums of `test result:` lines.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// Runs of QEMU that do not count and were made again.
    pub(crate) run_again: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.run_again += other.run_again;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)?;
        if self.run_again > 0 {
            write!(f, ", {} run again", self.run_again)?;
        }
        Ok(())
    }
}

/// Reports a check that something which `.ci/run` installs is missing for: a failure in CI,
/// skipped elsewhere.
pub(crate) fn missing(check: &str, tool: &str, install: &str) -> Counts {
    match skip::missing(tool, install) {
        Missing::Skipped(why) => {
            println!("skipped: {check} ({why})");
            Counts { skipped: 1, ..Counts::default() }
        }
        Missing::Failed(why) => {
            println!("{check}: FAILED\n{why}");
            Counts { failed: 1, ..Counts::default() }
        }
    }
}

/// The parts of a task and how long each took.
#[derive(Default)]
pub(crate) struct Parts {
    counts: Counts,
    lines: Vec<String>,
}

impl Parts {
    /// Runs a part.
    pub(crate) fn run(&mut self, name: &str, part: impl FnOnce() -> Result<Counts>) -> Result<()> {
        let start = Instant::now();
        let counts = part()?;
        self.lines.push(format!("{:>7.1} s  {name}: {counts}", start.elapsed().as_secs_f64()));
        self.counts.add(counts);
        Ok(())
    }

    /// Prints a line for each part, then the sums; true if nothing failed.
    pub(crate) fn end(self) -> bool {
        println!("\n{}\n\n{}", self.lines.join("\n"), self.counts);
        self.counts.failed == 0
    }
}

/// `test result: ok. 17 passed; 0 failed; 1 ignored; ...`, or a line of the Test Anything Protocol.
fn parse(line: &str) -> Option<Counts> {
    if let Some(number) = line.strip_prefix("# runs discarded: ") {
        return Some(Counts { run_again: number.parse().ok()?, ..Counts::default() });
    }
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
    let (passed, failed, skipped) = (number(" passed")?, number(" failed")?, number(" ignored")?);
    Some(Counts { passed, failed, skipped, ..Counts::default() })
}

/// A cargo command: the cargo that runs this program.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
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

/// Prints a verdict, and counts it as a test.
pub(crate) fn verdict(name: &str, ok: bool) -> Counts {
    println!("{name}: {}", word(ok));
    Counts { passed: ok.into(), failed: (!ok).into(), ..Counts::default() }
}

/// `ok` or `FAILED`.
pub(crate) fn word(ok: bool) -> &'static str {
    if ok { "ok" } else { "FAILED" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_that_were_made_again_are_in_the_summary() {
        let counts = Counts { passed: 3, run_again: 1, ..Counts::default() };
        assert_eq!(counts.to_string(), "3 passed, 0 failed, 0 skipped, 1 run again");
        assert_eq!(Counts::default().to_string(), "0 passed, 0 failed, 0 skipped");
    }

    #[test]
    fn reads_cargo_test_lines() {
        let line = "test result: FAILED. 17 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let counts = parse(line).unwrap();
        assert_eq!((counts.passed, counts.failed, counts.skipped), (17, 2, 1));
        assert!(parse("running 17 tests").is_none());
        assert_eq!(parse("ok 3 - scenario td-life: 1180 instants").unwrap().passed, 1);
        assert_eq!(parse("ok 4 - boots of tdx # SKIP run `cargo xtask linux tdx` once").unwrap().skipped, 1);
        assert_eq!(parse("# runs discarded: 2").unwrap().run_again, 2);
        assert_eq!(parse("not ok 4 - bug mark-after-give is found").unwrap().failed, 1);
    }
}
