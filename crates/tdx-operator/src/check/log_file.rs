//! A kernel log from a file, for hosts whose ring buffer has lost the boot: the last boot of it, of
//! which only what [`super::keep`] allows is kept.

use std::io::BufRead;

use super::{item::Item, keep::BootLines, snapshot::Snapshot};
use crate::{
    bootlog::{self, Cut, PLAIN_LIMIT, Unfolded},
    host::encoding,
    input::{InputError, Rule},
};

/// Takes the boot log of a machine from a file, such as one that `journalctl -k -b` has written.
/// `name` stands for the file in errors. Of several boots the last one counts: the machine runs it.
///
/// # Errors
/// A file that cannot be read or is no text, or without a line on memory, CPUs or TDX.
pub fn use_log(snapshot: &mut Snapshot, name: &str, mut reader: impl BufRead) -> Result<(), InputError> {
    let unreadable = |error: std::io::Error| InputError::of_file(name, Rule::Unreadable(error.to_string()));
    if let Some(encoding) = encoding(reader.fill_buf().map_err(unreadable)?) {
        return Err(InputError::of_file(name, Rule::Encoded(encoding)));
    }
    let mut lines = Unfolded::new(reader);
    let mut cut = Cut::default();
    let mut kept = BootLines::default();
    while let Some(line) = lines.next_line().map_err(unreadable)? {
        if line.bytes.contains(&0) {
            return Err(InputError { line: Some(line.number), ..InputError::of_file(name, Rule::Binary) });
        }
        let text = String::from_utf8_lossy(line.bytes);
        if cut.begins(&bootlog::split(&text)) {
            kept = BootLines::default();
        }
        if cut.is_no_log() {
            return Err(InputError::of_file(name, Rule::NoTimeStamps { lines: PLAIN_LIMIT }));
        }
        if kept.out.len() as u64 > Item::BootLog.limit() {
            return Err(InputError::of_file(
                name,
                Rule::NotAValue(format!("has more than {} bytes on TDX and memory", Item::BootLog.limit())),
            ));
        }
        kept.line(&text);
    }
    if let Some(rule) = lines.limit() {
        return Err(InputError::of_file(name, rule));
    }
    if kept.out.is_empty() {
        let rule = "holds no line of a kernel on memory, CPUs or TDX; expected the output of `journalctl -k -b`";
        return Err(InputError::of_file(name, Rule::NotAValue(rule.to_owned())));
    }
    snapshot.put(Item::BootLog, Ok(kept.out));
    Ok(())
}
