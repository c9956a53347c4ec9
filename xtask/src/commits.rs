//! Lint: subjects of commits are `component: imperative` in at most 72 columns, and a body says
//! why.

use std::process::Command;

use anyhow::{Context, Result};

/// The last commit that was made before this lint; older subjects may be wider.
const BEFORE: &str = "9ba071be6941de11abb7c4359f77d3bb48553d5f";

/// Columns of a subject.
const SUBJECT: usize = 72;

/// Checks every commit after [`BEFORE`]. True, and said, where the history is not there: a package,
/// a shallow clone.
pub(crate) fn check() -> Result<bool> {
    let range = format!("{BEFORE}..HEAD");
    let mut log = Command::new("git");
    log.args(["log", "--no-merges", "--format=%h%x1f%s%x1f%b%x1e", &range]).current_dir(crate::root());
    let output = log.output().context("cannot run git")?;
    if !output.status.success() {
        println!("skipped: commits (no history since {BEFORE})");
        return Ok(true);
    }
    let mut ok = true;
    for commit in
        String::from_utf8_lossy(&output.stdout).split('\x1e').map(str::trim).filter(|commit| !commit.is_empty())
    {
        let mut parts = commit.splitn(3, '\x1f');
        let (hash, subject, body) = (parts.next(), parts.next(), parts.next());
        for fault in faults(subject.unwrap_or_default(), body.unwrap_or_default()) {
            println!("commit {}: {fault}: {}", hash.unwrap_or_default(), subject.unwrap_or_default());
            ok = false;
        }
    }
    Ok(ok)
}

/// What is wrong with a commit message.
fn faults(subject: &str, body: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let width = subject.chars().count();
    if width > SUBJECT {
        faults.push(format!("{width} columns of subject, {SUBJECT} are allowed"));
    }
    if !subject.split_once(": ").is_some_and(|(component, what)| !component.is_empty() && !what.trim().is_empty()) {
        faults.push("no `component: ` before what was done".to_owned());
    }
    if body.trim().is_empty() {
        faults.push("no body that says why".to_owned());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_has_a_component_a_short_subject_and_a_reason() {
        assert!(faults("tdx-host: keep the status of a failed reclaim", "It was lost.").is_empty());
        let long = format!("tdx-host: {}", "x".repeat(70));
        for (subject, body) in
            [(long.as_str(), "why"), ("lints", "why"), (": nothing", "why"), ("boots: wrap a comment", "")]
        {
            assert_eq!(faults(subject, body).len(), 1, "{subject}");
        }
    }
}
