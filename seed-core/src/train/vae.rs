//! Stage "vae": the autoencoder between pixels and latents (arXiv 2112.10752, section 3.1).
//!
//! Mean absolute error of the pixels and a slight pull of the latents towards a standard normal. Differences from Stable
//! Diffusion's training: no perceptual and no adversarial loss, initial values of `start`. Afterwards `scaling_factor` is set so that latents have
//! the standard deviation 1.

use std::path::Path;

use burn::{
    module::AutodiffModule,
    tensor::{Tensor, TensorData},
};

use crate::{
    diffusion::{Vae, VaeConfig, random::ImageRandom},
    error::Result,
    nn::SeedBackend,
    pixels::{
        self,
        sheet::{Layout, side_by_side},
    },
};

use super::{
    data::{Batch, Data, Sequence},
    parts::Parts,
    plan::Plan,
    run::{Mean, Output, Session, Steps, TrainBackend, VALIDATION_LOSS, optimise, scalar},
    start::initial,
};

/// Weight of the mean squared error of the pixels beside their mean absolute error.
const SQUARES: f64 = 10.0;
/// Weight of the divergence from a standard normal.
const DIVERGENCE: f64 = 3e-5;
/// Images that the latents' standard deviation is measured on.
const MEASURED: usize = 256;
/// Of those, how many are encoded at a time.
const AT_ONCE: usize = 32;
/// Images of the picture that a run leaves of its autoencoder.
const SHOWN: usize = 16;

pub(super) fn train<A: TrainBackend>(
    plan: &Plan,
    config: &VaeConfig,
    data: &Data<'_>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<(VaeConfig, Vae<A::InnerBackend>)> {
    let device = &devices[0];
    let parts = Parts::<A>::new(plan, devices);
    let step = |vae: &Vae<A>, step: usize| {
        let batch = data.batch(Sequence::Pixels, step * plan.batch, plan.batch)?;
        parts.learn(vae, |vae: &Vae<A>, part, device| {
            let first = (step * plan.batch + part.start) as u64;
            let images = batch.part(part).signed_pixels::<A>(device);
            let (mean, log_variance) = vae.encode(images.clone());
            let noise = normals(data.seed, first, mean.dims(), device);
            let latents = mean.clone() + (log_variance.clone() * 0.5).exp() * noise;
            let error = vae.decode(latents) - images;
            let (pixels, squares) = (error.clone().abs().mean(), error.powi_scalar(2).mean());
            let divergence = (mean.powi_scalar(2) + log_variance.clone().exp() - log_variance - 1.0).mean() * 0.5;
            let metrics = vec![
                ("pixels", scalar(pixels.clone())),
                ("squares", scalar(squares.clone())),
                ("divergence", scalar(divergence.clone())),
            ];
            Ok(Output { loss: pixels + squares * SQUARES + divergence * DIVERGENCE, metrics })
        })
    };
    // Without noise: what the decoder makes of the mean.
    let validate = |vae: &Vae<A>| {
        let (vae, mut mean) = (vae.valid(), Mean::default());
        for first in (0..plan.validation).step_by(AT_ONCE) {
            let batch = data.batch(Sequence::HeldOut, first, AT_ONCE.min(plan.validation - first))?;
            let images = batch.signed_pixels::<A::InnerBackend>(device);
            let error = vae.decode(vae.encode(images.clone()).0) - images;
            let (pixels, squares) = (scalar(error.clone().abs().mean()), scalar(error.powi_scalar(2).mean()));
            mean.add(batch.len(), &[(VALIDATION_LOSS, pixels + squares * SQUARES), ("validation_pixels", pixels)]);
        }
        Ok(mean.metrics())
    };
    let keys = |step: usize| Ok(data.batch(Sequence::Pixels, step * plan.batch, plan.batch)?.keys);
    let mut task = Steps { step, after: |vae, _| Ok(vae), validate, keys };
    let vae = optimise("vae", plan, session, initial(config.init::<A>(device)), &mut task)?.valid();
    let sample = data.batch(Sequence::Latents, 0, MEASURED)?;
    let parts = (0..MEASURED).step_by(AT_ONCE).map(|first| sample.part(first..first + AT_ONCE));
    let latents = parts.map(|part| vae.encode(part.signed_pixels(device)).0).collect();
    let deviation = scalar(Tensor::cat(latents, 0).flatten::<1>(0, 3).var(0)).sqrt();
    show(&vae, &sample.part(0..SHOWN), &session.folder.join("vae").join("scenes.png"), device)?;
    Ok((VaeConfig { scaling_factor: 1.0 / deviation, ..config.clone() }, vae))
}

/// Writes images and what the autoencoder alone makes of them, side by side: what no UNet can do better.
fn show<B: SeedBackend>(vae: &Vae<B>, sample: &Batch, path: &Path, device: &B::Device) -> Result<()> {
    let pixels = sample.signed_pixels(device);
    let [count, _, _, side] = pixels.dims();
    let again = vae.decode(vae.encode(pixels).0) / 2.0 + 0.5;
    let size = side as u32;
    let values: Vec<f32> = again.into_data().iter::<f32>().collect();
    let again = values.chunks(values.len() / count).map(|image| pixels::from_unit(image, size, size));
    let pairs: Vec<_> = sample.images(side).into_iter().zip(again).collect();
    pixels::write_png(path, &side_by_side(&pairs, &Layout { cell: 2 * size, columns: 4, ..Layout::default() }))
}

/// Standard normal numbers of `shape`, each image's from a generator of its own, so that they do not depend on the batch's
/// parts; `first` is the number of the first image.
pub(super) fn normals<B: SeedBackend, const D: usize>(
    seed: u64,
    first: u64,
    shape: [usize; D],
    device: &B::Device,
) -> Tensor<B, D> {
    let count = shape[1..].iter().product();
    let images = first..first + shape[0] as u64;
    let values = images.flat_map(|image| ImageRandom::new(seed, image).normals(count)).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}
