//! Noise schedules: how much of the signal is left at each training timestep.
//!
//! Source: diffusers 0.20.2, the constructors of its schedulers and `add_noise`. Numbers are made as there: betas and
//! their complements in float32, the running product in double precision rounded to float32 at each step (as PyTorch's
//! `cumprod` does on a CPU), the cosine schedule in double precision.
//!
//! | name | symbol |
//! |---|---|
//! | `alpha_bar(t)` | product of `1 - beta(s)` for `s` in `0..=t` |

use burn::tensor::{Tensor, TensorData, backend::Backend};
use serde::{Deserialize, Serialize};

/// How betas depend on the timestep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly spaced.
    #[default]
    Linear,
    /// Evenly spaced square roots.
    ScaledLinear,
    /// `alpha_bar(t) = cos^2((t + 0.008) / 1.008 * pi / 2)`, betas capped at 0.999.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredCosine,
}

/// A noise schedule, named as in diffusers' `scheduler_config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct NoiseScheduleConfig {
    /// Number of timesteps in training.
    #[serde(default = "default_timesteps")]
    pub num_train_timesteps: usize,
    /// First beta; the cosine schedule has no use for it.
    #[serde(default = "default_beta_start")]
    pub beta_start: f64,
    /// Last beta; the cosine schedule has no use for it.
    #[serde(default = "default_beta_end")]
    pub beta_end: f64,
    /// How betas depend on the timestep.
    #[serde(default)]
    pub beta_schedule: BetaSchedule,
}

fn default_timesteps() -> usize {
    1000
}

fn default_beta_start() -> f64 {
    1e-4
}

fn default_beta_end() -> f64 {
    0.02
}

impl NoiseScheduleConfig {
    /// Latents of Stable Diffusion 1 and 2.
    pub fn stable_diffusion() -> Self {
        let beta_schedule = BetaSchedule::ScaledLinear;
        Self { num_train_timesteps: 1000, beta_start: 0.00085, beta_end: 0.012, beta_schedule }
    }

    /// Image embeddings of unCLIP.
    pub fn unclip_embedding() -> Self {
        let beta_schedule = BetaSchedule::SquaredCosine;
        Self { num_train_timesteps: 1000, beta_start: 1e-4, beta_end: 0.02, beta_schedule }
    }

    /// What makes the schedule impossible, in words.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        if self.num_train_timesteps == 0 {
            return Err("num_train_timesteps must not be 0".into());
        }
        for (name, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(format!("{name} = {beta} is not between 0 and 1"));
            }
        }
        Ok(())
    }

    fn betas(&self) -> Vec<f32> {
        let (count, start, end) = (self.num_train_timesteps, self.beta_start, self.beta_end);
        match self.beta_schedule {
            BetaSchedule::Linear => linspace(start as f32, end as f32, count),
            BetaSchedule::ScaledLinear => {
                linspace(start.sqrt() as f32, end.sqrt() as f32, count).into_iter().map(|root| root * root).collect()
            }
            BetaSchedule::SquaredCosine => {
                let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                let beta = |i: usize| {
                    let (from, to) = (i as f64 / count as f64, (i + 1) as f64 / count as f64);
                    (1.0 - alpha_bar(to) / alpha_bar(from)).min(0.999) as f32
                };
                (0..count).map(beta).collect()
            }
        }
    }
}

/// `count` evenly spaced values, counted from the nearer end as PyTorch does.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    let step = (end - start) / (count.max(2) - 1) as f32;
    let value =
        |i: usize| if i < count.div_ceil(2) { start + step * i as f32 } else { end - step * (count - 1 - i) as f32 };
    (0..count).map(value).collect()
}

/// The signal that is left at each timestep.
#[derive(Clone, Debug)]
pub struct NoiseSchedule {
    alpha_bars: Vec<f32>,
}

impl NoiseSchedule {
    /// Tabulates a schedule.
    pub fn new(config: &NoiseScheduleConfig) -> Self {
        Self::of(config.betas())
    }

    /// Tabulates a schedule moved and stretched so that nothing of the signal is left at the last timestep and the first
    /// stays as it is: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed" (arXiv 2305.08891),
    /// Algorithm 1.
    pub fn zero_terminal_signal(config: &NoiseScheduleConfig) -> Self {
        let roots: Vec<f32> = Self::new(config).alpha_bars.into_iter().map(f32::sqrt).collect();
        let (first, last) = (roots[0], roots[roots.len() - 1]);
        let stretch = first / (first - last);
        let alpha_bars: Vec<f32> = roots.into_iter().map(|root| ((root - last) * stretch).powi(2)).collect();
        let before = std::iter::once(&1.0).chain(&alpha_bars);
        Self::of(alpha_bars.iter().zip(before).map(|(alpha_bar, before)| 1.0 - alpha_bar / before).collect())
    }

