//! The sampler DDIM, without noise of its own: one network call a step.
//!
//! Source: Song et al., "Denoising Diffusion Implicit Models" (arXiv 2010.02502), equation 12 with `sigma = 0`, as
//! `DDIMScheduler.step` of diffusers 0.35.2 does it (0.20.2 gives the same numbers). Differs: `eta` is always 0, so that
//! a run adds no noise; no dynamic thresholding. Coefficients are made in double precision.
//!
//! | name | symbol |
//! |---|---|
//! | `alpha_bar` | signal left at the timestep that the network saw |
//! | `previous` | signal left at the timestep that the step leads to |
//! | `clean` | `f(x_t, t)`, the signal that the prediction means |
//! | `noise` | `e(x_t, t)`, the noise that the prediction means |

use burn::tensor::{Tensor, backend::Backend};

use super::sampler::{Prediction, SamplerConfig};
use super::schedule::NoiseSchedule;
use super::spacing::TimestepSpacing;
use crate::error::Result;

/// The sampler with its tables.
#[derive(Clone, Debug)]
pub struct Ddim {
    schedule: NoiseSchedule,
    spacing: TimestepSpacing,
    offset: usize,
    prediction: Prediction,
    set_alpha_to_one: bool,
    clip: Option<f64>,
}

impl Ddim {
    /// Tabulates the schedule. Spacing is leading, `set_alpha_to_one` and `clip_sample` are true, and
    /// `clip_sample_range` is 1 unless the configuration says otherwise.
    pub fn new(config: &SamplerConfig) -> Self {
        Self {
            schedule: config.schedule(),
            spacing: config.timestep_spacing.unwrap_or(TimestepSpacing::Leading),
            offset: config.steps_offset,
            prediction: config.prediction_type,
            set_alpha_to_one: config.set_alpha_to_one.unwrap_or(true),
            clip: config.clip_sample.unwrap_or(true).then(|| config.clip_sample_range.unwrap_or(1.0)),
        }
    }

    fn timesteps(&self, steps: usize) -> Result<Vec<usize>> {
        let timesteps = self.spacing.timesteps(self.schedule.timesteps(), steps, self.offset)?;
        Ok(timesteps.into_iter().map(|t| t.round_ties_even() as usize).collect())
    }

    /// Begins a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for an impossible number.
    pub fn run(&self, steps: usize) -> Result<DdimRun<'_>> {
        let timesteps = self.timesteps(steps)?;
        Ok(DdimRun { sampler: self, timesteps, stride: self.schedule.timesteps() / steps, position: 0 })
    }
}

/// One run from noise to latents.
#[derive(Debug)]
pub struct DdimRun<'a> {
    sampler: &'a Ddim,
    timesteps: Vec<usize>,
    stride: usize,
    position: usize,
}

impl DdimRun<'_> {
    /// The timesteps that the network is called at, in order.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// From the network's `output` for `sample` at the run's next timestep to the sample at the one after. Panics after
    /// the last timestep.
    pub fn step<B: Backend>(&mut self, output: Tensor<B, 4>, sample: Tensor<B, 4>) -> Tensor<B, 4> {
        let here = self.timesteps[self.position];
        self.position += 1;
        let Ddim { schedule, set_alpha_to_one, .. } = self.sampler;
        let alpha_bar = f64::from(schedule.alpha_bar(here));
        let previous = f64::from(schedule.alpha_bar_or_end(here.checked_sub(self.stride), *set_alpha_to_one));
        let [signal, sigma] = [alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()];

        // 1. Signal and noise that the prediction means.
        let (clean, noise) = match self.sampler.prediction {
            Prediction::Epsilon => (sample / signal - output.clone() * (sigma / signal), output),
            Prediction::VPrediction => {
                (sample.clone() * signal - output.clone() * sigma, output * signal + sample * sigma)
            }
        };
        let clean = match self.sampler.clip {
            Some(range) => clean.clamp(-range, range),
            None => clean,
        };

        // 2. Equation 12.
        clean * previous.sqrt() + noise * (1.0 - previous).sqrt()
    }
}
