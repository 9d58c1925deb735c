//! Ctrl-C: the first asks to stop where nothing is lost, the second stops at once.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;

/// Set once the user asked to stop.
pub(crate) static STOP: AtomicBool = AtomicBool::new(false);

/// Listens for SIGINT, SIGTERM and SIGHUP from now on.
pub(crate) fn listen() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("\nstopping when the work at hand is finished; once more stops at once");
    })
    .context("cannot listen for Ctrl-C")
}

/// Whether the user asked to stop.
pub(crate) fn requested() -> bool {
    STOP.load(Ordering::Relaxed)
}
