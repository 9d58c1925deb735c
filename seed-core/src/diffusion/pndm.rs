//! The sampler: linear multi-step (PLMS), from noise to latents in few steps.
//!
//! Source: Liu et al., "Pseudo Numerical Methods for Diffusion Models on Manifolds" (arXiv 2202.09778), as
//! `PNDMScheduler.step_plms` of diffusers 0.20.2 does it, with `skip_prk_steps`. `N` steps make `N + 1` network calls,
//! because the second timestep is visited twice (one step makes one call). Steps lead `T / N` timesteps down, whatever the
//! spacing. Coefficients are float32.
//!
//! | name | symbol |
//! |---|---|
//! | `alpha_bar` | signal left at the timestep that the network saw |
//! | `previous` | signal left at the timestep that the step leads to |
//! | `outputs` | `e`, the network's last predictions, newest last |

use burn::tensor::{Tensor, backend::Backend};

use super::sampler::{Prediction, SamplerConfig};
use super::schedule::NoiseSchedule;
use super::spacing::TimestepSpacing;
use crate::error::Result;

/// The sampler with its tables.
#[derive(Clone, Debug)]
pub struct Pndm {
    schedule: NoiseSchedule,
    spacing: TimestepSpacing,
    offset: usize,
    prediction: Prediction,
    set_alpha_to_one: bool,
}

impl Pndm {
    /// Tabulates the schedule. Spacing is leading and `set_alpha_to_one` false unless the configuration says otherwise.
    pub fn new(config: &SamplerConfig) -> Self {
        Self {
            schedule: config.schedule(),
            spacing: config.timestep_spacing.unwrap_or(TimestepSpacing::Leading),
            offset: config.steps_offset,
            prediction: config.prediction_type,
            set_alpha_to_one: config.set_alpha_to_one.unwrap_or(false),
        }
    }

    /// The timesteps that the network is called at, in order.
    fn timesteps(&self, steps: usize) -> Result<Vec<usize>> {
        let timesteps = self.spacing.timesteps(self.schedule.timesteps(), steps, self.offset)?;
        let mut timesteps: Vec<usize> = timesteps.into_iter().map(|t| t.round_ties_even() as usize).collect();
        if let Some(&second) = timesteps.get(1) {
            timesteps.insert(1, second);
        }
        Ok(timesteps)
    }

    /// Begins a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for an impossible number.
    pub fn run<B: Backend>(&self, steps: usize) -> Result<PndmRun<'_, B>> {
        let timesteps = self.timesteps(steps)?;
        let stride = self.schedule.timesteps() / steps;
        Ok(PndmRun { sampler: self, timesteps, stride, position: 0, outputs: Vec::new(), first_sample: None })
    }
}

/// One run from noise to latents.
#[derive(Debug)]
pub struct PndmRun<'a, B: Backend> {
    sampler: &'a Pndm,
    timesteps: Vec<usize>,
    stride: usize,
    position: usize,
    outputs: Vec<Tensor<B, 4>>,
    first_sample: Option<Tensor<B, 4>>,
}

