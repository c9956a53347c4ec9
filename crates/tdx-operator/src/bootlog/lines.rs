//! Line reader for files of any size and content, in bounded memory: a line is cut at
//! [`LINE_LIMIT`], a file at [`FILE_LIMIT`]. Strips terminal color sequences.

use std::io::{self, BufRead, Take};

use crate::input::Rule;

/// Bytes of a line that are kept. The kernel's longest line has about 1000.
pub(crate) const LINE_LIMIT: usize = 4096;
/// Bytes of a file that are read. The largest boot log is a few MiB; a syslog of a year may have
/// more than this.
pub(crate) const FILE_LIMIT: u64 = 1 << 30;
/// Lines of a file that are read: more than a file of that size has, unless they are a few bytes
/// long.
pub(crate) const LINES_LIMIT: u64 = 1 << 24;

/// Who broke a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fold {
    /// A mail in quoted-printable.
    QuotedPrintable,
    /// A program that wraps text.
    Wrapped,
}

impl Fold {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::QuotedPrintable => "mail in quoted-printable",
            Self::Wrapped => "text wrapped by a mail program or a terminal",
        }
    }
}

/// One line.
#[derive(Debug)]
pub(crate) struct Line<'a> {
    /// From 1.
    pub(crate) number: u64,
    /// Without the line end (LF or CRLF) and without colors, at most [`LINE_LIMIT`] bytes.
    pub(crate) bytes: &'a [u8],
    /// The line was longer.
    pub(crate) too_long: bool,
    /// The file ends without a line end here.
    pub(crate) last_without_end: bool,
    /// It was joined from several lines of the file; the number is that of the first.
    pub(crate) fold: Option<Fold>,
}

/// Reads lines one by one into one buffer.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    reader: Take<R>,
    buffer: Vec<u8>,
    number: u64,
    /// Line feeds so far: a lone CR ends a line, but editors count no line there, unless the file
    /// has no other line ends.
    feeds: u64,
    /// The file has no line feeds; `None` before it is looked at.
    without_feeds: Option<bool>,
}

impl<R: BufRead> Lines<R> {
    /// Starts at the reader's place.
    pub(crate) fn new(reader: R) -> Self {
        Self {
            reader: reader.take(FILE_LIMIT),
            buffer: Vec::with_capacity(LINE_LIMIT + 1),
            number: 0,
            feeds: 0,
            without_feeds: None,
        }
    }

    /// The next line, or `None` at the end or at a limit; then [`Self::limit`] says
    /// which.
    ///
    /// # Errors
    /// What the reader says.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<Line<'_>>> {
        self.buffer.clear();
        if self.without_feeds.is_none() {
            let start = self.reader.fill_buf()?;
            self.without_feeds = Some(start.contains(&b'\r') && !start.contains(&b'\n'));
        }
        if self.feeds >= LINES_LIMIT {
            return Ok(None);
        }
        let number = self.feeds + 1;
        let (ended, too_long) = self.fill()?;
        if self.buffer.is_empty() && !ended {
            return Ok(None);
        }
        self.number = number;
        let last_without_end = !ended && !too_long;
        remove_colors(&mut self.buffer);
        Ok(Some(Line { number: self.number, bytes: &self.buffer, too_long, last_without_end, fold: None }))
    }

    /// Reads up to a line end: LF, CRLF or, as serial consoles write it, a lone CR. Returns whether
    /// there was one, and whether the line was longer than is kept.
    fn fill(&mut self) -> io::Result<(bool, bool)> {
        let mut too_long = false;
        loop {
            let bytes = self.reader.fill_buf()?;
            if bytes.is_empty() {
                return Ok((too_long, too_long));
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
            let room = LINE_LIMIT.saturating_sub(self.buffer.len());
            too_long |= part.len() > room;
            self.buffer.extend_from_slice(part.get(..room).unwrap_or(part));
            let Some(end) = end else {
                let all = bytes.len();
                self.reader.consume(all);
                continue;
            };
            let carriage_return = bytes.get(end) == Some(&b'\r');
            self.reader.consume(end + 1);
            let mut feeds = u64::from(!carriage_return);
            if carriage_return {
                while self.reader.fill_buf()?.first() == Some(&b'\r') {
                    self.reader.consume(1);
                }
                if self.reader.fill_buf()?.first() == Some(&b'\n') {
                    self.reader.consume(1);
                    feeds = 1;
                }
            }
            self.feeds += feeds.max(u64::from(self.without_feeds == Some(true)));
            return Ok((true, too_long));
        }
    }

    /// Number of the last line.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The limit that the file went past, if it did; asks the reader, so only after the last line.
    pub(crate) fn limit(&mut self) -> Option<Rule> {
        let more = self.reader.get_mut().fill_buf().is_ok_and(|rest| !rest.is_empty());
        match () {
            () if more && self.feeds >= LINES_LIMIT => Some(Rule::TooManyLines { limit: LINES_LIMIT }),
            () if more && self.reader.limit() == 0 => Some(Rule::TooLarge { limit: FILE_LIMIT }),
            () => None,
        }
    }
}

