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

    /// The lines, at most `width` columns each unless a single word is wider. Where the last cell of a row has not
    /// enough room beside the others, it is wrapped there, or below them when the room is too narrow to read.
    pub(crate) fn lines(&self, width: usize) -> Vec<String> {
        let columns = self.rows.iter().map(|(cells, _)| cells.len()).max().unwrap_or(0);
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|(cells, _)| cells.get(column));
            cells.map(|cell| measure_text_width(cell)).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(widest).collect();
        let mut lines = Vec::new();
        for (cells, note) in &self.rows {
            self.row_lines(cells, &widths, width, &mut lines);
            if let Some(note) = note {
                hang("", note, 2, width, &mut lines);
            }
        }
        lines
    }

    fn row_lines(&self, cells: &[String], widths: &[usize], width: usize, lines: &mut Vec<String>) {
        let Some((last, others)) = cells.split_last() else { return };
        let mut line = String::new();
        for (column, cell) in others.iter().enumerate() {
            line.push_str(&self.padded(column, cell, widths[column]));
            line.push_str("  ");
        }
        let used = measure_text_width(&line);
        let column = others.len();
        let room = width.saturating_sub(used);
        if measure_text_width(last) <= room {
            let cell = self.padded(column, last, widths[column].min(room));
            lines.push((line + &cell).trim_end().to_owned());
        } else if room >= READABLE {
            hang(&line, last, used, width, lines);
        } else {
            lines.push(line.trim_end().to_owned());
            hang("", last, 2, width, lines);
        }
    }

    fn padded(&self, column: usize, cell: &str, width: usize) -> String {
        let gap = " ".repeat(width.saturating_sub(measure_text_width(cell)));
        if self.right.contains(&column) { gap + cell } else { cell.to_owned() + &gap }
    }
}

/// Columns in which a text can still be read.
const READABLE: usize = 24;

/// A text wrapped behind `before`, its further lines (and the first, when nothing is before it) indented.
fn hang(before: &str, text: &str, indent: usize, width: usize, lines: &mut Vec<String>) {
    for (at, line) in super::wrap(text, width.saturating_sub(indent)).into_iter().enumerate() {
        let before = if at == 0 && !before.is_empty() { before.to_owned() } else { " ".repeat(indent) };
        lines.push((before + &line).trim_end().to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&[1]);
        table.row(["a", "10", "x"]).row(["bbb", "5", "y"]).note("a note of words");
        assert_eq!(table.lines(80), ["a    10  x", "bbb   5  y", "  a note of words"]);
        assert_eq!(table.lines(11), ["a    10  x", "bbb   5  y", "  a note of", "  words"]);
    }

    #[test]
    fn what_is_too_wide_is_wrapped() {
        let mut table = Table::new(&[]);
        table.row(["name", "some words that need more room than there is"]);
        assert_eq!(table.lines(32), ["name  some words that need more", "      room than there is"]);
        assert_eq!(table.lines(20), ["name", "  some words that", "  need more room", "  than there is"]);
    }
}
