//! A table in text: columns as wide as their widest cell, numbers to the right.

use std::io::{self, Write};

/// On which side of its column a cell stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

pub(crate) struct Table {
    columns: Vec<(&'static str, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(columns: &[(&'static str, Side)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row; cells that are missing are empty, cells too many are not shown.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Prints the table, indented by two.
    pub(crate) fn print(&self, out: &mut impl Write) -> io::Result<()> {
        let head: Vec<String> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let rows = || std::iter::once(&head).chain(&self.rows);
        let width = |column: usize| rows().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for row in rows() {
            let mut text = String::new();
            for (index, ((_, side), width)) in self.columns.iter().zip(&widths).enumerate() {
                let cell = row.get(index).map_or("", String::as_str);
                text.push_str("  ");
                let blanks = " ".repeat(width - cell.len());
                let (before, after) = if *side == Side::Left { ("", blanks.as_str()) } else { (blanks.as_str(), "") };
                text.extend([before, cell, after]);
            }
            writeln!(out, "{}", text.trim_end())?;
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
}