const ESCAPE: u8 = 0x1b;

/// Takes out the control sequences of `dmesg --color=always` and `journalctl`. Any other escape
/// stays, for an error to show.
pub(super) fn remove_colors(line: &mut Vec<u8>) {
    if !line.contains(&ESCAPE) {
        return;
    }
    let mut plain = Vec::with_capacity(line.len());
    let mut rest = line.as_slice();
    while let Some((before, from)) = rest.iter().position(|byte| *byte == ESCAPE).map(|at| rest.split_at(at)) {
        plain.extend_from_slice(before);
        rest = after_color(from).unwrap_or_else(|| {
            plain.push(ESCAPE);
            from.get(1..).unwrap_or_default()
        });
    }
    plain.extend_from_slice(rest);
    *line = plain;
}

/// What follows ESC, `[`, digits and semicolons, and the letter of a color (`m`) or of an erasure
/// (`K`).
fn after_color(from: &[u8]) -> Option<&[u8]> {
    let inside = from.strip_prefix(&[ESCAPE, b'['])?;
    let end = inside.iter().position(|byte| !byte.is_ascii_digit() && *byte != b';')?;
    inside.get(end..)?.strip_prefix(b"m").or_else(|| inside.get(end..)?.strip_prefix(b"K"))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn all(bytes: &[u8]) -> Vec<(u64, Vec<u8>, bool, bool)> {
        let mut lines = Lines::new(bytes);
        let mut out = Vec::new();
        while let Some(line) = lines.next_line().unwrap() {
            out.push((line.number, line.bytes.to_vec(), line.too_long, line.last_without_end));
        }
        out
    }

    #[test]
    fn ends_of_lines() {
        assert_eq!(
            all(b"a\nb\r\n\nc"),
            [
                (1, b"a".to_vec(), false, false),
                (2, b"b".to_vec(), false, false),
                (3, b"".to_vec(), false, false),
                (4, b"c".to_vec(), false, true),
            ]
        );
        assert!(all(b"").is_empty());
        let texts = |bytes| all(bytes).into_iter().map(|line| line.1).collect::<Vec<_>>();
        assert_eq!(texts(b"a\rb\r\r\nc\r"), [b"a", b"b", b"c"]);
        assert_eq!(all(b"a\rb\nc").iter().map(|line| line.0).collect::<Vec<_>>(), [1, 1, 2]);
        assert_eq!(all(b"a\rb\rc\r").iter().map(|line| line.0).collect::<Vec<_>>(), [1, 2, 3], "no line feed at all");
    }

    #[test]
    fn colors_are_taken_out() {
        let text = |bytes: &[u8]| all(bytes).remove(0).1;
        let colored = b"\x1b[32m[    0.000000] \x1b[0m\x1b[33mBIOS-e820: \x1b[0m[mem 0x0-0x1]\x1b[K\n";
        assert_eq!(text(colored), b"[    0.000000] BIOS-e820: [mem 0x0-0x1]");
        assert_eq!(text(b"\x1b[0;1;38;5;185mtdx\x1b[m: x\n"), b"tdx: x");
        for other in [&b"\x1b"[..], b"a\x1b[", b"\x1b[12", b"\x1b[2Jx", b"\x1b]0;x\x07", b"\x1b\x1b[31"] {
            assert_eq!(text(other), other);
        }
        assert_eq!(text(b"\x1b\x1b[31mx"), b"\x1bx");
    }

    #[test]
    fn long_lines_are_cut_and_counted_once() {
        let mut text = vec![b'x'; 3 * LINE_LIMIT];
        text.extend_from_slice(b"\nnext\n");
        let lines = all(&text);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[0].1.len(), lines[0].2), (LINE_LIMIT, true));
        assert_eq!(lines[1], (2, b"next".to_vec(), false, false));
        let mut exact = vec![b'x'; LINE_LIMIT];
        exact.push(b'\n');
        assert!(!all(&exact)[0].2);
    }

    #[test]
    fn endless_input_ends() {
        let mut lines = Lines::new(io::BufReader::with_capacity(1 << 16, io::repeat(b'\n').take(FILE_LIMIT + 1)));
        lines.reader.set_limit(10);
        while lines.next_line().unwrap().is_some() {}
        assert_eq!(lines.number, 10);
        assert_eq!(lines.limit(), Some(Rule::TooLarge { limit: FILE_LIMIT }));
        lines.feeds = LINES_LIMIT;
        assert!(lines.next_line().unwrap().is_none());
        assert_eq!(lines.limit(), Some(Rule::TooManyLines { limit: LINES_LIMIT }));
        let mut short = Lines::new(&b"one\n"[..]);
        while short.next_line().unwrap().is_some() {}
        assert_eq!(short.limit(), None);
    }
}
