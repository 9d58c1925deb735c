//! Stage "decoder": the UNet on latents, told what to draw by a generation embedding (arXiv 2204.06125; v-prediction of
//! arXiv 2202.00512; dropped conditions of arXiv 2207.12598).
//!
//! Latents and embeddings of a pool of images are computed once, the steps draw from the pool. Four of five
//! conditions are what the detokenizer makes of an image's codes, because that is what decoding gives it, the others image
//! embeddings.
//! One in ten is dropped: zeros, as guidance uses.

use burn::{
    module::AutodiffModule,
    tensor::{Int, Tensor, TensorData},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{
    contrast::{Contrast, generation_target},
    diffusion::{
        UNet, UNetConfig, Vae, VaeConfig,
        image_noise::{ImageNoise, ImageNormalizer, NOISE_LEVEL},
        schedule::{NoiseSchedule, NoiseScheduleConfig},
    },
    error::Result,
    tokenizer::SeedNetwork,
};

use super::{
    data::{Data, Sequence},
    objective::squared_error,
    parts::Parts,
    plan::Plan,
    run::{Output, Session, Steps, TrainBackend, optimise},
    vae::normals,
};

/// Share of the conditions that are dropped.
const DROPPED: f64 = 0.1;
/// Share of the conditions that come from codes.
const FROM_CODES: f64 = 0.8;
/// Images that are encoded at a time.
const AT_ONCE: usize = 64;

/// What the stage needs of the ones before.
pub(super) struct Inputs<'a, A: TrainBackend> {
    pub(super) unet: &'a UNetConfig,
    pub(super) vae_config: &'a VaeConfig,
    pub(super) vae: &'a Vae<A::InnerBackend>,
    pub(super) network: &'a SeedNetwork<A::InnerBackend>,
    pub(super) contrast: &'a Contrast<A::InnerBackend>,
    pub(super) pool: usize,
    /// The UNet to begin with.
    pub(super) start: UNet<A>,
}

/// Latents `[pool, channels, size, size]` of standard deviation 1, and the two kinds of condition `[pool, dim]`.
struct Pool<A: TrainBackend> {
    latents: Tensor<A::InnerBackend, 4>,
    image: Tensor<A::InnerBackend, 2>,
    codes: Tensor<A::InnerBackend, 2>,
}

