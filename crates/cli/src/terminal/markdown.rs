//! Markdown on a terminal, shown while it is written: word by word, never taken back.

mod grid;

use grid::grid;
use unicode_width::UnicodeWidthChar;

/// Turns pieces of Markdown into lines for a terminal, wrapped at spaces.
///
/// However the text is cut into pieces, the output is the same.
#[derive(Debug)]
pub(crate) struct Markdown {
    width: usize,
    styled: bool,
    block: Block,
    /// The beginning of a line, until it is clear what kind of line it is.
    start: String,
    /// Lines of a table so far: their widths are known when it ends.
    rows: Vec<String>,
    /// What further lines of this paragraph begin with.
    hang: String,
    /// Columns of the current line in use.
    column: usize,
    /// The word so far, styles included, and its columns.
    word: String,
    word_width: usize,
    space: bool,
    /// A run of one marker, until the character behind it is known.
    run: String,
    before: char,
    style: Style,
    blank: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// At the beginning of a line.
    Start,
    /// In running text.
    Text,
    /// In a fenced block.
    Code,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Style {
    bold: bool,
    italic: bool,
    code: bool,
    heading: bool,
}

/// What a line turns out to be.
enum Line {
    Undecided,
    Text,
    Heading,
    Fence,
    Row,
    /// Prefix to show, and bytes of the source it stands for.
    Item(String, usize),
}

impl Markdown {
    /// For a terminal of `width` columns; `styled` allows bold and colours.
    pub(crate) fn new(width: usize, styled: bool) -> Self {
        Self {
            width: width.max(10),
            styled,
            block: Block::Start,
            start: String::new(),
            rows: Vec::new(),
            hang: String::new(),
            column: 0,
            word: String::new(),
            word_width: 0,
            space: false,
            run: String::new(),
            before: ' ',
            style: Style::default(),
            blank: true,
        }
    }

    /// Takes a piece; returns what can be shown now.
    pub(crate) fn push(&mut self, text: &str) -> String {
        let mut out = String::new();
        for c in text.chars().filter_map(super::shown) {
            self.character(c, &mut out);
        }
        out
    }

    /// Ends the text; returns the rest, with the line ended.
    pub(crate) fn finish(&mut self) -> String {
        let mut out = String::new();
        if self.block != Block::Start || !self.start.trim().is_empty() {
            self.character('\n', &mut out);
        }
        self.end_table(&mut out);
        out
    }

    fn character(&mut self, c: char, out: &mut String) {
        match self.block {
            Block::Start => self.line_start(c, out),
            Block::Text => self.inline(c, out),
            Block::Code => self.code(c, out),
        }
    }

    fn line_start(&mut self, c: char, out: &mut String) {
        if c == '\n' {
            return self.short_line(out);
        }
        self.start.push(c);
        let indent = self.start.len() - self.start.trim_start().len();
        match classify(&self.start[indent..]) {
            Line::Undecided | Line::Row | Line::Fence => {}
            Line::Text => self.open(&" ".repeat(indent.min(12)), indent, out),
            Line::Heading => {
                self.style.heading = true;
                self.open("", self.start.len(), out);
            }
            Line::Item(prefix, taken) => self.open(&(" ".repeat(indent.min(12)) + &prefix), indent + taken, out),
        }
    }

    /// A line that ended before it was running text.
    fn short_line(&mut self, out: &mut String) {
        let line = std::mem::take(&mut self.start);
        let text = line.trim();
        if text.starts_with('|') {
            self.rows.push(text.to_owned());
            return;
        }
        self.end_table(out);
        let rule = |mark: char| text.chars().filter(|c| *c == mark).count() >= 3 && text.chars().all(|c| c == mark);
        if text.is_empty() {
            if !self.blank {
                out.push('\n');
            }
            self.blank = true;
        } else if text.starts_with("```") {
            self.block = Block::Code;
            self.blank = false;
        } else if rule('-') || rule('*') || rule('_') {
            out.push_str(&"─".repeat(self.width.min(40)));
            out.push('\n');
            self.blank = false;
        } else {
            self.start = line;
            self.open("", 0, out);
            self.inline('\n', out);
        }
    }

    /// Begins running text after `prefix`; the first `taken` bytes of the line's source are done with.
    fn open(&mut self, prefix: &str, taken: usize, out: &mut String) {
        self.end_table(out);
        let source = std::mem::take(&mut self.start);
        (self.block, self.before, self.blank) = (Block::Text, ' ', false);
        out.push_str(prefix);
        self.column = console::measure_text_width(prefix);
        let quote = prefix.trim_start().starts_with('│');
        self.hang = if quote { prefix.to_owned() } else { " ".repeat(self.column) };
        if self.style.heading && self.styled {
            self.word.push_str("\x1b[1m");
        }
        for c in source[taken..].chars() {
            self.inline(c, out);
        }
    }

