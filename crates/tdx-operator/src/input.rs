//! Input errors: file, line, value and the rule that the value breaks. A malformed known line is an
//! error, never skipped.

use core::fmt;
use tdx_abi::{PhysAddr, RangeError};

use crate::words;

/// A value and the line it stands on, counted from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct At<T> {
    /// Line number, from 1.
    pub line: u64,
    /// The value.
    pub value: T,
}

/// An input that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InputError {
    /// The file, as the user named it.
    pub file: String,
    /// Line number from 1; `None` if the file as a whole is the problem.
    pub line: Option<u64>,
    /// The text that breaks the rule, shortened and with control characters escaped; may be empty.
    pub value: String,
    /// The rule.
    pub rule: Rule,
    /// The file ends inside this line, so it was probably cut.
    pub cut: bool,
}

/// Bytes of a quoted value that an error keeps.
const EXCERPT: usize = 160;

impl InputError {
    /// A problem of the whole file.
    pub fn of_file(file: &str, rule: Rule) -> Self {
        Self { file: on_one_line(file), line: None, value: String::new(), rule, cut: false }
    }

    /// A problem of one line.
    pub fn at_line(file: &str, line: u64, value: &str, rule: Rule) -> Self {
        Self { file: on_one_line(file), line: Some(line), value: excerpt(value), rule, cut: false }
    }
}

impl fmt::Display for InputError {
    /// `FILE:LINE: `VALUE`: RULE`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.value.is_empty() {
            write!(f, ": `{}`", self.value)?;
        }
        write!(f, ": {}", self.rule)?;
        if self.cut { f.write_str(" (the file ends inside this line; truncated?)") } else { Ok(()) }
    }
}

impl std::error::Error for InputError {}

