//! Plain tables: columns as wide as their widest cell, two spaces apart, no trailing blanks, as `kubectl get` prints.

use std::fmt;

/// Rows of cells under a header.
#[derive(Clone, Debug)]
pub struct Table {
    header: Vec<Column>,
    rows: Vec<Vec<String>>,
}

#[derive(Clone, Debug)]
struct Column {
    name: &'static str,
    right: bool,
}

impl Table {
    /// A table with these columns. A name that begins with `>` (not printed) is aligned to the right.
    #[must_use]
    pub fn new(columns: &[&'static str]) -> Self {
        let column = |name: &&'static str| match name.strip_prefix('>') {
            Some(name) => Column { name, right: true },
            None => Column { name, right: false },
        };
        Self { header: columns.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row. A missing cell is empty, one too many is left out.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<_> = cells.into_iter().take(self.header.len()).collect();
        row.resize(self.header.len(), String::new());
        self.rows.push(row);
    }

    /// There are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].chars().count());
            cells.chain([self.header[at].name.len()]).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.header.len()).map(width).collect();
        let names: Vec<_> = self.header.iter().map(|column| column.name).collect();
        line(f, &self.header, &widths, &names)?;
        for row in &self.rows {
            line(f, &self.header, &widths, row)?;
        }
        Ok(())
    }
}

fn line<S: AsRef<str>>(
    f: &mut fmt::Formatter<'_>,
    header: &[Column],
    widths: &[usize],
    cells: &[S],
) -> fmt::Result {
    let mut text = String::new();
    for ((column, width), cell) in header.iter().zip(widths).zip(cells) {
        let cell = cell.as_ref();
        if column.right {
            text.push_str(&format!("{cell:>width$}  "));
        } else {
            text.push_str(&format!("{cell:<width$}  "));
        }
    }
    writeln!(f, "{}", text.trim_end())
}

/// A number of bytes as people read it: `734`, `12.3k`, `4.0M`.
#[must_use]
pub fn bytes(n: u64) -> String {
    let mut scaled = n;
    let mut tenths = 0;
    let mut unit = "";
    for next in ["k", "M", "G", "T", "P"] {
        if scaled < 1000 {
            break;
        }
        tenths = scaled % 1000 / 100;
        scaled /= 1000;
        unit = next;
    }
    if unit.is_empty() { scaled.to_string() } else { format!("{scaled}.{tenths}{unit}") }
}

/// Seconds as people read them: `45s`, `2m3s`, `23h59m`, `5d`.
#[must_use]
pub fn seconds(n: u32) -> String {
    match n {
        0..120 => format!("{n}s"),
        120..3600 => format!("{}m{}s", n / 60, n % 60),
        3600..172_800 => format!("{}h{}m", n / 3600, n % 3600 / 60),
        _ => format!("{}d", n / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["NAME", ">N", "STATE"]);
        table.row(["a".into(), "1".into(), String::new()]);
        table.row(["longer".into(), "1234".into(), "up".into()]);
        assert_eq!(table.to_string(), "NAME       N  STATE\na          1\nlonger  1234  up\n");
    }

    #[test]
    fn cells_beyond_the_header_are_left_out() {
        let mut table = Table::new(&["A"]);
        table.row(["x".into(), "y".into()]);
        assert_eq!(table.to_string(), "A\nx\n");
        assert!(!table.is_empty());
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> = [0, 999, 1000, 12_345, 4_000_000, u64::MAX].into_iter().map(bytes).collect();
        assert_eq!(shown, ["0", "999", "1.0k", "12.3k", "4.0M", "18446.7P"]);
        let shown: Vec<_> = [0, 119, 123, 86_399, 172_800].into_iter().map(seconds).collect();
        assert_eq!(shown, ["0s", "119s", "2m3s", "23h59m", "2d"]);
    }
}
