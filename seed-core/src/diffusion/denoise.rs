//! The denoising loop: noise -> latents, by the UNet and the sampler under classifier-free guidance.
//!
//! Source: diffusers 0.20.2, the loops of its Stable Diffusion pipelines; Ho and Salimans, "Classifier-Free Diffusion
//! Guidance" (arXiv 2207.12598).

use std::ops::ControlFlow;

use burn::tensor::{Tensor, backend::Backend};

use super::sampler::Sampler;
use super::unet::UNet;
use crate::error::{Error, Result};
use crate::nn::SeedBackend;

/// What the UNet is told besides latents and time.
#[derive(Clone, Debug)]
pub struct Condition<B: Backend> {
    /// Context of the cross-attention `[batch, words, width]`.
    pub context: Tensor<B, 3>,
    /// Class vectors `[batch, dim]`, for a network that has them.
    pub class_labels: Option<Tensor<B, 2>>,
}

/// The condition to move away from, and how far.
#[derive(Clone, Debug)]
pub struct Guidance<B: Backend> {
    /// The unconditional or negative condition, for the same number of images.
    pub away_from: Condition<B>,
    /// `prediction = away + scale * (wanted - away)`.
    pub scale: f64,
}

/// A finished step, as an observer sees it.
#[derive(Debug)]
pub struct Step<'a, B: Backend> {
    /// Number of finished network calls, from 1.
    pub finished: usize,
    /// Number of network calls in all.
    pub total: usize,
    /// The timestep that the network was called at.
    pub timestep: f32,
    /// The latents after the step, `[batch, 4, height, width]`.
    pub latents: &'a Tensor<B, 4>,
}

/// Called after each step; [`ControlFlow::Break`] ends the run.
pub type Observer<'a, B> = &'a mut dyn FnMut(Step<'_, B>) -> ControlFlow<()>;

/// Turns standard normal `latents` `[batch, 4, height, width]` into latents of images.
///
/// Without guidance the network is called once a step for `batch` images, with guidance for twice as many, those to move
/// away from first.
///
/// # Errors
/// [`Error::Argument`] for an impossible number of steps, [`Error::Interrupted`] when the observer says so.
pub fn denoise<B: SeedBackend>(
    unet: &UNet<B>,
    sampler: &Sampler,
    wanted: Condition<B>,
    guidance: Option<Guidance<B>>,
    mut latents: Tensor<B, 4>,
    steps: usize,
    observe: Observer<'_, B>,
) -> Result<Tensor<B, 4>> {
    let [batch, _, _, _] = latents.dims();
    let (both, scale) = match guidance {
        Some(Guidance { away_from, scale }) => (stack(away_from, wanted), Some(scale)),
        None => (wanted, None),
    };
    let mut run = sampler.run(steps)?;
    let timesteps = run.timesteps();
    latents = latents * run.init_noise_sigma();
    for (step, &timestep) in timesteps.iter().enumerate() {
        let input = run.scale_model_input(latents.clone());
        let input = match scale {
            Some(_) => Tensor::cat(vec![input.clone(), input], 0),
            None => input,
        };
        let images = vec![timestep; input.dims()[0]];
        let mut output = unet.forward(input, &images, both.context.clone(), both.class_labels.clone());
        if let Some(scale) = scale {
            let (away, wanted) = (output.clone().narrow(0, 0, batch), output.narrow(0, batch, batch));
            output = away.clone() + (wanted - away) * scale;
        }
        latents = run.step(output, latents);
        let finished = Step { finished: step + 1, total: timesteps.len(), timestep, latents: &latents };
        if observe(finished).is_break() {
            return Err(Error::Interrupted);
        }
    }
    Ok(latents)
}

/// Two conditions as one batch.
fn stack<B: Backend>(first: Condition<B>, second: Condition<B>) -> Condition<B> {
    let class_labels = first.class_labels.zip(second.class_labels);
    Condition {
        context: Tensor::cat(vec![first.context, second.context], 0),
        class_labels: class_labels.map(|(first, second)| Tensor::cat(vec![first, second], 0)),
    }
}
