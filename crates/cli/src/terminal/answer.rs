//! An answer while it is written: the thought apart and dimmed, the answer as Markdown, or bare where stdout is no
//! terminal.

use super::{Markdown, draw_target, shown};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, Write};
use std::time::Duration;

/// How an answer is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// For a person: Markdown and the thought.
    Rendered {
        /// Columns.
        width: usize,
        /// Bold, dimmed, colours.
        styled: bool,
    },
    /// For a person, as the model writes it.
    Plain,
    /// For a program or file: the answer's bytes and nothing else.
    Bare,
    /// Not shown while it is written.
    Hidden,
}

/// Shows one answer.
pub(crate) struct AnswerView<W: Write> {
    out: W,
    look: Look,
    bar: ProgressBar,
    markdown: Markdown,
    now: Now,
    /// The last character written, to end the line with.
    last: char,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    Prompt,
    Thought,
    Answer,
}

impl<W: Write> AnswerView<W> {
    /// A view that writes to `out`, and its progress to stderr unless `quiet`.
    pub(crate) fn new(out: W, look: Look, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, draw_target(quiet));
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(120));
        bar.set_message("reading");
        let (width, styled) = match look {
            Look::Rendered { width, styled } => (width, styled),
            _ => (80, false),
        };
        Self { out, look, bar, markdown: Markdown::new(width, styled), now: Now::Prompt, last: '\n' }
    }

    /// So many of the pictures are looked at.
    pub(crate) fn images(&self, done: usize, total: usize) {
        let which = if total == 1 { "the picture".to_owned() } else { format!("{done} of {total} pictures") };
        self.bar.set_message(format!("looking at {which}"));
    }

    /// So many of the prompt's tokens are read.
    pub(crate) fn prompt(&self, done: usize, total: usize) {
        self.bar.set_message(format!("reading {done} of {total} tokens"));
    }

    /// A piece of the thought.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn thought(&mut self, text: &str) -> io::Result<()> {
        match self.look {
            Look::Hidden => Ok(()),
            Look::Bare => {
                self.bar.set_message("thinking");
                Ok(())
            }
            Look::Plain | Look::Rendered { .. } => {
                if self.now == Now::Prompt {
                    self.begin(Now::Thought);
                    self.dim("Thinking…\n")?;
                }
                let text = self.show(text);
                self.dim(&text)
            }
        }
    }

    /// A piece of the answer.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn answer(&mut self, text: &str) -> io::Result<()> {
        if self.look == Look::Hidden {
            return Ok(());
        }
        if self.now != Now::Answer {
            self.end_thought()?;
            self.begin(Now::Answer);
        }
        let text = self.show(text);
        self.write(&text)
    }

    /// Ends the answer's last line.
    ///
    /// # Errors
    /// When it can't be written.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.bar.finish_and_clear();
        match self.now {
            Now::Thought => self.end_thought()?,
            Now::Prompt | Now::Answer => {
                let rest =
                    if matches!(self.look, Look::Rendered { .. }) { self.markdown.finish() } else { String::new() };
                self.write(&rest)?;
            }
        }
        if self.last != '\n' {
            self.write("\n")?;
        }
        Ok(())
    }

    fn begin(&mut self, now: Now) {
        self.bar.finish_and_clear();
        self.now = now;
    }

    fn end_thought(&mut self) -> io::Result<()> {
        if self.now == Now::Thought {
            let rest = if matches!(self.look, Look::Rendered { .. }) { self.markdown.finish() } else { String::new() };
            self.dim(&rest)?;
            let gap = if self.last == '\n' { "\n" } else { "\n\n" };
            self.write(gap)?;
            self.last = '\n';
        }
        Ok(())
    }

    fn show(&mut self, text: &str) -> String {
        match self.look {
            Look::Rendered { .. } => self.markdown.push(text),
            Look::Plain => text.chars().filter_map(shown).collect(),
            Look::Bare | Look::Hidden => text.to_owned(),
        }
    }

    fn dim(&mut self, text: &str) -> io::Result<()> {
        match self.look {
            Look::Rendered { styled: true, .. } if !text.is_empty() => {
                // What ends bold ends dim, too: begin anew behind it.
                let text = text.replace("\x1b[22m", "\x1b[22;2m").replace("\x1b[0m", "\x1b[0;2m");
                self.last = text.chars().next_back().unwrap_or(self.last);
                write!(self.out, "\x1b[2m{text}\x1b[0m")?;
                self.out.flush()
            }
            _ => self.write(text),
        }
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        let Some(last) = text.chars().next_back() else { return Ok(()) };
        self.last = last;
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(look: Look, thought: &[&str], answer: &[&str]) -> String {
        let mut out = Vec::new();
        let mut view = AnswerView::new(&mut out, look, true);
        view.prompt(1, 2);
        thought.iter().for_each(|text| view.thought(text).unwrap());
        answer.iter().for_each(|text| view.answer(text).unwrap());
        view.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_program_gets_the_answer_alone() {
        assert_eq!(view(Look::Bare, &["hm"], &["**a", "** b\x1b"]), "**a** b\x1b\n");
        assert_eq!(view(Look::Bare, &[], &["a\n"]), "a\n");
        assert_eq!(view(Look::Hidden, &["hm"], &["a"]), "");
    }

    #[test]
    fn a_person_sees_the_thought_apart() {
        let look = Look::Rendered { width: 40, styled: false };
        assert_eq!(view(look, &["It is", " a **test**."], &["An", "swer"]), "Thinking…\nIt is a test.\n\nAnswer\n");
        assert_eq!(view(Look::Plain, &["hm"], &["**a**\x1b[2J"]), "Thinking…\nhm\n\n**a**[2J\n");
        // The budget ended inside the thought.
        assert_eq!(view(look, &["It is"], &[]), "Thinking…\nIt is\n\n");
    }

    #[test]
    fn the_thought_stays_dimmed_behind_bold() {
        let look = Look::Rendered { width: 40, styled: true };
        let out = view(look, &["**a** b"], &["c"]);
        assert!(out.contains("\x1b[1ma\x1b[22;2m"), "{out:?}");
        assert!(out.ends_with("\x1b[0m\nc\n"), "{out:?}");
    }
}
