//! Progress of loading a model, on stderr.

use super::{draw_target, one_line};
use indicatif::{ProgressBar, ProgressStyle};

/// The bar of one model.
#[derive(Debug)]
pub(crate) struct LoadBar(ProgressBar);

impl LoadBar {
    /// For a model called `name`.
    pub(crate) fn new(name: &str, quiet: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(1), draw_target(quiet));
        let style = ProgressStyle::with_template("loading {msg:!24} {wide_bar} {percent} %");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸ "));
        bar.set_message(one_line(name.rsplit('/').next().unwrap_or(name)));
        Self(bar)
    }

    /// So many layers of all are loaded.
    pub(crate) fn set(&self, done: usize, total: usize) {
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}
