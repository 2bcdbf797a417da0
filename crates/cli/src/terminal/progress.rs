//! Progress on stderr: bars where there is a terminal, a line for each file where there is none.

use super::{bytes, draw_target, one_line, to_stderr};
use crate::hub::{File, Watch};
use crate::interrupt;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use std::fmt::Write;

/// A bar over bytes, with the name of what is at work.
#[derive(Debug)]
pub(crate) struct ByteBar(ProgressBar);

impl ByteBar {
    /// For `total` bytes.
    pub(crate) fn new(total: u64, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(total), draw_target(quiet));
        let size = |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{} of {}", bytes(state.pos()), bytes(state.len().unwrap_or(0)));
        };
        let speed = |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{}/s", bytes(state.per_sec() as u64));
        };
        let style = ProgressStyle::with_template("{msg:!20} {wide_bar} {size}, {speed}, {eta}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("━╸ ").with_key("size", size).with_key("speed", speed));
        Self(bar)
    }

    /// What is at work, and how many bytes are done.
    pub(crate) fn set(&self, name: &str, done: u64) {
        self.0.set_message(one_line(name));
        self.0.set_position(done);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// The progress of a pull.
#[derive(Debug)]
pub(crate) struct Download {
    bar: ByteBar,
    quiet: bool,
    /// Bytes of the files before this one.
    before: u64,
}

impl Download {
    /// Before it is known how much there is to get: nothing is shown but notes.
    pub(crate) fn new(quiet: bool) -> Self {
        Self { bar: ByteBar::new(0, true), quiet, before: 0 }
    }

    /// Begins to show a bar, for `total` bytes.
    pub(crate) fn begin(&mut self, total: u64) {
        self.bar = ByteBar::new(total, self.quiet);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish();
    }
}

impl Watch for Download {
    fn file(&mut self, file: &File) {
        self.bar.set(&file.name, self.before);
    }

    fn have(&mut self, bytes: u64) {
        self.bar.0.set_position(self.before + bytes);
    }

    fn done(&mut self, file: &File) {
        self.before += file.size;
        self.bar.0.set_position(self.before);
        if self.bar.0.is_hidden() && !self.quiet {
            to_stderr(&format!("{} ({})\n", one_line(&file.name), bytes(file.size)));
        }
    }

    fn note(&mut self, text: &str) {
        if !self.quiet {
            self.bar.0.suspend(|| to_stderr(&format!("{}\n", one_line(text))));
        }
    }

    fn stopped(&self) -> bool {
        interrupt::asked()
    }
}
