//! Ctrl-C: the first asks what runs to stop, a second one ends the program.

use std::sync::atomic::{AtomicBool, Ordering};

/// The exit status of a program ended by Ctrl-C, as shells expect it.
const ENDED: i32 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);

/// Begins to listen. Without a handler (the system refused one) Ctrl-C ends the program at once, which is fine.
pub(crate) fn listen() {
    let _ = ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::Relaxed) {
            std::process::exit(ENDED);
        }
    });
}

/// Whether the user asked to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