impl<B: Backend> PndmRun<'_, B> {
    /// The timesteps that the network is called at, in order.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// From the network's `output` for `sample`, both `[batch, channels, height, width]`, at the run's next timestep to
    /// the sample at the one after. Panics after the last timestep.
    pub fn step(&mut self, output: Tensor<B, 4>, sample: Tensor<B, 4>) -> Tensor<B, 4> {
        let here = self.timesteps[self.position];
        let repeated = self.position == 1;
        self.position += 1;

        // 1. The second call repeats the first step, now with the mean of both slopes.
        let (from, to) = match repeated {
            false => (here, here.checked_sub(self.stride)),
            true => (here + self.stride, Some(here)),
        };
        let (output, sample) = match (repeated, self.first_sample.take()) {
            (true, Some(first)) => ((output + self.outputs[0].clone()) / 2.0, first),
            _ => {
                if self.position == 1 {
                    self.first_sample = Some(sample.clone());
                }
                (self.combine(output), sample)
            }
        };

        // 2. Equation 9 of the paper.
        let Pndm { schedule, set_alpha_to_one, .. } = self.sampler;
        let (alpha_bar, previous) = (schedule.alpha_bar(from), schedule.alpha_bar_or_end(to, *set_alpha_to_one));
        let (beta_bar, beta_previous) = (1.0 - alpha_bar, 1.0 - previous);
        let noise = match self.sampler.prediction {
            Prediction::Epsilon => output,
            Prediction::VPrediction => output * alpha_bar.sqrt() + sample.clone() * beta_bar.sqrt(),
        };
        let denominator = alpha_bar * beta_previous.sqrt() + (alpha_bar * beta_bar * previous).sqrt();
        sample * (previous / alpha_bar).sqrt() - noise * (previous - alpha_bar) / denominator
    }

    /// Remembers a prediction and extrapolates from the last four (Adams-Bashforth; fewer at the start).
    fn combine(&mut self, output: Tensor<B, 4>) -> Tensor<B, 4> {
        if self.outputs.len() == 4 {
            self.outputs.remove(0);
        }
        self.outputs.push(output);
        let e = |back: usize| self.outputs[self.outputs.len() - back].clone();
        match self.outputs.len() {
            1 => e(1),
            2 => (e(1) * 3.0 - e(2)) / 2.0,
            3 => (e(1) * 23.0 - e(2) * 16.0 + e(3) * 5.0) / 12.0,
            _ => (e(1) * 55.0 - e(2) * 59.0 + e(3) * 37.0 - e(4) * 9.0) * (1.0 / 24.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn the_second_timestep_repeats() {
        let sampler = Pndm::new(&SamplerConfig::stable_diffusion(Prediction::Epsilon));
        assert_eq!(sampler.timesteps(1).unwrap(), [1]);
        assert_eq!(sampler.timesteps(2).unwrap(), [501, 1, 1]);
        assert_eq!(sampler.timesteps(5).unwrap(), [801, 601, 601, 401, 201, 1]);
        assert_eq!(sampler.timesteps(50).unwrap()[..4], [981, 961, 961, 941]);
        assert_eq!(sampler.timesteps(999).unwrap()[0], 999);
    }

    #[test]
    fn impossible_step_counts_are_refused() {
        let sampler = Pndm::new(&SamplerConfig::stable_diffusion(Prediction::Epsilon));
        for steps in [0, 1000, 1001, usize::MAX] {
            let error = sampler.timesteps(steps).unwrap_err();
            assert!(matches!(error, Error::Argument { name: "steps", .. }), "{error}");
        }
    }

    /// A network that predicts the true noise leads back to the signal at timestep 0 in any number of steps.
    #[test]
    fn the_true_noise_leads_back() {
        /// Products of up to 334 float32 factors near 1.
        const ROUNDING: f32 = 2e-4;
        let device = Default::default();
        let sampler = Pndm::new(&SamplerConfig::stable_diffusion(Prediction::Epsilon));
        let signal = Tensor::<burn_flex::Flex, 4>::full([1, 1, 1, 1], 0.7, &device);
        let noise = Tensor::full([1, 1, 1, 1], -1.3, &device);
        let noised = |timestep| sampler.schedule.add_noise(signal.clone(), noise.clone(), &[timestep]);
        for steps in [1, 2, 3, 7, 50, 333] {
            let mut run = sampler.run(steps).unwrap();
            let mut x = noised(run.timesteps()[0]);
            for _ in 0..run.timesteps().len() {
                x = run.step(noise.clone(), x);
            }
            let (found, expected) = (x.into_scalar(), noised(0).into_scalar());
            assert!((found - expected).abs() < ROUNDING, "{steps} steps: {found} is not {expected}");
        }
    }

    /// The first step has one slope only, so that it does not matter which of the two the network predicts.
    #[test]
    fn velocity_and_noise_say_the_same() {
        const ROUNDING: f32 = 1e-4;
        let device = Default::default();
        let signal = Tensor::<burn_flex::Flex, 4>::full([1, 1, 1, 1], 0.7, &device);
        let noise = Tensor::full([1, 1, 1, 1], -1.3, &device);
        let results = [Prediction::Epsilon, Prediction::VPrediction].map(|prediction| {
            let sampler = Pndm::new(&SamplerConfig::stable_diffusion(prediction));
            let mut run = sampler.run(2).unwrap();
            let timestep = run.timesteps()[0];
            let x = sampler.schedule.add_noise(signal.clone(), noise.clone(), &[timestep]);
            let output = match prediction {
                Prediction::Epsilon => noise.clone(),
                Prediction::VPrediction => sampler.schedule.velocity(signal.clone(), noise.clone(), &[timestep]),
            };
            run.step(output, x).into_scalar()
        });
        assert!((results[0] - results[1]).abs() < ROUNDING, "{results:?}");
    }
}
