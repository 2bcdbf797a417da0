//! Markdown's tables.

use super::Markdown;
use console::measure_text_width;

/// The lines of a table given as its source lines: in columns, or as a list where columns don't fit.
pub(super) fn grid(rows: &[String], width: usize, styled: bool) -> Vec<String> {
    let rows: Vec<Vec<String>> =
        rows.iter().filter(|row| !is_rule(row)).map(|row| cells(row, styled)).filter(|row| !row.is_empty()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell = |row: &[String], column: usize| row.get(column).cloned().unwrap_or_default();
    let widest = |column| rows.iter().map(|row| measure_text_width(&cell(row, column))).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(widest).collect();
    if widths.iter().sum::<usize>() + 3 * columns.saturating_sub(1) > width {
        return list(&rows, width);
    }
    let line = |row: &Vec<String>| {
        let padded = (0..columns).map(|column| {
            let text = cell(row, column);
            let gap = " ".repeat(widths[column] - measure_text_width(&text));
            text + &gap
        });
        padded.collect::<Vec<_>>().join(" │ ").trim_end().to_owned()
    };
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    if lines.len() > 1 {
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        lines.insert(1, rule.join("─┼─"));
    }
    lines
}

/// Each row as its cells under one another, each after its column's name.
fn list(rows: &[Vec<String>], width: usize) -> Vec<String> {
    let Some((head, body)) = rows.split_first() else { return Vec::new() };
    let mut lines = Vec::new();
    for row in body {
        for (column, cell) in row.iter().enumerate() {
            let name = head.get(column).map_or("", String::as_str);
            let text = if name.is_empty() { cell.clone() } else { format!("{name}: {cell}") };
            for (at, line) in super::super::wrap(&text, width.saturating_sub(4)).into_iter().enumerate() {
                let mark = match (column, at) {
                    (0, 0) => "• ",
                    (_, 0) => "  ",
                    _ => "    ",
                };
                lines.push(format!("{mark}{line}"));
            }
        }
    }
    lines
}

/// Whether this is the line between head and body.
fn is_rule(row: &str) -> bool {
    row.contains('-') && row.chars().all(|c| matches!(c, '|' | '-' | ':' | ' '))
}

/// A row's cells, their marks shown.
fn cells(row: &str, styled: bool) -> Vec<String> {
    let inner = row.strip_prefix('|').unwrap_or(row);
    let inner = inner.strip_suffix('|').unwrap_or(inner);
    let show = |cell: &str| {
        let mut markdown = Markdown::new(usize::MAX, styled);
        // Behind a word joiner nothing is a heading or a list.
        let mut out = markdown.push("\u{2060}");
        out.push_str(&markdown.push(cell.trim()));
        out.push_str(&markdown.finish());
        out.trim_end().trim_start_matches('\u{2060}').to_owned()
    };
    inner.split('|').map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn columns_line_up() {
        let lines = grid(&rows("|Drug|Dose|\n|:--|--:|\n|**Aspirin**|75 mg|\n|x|"), 80, false);
        assert_eq!(lines, ["Drug    │ Dose", "────────┼──────", "Aspirin │ 75 mg", "x       │"]);
    }

    #[test]
    fn a_narrow_terminal_gets_a_list() {
        let lines = grid(&rows("|Drug|Dose|\n|--|--|\n|Aspirin|75 mg daily|\n|# 1|2|"), 16, false);
        assert_eq!(lines, ["• Drug:", "    Aspirin", "  Dose: 75 mg", "    daily", "• Drug: # 1", "  Dose: 2"]);
    }
}