    fn inline(&mut self, c: char, out: &mut String) {
        if self.run == "\\" {
            self.run.clear();
            if c.is_ascii_punctuation() {
                return self.literal(c, out);
            }
            self.literal('\\', out);
        } else if self.run.starts_with(c) && self.run.len() < 3 {
            return self.run.push(c);
        } else if !self.run.is_empty() {
            self.marker(c, out);
        }
        match c {
            '\n' => self.end_line(out),
            '`' => self.run.push(c),
            '*' | '_' | '\\' if !self.style.code => self.run.push(c),
            _ => self.literal(c, out),
        }
    }

    /// Decides what the run of markers before `next` does.
    fn marker(&mut self, next: char, out: &mut String) {
        let run = std::mem::take(&mut self.run);
        let mark = run.chars().next().unwrap_or(' ');
        if mark == '`' {
            self.style.code = !self.style.code;
            return self.sgr(if self.style.code { "\x1b[36m" } else { "\x1b[39m" });
        }
        let (bold, italic) = (run.len() >= 2, run.len() != 2);
        let closes = (bold && self.style.bold || italic && self.style.italic) && !self.before.is_whitespace();
        let opens = !closes && !next.is_whitespace() && !self.before.is_alphanumeric();
        let inside_word = mark == '_' && self.before.is_alphanumeric() && next.is_alphanumeric();
        // Between letters `**` still opens: "un**believ**able"; a single `*` is more often a product.
        let opens = opens || !closes && mark == '*' && bold && !next.is_whitespace();
        if inside_word || !opens && !closes {
            return run.chars().for_each(|c| self.literal(c, out));
        }
        if bold {
            self.style.bold = opens;
            let off = if self.style.heading { "" } else { "\x1b[22m" };
            self.sgr(if opens { "\x1b[1m" } else { off });
        }
        if italic {
            self.style.italic = opens;
            self.sgr(if opens { "\x1b[3m" } else { "\x1b[23m" });
        }
    }

    fn sgr(&mut self, code: &str) {
        if self.styled {
            self.word.push_str(code);
        }
    }

    fn literal(&mut self, c: char, out: &mut String) {
        self.before = c;
        if c == ' ' {
            self.end_word(out);
            // None at the beginning of a line: models write `*   item`.
            self.space = self.column > self.hang.chars().count();
            return;
        }
        let width = c.width().unwrap_or(0);
        if width > 1 {
            // Scripts without spaces break between any two characters.
            self.end_word(out);
        }
        self.word.push(c);
        self.word_width += width;
        if width > 1 {
            self.end_word(out);
        }
    }

    fn end_word(&mut self, out: &mut String) {
        if self.word_width > 0 {
            let gap = usize::from(self.space);
            if self.column + gap + self.word_width > self.width && self.column > self.hang.chars().count() {
                out.push('\n');
                out.push_str(&self.hang);
                self.column = console::measure_text_width(&self.hang);
            } else if self.space {
                out.push(' ');
                self.column += 1;
            }
            self.space = false;
            self.column += self.word_width;
        }
        out.push_str(&self.word);
        self.word.clear();
        self.word_width = 0;
    }

    fn end_line(&mut self, out: &mut String) {
        self.end_word(out);
        if self.styled && self.style != Style::default() {
            out.push_str("\x1b[0m");
        }
        out.push('\n');
        (self.block, self.style) = (Block::Start, Style::default());
        (self.column, self.space) = (0, false);
    }

    /// Code is shown as it is; only the line that may end it is held back.
    fn code(&mut self, c: char, out: &mut String) {
        if c != '\n' {
            return self.start.push(c);
        }
        let line = std::mem::take(&mut self.start);
        if line.trim() == "```" {
            self.block = Block::Start;
            return;
        }
        let (on, off) = if self.styled { ("\x1b[36m", "\x1b[39m") } else { ("", "") };
        out.push_str(&format!("  {on}{line}{off}\n"));
    }

