//! Entries of /proc/iomem: top-level `System RAM` only; indented entries lie inside those.

use super::number::{ByteRange, bare_hex};
use crate::input::Rule;

/// True for a top-level `System RAM` row.
pub(super) fn is_system_ram(line: &str) -> bool {
    line.trim_end().ends_with(" : System RAM") && line.starts_with(|c: char| c.is_ascii_hexdigit())
}

/// `00100000-5d168fff : System RAM`.
pub(super) fn parse(line: &str) -> Result<ByteRange, Rule> {
    let malformed = || Rule::Malformed { form: "START-LAST : System RAM" };
    let (range, _) = line.split_once(" : ").ok_or_else(malformed)?;
    let (start, last) = range.split_once('-').ok_or_else(malformed)?;
    let (start, last) = bare_hex(start).zip(bare_hex(last)).ok_or_else(malformed)?;
    if (start, last) == (0, 0) {
        return Err(Rule::IomemHidden);
    }
    ByteRange::from_inclusive(start, last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows() {
        assert!(is_system_ram("00100000-5d168fff : System RAM\r"));
        assert!(!is_system_ram("  01000000-01e02557 : Kernel code"));
        assert!(!is_system_ram("5d169000-5d22afff : ACPI Tables"));
        assert_eq!(parse("00100000-5d168fff : System RAM").unwrap().end.get(), 0x5d16_9000);
        assert_eq!(parse("00000000-00000000 : System RAM"), Err(Rule::IomemHidden));
        assert!(matches!(parse("0-zz : System RAM"), Err(Rule::Malformed { .. })));
        assert!(matches!(parse("beef : System RAM"), Err(Rule::Malformed { .. })));
        assert!(parse("2000-fff : System RAM").is_err());
    }
}
