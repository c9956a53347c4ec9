//! Text tables: columns as wide as their widest cell, numbers right-aligned. A table wider than the
//! terminal is narrowed or printed as a list.

use std::io::{self, Write};

use super::width;

/// On which side of its column a cell stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

pub(crate) struct Table {
    columns: Vec<(String, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&str, Side)]) -> Self {
        Self { columns: columns.iter().map(|(name, side)| ((*name).to_owned(), *side)).collect(), rows: Vec::new() }
    }

    /// Adds a row; cells that are missing are empty, cells too many are not shown.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints the table, indented by two.
    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        self.print_in(out, width::columns())
    }

    fn print_in(&self, out: &mut impl Write, columns: usize) -> io::Result<()> {
        let head: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let rows = || std::iter::once(&head).chain(&self.rows);
        let width = |column: usize| rows().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let with = |gap: usize| widths.iter().sum::<usize>() + gap * widths.len();
        if with(1) > columns {
            return self.list(out, columns);
        }
        let gap = if with(2) > columns { " " } else { "  " };
        for row in rows() {
            let mut text = String::new();
            for (index, ((_, side), width)) in self.columns.iter().zip(&widths).enumerate() {
                let cell = row.get(index).map_or("", String::as_str);
                text.push_str(gap);
                let blanks = " ".repeat(width - cell.len());
                let (before, after) = if *side == Side::Left { ("", blanks.as_str()) } else { (blanks.as_str(), "") };
                text.extend([before, cell, after]);
            }
            writeln!(out, "{}", text.trim_end())?;
        }
        Ok(())
    }

    /// Each row by itself: its first cell, and below it the others with their names.
    fn list(&self, out: &mut impl Write, columns: usize) -> io::Result<()> {
        let mut names = self.columns.iter().map(|(name, _)| name);
        let of = names.next().map_or("", String::as_str);
        for row in &self.rows {
            writeln!(out, "  {of} {}", row.first().map_or("", String::as_str))?;
            let cells = names.clone().zip(row.iter().skip(1)).filter(|(_, cell)| !cell.is_empty());
            let cells: Vec<String> = cells.map(|(name, cell)| format!("{name}: {cell}")).collect();
            for text in width::rows(&cells.join(", "), columns.saturating_sub(6)) {
                writeln!(out, "      {text}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[("name", Side::Left), ("KB", Side::Right)]);
        table.row(["a".to_owned(), "1000".to_owned()]);
        table.row(["longer".to_owned(), "5".to_owned()]);
        table.row(["x".to_owned()]);
        let mut out = Vec::new();
        table.print(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "  name      KB\n  a       1000\n  longer     5\n  x\n");
    }

    #[test]
    fn a_wide_table_is_made_to_fit() {
        let mut table = Table::new(&[("name", Side::Left), ("KB", Side::Right), ("why", Side::Left)]);
        table.row(["longer".to_owned(), "5".to_owned(), "a reason".to_owned()]);
        let printed = |columns| {
            let mut out = Vec::new();
            table.print_in(&mut out, columns).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(printed(22), "  name    KB  why\n  longer   5  a reason\n");
        assert_eq!(printed(19), " name   KB why\n longer  5 a reason\n");
        assert_eq!(printed(18), "  name longer\n      KB: 5, why:\n      a reason\n");
    }
}
