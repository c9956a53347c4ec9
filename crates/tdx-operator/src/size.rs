//! Parser of addresses and sizes: `0x4080000000`, `258G`, `1M`, `4096`.

use tdx_abi::PhysAddr;

/// Reads an address or a number of bytes: decimal, or hex with `0x`, or decimal with a binary unit
/// K, M, G, T.
///
/// `None` if it is anything else or does not fit 64 bits.
pub fn parse(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return hex.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(hex, 16).ok()).flatten();
    }
    let units = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let unit = units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(*unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((text, 0));
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Reads `[START, END)` with both borders as [`parse`] takes them.
pub fn parse_half_open(text: &str) -> Option<(PhysAddr, PhysAddr)> {
    let (start, end) = text.trim().strip_prefix('[')?.strip_suffix(')')?.split_once(',')?;
    Some((PhysAddr::new(parse(start.trim())?), PhysAddr::new(parse(end.trim())?)))
}

/// Writes bytes with a binary unit and at most one place after the point: `2046 GiB`, `255.3 GiB`,
/// `96 KiB`.
pub fn human(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    // Whole units are written whole up to four digits: 2046 GiB says more than 2.0 TiB.
    for (shift, unit) in units {
        let one = 1u64 << shift;
        if bytes >= one && bytes.is_multiple_of(one) && bytes >> shift < 10000 {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    for (shift, unit) in units {
        let one = 1u64 << shift;
        // Memory is counted in GiB until there is very much of it.
        let too_large = shift == 40 && bytes < 10 << 40;
        if bytes >= one && !too_large {
            let tenths = u128::from(bytes) * 10 / u128::from(one);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse("258G"), Some(0x40_8000_0000));
        assert_eq!(parse("0x4080000000"), Some(0x40_8000_0000));
        assert_eq!(
            (parse("4096"), parse("1M"), parse("4K"), parse("1T")),
            (Some(4096), Some(1 << 20), Some(4096), Some(1 << 40))
        );
        for bad in
            ["", "G", "0x", "0xg", "-1", "1.5G", "1g", "16777216T", "18446744073709551616", "0x10000000000000000"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn ranges() {
        let range = parse_half_open(" [1M, 0x80000000) ").unwrap();
        assert_eq!((range.0.get(), range.1.get()), (0x10_0000, 0x8000_0000));
        assert_eq!(parse_half_open("[1M, 2G]"), None);
        assert_eq!(parse_half_open("1M-2G"), None);
    }

    #[test]
    fn human_sizes() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(4096), "4 KiB");
        assert_eq!(human(2046 << 30), "2046 GiB");
        assert_eq!(human(2 << 40), "2 TiB");
        assert_eq!(human(8_396_820 << 10), "8.0 GiB");
        assert_eq!(human((1 << 40) + 4096), "1024.0 GiB");
        assert_eq!(human((11 << 40) + (1 << 39) + 1), "11.5 TiB");
        assert_eq!(human(1500), "1.4 KiB");
        assert_eq!(human(u64::MAX), "16777215.9 TiB");
    }
}