    fn of(betas: Vec<f32>) -> Self {
        let product = |product: &mut f64, beta: f32| {
            *product *= f64::from(1.0 - beta);
            Some(*product as f32)
        };
        Self { alpha_bars: betas.into_iter().scan(1.0, product).collect() }
    }

    /// Number of timesteps in training.
    pub fn timesteps(&self) -> usize {
        self.alpha_bars.len()
    }

    /// Share of the signal's variance at a timestep. Panics beyond the last.
    pub fn alpha_bar(&self, timestep: usize) -> f32 {
        self.alpha_bars[timestep]
    }

    /// As [`alpha_bar`](Self::alpha_bar); where the last step of a sampler leads to, before the first timestep, it is 1 or else
    /// that of timestep 0.
    pub fn alpha_bar_or_end(&self, timestep: Option<usize>, one_at_the_end: bool) -> f32 {
        match timestep {
            None if one_at_the_end => 1.0,
            timestep => self.alpha_bar(timestep.unwrap_or(0)),
        }
    }

    /// `sqrt(alpha_bar) * x + sqrt(1 - alpha_bar) * noise`, with one timestep an image; the first axis is images.
    pub fn add_noise<B: Backend, const D: usize>(
        &self,
        x: Tensor<B, D>,
        noise: Tensor<B, D>,
        timesteps: &[usize],
    ) -> Tensor<B, D> {
        let [signal, sigma] = self.roots(timesteps, &x.device());
        x * signal + noise * sigma
    }

    /// What a network with v-prediction learns: `sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * x`.
    pub fn velocity<B: Backend, const D: usize>(
        &self,
        x: Tensor<B, D>,
        noise: Tensor<B, D>,
        timesteps: &[usize],
    ) -> Tensor<B, D> {
        let [signal, sigma] = self.roots(timesteps, &x.device());
        noise * signal - x * sigma
    }

    /// `sqrt(alpha_bar)` and `sqrt(1 - alpha_bar)`, `[batch, 1, ..]`.
    fn roots<B: Backend, const D: usize>(&self, timesteps: &[usize], device: &B::Device) -> [Tensor<B, D>; 2] {
        let mut shape = [1; D];
        shape[0] = timesteps.len();
        let tensor = |value: fn(f32) -> f32| {
            let values: Vec<f32> = timesteps.iter().map(|&t| value(self.alpha_bar(t)).sqrt()).collect();
            Tensor::from_data(TensorData::new(values, shape), device)
        };
        [tensor(|alpha_bar| alpha_bar), tensor(|alpha_bar| 1.0 - alpha_bar)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published and derived values are given to six digits.
    const SIX_DIGITS: f64 = 2e-6;

    fn close(found: f32, expected: f64) {
        assert!((f64::from(found) - expected).abs() <= SIX_DIGITS, "{found} is not {expected}");
    }

    #[test]
    fn scaled_linear_ends() {
        let schedule = NoiseSchedule::new(&NoiseScheduleConfig::stable_diffusion());
        assert_eq!(schedule.timesteps(), 1000);
        close(schedule.alpha_bar(0), 1.0 - 0.00085);
        let (first, last) = (0.00085f64.sqrt(), 0.012f64.sqrt());
        let exact: f64 = (0..1000).map(|i| 1.0 - (first + (last - first) * i as f64 / 999.0).powi(2)).product();
        close(schedule.alpha_bar(999), exact);
    }

    #[test]
    fn cosine_level_zero_is_small_and_not_zero() {
        let schedule = NoiseSchedule::new(&NoiseScheduleConfig::unclip_embedding());
        close(schedule.alpha_bar(0).sqrt(), 0.999979);
        close((1.0 - schedule.alpha_bar(0)).sqrt(), 0.006425);
        assert!(schedule.alpha_bar(999) > 0.0);
    }

    #[test]
    fn zero_terminal_signal_keeps_the_first_timestep_only() {
        let config = NoiseScheduleConfig::stable_diffusion();
        let (plain, rescaled) = (NoiseSchedule::new(&config), NoiseSchedule::zero_terminal_signal(&config));
        close(rescaled.alpha_bar(0), f64::from(plain.alpha_bar(0)));
        assert_eq!(rescaled.alpha_bar(999), 0.0);
        assert!((1..999).all(|t| rescaled.alpha_bar(t) < plain.alpha_bar(t) && rescaled.alpha_bar(t) > 0.0));
    }

    #[test]
    fn betas_rise_from_end_to_end() {
        for kind in [BetaSchedule::Linear, BetaSchedule::ScaledLinear, BetaSchedule::SquaredCosine] {
            let config = NoiseScheduleConfig { beta_schedule: kind, ..NoiseScheduleConfig::stable_diffusion() };
            let betas = config.betas();
            assert_eq!(betas.len(), 1000);
            assert!(betas.is_sorted(), "{kind:?}");
            if kind != BetaSchedule::SquaredCosine {
                close(betas[0], 0.00085);
                close(betas[999], 0.012);
            }
        }
    }
}
