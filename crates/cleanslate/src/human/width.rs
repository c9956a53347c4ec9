//! Terminal width and text wrapping. Output that is not a terminal always has the same width.

use std::{
    io,
    sync::{LazyLock, OnceLock},
};

use clap::Command;

/// A longer line is hard to read, however wide the terminal is.
const MOST: usize = 110;
/// A terminal that says it is narrower breaks the lines itself.
const LEAST: usize = 40;
/// A second column that would be narrower than this goes below the first.
const COLUMN: usize = 30;

/// Columns of a line.
pub(crate) fn columns() -> usize {
    terminal().unwrap_or(MOST)
}

/// Columns that are used of the terminal, if there is one.
fn terminal() -> Option<usize> {
    static COLUMNS: LazyLock<Option<usize>> = LazyLock::new(|| {
        let terminal = terminal_size::terminal_size_of(io::stdout());
        terminal.map(|(width, _)| usize::from(width.0).clamp(LEAST, MOST))
    });
    *COLUMNS
}

/// The text in rows of so many columns, broken at blanks. A longer word has a row of its own.
pub(super) fn rows(text: &str, columns: usize) -> Vec<String> {
    let mut rows = Vec::new();
    let mut row = String::new();
    for word in text.split(' ') {
        if !row.is_empty() && row.len() + 1 + word.len() > columns {
            rows.push(std::mem::take(&mut row));
        } else if !row.is_empty() {
            row.push(' ');
        }
        row.push_str(word);
    }
    rows.push(row);
    rows
}

/// The command line with help that fits. clap breaks what it lays out itself, not the examples and
/// tables after it. Without a terminal no line is broken: `grep` finds it.
pub(crate) fn fit(command: Command) -> Command {
    static VERSION: OnceLock<String> = OnceLock::new();
    let Some(columns) = terminal() else { return command.term_width(0) };
    let mut command = fit_to(command.term_width(columns), columns);
    if let Some(version) = command.get_long_version().map(|text| table(text, columns)) {
        command = command.long_version(VERSION.get_or_init(|| version).as_str());
    }
    command
}

fn fit_to(mut command: Command, columns: usize) -> Command {
    if let Some(after) = command.get_after_help().map(|text| table(&text.to_string(), columns)) {
        command = command.after_help(after);
    }
    command.mut_subcommands(|command| fit_to(command, columns))
}

/// Breaks long lines of a text with two columns, two blanks or more between them.
fn table(text: &str, columns: usize) -> String {
    let mut out = String::new();
    for line in text.lines() {
        for row in table_line(line, columns) {
            out.extend([row.as_str(), "\n"]);
        }
    }
    out.truncate(out.trim_end().len());
    out
}

fn table_line(line: &str, columns: usize) -> Vec<String> {
    if line.len() <= columns {
        return vec![line.to_owned()];
    }
    let margin = line.len() - line.trim_start().len();
    let gap = line.trim_start().rfind("  ").map(|at| margin + at + 2);
    let (first, second) = gap.and_then(|gap| line.split_at_checked(gap)).unwrap_or(("", line.trim_start()));
    let beside = columns.saturating_sub(first.len()) >= COLUMN;
    let mut out = Vec::new();
    let (mut head, indent) = match gap {
        // One column: its later rows go in a little.
        None => (" ".repeat(margin), margin + 2),
        Some(gap) if beside => (first.to_owned(), gap),
        Some(_) => {
            out.push(first.trim_end().to_owned());
            (" ".repeat(margin + 4), margin + 4)
        }
    };
    for row in rows(second, columns.saturating_sub(indent)) {
        out.push(format!("{head}{row}"));
        head = " ".repeat(indent);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_broken_at_blanks() {
        assert_eq!(rows("one two three", 7), ["one two", "three"]);
        assert_eq!(rows("unbreakable a", 4), ["unbreakable", "a"]);
        assert_eq!(rows("", 4), [""]);
    }

    #[test]
    fn a_table_fits() {
        let text = "Exit codes:\n  3    invalid input: file, line, value and rule are printed on stderr";
        assert_eq!(
            table(text, 55),
            "Exit codes:\n  3    invalid input: file, line, value and rule are\n       printed on stderr"
        );
        // No room beside the command.
        let example = "  cleanslate kexec --tds 4 --crash  the same, and the kernel panics";
        assert_eq!(table(example, 60), "  cleanslate kexec --tds 4 --crash\n      the same, and the kernel panics");
        assert_eq!(table(example, 100), example);
        assert_eq!(table("- a limit of the software machine", 20), "- a limit of the\n  software machine");
    }
}