/// Characters that are not seen and change what is: they turn the order of what follows on a
/// terminal, or end a line in some programs.
pub fn is_steering(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A text of more than one line, with what steers a terminal escaped.
pub fn harmless(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c != '\n' && (c.is_control() || is_steering(c)) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// A path as it may be shown: on one line, with what steers a terminal escaped.
pub fn path_text(path: &std::path::Path) -> String {
    on_one_line(&path.to_string_lossy())
}

fn on_one_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n")
}

/// The text without leading and trailing blanks, without control characters and the like, and not
/// longer than fits into an error message.
pub fn excerpt(text: &str) -> String {
    let mut out = String::new();
    for c in text.trim().chars() {
        if out.len() >= EXCERPT {
            out.push_str("...");
            break;
        }
        if c.is_control() || is_steering(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

/// The rule that an input breaks.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Rule {
    /// The operating system could not read it.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// A directory was given.
    #[error("is a directory; expected a boot log, /proc/iomem or a TOML host file")]
    Directory,
    /// Not a byte.
    #[error(
        "is empty; if it is the output of a command, check for its errors: `dmesg` may need root (`sudo \
            dmesg | cleanslate ...`)"
    )]
    Empty,
    /// NUL bytes.
    #[error("contains NUL bytes and is not a text log (remove them from a serial capture with `tr -d '\\0'`)")]
    Binary,
    /// UTF-16, compressed and the like.
    #[error("is {0}, not plain text; {how}", how = to_text(.0))]
    Encoded(&'static str),
    /// A known line with bytes that are not UTF-8.
    #[error("line of a known kind with bytes that are not UTF-8")]
    NotUtf8,
    /// A known line that is too long to be one.
    #[error("line of a known kind longer than {limit} bytes")]
    LineTooLong {
        /// Bytes.
        limit: usize,
    },
    /// More bytes than any log.
    #[error("is larger than {limit} bytes; extract the boot messages")]
    TooLarge {
        /// Bytes.
        limit: u64,
    },
    /// More lines than any log.
    #[error("has more than {limit} lines; extract the boot messages")]
    TooManyLines {
        /// Lines.
        limit: u64,
    },
    /// A file that goes on and on without a time stamp.
    #[error("has {lines} lines in a row without a time stamp, so it is no kernel log; extract the boot messages")]
    NoTimeStamps {
        /// Lines.
        lines: u64,
    },
    /// A boot by a number that the file does not have.
    #[error("holds {}; `--boot` counts them from 1", words::count(*boots, "boot"))]
    NoSuchBoot {
        /// Boots in the file.
        boots: u64,
    },
    /// A known line that does not have its form.
    #[error("is not of the form `{form}`")]
    Malformed {
        /// The form, with names in capitals.
        form: &'static str,
    },
    /// An e820 type that is not one.
    #[error("`{found}` is not an e820 type (usable, reserved, ACPI data, ACPI NVS, ...)")]
    E820Type {
        /// What stands there.
        found: String,
    },
    /// A range that is none.
    #[error("{0}")]
    Range(RangeError),
    /// A range without a byte.
    #[error("the range is empty")]
    EmptyRange,
    /// Memory outside the address width.
    #[error("ends at {end}, above the maximum physical address 2^{bits} (bits above hold the KeyID)")]
    BeyondAddressWidth {
        /// End of the range.
        end: PhysAddr,
        /// Address bits for memory.
        bits: u32,
    },
    /// Two rows share memory.
    #[error("overlaps {other} of line {line}; does the file contain two boots?")]
    Overlap {
        /// The other range, as text.
        other: String,
        /// Its line.
        line: u64,
    },
    /// A list that must ascend.
    #[error(
        "CMRs must be ascending without overlap, but line {line} has {previous}; does the file contain \
        two boots?"
    )]
    CmrOrder {
        /// The CMR before, as text.
        previous: String,
        /// Its line.
        line: u64,
    },
    /// Too many rows of one kind.
    #[error("is entry {} of its kind; the limit is {limit}", limit + 1)]
    TooMany {
        /// Rows.
        limit: usize,
    },
    /// Private KeyIDs that cannot run a TD.
    #[error(
        "{}: TDX needs at least 2, the global one and one for a TD; increase their number in the BIOS",
        words::count(*count, "private KeyID")
    )]
    TooFewKeyIds {
        /// Private KeyIDs.
        count: u64,
    },
    /// Private KeyIDs that do not exist.
    #[error(
        "private KeyIDs must be `[a, b)` with 1 <= a < b <= 32768: KeyID 0 is the host's, and a KeyID has \
            at most 15 bits"
    )]
    KeyIdRange,
    /// Two lines that cannot both be true.
    #[error("contradicts `{earlier}` in line {line}; does the file contain two boots?")]
    Contradiction {
        /// The earlier line.
        line: u64,
        /// What it says.
        earlier: String,
    },
    /// /proc/iomem without privilege.
    #[error("all addresses are zero: /proc/iomem shows addresses to root only")]
    IomemHidden,
    /// A guest's log.
    #[error("this is the log of a TD guest; the log of the host is needed")]
    Guest,
    /// Nothing known in the file.
    #[error(
        "is not a boot log: no BIOS-e820, virt/tdx, NUMA or `System RAM` line found; on a host with a long \
            uptime `dmesg` may have lost the boot messages, use `journalctl -k -b`"
    )]
    NotABootLog,
    /// The log of another hypervisor.
    #[error("this is the log of VMware ESXi; only the messages of Linux are known")]
    Esxi,
    /// Nothing that `explain` knows.
    #[error(
        "contains nothing to explain: expected a completion status (0xc000050500000000 or its name), an MSR \
            value with --msr, or a kernel log with virt/tdx: lines or machine checks"
    )]
    NothingToExplain,
    /// A value that is none.
    #[error("{0}")]
    NotAValue(String),
    /// A TDX log without memory.
    #[error(
        "this log has no memory map (no `CMR:`, `BIOS-e820:` or `System RAM` line); the quoted line is its \
            TDX line. Add the e820 entries of the same boot (if `dmesg` lost them: `journalctl -k -b`), \
            or use a kernel that prints CMRs"
    )]
    NoMemory,
    /// Memory rows, none of them usable.
    #[error("this log has no usable memory above 1 MiB; the quoted entry is the last one")]
    NoUsableMemory,
    /// A NUMA border that no memory has.
    #[error(
        "node border {border} is outside all memory ranges; borders are ascending addresses inside or \
        between ranges"
    )]
    NodeBorder {
        /// The border.
        border: PhysAddr,
    },
    /// Borders for a log that knows its nodes.
    #[error("this log contains the NUMA nodes; --node-border is not allowed")]
    NodeBorderKnown,
    /// TOML or its schema.
    #[error("{0}")]
    HostFile(String),
    /// A folder that is no saved machine.
    #[error("is not a machine saved by `cleanslate collect`: {0}")]
    NotASavedMachine(String),
    /// A folder that holds something.
    #[error("is a directory that is not empty; specify a new one")]
    FolderTaken,
    /// The operating system could not write it.
    #[error("cannot be written: {0}")]
    Unwritable(String),
    /// A scenario that cannot be played.
    #[error("column {column}: {rule}")]
    Scenario {
        /// From 1.
        column: usize,
        /// The rule.
        rule: String,
    },
}

/// How to make plain text of it.
fn to_text(encoding: &str) -> &'static str {
    match encoding {
        "compressed with gzip" => "decompress it first: `zcat FILE > FILE.log`",
        "compressed with xz" => "decompress it first: `xzcat FILE > FILE.log`",
        "compressed with zstd" => "decompress it first: `zstdcat FILE > FILE.log`",
        "compressed with bzip2" => "decompress it first: `bzcat FILE > FILE.log`",
        "a tar archive" => "take the log out of it first: `tar -xf FILE`",
        "UTF-16" => {
            "convert it first: `iconv -f UTF-16 -t UTF-8 FILE > FILE.log` (without a byte order \
            mark `-f UTF-16LE`)"
        }
        _ => "convert it first",
    }
}

#[cfg(test)]
mod tests {
    use super::{excerpt, harmless};

    #[test]
    fn what_steers_a_terminal_is_escaped() {
        for steering in
            ["\u{202a}", "\u{202e}", "\u{2066}", "\u{2069}", "\u{200f}", "\u{2028}", "\u{61c}", "\u{1b}", "\u{7}"]
        {
            let out = excerpt(&format!("module {steering}dezilaitini"));
            assert!(!out.contains(steering) && out.contains("\\u{"), "{out}");
        }
        assert_eq!(harmless("two\nlines\u{202e}"), "two\nlines\\u{202e}");
        assert_eq!(excerpt(" Xeon\u{ae} é 漢字 "), "Xeon\u{ae} é 漢字");
    }
}
