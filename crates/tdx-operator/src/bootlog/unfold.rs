//! Joins the lines that a mail program broke: quoted-printable (`=` at the end of a line) and text
//! wrapped at 60 to 100 columns. A wrapped line is joined only where the kernel's message is not
//! complete without the next line and is complete with it. Leaves out lines that a console or two
//! log services wrote twice.

use std::{
    collections::VecDeque,
    io::{self, BufRead},
};

use super::{
    complete,
    lines::{Fold, LINE_LIMIT, Line, Lines},
    prefix,
    structured::{self, Entries},
};
use crate::input::Rule;

/// Widths at which programs wrap text, in bytes.
const WRAPPED_AT: core::ops::RangeInclusive<usize> = 50..=110;
/// Widths of a line of quoted-printable that goes on, in bytes: the standard allows 76.
const SOFT_BREAK_AT: core::ops::RangeInclusive<usize> = 60..=76;
/// Lines that are joined at most.
const MOST: u32 = 8;
/// Lines at the start of a file by which it is taken for one with each line twice.
const START: usize = 8;
/// Lines that a file must have for that.
const SHORTEST: usize = 6;

#[derive(Debug, Clone)]
struct Owned {
    number: u64,
    bytes: Vec<u8>,
    too_long: bool,
    last_without_end: bool,
}

/// Reads lines, joined where they were broken.
#[derive(Debug)]
pub(crate) struct Unfolded<R> {
    lines: Lines<R>,
    current: Vec<u8>,
    ahead: Option<Owned>,
    /// Entries of structured logs that have several lines.
    entries: Entries,
    /// A line after such an entry.
    after_entry: Option<Owned>,
    /// A soft line break was seen, so `=3D` is `=`.
    quoted_printable: bool,
    /// The lines at the start, until they are taken; `None` before they are read.
    start: Option<VecDeque<Owned>>,
    /// So far every line of the file stands there twice.
    doubled: bool,
    /// The line before, and whether it was left out.
    before: Option<(Vec<u8>, bool)>,
}

impl<R: BufRead> Unfolded<R> {
    /// Starts at the reader's place.
    pub(crate) fn new(reader: R) -> Self {
        Self {
            lines: Lines::new(reader),
            current: Vec::new(),
            ahead: None,
            entries: Entries::default(),
            after_entry: None,
            quoted_printable: false,
            start: None,
            doubled: false,
            before: None,
        }
    }

