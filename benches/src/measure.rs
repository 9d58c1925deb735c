//! Measuring: one call to warm up, then the median of several.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    /// Images of one call.
    batch: usize,
    /// What is counted by the second, and how much of it one call does.
    unit: &'static str,
    count: usize,
    /// Times of the calls, shortest first.
    times: Vec<Duration>,
}

impl Row {
    /// Calls `work`, which handles `batch` images, once to warm up and `repeats` times to measure.
    pub(crate) fn images<E>(
        name: impl Into<String>,
        batch: usize,
        repeats: u32,
        work: impl FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        Ok(Self { name: name.into(), batch, unit: "images", count: batch, times: times(repeats, work)? })
    }

    /// As [`images`](Self::images), for one training step over `batch` images.
    pub(crate) fn step<E>(
        name: impl Into<String>,
        batch: usize,
        repeats: u32,
        work: impl FnMut() -> Result<(), E>,
    ) -> Result<Self, E> {
        Ok(Self { name: name.into(), batch, unit: "steps", count: 1, times: times(repeats, work)? })
    }

    /// The upper median of the times.
    fn median(&self) -> Duration {
        self.times[self.times.len() / 2]
    }
}

fn times<E>(repeats: u32, mut work: impl FnMut() -> Result<(), E>) -> Result<Vec<Duration>, E> {
    work()?;
    let mut times = (0..repeats.max(1))
        .map(|_| {
            let start = Instant::now();
            work()?;
            Ok(start.elapsed())
        })
        .collect::<Result<Vec<_>, E>>()?;
    times.sort();
    Ok(times)
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, batch, unit, count, times } = self;
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let (fastest, slowest) = (times[0], times[times.len() - 1]);
        let rate = *count as f64 / self.median().as_secs_f64();
        write!(
            f,
            "| {name} | {batch} | {:.1} ms | {:.1} ms | {:.1} ms | {rate:.1} {unit} |",
            milliseconds(self.median()),
            milliseconds(fastest),
            milliseconds(slowest)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_the_median() {
        let times = [1, 2, 90].map(Duration::from_millis).to_vec();
        let row = Row { name: "x".to_owned(), batch: 4, unit: "images", count: 4, times };
        assert_eq!(row.to_string(), "| x | 4 | 2.0 ms | 1.0 ms | 90.0 ms | 2000.0 images |");
    }

    #[test]
    fn the_first_call_is_not_measured() {
        let mut calls = 0;
        let row = Row::images("x", 1, 3, || {
            calls += 1;
            Ok::<_, ()>(())
        });
        assert_eq!((row.unwrap().times.len(), calls), (3, 4));
    }
}
