//! Conformance vectors: cases recorded on the real TDX module, replayed on the emulated one.
//!
//! The format is that of `fixtures/vectors/README.md`: JSON lines, one case a line, plain or
//! gzipped. A file that does not hold to it is refused with file, line and rule; a case that
//! differs is reported and the rest goes on.

mod case;
mod hex;
mod owners;
mod player;
mod structure;

use std::{
    fmt,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::read::MultiGzDecoder;

use case::Case;
use player::Outcome;

/// What a replay found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Cases without a difference.
    pub passed: usize,
    /// Those of the passed cases in which the vector names an earlier KeyID of a page as the owner
    /// of a line. The recorder did so for some pages that changed their KeyID; `owners.rs` says
    /// why, and what is accepted.
    pub passed_with_earlier_key: usize,
    /// Cases with at least one.
    pub failed: usize,
    /// Cases for a module that is not emulated.
    pub skipped: usize,
}

/// One thing that the emulated module answered differently.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The case.
    pub case: String,
    /// Its step, counted from 0.
    pub step: usize,
    /// What differs: a register, the owner of lines, a property of a page.
    pub what: String,
    /// What the real module answered.
    pub expected: String,
    /// What the emulated one did.
    pub got: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, step, what, expected, got } = self;
        write!(f, "{case}: step {step}: {what}: expected {expected}, got {got}")
    }
}

/// Why a file of vectors cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VectorError {
    /// It cannot be read, or is not the gzip it says it is.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is not a case.
    #[error("{}:{line}: {rule}", file.display())]
    Case {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The rule it breaks.
        rule: String,
    },
    /// Not one case: a replay of nothing proves nothing.
    #[error("{}: no case in it", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
}

/// Longest line that is read, in bytes: the longest case there is has 200 KB.
const LONGEST_LINE: u64 = 16 << 20;

/// Replays every case of a file, each on a fresh machine. Differences are reported as they are
/// found.
///
/// # Errors
/// [`VectorError`]; cases before the bad line have been replayed and reported.
pub fn replay(path: &Path, report: &mut dyn FnMut(Difference)) -> Result<Summary, VectorError> {
    let read = |source| VectorError::Read { file: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let gzipped = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if gzipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut reader = BufReader::new(reader);
    let mut summary = Summary::default();
    let mut text = String::new();
    for line in 1.. {
        text.clear();
        if (&mut reader).take(LONGEST_LINE).read_line(&mut text).map_err(read)? == 0 {
            break;
        }
        if text.trim().is_empty() {
            continue;
        }
        let bad = |rule: String| VectorError::Case { file: path.to_owned(), line, rule };
        let case: Case = serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if case.platform.module != player::MODULE {
            summary.skipped += 1;
            continue;
        }
        match player::play(&case, report).map_err(bad)? {
            Outcome::Passed => summary.passed += 1,
            Outcome::PassedWithEarlierKey => {
                summary.passed += 1;
                summary.passed_with_earlier_key += 1;
            }
            Outcome::Failed => summary.failed += 1,
        }
    }
    if summary == Summary::default() {
        return Err(VectorError::Empty { file: path.to_owned() });
    }
    Ok(summary)
}
