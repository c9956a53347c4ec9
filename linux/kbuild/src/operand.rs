//! Operands of an instruction: registers of the allow-list, numbers, symbols, and addresses made of
//! them.

use crate::allow;
use crate::statement::is_symbol;

/// Splits at commas outside of parentheses.
fn split(operands: &str) -> Vec<&str> {
    let (mut depth, mut from, mut parts) = (0_u32, 0, Vec::new());
    for (at, c) in operands.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.extend(operands.get(from..at));
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.extend(operands.get(from..));
    parts.into_iter().map(str::trim).collect()
}

/// The symbols of an instruction's operands; `None` if an operand has a form that is not allowed.
pub(crate) fn symbols(operands: &str) -> Option<Vec<&str>> {
    let mut found = Vec::new();
    if !operands.is_empty() {
        for operand in split(operands) {
            match operand.strip_prefix('$') {
                Some(immediate) => expression(immediate, &mut found)?,
                None if operand.starts_with('%') => register(operand)?,
                None => address(operand, &mut found)?,
            }
        }
    }
    Some(found)
}

/// `%name`.
fn register(text: &str) -> Option<()> {
    text.strip_prefix('%').filter(|name| allow::is_register(name)).map(|_| ())
}

/// `expression(base, index, scale)`, of which each part may be missing. Without parentheses it
/// would be an absolute address: none that the object has.
pub(crate) fn address<'a>(text: &'a str, found: &mut Vec<&'a str>) -> Option<()> {
    let (displacement, registers) = text.strip_suffix(')')?.split_once('(')?;
    if !displacement.is_empty() {
        expression(displacement, found)?;
    }
    let parts: Vec<&str> = registers.split(',').map(str::trim).collect();
    match parts.as_slice() {
        [base] => register(base),
        [base, index] => register(base).and_then(|()| register(index)),
        [base, index, "1" | "2" | "4" | "8"] => {
            register(index)?;
            if base.is_empty() { Some(()) } else { register(base) }
        }
        _ => None,
    }
}

/// Numbers and symbols, joined by `+` and `-`.
pub(crate) fn expression<'a>(text: &'a str, found: &mut Vec<&'a str>) -> Option<()> {
    let text = text.strip_prefix('-').unwrap_or(text);
    for term in text.split(['+', '-']).map(str::trim) {
        let hexadecimal = term.strip_prefix("0x").map(|digits| (digits, 16));
        let (digits, radix) = hexadecimal.unwrap_or((term, 10));
        if !digits.is_empty() && digits.chars().all(|c| c.is_digit(radix)) {
            continue;
        }
        if !is_symbol(term) {
            return None;
        }
        found.push(term);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::symbols;

    #[test]
    fn forms_of_operands() {
        assert_eq!(symbols(""), Some(vec![]));
        assert_eq!(symbols("%rax"), Some(vec![]));
        assert_eq!(symbols("$-1, 8(%rax,%rbx,4)"), Some(vec![]));
        assert_eq!(symbols("_ZN1a_$LT$E+8(%rip), %r8d"), Some(vec!["_ZN1a_$LT$E"]));
        assert_eq!(symbols("$.Lanon, (,%rax,8)"), Some(vec![".Lanon"]));
        for bad in [
            "%xmm0",
            "%fs:(%rax)",
            "%gs:0",
            "*%rax",
            "(%rax",
            "x@GOTPCREL(%rip)",
            "(%rax,%rbx,3)",
            "(%xmm1)",
            "1234",
            "x",
            "$(1)",
            "$1b",
            "%rax %rbx",
            "\\arg",
            "\"x\"",
            "(%rax){%k1}",
            "%rax,",
            "$.",
            "$1*2",
        ] {
            assert_eq!(symbols(bad), None, "{bad}");
        }
    }
}
