//! Ctrl-C: where something can stop cleanly the first one asks it to and a second one ends the program; elsewhere the
//! first one ends it.

use crate::terminal::clear_bar;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The exit status of a program ended by Ctrl-C, as shells expect it.
const ENDED: i32 = 130;

static ASKED: AtomicBool = AtomicBool::new(false);
static LISTENERS: AtomicUsize = AtomicUsize::new(0);

/// While it lives, somebody looks at [`asked`] and stops.
#[derive(Debug)]
pub(crate) struct Guard(());

/// Begins to listen. Without a handler (the system refused one) Ctrl-C ends the program at once, which is fine.
pub(crate) fn listen() {
    let _ = ctrlc::set_handler(|| {
        if LISTENERS.load(Ordering::Relaxed) == 0 || ASKED.swap(true, Ordering::Relaxed) {
            clear_bar();
            std::process::exit(ENDED);
        }
    });
}

/// From here on Ctrl-C asks, and what was asked before is forgotten.
pub(crate) fn guard() -> Guard {
    ASKED.store(false, Ordering::Relaxed);
    LISTENERS.fetch_add(1, Ordering::Relaxed);
    Guard(())
}

/// Whether the user asked to stop.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

impl Drop for Guard {
    fn drop(&mut self) {
        LISTENERS.fetch_sub(1, Ordering::Relaxed);
    }
}
