//! One rule for checks that need a tool, a kernel or a target: in CI, where `.ci/run` installs it,
//! a check without it has failed; elsewhere it is reported as skipped. `.ci/run` sets `CI=true`, as
//! GitHub and GitLab do.

use std::io::Write as _;

/// Does this run in CI?
#[must_use]
pub fn in_ci() -> bool {
    is_ci(std::env::var("CI").ok().as_deref())
}

fn is_ci(value: Option<&str>) -> bool {
    !matches!(value, None | Some("" | "0" | "false"))
}

/// What a check comes to whose tool is missing. Both hold what is missing and how to get it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Missing {
    /// Outside of CI.
    Skipped(String),
    /// In CI.
    Failed(String),
}

/// The rule, for something that `.ci/run` installs. `install` is the command that a user types.
#[must_use]
pub fn missing(tool: &str, install: &str) -> Missing {
    decide(in_ci(), tool, install)
}

fn decide(in_ci: bool, tool: &str, install: &str) -> Missing {
    let how = format!("no {tool}: {install}");
    if in_ci { Missing::Failed(format!("{how}; .ci/run installs it")) } else { Missing::Skipped(how) }
}

/// The same for a test of cargo, which can only pass or fail: prints what is skipped, past the
/// capture of test output.
///
/// # Panics
/// In CI: the test fails.
pub fn test(check: &str, tool: &str, install: &str) {
    tell(check, missing(tool, install));
}

fn tell(check: &str, missing: Missing) {
    match missing {
        Missing::Failed(why) => panic!("{check}: {why}"),
        // Nothing is lost if nobody reads it.
        Missing::Skipped(why) => drop(writeln!(std::io::stderr(), "skipped: {check} ({why})")),
    }
}

/// The rule for a kernel of `cargo xtask linux`: which ones CI has is read from `.ci/run` itself.
/// A check whose kernel it does not provide is skipped there, too.
#[must_use]
pub fn missing_kernel(kernel: &str, what: &str, how: &str) -> Missing {
    if kernels_of_ci(include_str!("../../../.ci/run")).any(|provided| provided == kernel) {
        missing(what, how)
    } else {
        Missing::Skipped(format!("no {what}: {how}"))
    }
}

/// [`test()`] for what comes with a kernel of `cargo xtask linux`.
///
/// # Panics
/// In CI, if `.ci/run` provides this kernel: the test fails.
pub fn test_with_kernel(check: &str, kernel: &str, what: &str) {
    tell(check, missing_kernel(kernel, what, &format!("run `cargo xtask linux {kernel}` once")));
}

/// The kernels of its loop, `for kernel in ...; do`.
fn kernels_of_ci(run: &str) -> impl Iterator<Item = &str> {
    let line = run.lines().find_map(|line| line.strip_prefix("for kernel in "));
    line.unwrap_or_default().trim_end_matches("; do").split_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_ci_a_missing_tool_is_a_failure() {
        assert!(matches!(decide(true, "gcc", "apt-get install gcc"), Missing::Failed(why) if why.contains("gcc")));
        assert!(matches!(decide(false, "gcc", "apt-get install gcc"), Missing::Skipped(why) if why.contains("gcc")));
    }

    #[test]
    fn ci_has_the_kernels_that_its_script_names() {
        let kernels: Vec<_> = kernels_of_ci(include_str!("../../../.ci/run")).collect();
        assert!(kernels.contains(&"stock") && kernels.contains(&"tdx-7.3"), "{kernels:?}");
        assert!(!kernels.contains(&"tdx"), "{kernels:?}");
        assert_eq!(missing_kernel("tdx", "source", "once"), Missing::Skipped("no source: once".to_owned()));
    }

    #[test]
    fn ci_is_set_by_any_value_but_an_empty_or_false_one() {
        assert!(is_ci(Some("true")) && is_ci(Some("1")));
        assert!(!is_ci(None) && !is_ci(Some("")) && !is_ci(Some("false")) && !is_ci(Some("0")));
    }
}
