//! The sampler of Euler's method, without noise of its own: one network call a step.
//!
//! Source: Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364),
//! Algorithm 2 without churn and second order, as `EulerDiscreteScheduler.step` of diffusers 0.35.2 does it. Differs: no
//! churn; steps are counted, not looked up by timestep; a step is one product of the sample and one of the output, with
//! coefficients made in double precision. 0.20.2 differs: it keeps linear timesteps in double precision and knows
//! neither `rescale_betas_zero_snr` nor `final_sigmas_type`.
//!
//! | name | symbol |
//! |---|---|
//! | `sigma` | noise level that the network saw |
//! | `next` | noise level that the step leads to |
//! | `sample` | `x`, signal + sigma * noise: not scaled down as the network's input is |

use burn::tensor::{Tensor, backend::Backend};

use super::sampler::{Prediction, SamplerConfig};
use super::sigmas::Sigmas;
use super::spacing::TimestepSpacing;
use crate::error::Result;

/// The sampler with its tables.
#[derive(Clone, Debug)]
pub struct Euler {
    sigmas: Sigmas,
    spacing: TimestepSpacing,
    offset: usize,
    prediction: Prediction,
    karras: bool,
}

impl Euler {
    /// Tabulates the schedule. Spacing is linear, `use_karras_sigmas` is false and `final_sigmas_type` zero unless the
    /// configuration says otherwise.
    pub fn new(config: &SamplerConfig) -> Self {
        Self {
            sigmas: Sigmas::new(config),
            spacing: config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace),
            offset: config.steps_offset,
            prediction: config.prediction_type,
            karras: config.use_karras_sigmas.unwrap_or(false),
        }
    }

    /// Begins a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for an impossible number.
    pub fn run(&self, steps: usize) -> Result<EulerRun> {
        // 1. Timesteps, float32, and their levels.
        let timesteps = self.spacing.timesteps(self.sigmas.count(), steps, self.offset)?;
        let mut timesteps: Vec<f32> = timesteps.into_iter().map(|t| t as f32).collect();
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| self.sigmas.at(f64::from(t))).collect();
        // 2. Karras' levels between the same ends, and their timesteps.
        if self.karras {
            sigmas = Sigmas::karras([sigmas[steps - 1], sigmas[0]], steps);
            timesteps = sigmas.iter().map(|&sigma| self.sigmas.timestep(sigma) as f32).collect();
        }
        let sigmas = self.sigmas.levels(&sigmas);
        // 3. Deviation of the noise that a run begins with: the highest level, or what a signal of deviation 1 adds to it.
        let highest = sigmas.iter().copied().fold(0.0, f64::max);
        let init_noise_sigma = match self.spacing {
            TimestepSpacing::Leading => (highest * highest + 1.0).sqrt(),
            TimestepSpacing::Trailing | TimestepSpacing::Linspace => highest,
        };
        Ok(EulerRun { timesteps, sigmas, init_noise_sigma, prediction: self.prediction, position: 0 })
    }
}

/// One run from noise to latents.
#[derive(Debug)]
pub struct EulerRun {
    timesteps: Vec<f32>,
    sigmas: Vec<f64>,
    init_noise_sigma: f64,
    prediction: Prediction,
    position: usize,
}

impl EulerRun {
    /// The timesteps that the network is called at, in order.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// Standard deviation of the noise that a run begins with.
    pub fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    /// What the network is shown of a sample at the run's next timestep: scaled down to deviation 1.
    pub fn scale_model_input<B: Backend>(&self, sample: Tensor<B, 4>) -> Tensor<B, 4> {
        sample / (self.sigmas[self.position].powi(2) + 1.0).sqrt()
    }

    /// From the network's `output` for `sample`, scaled, at the run's next timestep to the sample at the one after.
    /// Panics after the last timestep.
    pub fn step<B: Backend>(&mut self, output: Tensor<B, 4>, sample: Tensor<B, 4>) -> Tensor<B, 4> {
        let [sigma, next] = [self.sigmas[self.position], self.sigmas[self.position + 1]];
        self.position += 1;
        match self.prediction {
            // 1. The slope dx/dsigma is the noise itself.
            Prediction::Epsilon => sample + output * (next - sigma),
            // 2. Of a velocity, it is (sigma * x + sqrt(sigma^2 + 1) * v) / (sigma^2 + 1).
            Prediction::VPrediction => {
                let square = sigma * sigma + 1.0;
                sample * ((1.0 + sigma * next) / square) + output * ((next - sigma) / square.sqrt())
            }
        }
    }
}
