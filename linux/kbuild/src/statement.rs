//! Parser for one line of GNU assembly (AT&T syntax), as strict as LLVM's printer: one statement a
//! line.

/// A statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Statement<'a> {
    /// Nothing, or a comment.
    Empty,
    /// `name:`.
    Label(&'a str),
    /// `.name arguments`.
    Directive(&'a str, &'a str),
    /// `mnemonic operands`; a prefix is the first word.
    Instruction(&'a str, &'a str),
}

/// Parses a line; `None` if it is not a single statement in printable ASCII.
pub(crate) fn parse(line: &str) -> Option<Statement<'_>> {
    if !line.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)) {
        return None;
    }
    let text = without_comment(line)?.trim();
    if text.is_empty() {
        return Some(Statement::Empty);
    }
    if let Some(label) = text.strip_suffix(':') {
        return is_symbol(label).then_some(Statement::Label(label));
    }
    let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let rest = rest.trim();
    // `rep;movsq` is how LLVM prints one instruction. A second statement is an error.
    if outside_strings(rest)?.any(|(_, c)| c == ';') || (word.contains(';') && !word.starts_with("rep;")) {
        return None;
    }
    Some(if word.starts_with('.') { Statement::Directive(word, rest) } else { Statement::Instruction(word, rest) })
}

/// A name as the assembler allows it. Not a number, and not a local label like `1f`.
pub(crate) fn is_symbol(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == '.')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.$".contains(c))
        && text != "."
}

/// Characters that stand outside of string literals, with their places. `None` if a string has no
/// end.
fn outside_strings(text: &str) -> Option<impl Iterator<Item = (usize, char)> + '_> {
    let (mut in_string, mut escaped) = (false, false);
    let mut found = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ if !in_string => found.push((at, c)),
            _ => {}
        }
    }
    (!in_string).then(|| found.into_iter())
}

/// The text before a `#` that stands outside of strings. A comment may contain anything.
fn without_comment(line: &str) -> Option<&str> {
    let (mut in_string, mut escaped) = (false, false);
    for (at, c) in line.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            '#' if !in_string => return line.get(..at),
            _ => {}
        }
    }
    (!in_string).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_a_line() {
        assert_eq!(parse("\t# jmp *%rax"), Some(Statement::Empty));
        assert_eq!(parse(".LBB0_1:\t# a loop"), Some(Statement::Label(".LBB0_1")));
        assert_eq!(parse("\t.asciz\t\"a # b; \\\" c\""), Some(Statement::Directive(".asciz", "\"a # b; \\\" c\"")));
        assert_eq!(
            parse("\trep;movsq\t(%rsi), %es:(%rdi)"),
            Some(Statement::Instruction("rep;movsq", "(%rsi), %es:(%rdi)"))
        );
        for bad in ["1:", "nop; ret", "\t.quad\t1; ret", "\t.ascii\t\"open", "a b:", "x;ret", "\u{e9}", "nop\rret"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
