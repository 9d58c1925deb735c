//! The sampler DPM-Solver++, multi-step of second or first order: one network call a step.
//!
//! Source: Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models" (arXiv
//! 2211.01095), Algorithm 2, as `DPMSolverMultistepScheduler.step` of diffusers 0.35.2 does it with `algorithm_type`
//! dpmsolver++. Differs: no noise of its own (sde), no third order, no thresholding; steps are counted, not looked up by
//! timestep; coefficients are made in double precision; numbers of steps at which a timestep would repeat are refused.
//! 0.20.2 differs: its last step leads to timestep 0, which here is `final_sigmas_type` sigma_min and not the default,
//! and with Karras' levels it only moves the timesteps.
//!
//! | name | symbol |
//! |---|---|
//! | `signal`, `noise` | `alpha`, `sigma` of the paper: `1 / sqrt(level^2 + 1)` and `level` times that |
//! | `level` | noise for a signal that is not scaled down; `lambda = -ln(level)` |
//! | `h` | difference of lambda from this timestep to the next; `h_before` from the last one to this |
//! | `clean` | `x_theta`, the signal that the prediction means; `before` the one of the step before |

use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::sampler::{Prediction, SamplerConfig};
use super::schedule::BetaSchedule;
use super::sigmas::{FinalSigma, Sigmas};
use super::spacing::{TimestepSpacing, check_first, check_steps};
use crate::error::Result;

/// Runs of fewer steps than this end with a step of first order if `lower_order_final` is true.
const SHORT_RUN: usize = 15;

/// How the second order weighs the change of the predicted signal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverType {
    /// As at the middle of the step.
    #[default]
    Midpoint,
    /// As its exact integral over the step.
    Heun,
}

/// The sampler with its tables.
#[derive(Clone, Debug)]
pub struct DpmSolver {
    sigmas: Sigmas,
    spacing: TimestepSpacing,
    offset: usize,
    karras: bool,
    whole_karras_timesteps: bool,
    solver: Solver,
}

/// What the steps of a run have in common.
#[derive(Clone, Copy, Debug)]
struct Solver {
    prediction: Prediction,
    second_order: bool,
    kind: SolverType,
    lower_order_final: bool,
    always_first_order_final: bool,
}

impl DpmSolver {
    /// Tabulates the schedule. Spacing is linear, `use_karras_sigmas` false, `final_sigmas_type` zero, `solver_order` 2,
    /// `solver_type` midpoint, `lower_order_final` true and `euler_at_final` false unless the configuration says
    /// otherwise.
    pub fn new(config: &SamplerConfig) -> Self {
        let to_zero = config.final_sigmas_type.unwrap_or_default() == FinalSigma::Zero;
        Self {
            sigmas: Sigmas::new(config),
            spacing: config.timestep_spacing.unwrap_or(TimestepSpacing::Linspace),
            offset: config.steps_offset,
            karras: config.use_karras_sigmas.unwrap_or(false),
            whole_karras_timesteps: config.noise.beta_schedule != BetaSchedule::SquaredCosine,
            solver: Solver {
                prediction: config.prediction_type,
                second_order: config.solver_order != Some(1),
                kind: config.solver_type.unwrap_or_default(),
                lower_order_final: config.lower_order_final.unwrap_or(true),
                always_first_order_final: config.euler_at_final.unwrap_or(false) || to_zero,
            },
        }
    }

    /// Begins a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for an impossible number.
    pub fn run<B: Backend>(&self, steps: usize) -> Result<DpmSolverRun<B>> {
        let (timesteps, sigmas): (Vec<f64>, Vec<f64>) = match self.karras {
            true => self.karras(steps)?,
            false => self.timesteps(steps)?.into_iter().map(|t| (t, self.sigmas.at(t))).unzip(),
        };
        let timesteps = timesteps.into_iter().map(|t| t as f32).collect();
        let levels = self.sigmas.levels(&sigmas);
        Ok(DpmSolverRun { solver: self.solver, timesteps, levels, position: 0, before: None })
    }

    /// Leading and linear spacing leave out the last of `steps + 1` timesteps, which the last step leads to.
    fn timesteps(&self, steps: usize) -> Result<Vec<f64>> {
        let count = self.sigmas.count();
        if self.spacing == TimestepSpacing::Trailing {
            return self.spacing.timesteps(count, steps, 0);
        }
        check_steps(steps, count - 1)?;
        let mut timesteps = self.spacing.timesteps(count, steps + 1, 0)?;
        timesteps.truncate(steps);
        let offset = match self.spacing {
            TimestepSpacing::Leading => self.offset,
            _ => 0,
        };
        check_first(steps, (timesteps[0] as usize).saturating_add(offset), count)?;
        Ok(timesteps.into_iter().map(|t| t.round_ties_even() + offset as f64).collect())
    }

    /// Levels between those of training's first and last timestep, and whole timesteps near them.
    fn karras(&self, steps: usize) -> Result<(Vec<f64>, Vec<f64>)> {
        check_steps(steps, self.sigmas.count())?;
        let sigmas = Sigmas::karras(self.sigmas.ends(), steps);
        let whole = |sigma: &f64| match (self.sigmas.timestep(*sigma), self.whole_karras_timesteps) {
            (timestep, true) => timestep.round_ties_even(),
            (timestep, false) => timestep.trunc(),
        };
        Ok((sigmas.iter().map(whole).collect(), sigmas))
    }
}

/// One run from noise to latents.
#[derive(Debug)]
pub struct DpmSolverRun<B: Backend> {
    solver: Solver,
    timesteps: Vec<f32>,
    levels: Vec<f64>,
    position: usize,
    before: Option<Tensor<B, 4>>,
}

impl<B: Backend> DpmSolverRun<B> {
    /// The timesteps that the network is called at, in order.
    pub fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    /// From the network's `output` for `sample` at the run's next timestep to the sample at the one after. Panics after
    /// the last timestep.
    pub fn step(&mut self, output: Tensor<B, 4>, sample: Tensor<B, 4>) -> Tensor<B, 4> {
        let (solver, here, steps) = (self.solver, self.position, self.timesteps.len());
        self.position += 1;
        let [level, next] = [self.levels[here], self.levels[here + 1]];

        // 1. The signal that the prediction means.
        let [signal, noise] = signal_and_noise(level);
        let clean = match solver.prediction {
            Prediction::Epsilon => sample.clone() / signal - output * (noise / signal),
            Prediction::VPrediction => sample.clone() * signal - output * noise,
        };
        let before = self.before.replace(clean.clone());

        // 2. First order: the signal stays as it is over the step.
        let [next_signal, next_noise] = signal_and_noise(next);
        let h = level.ln() - next.ln();
        let change = -next_signal * (-h).exp_m1();
        let moved = sample * (next_noise / noise) + clean.clone() * change;

        // 3. Second order: it goes on changing as it did over the last step.
        let short = solver.lower_order_final && steps < SHORT_RUN;
        let last = here + 1 == steps && (solver.always_first_order_final || short);
        match before {
            Some(before) if solver.second_order && !last => {
                let h_before = self.levels[here - 1].ln() - level.ln();
                let weight = match solver.kind {
                    SolverType::Midpoint => 0.5 * change,
                    SolverType::Heun => next_signal * ((-h).exp_m1() / h + 1.0),
                };
                moved + (clean - before) * (weight * h / h_before)
            }
            _ => moved,
        }
    }
}

/// Shares of signal and noise at a level, whose squares add up to 1.
fn signal_and_noise(level: f64) -> [f64; 2] {
    let signal = 1.0 / (level * level + 1.0).sqrt();
    [signal, level * signal]
}
