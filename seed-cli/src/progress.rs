//! Progress on standard error, when that is a terminal. No colours, so there is nothing that `NO_COLOR` must switch off.

use std::{
    io::{IsTerminal as _, stderr},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};

use crate::options::Global;

/// A bar, or nothing.
pub(crate) struct Progress(Option<ProgressBar>);

impl Progress {
    /// A bar over `total` of `what`.
    pub(crate) fn new(total: usize, what: &str, global: &Global) -> Self {
        let template = "{bar:24} {pos}/{len} {prefix}  {elapsed} (eta {eta})  {msg}";
        Self::bar(Some(total as u64), template, what, global)
    }

    /// A bar over `total` of `what`, with what is said beside others below it.
    pub(crate) fn with_text_below(total: usize, what: &str, global: &Global) -> Self {
        let template = "{bar:24} {pos}/{len} {prefix}  {elapsed} (eta {eta})\n{msg}";
        Self::bar(Some(total as u64), template, what, global)
    }

    /// A bar over the bytes of `what`, of which the whole may not be known.
    pub(crate) fn bytes(total: Option<u64>, what: &str, global: &Global) -> Self {
        let template = match total {
            Some(_) => "{bar:24} {bytes}/{total_bytes} {prefix}  {bytes_per_sec} (eta {eta})",
            None => "{bytes} {prefix}  {bytes_per_sec}",
        };
        Self::bar(total, template, what, global)
    }

    fn bar(total: Option<u64>, template: &str, what: &str, global: &Global) -> Self {
        if global.quiet || !stderr().is_terminal() {
            return Self(None);
        }
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(500));
        Self(Some(bar))
    }

    /// A sign of life for work that cannot be counted.
    pub(crate) fn working(what: &'static str, global: &Global) -> Self {
        if global.quiet || !stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new_spinner().with_message(what);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(Some(bar))
    }

    /// Counts `count` more.
    pub(crate) fn advance(&self, count: usize) {
        self.with(|bar| bar.inc(count as u64));
    }

    /// Starts from `done`, so that the estimate of the remaining time leaves it out.
    pub(crate) fn start_from(&self, done: usize) {
        self.with(|bar| {
            bar.set_position(done as u64);
            bar.reset_eta();
        });
    }

    /// Moves to `done`.
    pub(crate) fn set(&self, done: usize) {
        self.with(|bar| bar.set_position(done as u64));
    }

    /// Says something beside the bar.
    pub(crate) fn message(&self, text: String) {
        self.with(|bar| bar.set_message(text));
    }

    /// Writes to the terminal while the bar is out of the way.
    pub(crate) fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.0 {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn with(&self, act: impl FnOnce(&ProgressBar)) {
        if let Some(bar) = &self.0 {
            act(bar);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.with(ProgressBar::finish_and_clear);
    }
}