    /// The next line, or `None` at the end or at the limit of a file.
    ///
    /// # Errors
    /// What the reader says.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        let Some(mut line) = self.take()? else { return Ok(None) };
        let mut fold = None;
        for _ in 1..MOST {
            let Some(next) = self.take()? else { break };
            if self.softly_broken(&line, &next) {
                line.bytes.pop();
                line.bytes.extend_from_slice(&next.bytes);
                fold = Some(Fold::QuotedPrintable);
                self.quoted_printable = true;
            } else if let Some(joined) = wrapped(&line, &next) {
                line.bytes = joined;
                fold = fold.or(Some(Fold::Wrapped));
            } else {
                self.ahead = Some(next);
                break;
            }
            line.last_without_end = next.last_without_end;
            line.too_long |= next.too_long || line.bytes.len() > LINE_LIMIT;
            line.bytes.truncate(LINE_LIMIT);
        }
        if self.quoted_printable {
            decode(&mut line.bytes);
        }
        self.current = line.bytes;
        Ok(Some(Line {
            number: line.number,
            bytes: &self.current,
            too_long: line.too_long,
            last_without_end: line.last_without_end,
            fold,
        }))
    }

    /// The limit that the file went past, if it did; only after the last line.
    pub(crate) fn limit(&mut self) -> Option<Rule> {
        self.lines.limit()
    }

    /// Number of the last line that was read.
    pub(crate) fn number(&self) -> u64 {
        self.lines.number()
    }

    fn take(&mut self) -> io::Result<Option<Owned>> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        while let Some(line) = self.next_of_file()? {
            if !self.repeats(&line.bytes) {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    fn next_of_file(&mut self) -> io::Result<Option<Owned>> {
        if self.start.is_none() {
            let mut start = VecDeque::with_capacity(START);
            while start.len() < START
                && let Some(line) = self.read()?
            {
                start.push_back(line);
            }
            self.doubled = all_twice(start.make_contiguous());
            self.start = Some(start);
        }
        match self.start.as_mut().and_then(VecDeque::pop_front) {
            Some(line) => Ok(Some(line)),
            None => self.read(),
        }
    }

    /// The next line, or the plain line of an entry that has several.
    fn read(&mut self) -> io::Result<Option<Owned>> {
        if let Some(line) = self.after_entry.take() {
            return Ok(Some(line));
        }
        let of_entry = |(number, text): (u64, String)| {
            let too_long = text.len() >= LINE_LIMIT;
            Owned { number, bytes: text.into_bytes(), too_long, last_without_end: false }
        };
        while let Some(line) = self.lines.next_line()? {
            let step = self.entries.take(line.number, line.bytes);
            let owned = (!step.held).then(|| Owned {
                number: line.number,
                bytes: plain(line.bytes),
                too_long: line.too_long,
                last_without_end: line.last_without_end,
            });
            match step.done.map(of_entry) {
                Some(entry) => {
                    self.after_entry = owned;
                    return Ok(Some(entry));
                }
                None if owned.is_some() => return Ok(owned),
                None => {}
            }
        }
        Ok(self.entries.end().map(of_entry))
    }

    /// True if the line is the one before once more: with the same time in microseconds, or in a
    /// file that has each line twice. The same message at another time is another event.
    fn repeats(&mut self, bytes: &[u8]) -> bool {
        let repeats = match &self.before {
            Some((before, left_out)) => {
                let pair = self.doubled && !left_out;
                let same = before == bytes;
                // A line that stands there once: the rest is not doubled.
                self.doubled &= !pair || same || before.is_empty();
                pair && same || same_moment(before, bytes)
            }
            None => false,
        };
        match &mut self.before {
            Some((before, left_out)) => {
                before.clear();
                before.extend_from_slice(bytes);
                *left_out = repeats;
            }
            None => self.before = Some((bytes.to_vec(), repeats)),
        }
        repeats
    }

    fn softly_broken(&self, line: &Owned, next: &Owned) -> bool {
        let width = self.quoted_printable || SOFT_BREAK_AT.contains(&line.bytes.len());
        let short = line.bytes.len() <= *SOFT_BREAK_AT.end();
        width && short && line.bytes.ends_with(b"=") && !line.bytes.ends_with(b"==") && !starts_a_line(&next.bytes)
    }
}

/// True if these lines are at least three different ones, each there twice in a row.
fn all_twice(start: &[Owned]) -> bool {
    let pairs = start.chunks(2).all(|pair| matches!(pair, [a, b] if a.bytes == b.bytes));
    let differ = start.windows(3).step_by(2).all(|lines| matches!(lines, [a, _, b] if a.bytes != b.bytes));
    start.len() >= SHORTEST && pairs && differ
}

/// True for the same message at the same microsecond since boot, whatever stands before.
fn same_moment(a: &[u8], b: &[u8]) -> bool {
    // Most lines differ at their end.
    let end = |bytes: &[u8]| bytes.trim_ascii_end().last_chunk::<4>().copied();
    if end(a) != end(b) {
        return false;
    }
    let (Ok(a), Ok(b)) = (core::str::from_utf8(a), core::str::from_utf8(b)) else { return false };
    let (a, b) = (prefix::split(a), prefix::split(b));
    a.since_boot.is_some() && !a.text.is_empty() && (a.since_boot, a.source, a.text) == (b.since_boot, b.source, b.text)
}

/// The line without the JSON or the key around its message.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.trim_ascii_start();
    let structured = start.starts_with(b"{") || start.starts_with(b"\"") || start.starts_with(b"MESSAGE=");
    let text = core::str::from_utf8(bytes).ok().filter(|_| structured);
    text.and_then(structured::plain).map_or_else(|| bytes.to_vec(), String::into_bytes)
}

/// True if the line has a time stamp or a header of its own, or is empty.
fn starts_a_line(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    text.trim().is_empty() || prefix::split(&text).stamped || text.trim_start().starts_with(['{', '#'])
}

/// The two lines with a blank between them, if they are one message.
fn wrapped(line: &Owned, next: &Owned) -> Option<Vec<u8>> {
    if !WRAPPED_AT.contains(&line.bytes.len()) || line.too_long || next.too_long {
        return None;
    }
    let text = core::str::from_utf8(&line.bytes).ok()?;
    let after = core::str::from_utf8(&next.bytes).ok()?;
    if !prefix::split(text).stamped || complete(text) != Some(false) || starts_a_line(&next.bytes) {
        return None;
    }
    let after = after.trim_start().trim_start_matches("> ").trim();
    let joined = format!("{} {after}", text.trim_end());
    (complete(&joined) == Some(true)).then(|| joined.into_bytes())
}

