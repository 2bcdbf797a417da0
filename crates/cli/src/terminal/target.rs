//! Where progress is drawn: stderr, in such a way that it can be taken away whole.

use console::Term;
use indicatif::{ProgressDrawTarget, TermLike};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// Columns that stay free at the end of a bar's line: the terminal writes `^C` there. In the next line, which it would
/// begin for want of room, it would be cleared instead of the bar.
const FREE: u16 = 4;

/// Whether a bar stands in the cursor's line.
static DRAWN: AtomicBool = AtomicBool::new(false);

/// Stderr, if that is a terminal; nothing else and nothing when `quiet`.
pub(crate) fn draw_target(quiet: bool) -> ProgressDrawTarget {
    let stderr = Term::buffered_stderr();
    if quiet || !stderr.is_term() {
        return ProgressDrawTarget::hidden();
    }
    ProgressDrawTarget::term_like_with_hz(Box::new(Narrowed(stderr)), 20)
}

/// Takes away a bar that the program won't clear any more, as it ends here and now.
pub(crate) fn clear_bar() {
    if DRAWN.load(Ordering::Relaxed) {
        let _ = Term::stderr().clear_line();
    }
}

/// A terminal that says to be narrower than it is.
#[derive(Debug)]
struct Narrowed(Term);

impl TermLike for Narrowed {
    fn width(&self) -> u16 {
        TermLike::width(&self.0).saturating_sub(FREE).max(1)
    }

    fn height(&self) -> u16 {
        TermLike::height(&self.0)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_up(n)
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_down(n)
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_right(n)
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.0.move_cursor_left(n)
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.0.write_line(text)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        DRAWN.fetch_or(!text.is_empty(), Ordering::Relaxed);
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        DRAWN.store(false, Ordering::Relaxed);
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}
