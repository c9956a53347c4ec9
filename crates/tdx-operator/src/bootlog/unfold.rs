//! Joins the lines that a mail program broke: quoted-printable (`=` at the end of a line) and text
//! wrapped at 60 to 100 columns. A wrapped line is joined only where the kernel's message is not
//! complete without the next line and is complete with it.

use std::io::{self, BufRead};

use super::{
    complete,
    lines::{Fold, LINE_LIMIT, Line, Lines},
    prefix, structured,
};
use crate::input::Rule;

/// Widths at which programs wrap text, in bytes.
const WRAPPED_AT: core::ops::RangeInclusive<usize> = 50..=110;
/// Widths of a line of quoted-printable that goes on, in bytes: the standard allows 76.
const SOFT_BREAK_AT: core::ops::RangeInclusive<usize> = 60..=76;
/// Lines that are joined at most.
const MOST: u32 = 8;

#[derive(Debug)]
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
    /// A soft line break was seen, so `=3D` is `=`.
    quoted_printable: bool,
}

impl<R: BufRead> Unfolded<R> {
    /// Starts at the reader's place.
    pub(crate) fn new(reader: R) -> Self {
        Self { lines: Lines::new(reader), current: Vec::new(), ahead: None, quoted_printable: false }
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

    fn take(&mut self) -> io::Result<Option<Owned>> {
        if let Some(line) = self.ahead.take() {
            return Ok(Some(line));
        }
        let line = self.lines.next_line()?;
        Ok(line.map(|line| Owned {
            number: line.number,
            bytes: plain(line.bytes),
            too_long: line.too_long,
            last_without_end: line.last_without_end,
        }))
    }

    fn softly_broken(&self, line: &Owned, next: &Owned) -> bool {
        let width = self.quoted_printable || SOFT_BREAK_AT.contains(&line.bytes.len());
        let short = line.bytes.len() <= *SOFT_BREAK_AT.end();
        width && short && line.bytes.ends_with(b"=") && !line.bytes.ends_with(b"==") && !starts_a_line(&next.bytes)
    }
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
