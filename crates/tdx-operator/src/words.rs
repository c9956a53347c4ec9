//! Numbers and plurals in text.

/// `1 line`, `2 lines`.
pub fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", plural(number))
}

/// `1 line`, `134,217,728 lines`.
pub fn grouped_count(number: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(number), plural(number))
}

/// `134,217,728`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

const fn plural(number: u64) -> &'static str {
    if number == 1 { "" } else { "s" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_counts() {
        assert_eq!((grouped(0), grouped(999), grouped(1000)), ("0".into(), "999".into(), "1,000".into()));
        assert_eq!(grouped(134_217_728), "134,217,728");
        assert_eq!((count(1, "TDMR"), count(0, "TDMR")), ("1 TDMR".to_owned(), "0 TDMRs".to_owned()));
        assert_eq!((grouped_count(1, "line"), grouped_count(5000, "line")), ("1 line".into(), "5,000 lines".into()));
    }
}
