//! Lint: lines of prose are at most 100 columns wide, in comments of Rust, C, shell and TOML and in
//! Markdown. Tables, code and lines that one long word (a URL, a path) makes wide are excepted.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

/// Columns of prose.
const COLUMNS: usize = 100;

/// C files of the kernel module: checkpatch.pl of the kernel judges their lines.
const KERNEL_STYLE: &str = "linux/";

/// A tab, as in the kernel's coding style.
const TAB: usize = 8;

/// Where prose is in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Rust,
    C,
    /// Comments begin with `#`.
    Hash,
    Markdown,
}

impl Kind {
    fn of(path: &str) -> Option<Self> {
        let name = path.rsplit('/').next().unwrap_or(path);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("rs") => Some(Self::Rust),
            Some("c" | "h") => Some(Self::C),
            Some("md") => Some(Self::Markdown),
            Some("toml" | "sh") => Some(Self::Hash),
            _ if path.starts_with(".ci/") || path.starts_with(".githooks/") || name == "init" || name == "Kbuild" => {
                Some(Self::Hash)
            }
            _ => None,
        }
    }

    /// The prose of a line, if the line is prose and nothing else. `in_comment` is for C.
    fn prose(self, line: &str, in_comment: bool) -> Option<&str> {
        let line = line.trim_start();
        let after = |marks: &[&str]| marks.iter().find_map(|mark| line.strip_prefix(mark));
        match self {
            Self::Rust => after(&["///", "//!", "//"]),
            Self::C if in_comment => Some(line.trim_start_matches(['*', ' '])),
            Self::C => after(&["/**", "/*", "//"]),
            Self::Hash => after(&["#"]),
            Self::Markdown => Some(line),
        }
    }
}

/// Width in columns.
fn width(line: &str) -> usize {
    line.chars().fold(0, |column, c| if c == '\t' { (column / TAB + 1) * TAB } else { column + 1 })
}

/// Would the line be too wide wherever it is wrapped: is it one word, or one quote in backticks?
fn one_word(prose: &str) -> bool {
    let mut quoted = false;
    let words = prose.split(|c: char| {
        quoted ^= c == '`';
        c.is_whitespace() && !quoted
    });
    words.map(|word| word.chars().count()).max().unwrap_or_default() > COLUMNS - 20
}

/// Numbers and widths of the lines that are too wide.
fn wide_lines(kind: Kind, text: &str) -> Vec<(usize, usize)> {
    let mut wide = Vec::new();
    let (mut in_code, mut in_comment) = (false, false);
    for (index, line) in text.lines().enumerate() {
        let prose = kind.prose(line, in_comment);
        if kind == Kind::C {
            let (opened, closed) = (line.rfind("/*"), line.rfind("*/"));
            in_comment = match (opened, closed) {
                (Some(opened), closed) => closed.is_none_or(|closed| closed < opened),
                (None, Some(_)) => false,
                (None, None) => in_comment,
            };
        }
        let Some(prose) = prose else {
            in_code &= kind == Kind::Markdown;
            continue;
        };
        let prose = prose.trim();
        if matches!(kind, Kind::Rust | Kind::Markdown) && (prose.starts_with("```") || prose.starts_with("~~~")) {
            in_code = !in_code;
            continue;
        }
        let indented = kind == Kind::Markdown && (line.starts_with("    ") || line.starts_with('\t'));
        let heading = kind == Kind::Markdown && line.starts_with('#');
        let excepted =
            heading || in_code || indented || prose.starts_with('|') || prose.contains("://") || one_word(prose);
        if width(line) > COLUMNS && !excepted {
            wide.push((index + 1, width(line)));
        }
    }
    wide
}

/// Prints every line that is too wide; true if there is none.
pub(crate) fn check(root: &Path) -> Result<bool> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output().context("cannot run git")?;
    let mut ok = listed.status.success();
    for path in String::from_utf8_lossy(&listed.stdout).split('\0') {
        // `fixtures/` is recorded from other programs.
        if path.starts_with("fixtures/") {
            continue;
        }
        // A file that git lists may be deleted already.
        let (Some(kind), Ok(text)) = (Kind::of(path), fs::read_to_string(root.join(path))) else { continue };
        if kind == Kind::C && path.starts_with(KERNEL_STYLE) {
            continue;
        }
        for (line, columns) in wide_lines(kind, &text) {
            println!("{path}:{line}: {columns} columns of prose, {COLUMNS} are allowed");
            ok = false;
        }
    }
    Ok(ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(kind: Kind, text: &str) -> Vec<usize> {
        wide_lines(kind, text).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn a_wide_comment_is_found_and_wide_code_is_not() {
        let words = "word ".repeat(25);
        assert_eq!(
            wide(Kind::Rust, &format!("/// {words}\nlet a = \"{words}\"; // {words}\n    // {words}\n")),
            [1, 3]
        );
        assert_eq!(wide(Kind::Hash, &format!("a = \"{words}\"\n# {words}\n")), [2]);
        let c = format!("/* {words}\n * short\n * {words} */\nint a; /* {words} */\n\tcall({words});\n// {words}\n");
        assert_eq!(wide(Kind::C, &c), [1, 3, 6]);
    }

    #[test]
    fn tables_code_and_urls_may_be_wide() {
        let words = "word ".repeat(25);
        let url = format!("see https://example.org/{}", "a".repeat(100));
        let text = format!("| {words} |\n```sh\n{words}\n```\n{words}\n    {words}\n{url}\n- `{}`\n", "b c".repeat(30));
        assert_eq!(wide(Kind::Markdown, &text), [5]);
        assert_eq!(wide(Kind::Rust, &format!("//! ```\n//! {words}\n//! ```\n//! {words}\n")), [4]);
    }

    #[test]
    fn a_tab_is_eight_columns() {
        assert_eq!(width("\t\tab"), 18);
        assert_eq!(width("ab\tc"), 9);
    }
}
