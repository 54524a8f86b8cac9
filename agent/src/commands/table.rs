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

    /// The rows from `first` on, for a table that goes on: columns are as wide as `widths`, which grow with what is printed.
    #[must_use]
    pub fn rows_from(&self, first: usize, widths: &mut Vec<usize>) -> String {
        let own = self.widths();
        widths.resize(own.len().max(widths.len()), 0);
        for (width, own) in widths.iter_mut().zip(own) {
            *width = own.max(*width);
        }
        let rows = self.rows.iter().skip(first);
        rows.map(|row| line(row, widths) + "\n").collect()
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
            writeln!(f, "{}", line(row, &widths))?;
        }
        Ok(())
    }
}

fn line(row: &[String], widths: &[usize]) -> String {
    let cells = row.iter().zip(widths);
    let cells: Vec<String> = cells
        .map(|(cell, width)| format!("{cell:<width$}"))
        .collect();
    cells.join("  ").trim_end().to_owned()
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

    #[test]
    fn a_table_that_goes_on_keeps_its_columns() {
        let table = |cells: [&str; 2]| {
            let mut table = Table::new(&["NODE", "READY"]);
            table.push(cells.map(str::to_owned));
            table
        };
        let mut widths = Vec::new();
        let first = table(["a-long-node", "yes"]).rows_from(0, &mut widths);
        assert_eq!(first, "NODE         READY\na-long-node  yes\n");
        let next = table(["b", "no"]).rows_from(1, &mut widths);
        assert_eq!(next, "b            no\n");
    }
}