    fn end_table(&mut self, out: &mut String) {
        if !self.rows.is_empty() {
            let rows = std::mem::take(&mut self.rows);
            grid(&rows, self.width, self.styled).into_iter().for_each(|line| {
                out.push_str(&line);
                out.push('\n');
            });
            self.blank = false;
        }
    }
}

/// What the beginning of a line (without its indent) makes of it.
fn classify(text: &str) -> Line {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return Line::Undecided };
    let second = chars.next();
    match first {
        '|' => Line::Row,
        '#' => {
            let rest = text.trim_start_matches('#');
            match (text.len() - rest.len() <= 6, rest) {
                (true, "") => Line::Undecided,
                (true, " ") => Line::Heading,
                _ => Line::Text,
            }
        }
        '>' if second.is_none() => Line::Undecided,
        '>' => Line::Item("│ ".into(), if second == Some(' ') { 2 } else { 1 }),
        '-' | '*' | '+' if second == Some(' ') => Line::Item("• ".into(), 2),
        '-' | '*' | '_' | '+' if text.chars().all(|c| c == first) && text.len() <= 8 => Line::Undecided,
        // What a fence is called holds no backtick: where one follows, the line is running text with code in it.
        '`' if text.starts_with("```") => match text.trim_start_matches('`').contains('`') {
            true => Line::Text,
            false => Line::Fence,
        },
        '`' if text.len() < 3 && text.chars().all(|c| c == '`') => Line::Undecided,
        '0'..='9' => {
            let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
            match rest {
                "" | "." | ")" if text.len() <= 4 => Line::Undecided,
                ". " | ") " => Line::Item(text.to_owned(), text.len()),
                _ => Line::Text,
            }
        }
        _ => Line::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, width: usize, styled: bool) -> String {
        let mut markdown = Markdown::new(width, styled);
        let mut out = markdown.push(text);
        out.push_str(&markdown.finish());
        out
    }

    const SAMPLE: &str = "## Findings\n\n\nThe **heart** is *normal*; `x_y` and snake_case_name, 5 * 3 = 15.\n\
        * one **bold\n  * two: a long item that must be wrapped at spaces\n1. first\n12) twelfth\n---\n> quoted words here\n\
        ```python\nprint('**x**')\n```\n| a | b |\n|---|---|\n| **1** | 2 |\nend \\*literal\\* 胸部レントゲン写真です。un**believ**able\n**";

    #[test]
    fn pieces_make_no_difference() {
        for styled in [false, true] {
            let whole = render(SAMPLE, 24, styled);
            let chars: Vec<char> = SAMPLE.chars().collect();
            for size in [1, 2, 3, 5, 7] {
                let mut markdown = Markdown::new(24, styled);
                let pieces = chars.chunks(size).map(|piece| markdown.push(&piece.iter().collect::<String>()));
                let mut out = pieces.collect::<String>();
                out.push_str(&markdown.finish());
                assert_eq!(out, whole, "{size}");
            }
        }
    }

    #[test]
    fn blocks_look_as_they_should() {
        assert_eq!(render("# A title\n\n\n\ntext\n", 80, false), "A title\n\ntext\n");
        assert_eq!(render("- a\n- b\n  - c\n", 80, false), "• a\n• b\n  • c\n");
        assert_eq!(render("*   a bb\n1.  c\n", 80, false), "• a bb\n1. c\n");
        assert_eq!(render("1. a bb ccc\n", 8, false), "1. a bb\n   ccc\n");
        assert_eq!(render("> a bb ccc\n", 10, false), "│ a bb ccc\n");
        assert_eq!(render("> a bb cccc\n", 10, false), "│ a bb\n│ cccc\n");
        assert_eq!(render("```\n  x | y\n```\nz", 80, false), "    x | y\nz\n");
        // The demo model writes its boxes so: no fence, whose name can't hold backticks.
        assert_eq!(render("```json[{\"a\": 1}]```", 80, false), "json[{\"a\": 1}]\n");
        assert_eq!(render("a\n---\nb", 80, false), format!("a\n{}\nb\n", "─".repeat(40)));
        assert_eq!(render("2024 was\n3.5 mm\n-5 °C\n**Note:** x\n", 80, false), "2024 was\n3.5 mm\n-5 °C\nNote: x\n");
    }

    #[test]
    fn marks_that_mark_nothing_stay() {
        for text in ["5 * 3 * 2", "snake_case_name", "a ** b", "T2* and R2*", "x_1 and y_2", "#hashtag", "C:\\dir"] {
            assert_eq!(render(text, 80, false), format!("{text}\n"));
        }
    }

    #[test]
    fn styles_end_with_their_line() {
        assert_eq!(render("a **b** c", 80, true), "a \x1b[1mb\x1b[22m c\n");
        assert_eq!(render("***b*** `c`", 80, true), "\x1b[1m\x1b[3mb\x1b[22m\x1b[23m \x1b[36mc\x1b[39m\n");
        assert_eq!(render("**never closed\nnext", 80, true), "\x1b[1mnever closed\x1b[0m\nnext\n");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let out = render("a\x1b[2Jb\u{9b}c\x07\rd\u{202e}e\tf", 80, false);
        assert_eq!(out, "a[2Jbcde f\n");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [16, 24, 60] {
            for line in render(SAMPLE, width, true).lines() {
                let code = line.contains("print");
                let long = console::strip_ansi_codes(line).split(' ').any(|word| word.len() > width);
                assert!(console::measure_text_width(line) <= width || code || long, "{width}: {line:?}");
            }
        }
    }
}
