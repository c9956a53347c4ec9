//! Parsers of numbers and ranges in kernel messages.

use tdx_abi::{PageRange, PhysAddr};

use crate::input::Rule;

/// `0x1f` as a number; the prefix must be there, and nothing else.
pub(super) fn hex(text: &str) -> Option<u64> {
    bare_hex(text.strip_prefix("0x")?)
}

/// `1f` as a number: only hex digits (`from_str_radix` would take a sign).
pub(super) fn bare_hex(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_hexdigit()) { u64::from_str_radix(text, 16).ok() } else { None }
}

/// Decimal digits only.
pub(super) fn decimal(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// A range of bytes, half-open, from a kernel message. Borders need not be page aligned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRange {
    /// First byte.
    pub start: PhysAddr,
    /// First byte after.
    pub end: PhysAddr,
}

impl ByteRange {
    /// Reads `[mem 0xSTART-0xLAST]` at the start of `text`, LAST included, and gives what follows.
    ///
    /// The outer `None` means that the form is not there.
    pub(super) fn parse_mem(text: &str) -> Option<(Result<Self, Rule>, &str)> {
        let (inside, after) = text.strip_prefix("[mem ")?.split_once(']')?;
        let (start, last) = inside.split_once('-')?;
        Some((Self::from_inclusive(hex(start)?, hex(last)?), after))
    }

    /// From first and last byte.
    pub(super) fn from_inclusive(start: u64, last: u64) -> Result<Self, Rule> {
        let (start, last) = (PhysAddr::new(start), PhysAddr::new(last));
        let end = last.checked_add(1).filter(|end| end.get() <= 1 << tdx_abi::MAX_PHYS_BITS);
        match end {
            None => Err(Rule::BeyondAddressWidth { end: last, bits: tdx_abi::MAX_PHYS_BITS }),
            Some(end) if end < start => Err(Rule::Range(tdx_abi::RangeError::Reversed { start, end })),
            Some(end) if end == start => Err(Rule::EmptyRange),
            Some(end) => Ok(Self { start, end }),
        }
    }

    /// The whole pages inside.
    pub fn pages(self) -> PageRange {
        PageRange::inside(self.start, self.end)
    }

    /// The two share a byte.
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl core::fmt::Display for ByteRange {
    /// As the kernel prints it, last byte included: `[mem 0x100000-0x5d168fff]`.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "[mem {}-{:#x}]", self.start, self.end.get() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_digits_only() {
        assert_eq!(hex("0x1F"), Some(0x1f));
        assert_eq!((hex("1f"), hex("0x"), hex("0x+1"), hex("0x10000000000000000")), (None, None, None, None));
        assert_eq!((decimal("12"), decimal("-1"), decimal(""), decimal("1 ")), (Some(12), None, None, None));
    }

    #[test]
    fn mem_rows() {
        let (range, after) = ByteRange::parse_mem("[mem 0x0000000000001000-0x0000000000002fff] usable").unwrap();
        assert_eq!(range.unwrap().pages().to_string(), "[0x1000, 0x3000)");
        assert_eq!(after, " usable");
        let rule = |text| ByteRange::parse_mem(text).unwrap().0.unwrap_err();
        assert!(matches!(rule("[mem 0x3000-0x1fff]"), Rule::Range(_)));
        assert_eq!(rule("[mem 0x3000-0x2fff]"), Rule::EmptyRange);
        assert!(matches!(rule("[mem 0x0-0xffffffffffffffff]"), Rule::BeyondAddressWidth { .. }));
        assert!(matches!(rule("[mem 0x0-0x10000000000000]"), Rule::BeyondAddressWidth { .. }));
        assert!(ByteRange::parse_mem("[mem 0x3000-0x4fff").is_none());
        assert!(ByteRange::parse_mem("[mem 3000-4fff]").is_none());
    }
}
