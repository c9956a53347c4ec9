//! Tokens of Rust source, as far as paths need them: no comments, no literals, no lifetimes.

/// A token.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Token {
    /// An identifier or keyword, raw ones without `r#`.
    Ident(String),
    /// `::`.
    PathSeparator,
    /// Any other character.
    Punct(char),
}

impl Token {
    pub(super) fn is(&self, punct: char) -> bool {
        *self == Self::Punct(punct)
    }

    pub(super) fn ident(&self) -> Option<&str> {
        if let Self::Ident(name) = self { Some(name) } else { None }
    }
}

const fn is_ident(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Splits source text.
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if rest.starts_with(b"//") {
            at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            at += block_comment(rest);
        } else if let Some(length) = raw_string(rest) {
            at += length;
        } else if rest[0] == b'"' {
            at += quoted(rest, b'"');
        } else if rest[0] == b'\'' {
            at += char_or_lifetime(rest);
        } else if rest.starts_with(b"::") {
            tokens.push(Token::PathSeparator);
            at += 2;
        } else if is_ident(rest[0]) {
            let length = rest.iter().position(|byte| !is_ident(*byte)).unwrap_or(rest.len());
            let word = &text[at..at + length];
            at += length;
            // `r#name` is the identifier `name`.
            if word == "r" && rest.get(1) == Some(&b'#') {
                at += 1;
            } else {
                tokens.push(Token::Ident(word.to_owned()));
            }
        } else {
            if !rest[0].is_ascii_whitespace() {
                tokens.push(Token::Punct(char::from(rest[0])));
            }
            at += 1;
        }
    }
    tokens
}

/// Length of a block comment, which may hold others.
fn block_comment(text: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

/// Length of a raw string (`r"`, `br#"`, `cr##"`) at the beginning of the text.
fn raw_string(text: &[u8]) -> Option<usize> {
    let start = [&b"r"[..], b"br", b"cr"].into_iter().find(|prefix| text.starts_with(prefix))?.len();
    let hashes = text[start..].iter().take_while(|byte| **byte == b'#').count();
    let open = start + hashes;
    if text.get(open) != Some(&b'"') {
        return None;
    }
    let mut end = vec![b'#'; hashes + 1];
    end[0] = b'"';
    let length = text[open + 1..].windows(end.len()).position(|window| window == end);
    Some(length.map_or(text.len(), |length| open + 1 + length + end.len()))
}

/// Length of a literal between quotes.
fn quoted(text: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != quote {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Length of a character literal, or of a lifetime.
fn char_or_lifetime(text: &[u8]) -> usize {
    if text.get(1) == Some(&b'\\') {
        return quoted(text, b'\'');
    }
    let name = text[1..].iter().take_while(|byte| is_ident(**byte)).count();
    let is_char = text.get(1 + name) == Some(&b'\'') || name == 0;
    if is_char { quoted(text, b'\'') } else { 1 + name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_leave_no_token() {
        let words = |text: &str| -> Vec<String> {
            tokens(text).iter().filter_map(|token| token.ident().map(str::to_owned)).collect()
        };
        assert_eq!(words(r##"a "b" b"c" r#"d "e"#  'f' '\'' '"' g"##), ["a", "b", "g"]);
        assert_eq!(words("fn f<'a>(x: &'a str) {} // b\n/* c /* d */ e */ h"), ["fn", "f", "x", "str", "h"]);
        assert_eq!(words("r#type::X"), ["type", "X"]);
    }
}
