//! Samplers by name: which one, with which settings, and one face for all of them.
//!
//! Source: diffusers 0.35.2, `scheduler_config.json` and `ConfigMixin.from_config`. A file may hold settings of other
//! schedulers than its own; they have no effect until another one is asked for by name, which then takes over whatever
//! the file says, and its own defaults for the rest. Differs, for a scheduler that the file is not of: DDIM clips only
//! when the file says `clip_sample`, because latents are not between -1 and 1, and PNDM leaves out its Runge-Kutta steps
//! without being told to.
//!
//! A run is, for `latents` of deviation 1:
//!
//! 1. `latents * init_noise_sigma`.
//! 2. For each of `timesteps`: the network's output for `scale_model_input(latents)`, then `step(output, latents)`.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::ddim::{Ddim, DdimRun};
use super::dpm_solver::{DpmSolver, DpmSolverRun, SolverType};
use super::euler::{Euler, EulerRun};
use super::pndm::{Pndm, PndmRun};
use super::schedule::{NoiseSchedule, NoiseScheduleConfig};
use super::sigmas::FinalSigma;
use super::spacing::TimestepSpacing;
use crate::error::{Error, Result};

/// What a network predicts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    #[default]
    Epsilon,
    /// The velocity, `sqrt(alpha_bar) * noise - sqrt(1 - alpha_bar) * x`.
    VPrediction,
}

/// The samplers, which JSON calls by diffusers' classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SchedulerName {
    /// Linear multi-step.
    #[serde(rename = "PNDMScheduler")]
    Pndm,
    /// DDIM without noise of its own.
    #[serde(rename = "DDIMScheduler")]
    Ddim,
    /// Euler's method.
    #[serde(rename = "EulerDiscreteScheduler")]
    Euler,
    /// DPM-Solver++, multi-step of second order.
    #[serde(rename = "DPMSolverMultistepScheduler")]
    DpmSolver,
}

impl SchedulerName {
    /// Every sampler.
    pub const ALL: [Self; 4] = [Self::Pndm, Self::Ddim, Self::Euler, Self::DpmSolver];

    /// The name that a caller gives.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pndm => "pndm",
            Self::Ddim => "ddim",
            Self::Euler => "euler",
            Self::DpmSolver => "dpm++2m",
        }
    }

    /// The name of diffusers' class.
    pub fn class(self) -> &'static str {
        match self {
            Self::Pndm => "PNDMScheduler",
            Self::Ddim => "DDIMScheduler",
            Self::Euler => "EulerDiscreteScheduler",
            Self::DpmSolver => "DPMSolverMultistepScheduler",
        }
    }
}

impl fmt::Display for SchedulerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for SchedulerName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|scheduler| scheduler.name() == text).ok_or_else(|| Error::Argument {
            name: "scheduler",
            value: text.to_owned(),
            reason: format!("expected one of {}", Self::ALL.map(Self::name).join(", ")),
        })
    }
}

/// Settings of a sampler, named as in diffusers' `scheduler_config.json`. What is `None` the file does not say; each
/// sampler's `new` names its own default.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplerConfig {
    /// Which sampler.
    #[serde(rename = "_class_name")]
    pub scheduler: SchedulerName,
    /// The noise schedule of training.
    #[serde(flatten)]
    pub noise: NoiseScheduleConfig,
    /// What the network predicts.
    #[serde(default)]
    pub prediction_type: Prediction,
    /// Added to every timestep of leading spacing.
    #[serde(default)]
    pub steps_offset: usize,
    /// How timesteps are spread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<TimestepSpacing>,
    /// PNDM, DDIM: whether the last step leads to the clean signal rather than to timestep 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_alpha_to_one: Option<bool>,
    /// PNDM: whether the Runge-Kutta steps at the start are left out. Only `true` is written here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skip_prk_steps: Option<bool>,
    /// DDIM: whether the predicted signal is clipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample: Option<bool>,
    /// DDIM: largest magnitude of a clipped signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample_range: Option<f64>,
    /// DDIM, Euler, DPM-Solver++: whether nothing of the signal is left at the last timestep.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rescale_betas_zero_snr: Option<bool>,
    /// Euler, DPM-Solver++: whether noise levels are spaced as Karras et al. do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_karras_sigmas: Option<bool>,
    /// Euler, DPM-Solver++: the noise level that the last step leads to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_sigmas_type: Option<FinalSigma>,
    /// DPM-Solver++: the order, 1 or 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver_order: Option<usize>,
    /// DPM-Solver++: how the second order weighs the change of the signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub solver_type: Option<SolverType>,
    /// DPM-Solver++: whether runs of fewer than 15 steps end with a step of first order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_order_final: Option<bool>,
    /// DPM-Solver++: whether every run does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub euler_at_final: Option<bool>,
}

