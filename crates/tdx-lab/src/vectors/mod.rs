//! Conformance vectors: cases recorded on the real TDX module, replayed on the emulated one.
//!
//! The format is that of `fixtures/vectors/README.md`: JSON lines, one case a line, plain or
//! gzipped. Everything is reported with file and line: a line that does not hold to the format,
//! with what stands there and the rule, counts as failed; a case that differs, with step, value and
//! answer; a case that is left out, with the reason. The rest goes on. A file that cannot be read,
//! and one in which no case was played, is an error.

mod case;
mod hex;
mod observer;
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
pub use observer::Observer;
use player::Outcome;

/// What a replay found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Cases without a difference.
    pub passed: usize,
    /// Cases with at least one, and lines that are not a case.
    pub failed: usize,
    /// Those of the failed that are lines which are not a case.
    pub bad_lines: usize,
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
    /// Not one case: a replay of nothing proves nothing.
    #[error("{}: no case in it", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
    },
    /// Every case is for a module that is not emulated.
    #[error("{}: all {skipped} cases are for other modules", file.display())]
    AllSkipped {
        /// The file.
        file: PathBuf,
        /// Its cases.
        skipped: usize,
    },
}

/// What a replay reports while it runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Finding {
    /// The emulated module answered differently.
    Difference {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What it was.
        difference: Difference,
    },
    /// A case is for a module that is not emulated.
    Skipped {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The case.
        case: String,
        /// The module it names.
        module: String,
    },
    /// A line is not a case.
    BadLine {
        /// The file.
        file: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The rule it breaks.
        rule: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Difference { file, line, difference } => write!(f, "{}:{line}: {difference}", file.display()),
            Self::Skipped { file, line, case, module } => {
                write!(f, "{}:{line}: {case}: skipped, module `{module}` is not emulated", file.display())
            }
            Self::BadLine { file, line, rule } => write!(f, "{}:{line}: {rule}", file.display()),
        }
    }
}

/// Longest line that is read, in bytes: the longest case there is has 200 KB.
const LONGEST_LINE: u64 = 16 << 20;

/// Replays every case of a file, each on a fresh machine. Differences and bad lines are reported as
/// they are found.
///
/// # Errors
/// [`VectorError`]: the file cannot be read, or not one case of it was played.
pub fn replay(path: &Path, report: &mut dyn FnMut(Finding)) -> Result<Summary, VectorError> {
    replay_observed(path, &mut observer::Nobody, report)
}

/// [`replay`] with an observer.
///
/// # Errors
/// As [`replay`].
pub fn replay_observed(
    path: &Path,
    observer: &mut dyn Observer,
    report: &mut dyn FnMut(Finding),
) -> Result<Summary, VectorError> {
    let read = |source| VectorError::Read { file: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    let gzipped = path.extension().is_some_and(|extension| extension == "gz");
    let reader: Box<dyn Read> = if gzipped { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut reader = BufReader::new(reader);
    let mut summary = Summary::default();
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        if (&mut reader).take(LONGEST_LINE).read_until(b'\n', &mut text).map_err(read)? == 0 {
            break;
        }
        let is_whole = text.ends_with(b"\n") || (text.len() as u64) < LONGEST_LINE;
        if !is_whole {
            skip_line(&mut reader).map_err(read)?;
        } else if text.trim_ascii().is_empty() {
            continue;
        }
        let mut differs = |difference| report(Finding::Difference { file: path.to_owned(), line, difference });
        let outcome = if is_whole { replay_line(&text, observer, &mut differs) } else { Err(too_long(&text)) };
        match outcome {
            Ok(Played { outcome: Outcome::Passed, .. }) => summary.passed += 1,
            Ok(Played { outcome: Outcome::Failed, .. }) => summary.failed += 1,
            Ok(Played { outcome: Outcome::Skipped, case, module }) => {
                summary.skipped += 1;
                report(Finding::Skipped { file: path.to_owned(), line, case, module });
            }
            Err(rule) => {
                summary.failed += 1;
                summary.bad_lines += 1;
                report(Finding::BadLine { file: path.to_owned(), line, rule });
            }
        }
    }
    match summary {
        Summary { passed: 0, failed: 0, skipped: 0, .. } => Err(VectorError::Empty { file: path.to_owned() }),
        Summary { passed: 0, failed: 0, skipped, .. } => {
            Err(VectorError::AllSkipped { file: path.to_owned(), skipped })
        }
        summary => Ok(summary),
    }
}

/// A case that was played or left out.
struct Played {
    outcome: Outcome,
    case: String,
    module: String,
}

/// Replays one line. An error is what stands there and the rule of the format that it breaks.
fn replay_line(text: &[u8], observer: &mut dyn Observer, report: &mut dyn FnMut(Difference)) -> Result<Played, String> {
    let case: Case = serde_json::from_slice(text).map_err(|error| {
        let message = error.to_string();
        let rule = message.rsplit_once(" at line ").map_or(message.as_str(), |(rule, _)| rule);
        // An error of a value is found behind it.
        let column = error.column();
        format!("column {column}, `{}`: {rule}", excerpt(text, column.saturating_sub(EXCERPT - 10)))
    })?;
    if case.steps.is_empty() {
        return Err(format!("{}: a case has at least one step", case.id));
    }
    let outcome = player::play(&case, observer, report)?;
    Ok(Played { outcome, case: case.id, module: case.platform.module })
}

fn too_long(text: &[u8]) -> String {
    format!("`{}...`: a line has at most {LONGEST_LINE} bytes", excerpt(text, 0))
}

/// Bytes of a line that are shown.
const EXCERPT: usize = 40;

fn excerpt(text: &[u8], from: usize) -> String {
    let line = text.trim_ascii_end();
    let part = line.get(from.min(line.len())..line.len().min(from + EXCERPT)).unwrap_or_default();
    let shown = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    String::from_utf8_lossy(part).chars().map(shown).collect()
}

/// Passes over the rest of a line.
fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = reader.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let (length, done) = end.map_or((buffer.len(), buffer.is_empty()), |end| (end + 1, true));
        reader.consume(length);
        if done {
            return Ok(());
        }
    }
}