/// `=3D` to `=`, and the like.
fn decode(bytes: &mut Vec<u8>) {
    if !bytes.contains(&b'=') {
        return;
    }
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes.as_slice();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).filter(|_| byte == b'=').and_then(|code| core::str::from_utf8(code).ok());
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        if let Some(code) = code.filter(|code| *code != 0 && *code != b'\n') {
            plain.push(code);
            rest = &after[2..];
        } else {
            plain.push(byte);
            rest = after;
        }
    }
    *bytes = plain;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<(u64, String, Option<Fold>)> {
        let mut lines = Unfolded::new(text.as_bytes());
        let mut out = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            out.push((line.number, String::from_utf8(line.bytes.to_vec()).unwrap(), line.fold));
        }
        out
    }

    #[test]
    fn quoted_printable() {
        let text = "[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usabl=\ne\n\
            [    0.000000] Command line: kvm_intel.tdx=3D1\n";
        let lines = all(text);
        assert_eq!(lines[0].1, "[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009ffff] usable");
        assert_eq!((lines[0].0, lines[0].2), (1, Some(Fold::QuotedPrintable)));
        assert_eq!(lines[1], (3, "[    0.000000] Command line: kvm_intel.tdx=1".to_owned(), None));
        // Without a soft line break nothing is decoded.
        assert_eq!(all("[ 1.0] Command line: a=3D1\n")[0].1, "[ 1.0] Command line: a=3D1");
        // A rule of equal signs, and a line that ends so by itself.
        let rule = "=".repeat(70);
        assert_eq!(all(&format!("{rule}\nx\n")).len(), 2);
        assert_eq!(all("short=\nx\n").len(), 2);
    }

    #[test]
    fn lines_written_twice() {
        let numbers = |text: &str| all(text).iter().map(|line| line.0).collect::<Vec<_>>();
        let twice = "[ 0.000000] a: b\n<6>[ 0.000000] a: b\n[ 1.000001] virt/tdx: x\n[ 1.000001] node7 kernel: virt/tdx: x\n\
            [ 1.000002] virt/tdx: x\n";
        assert_eq!(numbers(twice), [1, 3, 5]);
        // Seconds: two calls may have failed in one.
        assert_eq!(numbers("Nov 29 10:00:00 n kernel: abcd\nNov 29 10:00:00 n kernel: abcd\n"), [1, 2]);
        assert_eq!(numbers("a\na\nb\nb\n"), [1, 2, 3, 4], "too short to tell");
        assert_eq!(numbers("a\na\na\na\na\na\n"), [1, 2, 3, 4, 5, 6]);
        assert_eq!(numbers("a\na\nb\nb\nc\nc\nd\nd\nd\nd\n"), [1, 3, 5, 7, 9]);
        assert_eq!(numbers("a\na\nb\nb\nc\nc\nd\nd\ne\nf\nf\n"), [1, 3, 5, 7, 9, 10, 11], "not to the end");
        assert_eq!(numbers("a\na\nb\nb\nc\n"), [1, 2, 3, 4, 5]);
        let mut lines = Unfolded::new(&b"[ 1.000001] abcd\n[ 1.000001] abcd\n"[..]);
        while lines.next_line().unwrap().is_some() {}
        assert_eq!(lines.number(), 2);
    }

    #[test]
    fn wrapped_text() {
        let cpu = "[    3.803714] smpboot: CPU0: Intel(R) Xeon(R) Platinum 8480C (family:\n0x6, model: 0x8f, stepping: 0x8)\n";
        let lines = all(cpu);
        assert_eq!((lines.len(), lines[0].2), (1, Some(Fold::Wrapped)));
        assert!(lines[0].1.ends_with("(family: 0x6, model: 0x8f, stepping: 0x8)"), "{lines:?}");
        let call = "[ 9031.220417] virt/tdx: SEAMCALL (0x0000000000000022) failed:\n0xc000050500000000\n";
        assert_eq!(all(call).len(), 1);
        let quoted = "> [ 9031.220417] virt/tdx: SEAMCALL (0x0000000000000022) failed:\n> 0xc000050500000000\n";
        assert_eq!(all(quoted).len(), 1);
        // Cut, not wrapped: what follows has a stamp of its own, or does not complete it.
        let cut = "[    3.803714] smpboot: CPU0: Intel(R) Xeon(R) Platinum 8480C (family:\n[    3.9] x\n";
        assert_eq!(all(cut).len(), 2);
        let other = "[    3.803714] smpboot: CPU0: Intel(R) Xeon(R) Platinum 8480C (family:\nsomething else\n";
        assert_eq!(all(other).len(), 2);
        // Complete without the next line.
        assert_eq!(all("[    3.803714] virt/tdx: BIOS enabled: private KeyID range [32, 64)\nx\n").len(), 2);
    }
}
