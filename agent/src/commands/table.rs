//! Borderless tables as kubectl prints them: columns two blanks apart, headers in capitals, nothing behind the last word of a line.

use std::fmt;

/// Rows of cells, aligned when printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headers.
    #[must_use]
    pub fn new(headers: &[&str]) -> Self {
        Self {
            rows: vec![headers.iter().map(|header| (*header).to_owned()).collect()],
        }
    }

    /// Adds a row; an empty cell reads `<none>`.
    pub fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter();
        let row = cells.map(|cell| {
            if cell.is_empty() {
                "<none>".to_owned()
            } else {
                cell
            }
        });
        self.rows.push(row.collect());
    }

    fn widths(&self) -> Vec<usize> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..columns).map(width).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        for row in &self.rows {
            let cells = row.iter().zip(&widths);
            let line: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            writeln!(f, "{}", line.join("  ").trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_tail() {
        let mut table = Table::new(&["NODE", "READY", "X"]);
        table.push(["a-long-node".to_owned(), "yes".to_owned(), String::new()]);
        table.push(["b".to_owned(), "no".to_owned(), "é".to_owned()]);
        let expected = "NODE         READY  X\na-long-node  yes    <none>\nb            no     é\n";
        assert_eq!(table.to_string(), expected);
    }
}
