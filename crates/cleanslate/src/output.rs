//! Output: reports as JSON, closed pipes, messages on stderr.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Prints a message on stderr. Errors are ignored: there is no other place to report them.
pub(crate) fn report_error(what: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "cleanslate: {what}");
}

/// Ignores a closed pipe: a reader that has seen enough, e.g. `head`, does not change the verdict.
pub(crate) fn unless_closed(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
}

/// Prints a report as JSON.
pub(crate) fn json(out: &mut impl Write, report: &impl serde::Serialize) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, report)?;
    writeln!(out)
}
