//! How often and after what time to try again.

use std::time::Duration;

use super::{Event, Settings, Watch, client::Failure};
use crate::error::Result;

/// Longest time between two attempts.
const LONGEST: Duration = Duration::from_secs(30);

/// New attempts that are left for one file.
pub(super) struct Patience {
    retries: u32,
    first_wait: Duration,
    failures: u32,
}

impl Patience {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { retries: settings.retries, first_wait: settings.first_wait, failures: 0 }
    }

    /// Something arrived: the failures before are forgotten.
    pub(super) fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits until the next attempt, if there is one.
    ///
    /// # Errors
    /// The failure's own, when it lasts or came too often; [`Error::Interrupted`](crate::Error::Interrupted).
    pub(super) fn wait(&mut self, file: &str, failure: Failure, watch: &mut Watch<'_>) -> Result<()> {
        let (error, asked) = match failure {
            Failure::Lasting(error) => return Err(error),
            Failure::Passing(error, _) if self.failures >= self.retries => return Err(error),
            Failure::Passing(error, asked) => (error, asked),
        };
        let own = self.first_wait.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        let wait = asked.unwrap_or(own);
        self.failures += 1;
        (watch.report)(Event::Retry { file, error: &error, wait });
        watch.sleep(wait)
    }

    /// Tries until it works or cannot be helped.
    ///
    /// # Errors
    /// As [`Patience::wait`].
    pub(super) fn run<T>(
        mut self,
        file: &str,
        watch: &mut Watch<'_>,
        attempt: impl Fn() -> Result<T, Failure>,
    ) -> Result<T> {
        loop {
            watch.go_on()?;
            match attempt() {
                Ok(value) => return Ok(value),
                Err(failure) => self.wait(file, failure, watch)?,
            }
        }
    }
}
