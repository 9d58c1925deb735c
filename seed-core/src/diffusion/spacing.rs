//! At which of training's timesteps the network is called.
//!
//! Source: diffusers 0.35.2, `set_timesteps` of its schedulers, after Table 2 of Lin et al., "Common Diffusion Noise
//! Schedules and Sample Steps are Flawed" (arXiv 2305.08891). Differs: trailing spacing never gives more timesteps than
//! steps, where diffusers gives one more, -1, for some numbers of steps (61 of 1000 is the first).
//!
//! | name | symbol |
//! |---|---|
//! | `count` | `T`, number of timesteps in training |
//! | `steps` | `S`, number of steps of the run |

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How timesteps are spread over those of training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// The first of each of `steps` equal parts, moved by `steps_offset`.
    Leading,
    /// The last of each of `steps` equal parts.
    Trailing,
    /// Evenly from the last to the first.
    Linspace,
}

impl TimestepSpacing {
    /// The timesteps of a run in its order, the last of training first. Linear spacing gives fractions.
    ///
    /// # Errors
    /// [`Error::Argument`] for 0 steps, for more than timesteps, and for so many that `offset` leads beyond the last.
    pub(super) fn timesteps(self, count: usize, steps: usize, offset: usize) -> Result<Vec<f64>> {
        check_steps(steps, count)?;
        match self {
            Self::Leading => {
                let at = |i: usize| (i * (count / steps)).saturating_add(offset);
                check_first(steps, at(steps - 1), count)?;
                Ok((0..steps).rev().map(|i| at(i) as f64).collect())
            }
            Self::Trailing => {
                // As numpy's `arange` counts.
                let count = count as f64;
                let stride = (count - count / steps as f64) - count;
                Ok((0..steps).map(|i| (count + i as f64 * stride).round_ties_even() - 1.0).collect())
            }
            Self::Linspace => Ok(linspace((count - 1) as f64, steps).into_iter().rev().collect()),
        }
    }
}

/// `count` evenly spaced values from 0 to `end`, as numpy makes them; one value is 0.
pub(super) fn linspace(end: f64, count: usize) -> Vec<f64> {
    let step = end / (count.max(2) - 1) as f64;
    let mut values: Vec<f64> = (0..count).map(|i| i as f64 * step).collect();
    if let [_, .., last] = values.as_mut_slice() {
        *last = end;
    }
    values
}

/// Refuses numbers of steps other than 1 to `most`.
pub(super) fn check_steps(steps: usize, most: usize) -> Result<()> {
    match (1..=most).contains(&steps) {
        true => Ok(()),
        false => refuse(steps, format!("it must be 1 to {most}")),
    }
}

/// Refuses a number of steps whose first timestep is none of training's.
pub(super) fn check_first(steps: usize, first: usize, count: usize) -> Result<()> {
    match first < count {
        true => Ok(()),
        false => {
            refuse(steps, format!("the first timestep would be {first} of 0 to {}; ask for fewer steps", count - 1))
        }
    }
}

fn refuse(steps: usize, reason: String) -> Result<()> {
    Err(Error::Argument { name: "steps", value: steps.to_string(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_spacing_has_its_ends() {
        let timesteps = |spacing: TimestepSpacing, steps| spacing.timesteps(1000, steps, 1).unwrap();
        assert_eq!(timesteps(TimestepSpacing::Leading, 4), [751.0, 501.0, 251.0, 1.0]);
        assert_eq!(timesteps(TimestepSpacing::Trailing, 4), [999.0, 749.0, 499.0, 249.0]);
        assert_eq!(timesteps(TimestepSpacing::Linspace, 4), [999.0, 666.0, 333.0, 0.0]);
        assert_eq!(timesteps(TimestepSpacing::Leading, 1), [1.0]);
        assert_eq!(timesteps(TimestepSpacing::Trailing, 1), [999.0]);
        assert_eq!(timesteps(TimestepSpacing::Linspace, 1), [0.0]);
    }

    #[test]
    fn every_number_of_steps_falls_and_stays_within_training() {
        for spacing in [TimestepSpacing::Leading, TimestepSpacing::Trailing, TimestepSpacing::Linspace] {
            for steps in 1..=1000 {
                let timesteps = spacing.timesteps(1000, steps, 0).unwrap();
                assert_eq!(timesteps.len(), steps);
                assert!(timesteps.iter().all(|t| (0.0..=999.0).contains(t)), "{spacing:?}, {steps} steps");
                assert!(timesteps.is_sorted_by(|a, b| a > b), "{spacing:?}, {steps} steps");
            }
        }
    }

    #[test]
    fn impossible_numbers_are_refused() {
        for (spacing, steps, offset) in [
            (TimestepSpacing::Leading, 0, 0),
            (TimestepSpacing::Trailing, 1001, 0),
            (TimestepSpacing::Linspace, usize::MAX, 0),
            (TimestepSpacing::Leading, 1000, 1),
            (TimestepSpacing::Leading, 1, 1000),
            (TimestepSpacing::Leading, 2, usize::MAX),
        ] {
            let error = spacing.timesteps(1000, steps, offset).unwrap_err();
            assert!(matches!(error, Error::Argument { name: "steps", .. }), "{error}");
        }
    }
}
