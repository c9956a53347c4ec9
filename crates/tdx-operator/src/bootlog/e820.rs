//! Entries of the firmware memory map: `BIOS-e820: [mem 0xSTART-0xLAST] TYPE` and
//! `user: [mem ..] TYPE`.

use super::number::{ByteRange, decimal};
use crate::input::Rule;

/// What an e820 row says about its memory, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum E820Type {
    /// System RAM.
    Usable,
    /// Anything the kernel does not use as RAM from boot on.
    Other,
}

/// Who gave the map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum E820Map {
    /// The firmware.
    Bios,
    /// `mem=` or `memmap=` on the command line; replaces the firmware's map.
    User,
}

/// One row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct E820Row {
    /// Whose map.
    pub map: E820Map,
    /// Which bytes.
    pub range: ByteRange,
    /// What they are.
    pub kind: E820Type,
}

const FORM: &str = "BIOS-e820: [mem 0xSTART-0xLAST] TYPE";

/// `rest` is what follows `BIOS-e820:` or `user:`. `None` for a `[gap ..]` row, which newer kernels
/// print between rows.
pub(super) fn parse(map: E820Map, rest: &str) -> Result<Option<E820Row>, Rule> {
    let rest = rest.trim_start();
    if rest.starts_with("[gap ") {
        return Ok(None);
    }
    let (range, text) = ByteRange::parse_mem(rest).ok_or(Rule::Malformed { form: FORM })?;
    let (range, kind) = (range?, type_of(text)?);
    Ok(Some(E820Row { map, range, kind }))
}

/// The type at the end of a row. Newer kernels put the size before it: `639 KB System RAM`.
fn type_of(text: &str) -> Result<E820Type, Rule> {
    let text = text.trim();
    let mut words = text.split_whitespace();
    let sized = words.next().is_some_and(|size| size.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
        && words.next().is_some_and(|unit| matches!(unit, "B" | "KB" | "MB" | "GB" | "TB"));
    let name = if sized { words.collect::<Vec<_>>().join(" ") } else { text.to_owned() };
    match name.as_str() {
        "usable" | "System RAM" => Ok(E820Type::Usable),
        "reserved" | "device reserved" | "soft reserved" | "Soft Reserved" | "ACPI data" | "ACPI NVS" | "unusable" => {
            Ok(E820Type::Other)
        }
        other => {
            let number = other.strip_prefix("persistent (").and_then(|t| t.strip_suffix(')')).unwrap_or(other);
            match number.strip_prefix("type ").and_then(decimal) {
                Some(_) => Ok(E820Type::Other),
                None if name.is_empty() => Err(Rule::Malformed { form: FORM }),
                None => Err(Rule::E820Type { found: crate::input::excerpt(&name) }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types() {
        for text in ["usable", " 639   KB System RAM", "1.5 TB System RAM"] {
            assert_eq!(type_of(text), Ok(E820Type::Usable), "{text}");
        }
        for text in ["reserved", "ACPI NVS", "persistent (type 7)", "type 20", "soft reserved", "unusable"] {
            assert_eq!(type_of(text), Ok(E820Type::Other), "{text}");
        }
        for text in ["usabl", "type", "type x", "639 KB", "persistent (type 7", "usable reserved"] {
            assert!(type_of(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rows() {
        assert_eq!(parse(E820Map::Bios, " [gap 0xa0000-0xeffff]"), Ok(None));
        assert_eq!(parse(E820Map::Bios, " [mem 0x0-0xfff]"), Err(Rule::Malformed { form: FORM }));
        assert_eq!(parse(E820Map::Bios, " 0000 - 1000 (usable)"), Err(Rule::Malformed { form: FORM }));
        let row = parse(E820Map::User, " [mem 0x0-0xfff] usable").unwrap().unwrap();
        assert_eq!((row.map, row.kind), (E820Map::User, E820Type::Usable));
    }
}