impl SamplerConfig {
    /// A scheduler of which nothing else is said.
    pub fn new(scheduler: SchedulerName, noise: NoiseScheduleConfig, prediction_type: Prediction) -> Self {
        Self {
            scheduler,
            noise,
            prediction_type,
            steps_offset: 0,
            timestep_spacing: None,
            set_alpha_to_one: None,
            skip_prk_steps: None,
            clip_sample: None,
            clip_sample_range: None,
            rescale_betas_zero_snr: None,
            use_karras_sigmas: None,
            final_sigmas_type: None,
            solver_order: None,
            solver_type: None,
            lower_order_final: None,
            euler_at_final: None,
        }
    }

    /// Stable Diffusion's own settings, for a network that predicts `prediction_type`.
    pub fn stable_diffusion(prediction_type: Prediction) -> Self {
        Self {
            steps_offset: 1,
            set_alpha_to_one: Some(false),
            skip_prk_steps: Some(true),
            ..Self::new(SchedulerName::Pndm, NoiseScheduleConfig::stable_diffusion(), prediction_type)
        }
    }

    /// The same settings for another scheduler.
    pub fn with_scheduler(self, scheduler: SchedulerName) -> Self {
        if scheduler == self.scheduler {
            return self;
        }
        Self { scheduler, skip_prk_steps: Some(true), clip_sample: Some(self.clip_sample.unwrap_or(false)), ..self }
    }

    /// What makes the settings impossible, in words.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        self.noise.check()?;
        if self.noise.num_train_timesteps < 2 {
            return Err("num_train_timesteps must be at least 2".into());
        }
        let class = self.scheduler.class();
        match self.scheduler {
            SchedulerName::Pndm if self.skip_prk_steps != Some(true) => {
                Err("skip_prk_steps must be there and true: Runge-Kutta steps are not supported".into())
            }
            SchedulerName::Pndm if self.rescales() => {
                Err(format!("rescale_betas_zero_snr = true is not supported by {class}"))
            }
            SchedulerName::Ddim if self.rescales() && self.prediction_type == Prediction::Epsilon => Err(format!(
                "rescale_betas_zero_snr = true needs prediction_type = \"v_prediction\" in {class}: \
                             noise alone says nothing of the signal"
            )),
            SchedulerName::Ddim => match self.clip_sample_range {
                Some(range) if !(range > 0.0 && range.is_finite()) => {
                    Err(format!("clip_sample_range = {range} is not a positive number"))
                }
                _ => Ok(()),
            },
            SchedulerName::DpmSolver => match self.solver_order {
                Some(order) if !(1..=2).contains(&order) => {
                    Err(format!("solver_order = {order} is not supported, only 1 or 2"))
                }
                _ => Ok(()),
            },
            SchedulerName::Pndm | SchedulerName::Euler => Ok(()),
        }
    }

    pub(super) fn rescales(&self) -> bool {
        self.rescale_betas_zero_snr == Some(true)
    }

    pub(super) fn schedule(&self) -> NoiseSchedule {
        match self.rescales() {
            true => NoiseSchedule::zero_terminal_signal(&self.noise),
            false => NoiseSchedule::new(&self.noise),
        }
    }
}

/// A sampler with its tables.
#[derive(Clone, Debug)]
pub struct Sampler {
    config: SamplerConfig,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Pndm(Pndm),
    Ddim(Ddim),
    Euler(Euler),
    DpmSolver(DpmSolver),
}

