//! Columns that line up, for terminals of any width.

use console::measure_text_width;

/// Rows of cells, aligned; a note may stand under a row.
#[derive(Debug)]
pub(crate) struct Table {
    right: &'static [usize],
    rows: Vec<(Vec<String>, Option<String>)>,
}

impl Table {
    /// A table whose columns `right` are aligned to the right.
    pub(crate) fn new(right: &'static [usize]) -> Self {
        Self { right, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn row<T: ToString>(&mut self, cells: impl IntoIterator<Item = T>) -> &mut Self {
        self.rows.push((cells.into_iter().map(|cell| cell.to_string()).collect(), None));
        self
    }

    /// Puts a note under the last row.
    pub(crate) fn note(&mut self, text: impl Into<String>) -> &mut Self {
        if let Some((_, note)) = self.rows.last_mut() {
            *note = Some(text.into());
        }
        self
    }

    /// The lines, at most `width` columns each unless a single cell is wider. What doesn't fit beside goes below,
    /// indented.
    pub(crate) fn lines(&self, width: usize) -> Vec<String> {
        let columns = self.rows.iter().map(|(cells, _)| cells.len()).max().unwrap_or(0);
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|(cells, _)| cells.get(column));
            cells.map(|cell| measure_text_width(cell)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        let mut lines = Vec::new();
        for (cells, note) in &self.rows {
            let (mut line, mut used) = (String::new(), 0);
            for (column, cell) in cells.iter().enumerate() {
                if used > 0 && used + 2 + widths[column] > width {
                    lines.push(line.trim_end().to_owned());
                    (line, used) = (" ".repeat(2), 2);
                } else if column > 0 {
                    line.push_str("  ");
                    used += 2;
                }
                let gap = " ".repeat(widths[column] - measure_text_width(cell));
                line.push_str(&if self.right.contains(&column) { gap + cell } else { cell.clone() + &gap });
                used += widths[column];
            }
            lines.push(line.trim_end().to_owned());
            if let Some(note) = note {
                let wrapped = super::wrap(note, width.saturating_sub(2));
                lines.extend(wrapped.into_iter().map(|line| format!("  {line}")));
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_fold_when_narrow() {
        let mut table = Table::new(&[1]);
        table.row(["a", "10", "x"]).row(["bbb", "5", "y"]).note("a note of words");
        assert_eq!(table.lines(80), ["a    10  x", "bbb   5  y", "  a note of words"]);
        assert_eq!(table.lines(9), ["a    10", "  x", "bbb   5", "  y", "  a note", "  of", "  words"]);
    }
}
