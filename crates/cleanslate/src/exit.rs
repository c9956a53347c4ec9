//! Exit codes: one list for the process, for `--help` and for the manual page.

use std::process::ExitCode;

/// An exit code. They never change their meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// The answer is good.
    Good,
    /// The answer is bad.
    Bad,
    /// A name on the command line that does not exist. All other wrong usage is clap's.
    Usage,
    /// Input that cannot be used.
    Input,
    /// A bug in this program, or an output that cannot be written.
    Internal,
    /// Ctrl-C.
    Interrupted,
}

/// For people.
pub(crate) const TABLE: &str = "\
Exit codes:
  0    clean: the next kernel lives (a kexec refused by the policy is clean, too)
  1    a machine check, lost data, a failed bring-up, or no layout; a broken rule, or a bug that was not found; a failed check
  2    wrong usage
  3    invalid input: file, line, value and rule are printed on stderr;
       or `check` could not tell whether TDX is on or what a kexec does, or `explain` knows nothing of it,
       or `bench` got no thread or memory
  70   internal error, or a report that cannot be written
  130  interrupted; no file is left half-written, and `linux accept` has written its report";

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
            Self::Usage => 2,
            Self::Input => 3,
            Self::Internal => 70,
            Self::Interrupted => 130,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<bool> for Exit {
    fn from(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}
