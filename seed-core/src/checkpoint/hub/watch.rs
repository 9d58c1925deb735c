//! Whoever watches: asked whether to go on, told what happens.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// Time between two looks at whether to stop.
const STOP_POLL: Duration = Duration::from_millis(50);

/// Who watches: asked whether to go on, told what happens.
pub struct Watch<'a> {
    /// Stop soon, once this is true. What has arrived is kept.
    pub stop: &'a AtomicBool,
    /// Told what happens.
    pub report: &'a mut dyn FnMut(Event<'_>),
}

impl Watch<'_> {
    /// Whether to go on.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it is time to stop.
    pub(super) fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Waits, unless it is time to stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when it is time to stop.
    pub(super) fn sleep(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        loop {
            self.go_on()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(STOP_POLL));
        }
    }
}

/// What happens while a file is fetched.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The hub is asked about a file.
    Ask {
        /// The file.
        file: &'a str,
    },
    /// Another program fetches the same; it is waited for.
    Locked {
        /// The file.
        file: &'a str,
    },
    /// A file begins to arrive, or goes on.
    Begin {
        /// The file.
        file: &'a str,
        /// Bytes that are here already.
        done: u64,
        /// Bytes of the whole, if known.
        size: Option<u64>,
    },
    /// More of it has arrived.
    Bytes {
        /// The file.
        file: &'a str,
        /// Bytes that are here.
        done: u64,
    },
    /// An attempt failed; the next follows after a while.
    Retry {
        /// The file or the repository.
        file: &'a str,
        /// Why.
        error: &'a Error,
        /// Time until the next attempt.
        wait: Duration,
    },
    /// What arrived is not what was announced; it is fetched once more from the beginning.
    Again {
        /// The file.
        file: &'a str,
        /// What differs.
        error: &'a Error,
    },
}
