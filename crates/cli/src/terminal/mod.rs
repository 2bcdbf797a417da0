//! What a person sees.

mod answer;
mod editor;
mod load;
mod markdown;
mod picture;
mod progress;
mod table;
mod target;

pub(crate) use answer::{AnswerView, Look};
pub(crate) use editor::{Input, LineEditor};
pub(crate) use load::LoadBar;
pub(crate) use markdown::Markdown;
pub(crate) use picture::show as show_picture;
pub(crate) use progress::{ByteBar, Download};
pub(crate) use table::Table;
pub(crate) use target::{clear_bar, draw_target};

/// Columns of the terminal: 80 where there is none.
pub(crate) fn width() -> usize {
    let size = console::Term::stdout().size_checked().or_else(|| console::Term::stderr().size_checked());
    size.map_or(80, |(_, columns)| usize::from(columns)).max(20)
}

/// Writes to stderr. A stderr that is gone is no reason to stop: nobody reads what is said there.
pub(crate) fn to_stderr(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Says on stderr what went wrong: on one line, or broken at spaces where it is a terminal.
pub(crate) fn say_error(text: &str) {
    let text = &one_line(text);
    let label = console::style("error:").for_stderr().red().bold();
    let text =
        if console::Term::stderr().is_term() { wrap(text, width() - 7).join("\n       ") } else { text.to_owned() };
    to_stderr(&format!("{label} {text}\n"));
}

/// Says on stderr something that is not part of any answer.
pub(crate) fn say_note(text: &str) {
    let text = &one_line(text);
    let text = if console::Term::stderr().is_term() { wrap(text, width()).join("\n") } else { text.to_owned() };
    to_stderr(&format!("{}\n", console::style(text).for_stderr().dim()));
}

/// A size as people write it, in powers of 1000: `8.6 GB`.
pub(crate) fn bytes(count: u64) -> String {
    let (mut value, mut unit) = (count as f64, "B");
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 999.95 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    match unit {
        "B" => format!("{count} B"),
        _ if value < 99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// A character as it may reach a terminal: none of those that would move its cursor, change its colours or turn the
/// direction of the text around. What a model writes, or a file holds, is not ours.
pub(crate) fn shown(c: char) -> Option<char> {
    match c {
        '\n' => Some('\n'),
        '\t' => Some(' '),
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
        c if c.is_control() => None,
        c => Some(c),
    }
}

/// A text, such as a file's name, as it may reach a terminal: as [`shown`], and on one line.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().filter_map(shown).map(|c| if c == '\n' { ' ' } else { c }).collect()
}

/// Units that stay on the line of their number.
const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "GB/s", "MB/s"];

/// Breaks a text into lines of at most `width` columns, at spaces.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut words = text.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let mut word = word.to_owned();
        if let Some(unit) = words.next_if(|next| UNITS.contains(&next.trim_end_matches([',', '.', ';', ')', ':']))) {
            word.push(' ');
            word.push_str(unit);
        }
        if !line.is_empty() && console::measure_text_width(&line) + 1 + console::measure_text_width(&word) > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_at_most() {
        let all = [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (8_600_000_000, "8.6 GB"), (999_960, "1.0 MB")];
        for (count, text) in all {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(123_456_789), "123 MB");
        assert_eq!(bytes(u64::MAX), "18446744 TB");
    }

    #[test]
    fn a_name_moves_no_cursor_and_turns_no_text() {
        assert_eq!(one_line("a\x1b]0;x\x07\u{202e}gnp.\u{2066}\nb\u{9b}2J\té.png"), "a]0;xgnp. b2J é.png");
    }

    #[test]
    fn lines_are_broken_at_spaces() {
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("unbreakable", 3), ["unbreakable"]);
        assert_eq!(wrap("", 3), [""]);
        assert_eq!(wrap("it has 25.3 GB, or so", 12), ["it has", "25.3 GB, or", "so"]);
    }
}