impl Sampler {
    /// Tabulates a sampler whose settings have passed [`SamplerConfig::check`].
    pub fn new(config: &SamplerConfig) -> Self {
        let kind = match config.scheduler {
            SchedulerName::Pndm => Kind::Pndm(Pndm::new(config)),
            SchedulerName::Ddim => Kind::Ddim(Ddim::new(config)),
            SchedulerName::Euler => Kind::Euler(Euler::new(config)),
            SchedulerName::DpmSolver => Kind::DpmSolver(DpmSolver::new(config)),
        };
        Self { config: *config, kind }
    }

    /// The settings that it was made from.
    pub fn config(&self) -> &SamplerConfig {
        &self.config
    }

    /// Another scheduler with these settings.
    ///
    /// # Errors
    /// [`Error::Argument`] when they are impossible for it.
    pub fn with_scheduler(&self, scheduler: SchedulerName) -> Result<Self> {
        let config = self.config.with_scheduler(scheduler);
        config.check().map_err(|reason| {
            let value = scheduler.to_string();
            Error::Argument { name: "scheduler", value, reason: format!("by the decoder's settings, {reason}") }
        })?;
        Ok(Self::new(&config))
    }

    /// Begins a run of `steps` steps.
    ///
    /// # Errors
    /// [`Error::Argument`] for 0 steps, and for more than the sampler can spread over training's timesteps.
    pub fn run<B: Backend>(&self, steps: usize) -> Result<SamplerRun<'_, B>> {
        Ok(SamplerRun(match &self.kind {
            Kind::Pndm(sampler) => Run::Pndm(sampler.run(steps)?),
            Kind::Ddim(sampler) => Run::Ddim(sampler.run(steps)?),
            Kind::Euler(sampler) => Run::Euler(sampler.run(steps)?),
            Kind::DpmSolver(sampler) => Run::DpmSolver(sampler.run(steps)?),
        }))
    }
}

/// One run from noise to latents.
#[derive(Debug)]
pub struct SamplerRun<'a, B: Backend>(Run<'a, B>);

#[derive(Debug)]
enum Run<'a, B: Backend> {
    Pndm(PndmRun<'a, B>),
    Ddim(DdimRun<'a>),
    Euler(EulerRun),
    DpmSolver(DpmSolverRun<B>),
}

impl<B: Backend> SamplerRun<'_, B> {
    /// The timesteps that the network is called at, in order; PNDM calls it once more than there are steps, and only
    /// Euler has fractions.
    pub fn timesteps(&self) -> Vec<f32> {
        let floats = |timesteps: &[usize]| timesteps.iter().map(|&timestep| timestep as f32).collect();
        match &self.0 {
            Run::Pndm(run) => floats(run.timesteps()),
            Run::Ddim(run) => floats(run.timesteps()),
            Run::Euler(run) => run.timesteps().to_vec(),
            Run::DpmSolver(run) => run.timesteps().to_vec(),
        }
    }

    /// Standard deviation of the noise that the run begins with.
    pub fn init_noise_sigma(&self) -> f64 {
        match &self.0 {
            Run::Euler(run) => run.init_noise_sigma(),
            Run::Pndm(_) | Run::Ddim(_) | Run::DpmSolver(_) => 1.0,
        }
    }

    /// What the network is shown of `sample` `[batch, channels, height, width]` at the run's next timestep.
    pub fn scale_model_input(&self, sample: Tensor<B, 4>) -> Tensor<B, 4> {
        match &self.0 {
            Run::Euler(run) => run.scale_model_input(sample),
            Run::Pndm(_) | Run::Ddim(_) | Run::DpmSolver(_) => sample,
        }
    }

    /// From the network's `output` for `sample`, both `[batch, channels, height, width]`, at the run's next timestep to
    /// the sample at the one after. Panics after the last timestep.
    pub fn step(&mut self, output: Tensor<B, 4>, sample: Tensor<B, 4>) -> Tensor<B, 4> {
        match &mut self.0 {
            Run::Pndm(run) => run.step(output, sample),
            Run::Ddim(run) => run.step(output, sample),
            Run::Euler(run) => run.step(output, sample),
            Run::DpmSolver(run) => run.step(output, sample),
        }
    }
}
