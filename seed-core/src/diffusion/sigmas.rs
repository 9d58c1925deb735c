//! Noise levels of the samplers that count in sigmas (Euler, DPM-Solver++).
//!
//! Source: diffusers 0.35.2, what `EulerDiscreteScheduler` and `DPMSolverMultistepScheduler` share: `_convert_to_karras`
//! and `_sigma_to_t`; Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv
//! 2206.00364), equation 5. The table is float32, what is made from it double precision, as there.
//!
//! | name | symbol |
//! |---|---|
//! | `sigma(t)` | `sqrt((1 - alpha_bar(t)) / alpha_bar(t))`, noise for a signal that is not scaled down |
//! | `RHO` | `rho`, how much Karras' levels crowd at the small end |

use serde::{Deserialize, Serialize};

use super::sampler::SamplerConfig;
use super::spacing::linspace;

const RHO: f64 = 7.0;

/// Signal that a schedule with zero terminal signal keeps at its last timestep, so that its sigma is finite.
const LEAST_ALPHA_BAR: f32 = 1.0 / (1 << 24) as f32;

/// The noise level that the last step leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// No noise.
    #[default]
    Zero,
    /// That of timestep 0.
    SigmaMin,
}

/// Sigma of every timestep.
#[derive(Clone, Debug)]
pub(super) struct Sigmas {
    table: Vec<f32>,
    last: FinalSigma,
}

impl Sigmas {
    /// Tabulates the levels of a schedule.
    pub(super) fn new(config: &SamplerConfig) -> Self {
        let schedule = config.schedule();
        let count = schedule.timesteps();
        let alpha_bar = |t: usize| match config.rescales() && t + 1 == count {
            true => LEAST_ALPHA_BAR,
            false => schedule.alpha_bar(t),
        };
        let sigma = |alpha_bar: f32| ((1.0 - alpha_bar) / alpha_bar).sqrt();
        let table = (0..count).map(alpha_bar).map(sigma).collect();
        Self { table, last: config.final_sigmas_type.unwrap_or_default() }
    }

    /// Number of timesteps in training.
    pub(super) fn count(&self) -> usize {
        self.table.len()
    }

    /// Sigma of the first and of the last timestep.
    pub(super) fn ends(&self) -> [f64; 2] {
        [self.table[0], self.table[self.count() - 1]].map(f64::from)
    }

    /// Sigma at a timestep in `0..count`, between whole ones on a line.
    pub(super) fn at(&self, timestep: f64) -> f64 {
        let below = timestep as usize;
        let [low, high] = [below, (below + 1).min(self.count() - 1)].map(|t| f64::from(self.table[t]));
        (high - low) * (timestep - below as f64) + low
    }

    /// `steps` levels from `max` to `min` whose roots of order rho are evenly spaced.
    pub(super) fn karras([min, max]: [f64; 2], steps: usize) -> Vec<f64> {
        let [min, max] = [min, max].map(|sigma| sigma.powf(1.0 / RHO));
        linspace(1.0, steps).into_iter().map(|ramp| (max + ramp * (min - max)).powf(RHO)).collect()
    }

    /// The timestep of a level, between whole ones on a line of log sigma.
    pub(super) fn timestep(&self, sigma: f64) -> f64 {
        let log = |t: usize| f64::from(self.table[t].ln());
        let wanted = sigma.max(1e-10).ln();
        let not_above = self.table.partition_point(|&sigma| f64::from(sigma.ln()) <= wanted);
        let low = not_above.saturating_sub(1).min(self.count() - 2);
        let weight = ((log(low) - wanted) / f64::from(log(low) as f32 - log(low + 1) as f32)).clamp(0.0, 1.0);
        (1.0 - weight) * low as f64 + weight * (low + 1) as f64
    }

    /// The levels of a run as its steps use them, float32, with the one that the last step leads to.
    pub(super) fn levels(&self, sigmas: &[f64]) -> Vec<f64> {
        let last = match self.last {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => self.ends()[0],
        };
        sigmas.iter().chain([&last]).map(|&sigma| f64::from(sigma as f32)).collect()
    }
}
