//! The line that a chat is typed into: history, completion, several lines between `"""`.

use super::one_line;
use anyhow::Result;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};
use std::path::{Path, PathBuf};

const PROMPT: &str = ">>> ";
const MORE: &str = "... ";
const QUOTES: &str = "\"\"\"";

/// What came of asking for a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Input {
    /// A question or command.
    Line(String),
    /// Ctrl-C: the line was thrown away.
    Cancelled,
    /// Ctrl-D, or the input ended.
    End,
}

/// The editor of one chat.
pub(crate) struct LineEditor {
    editor: Editor<Completion, FileHistory>,
    /// Where history is kept, when the user wants it on disk: what is asked may be about patients.
    history: Option<PathBuf>,
}

impl LineEditor {
    /// An editor that completes `commands`.
    ///
    /// # Errors
    /// When the terminal can't be used, or the history can't be read.
    pub(crate) fn new(commands: Vec<&'static str>, history: Option<&Path>) -> Result<Self> {
        let config = Config::builder().completion_type(CompletionType::List).auto_add_history(false).build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Completion { commands, files: FilenameCompleter::new() }));
        if let Some(path) = history.filter(|path| path.exists()) {
            editor.load_history(path)?;
        }
        Ok(Self { editor, history: history.map(Path::to_owned) })
    }

    /// Asks for a line, or for several when the first begins with `"""`.
    ///
    /// # Errors
    /// When the terminal fails.
    pub(crate) fn read(&mut self) -> Result<Input> {
        let first = match self.line(PROMPT)? {
            Input::Line(line) => line,
            other => return Ok(other),
        };
        let text = match first.trim_start().strip_prefix(QUOTES) {
            None => first,
            Some(rest) => match self.block(rest)? {
                Input::Line(text) => text,
                other => return Ok(other),
            },
        };
        if !text.trim().is_empty() {
            self.editor.add_history_entry(text.trim())?;
        }
        Ok(Input::Line(text))
    }

    /// Forgets what was typed, unless the user keeps it in a file.
    ///
    /// # Errors
    /// When the terminal fails.
    pub(crate) fn forget(&mut self) -> Result<()> {
        match self.history {
            Some(_) => Ok(()),
            None => Ok(self.editor.clear_history()?),
        }
    }

    /// Lines up to the closing quotes.
    fn block(&mut self, first: &str) -> Result<Input> {
        let mut text = first.to_owned();
        loop {
            if let Some(inner) = text.trim_end().strip_suffix(QUOTES) {
                return Ok(Input::Line(inner.trim_matches('\n').to_owned()));
            }
            match self.line(MORE)? {
                Input::Line(line) => {
                    text.push('\n');
                    text.push_str(&line);
                }
                other => return Ok(other),
            }
        }
    }

    fn line(&mut self, prompt: &str) -> Result<Input> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Input::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Input::Cancelled),
            Err(ReadlineError::Eof) => Ok(Input::End),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for LineEditor {
    fn drop(&mut self) {
        if let Some(path) = &self.history
            && let Err(error) = self.editor.save_history(path)
        {
            super::say_note(&format!("the history wasn't saved: {}: {error}", path.display()));
        }
    }
}

/// Completes commands at the beginning of a line and files elsewhere.
struct Completion {
    commands: Vec<&'static str>,
    files: FilenameCompleter,
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, context: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        let matching = self.commands.iter().filter(|command| typed.starts_with('/') && command.starts_with(typed));
        let pair = |command: &&str| Pair { display: (*command).to_owned(), replacement: format!("{command} ") };
        let commands: Vec<Pair> = matching.map(pair).collect();
        match commands.is_empty() {
            false => Ok((0, commands)),
            true => {
                let (start, files) = self.files.complete(line, at, context)?;
                let shown = |file: Pair| Pair { display: one_line(&file.display), ..file };
                Ok((start, files.into_iter().map(shown).collect()))
            }
        }
    }
}

impl Helper for Completion {}
impl Highlighter for Completion {}
impl Hinter for Completion {
    type Hint = String;
}
impl Validator for Completion {}
