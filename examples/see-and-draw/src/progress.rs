//! Progress on standard error, when that is a terminal.

use std::io::{IsTerminal as _, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar, or nothing.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// A bar over `total` of `what`, of which `done` were there before.
    pub(crate) fn new(total: usize, done: usize, what: &str) -> Self {
        if !stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(total as u64).with_position(done as u64);
        if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {prefix}  {elapsed} (eta {eta})  {msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        bar.reset_eta();
        Self(Some(bar))
    }

    /// Moves to `done` and says something beside the bar.
    pub(crate) fn set(&self, done: usize, message: &str) {
        if let Some(bar) = &self.0 {
            bar.set_position(done as u64);
            bar.set_message(message.to_owned());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