pub(super) fn train<A: TrainBackend>(
    plan: &Plan,
    inputs: Inputs<'_, A>,
    data: &Data<'_>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<UNet<A::InnerBackend>> {
    let device = &devices[0];
    if let Some(unet) = super::run::finished::<A, _>("decoder", session, inputs.unet.init::<A>(device), device)? {
        return Ok(unet.valid());
    }
    let pool = pool::<A>(&inputs, data, device)?;
    let schedule = NoiseSchedule::new(&NoiseScheduleConfig::stable_diffusion());
    let [_, channels, size, _] = pool.latents.dims();
    let [_, dim] = pool.image.dims();
    let noising = ImageNoise {
        normalizer: ImageNormalizer::<A::InnerBackend>::identity(dim, device),
        schedule: NoiseSchedule::new(&NoiseScheduleConfig::unclip_embedding()),
    };
    let parts = Parts::<A>::new(plan, devices);
    let step = |unet: &UNet<A>, step: usize| {
        let draws = draws(data.seed, step, plan.batch, inputs.pool, schedule.timesteps());
        parts.learn(unet, |unet: &UNet<A>, part, to| {
            let (batch, first) = (part.len(), (step * plan.batch + part.start) as u64);
            let numbers =
                |values: Vec<f32>| Tensor::<A::InnerBackend, 2>::from_data(TensorData::new(values, [batch, 1]), device);
            let share = |of: fn(&Draw) -> bool| numbers(draws[part.clone()].iter().map(|d| f32::from(of(d))).collect());
            let picks: Vec<i64> = draws[part.clone()].iter().map(|draw| draw.pick as i64).collect();
            let picks = Tensor::<A::InnerBackend, 1, Int>::from_data(TensorData::new(picks, [batch]), device);
            let timesteps: Vec<usize> = draws[part.clone()].iter().map(|draw| draw.timestep).collect();
            let image = pool.image.clone().select(0, picks.clone());
            let codes = pool.codes.clone().select(0, picks.clone());
            let condition = image.clone() + (codes - image) * share(|draw| draw.from_codes);
            let noise = normals(data.seed, first, [batch, dim + channels * size * size], device);
            let of_condition = noise.clone().narrow(1, 0, dim);
            let noise = noise.narrow(1, dim, channels * size * size).reshape([batch, channels, size, size]);
            let labels = noising.class_labels(condition, of_condition, NOISE_LEVEL) * share(|draw| draw.kept);
            let clean = pool.latents.clone().select(0, picks);
            let noisy = schedule.add_noise(clean.clone(), noise.clone(), &timesteps);
            let target = schedule.velocity(clean, noise, &timesteps);
            let timesteps: Vec<f32> = timesteps.into_iter().map(|timestep| timestep as f32).collect();
            let context = Tensor::<A, 3>::zeros([batch, 1, inputs.unet.cross_attention_dim], to);
            let [noisy, target] = [noisy, target].map(|x| Tensor::from_inner(x.to_device(to)));
            let labels = Tensor::from_inner(labels.to_device(to));
            let got = unet.forward(noisy, &timesteps, context, Some(labels));
            Ok(Output { loss: squared_error(got, target), metrics: Vec::new() })
        })
    };
    let keys = |step: usize| {
        let draws = draws(data.seed, step, plan.batch, inputs.pool, schedule.timesteps());
        Ok(draws.into_iter().map(|draw| format!("image {} of the pool", draw.pick)).collect())
    };
    let mut task = Steps { step, after: |unet, _| Ok(unet), validate: |_: &UNet<A>| Ok(Vec::new()), keys };
    Ok(optimise("decoder", plan, session, inputs.start.clone(), &mut task)?.valid())
}

/// What is drawn for one image of a step.
struct Draw {
    pick: usize,
    timestep: usize,
    from_codes: bool,
    kept: bool,
}

fn draws(seed: u64, step: usize, batch: usize, pool: usize, timesteps: usize) -> Vec<Draw> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x6465_636f_6465_7200); // "decoder"
    random.set_stream(step as u64);
    let mut draw = || Draw {
        pick: random.random_range(0..pool),
        // The noisier of two: colours and places are decided there, textures have steps enough below.
        timestep: random.random_range(0..timesteps).max(random.random_range(0..timesteps)),
        from_codes: random.random_bool(FROM_CODES),
        kept: random.random_bool(1.0 - DROPPED),
    };
    (0..batch).map(|_| draw()).collect()
}

fn pool<A: TrainBackend>(inputs: &Inputs<'_, A>, data: &Data<'_>, device: &A::Device) -> Result<Pool<A>> {
    let network = inputs.network;
    let (mut latents, mut image, mut codes) = (Vec::new(), Vec::new(), Vec::new());
    for first in (0..inputs.pool).step_by(AT_ONCE) {
        let count = AT_ONCE.min(inputs.pool - first);
        let batch = data.batch(Sequence::Pool, first, count)?;
        let mean = inputs.vae.encode(batch.signed_pixels(device)).0;
        latents.push(mean * inputs.vae_config.scaling_factor);
        let features = network.features(batch.pixels(device));
        image.push(generation_target(inputs.contrast.image(features.clone())));
        let causal = network.causal.forward_causal(features);
        let made = network.generation(network.quantizer.nearest(network.quantizer.latents(causal)));
        codes.push(made.flatten::<2>(1, 2));
    }
    Ok(Pool { latents: Tensor::cat(latents, 0), image: Tensor::cat(image, 0), codes: Tensor::cat(codes, 0) })
}
