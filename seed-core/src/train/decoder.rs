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
    run::{Mean, Output, Session, Steps, TrainBackend, VALIDATION_LOSS, optimise, scalar},
    teacher::Teacher,
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
    /// What makes image embeddings; without one, every condition comes from codes.
    pub(super) teacher: Option<Teacher<A::InnerBackend>>,
    pub(super) pool: usize,
    /// The UNet to begin with.
    pub(super) start: UNet<A>,
}

/// Latents `[pool, channels, size, size]` of standard deviation 1, and the two kinds of condition `[pool, dim]`.
struct Pool<A: TrainBackend> {
    latents: Tensor<A::InnerBackend, 4>,
    image: Tensor<A::InnerBackend, 2>,
    codes: Tensor<A::InnerBackend, 2>,
    keys: Vec<String>,
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
    let pool = pool::<A>(&inputs, data, (Sequence::Pool, inputs.pool), device)?;
    let [_, dim] = pool.image.dims();
    let noising = ImageNoise {
        normalizer: ImageNormalizer::<A::InnerBackend>::identity(dim, device),
        schedule: NoiseSchedule::new(&NoiseScheduleConfig::unclip_embedding()),
    };
    let schedule = NoiseSchedule::new(&NoiseScheduleConfig::stable_diffusion());
    let rules = Rules { seed: data.seed, context: inputs.unet.cross_attention_dim, schedule, noising };
    let parts = Parts::<A>::new(plan, devices);
    let draws_of = |step: usize| draws(data.seed, step, plan.batch, inputs.pool, rules.schedule.timesteps());
    let step = |unet: &UNet<A>, step: usize| {
        let draws = draws_of(step);
        parts.learn(unet, |unet: &UNet<A>, part, to| {
            let first = (step * plan.batch + part.start) as u64;
            Ok(Output { loss: rules.loss(unet, &pool, &draws[part], first, to), metrics: Vec::new() })
        })
    };
    let mut held_out: Option<Pool<A>> = None;
    // The same draws and the same noise each time.
    let validate = |unet: &UNet<A>| {
        let pool = match held_out.take() {
            Some(pool) => pool,
            None => self::pool::<A>(&inputs, data, (Sequence::HeldOut, plan.validation), device)?,
        };
        let draws = draws(!data.seed, 0, plan.validation, plan.validation, rules.schedule.timesteps());
        let mut mean = Mean::default();
        for (number, draws) in draws.chunks(AT_ONCE).enumerate() {
            let loss = scalar(rules.loss(unet, &pool, draws, (number * AT_ONCE) as u64, device));
            mean.add(draws.len(), &[(VALIDATION_LOSS, loss)]);
        }
        held_out = Some(pool);
        Ok(mean.metrics())
    };
    let keys = |step: usize| Ok(draws_of(step).iter().map(|draw| pool.keys[draw.pick].clone()).collect());
    let mut task = Steps { step, after: |unet, _| Ok(unet), validate, keys };
    Ok(optimise("decoder", plan, session, inputs.start.clone(), &mut task)?.valid())
}

/// How latents and conditions are noised.
struct Rules<A: TrainBackend> {
    seed: u64,
    /// Features of the context.
    context: usize,
    schedule: NoiseSchedule,
    noising: ImageNoise<A::InnerBackend>,
}

impl<A: TrainBackend> Rules<A> {
    /// Mean squared error of the velocities of images of a pool, computed on the device `to`; `first` is the number of the first
    /// image's noise.
    fn loss(&self, unet: &UNet<A>, pool: &Pool<A>, draws: &[Draw], first: u64, to: &A::Device) -> Tensor<A, 1> {
        let (batch, device) = (draws.len(), pool.latents.device());
        let [_, channels, size, _] = pool.latents.dims();
        let [_, dim] = pool.image.dims();
        let share = |of: fn(&Draw) -> bool| {
            let values: Vec<f32> = draws.iter().map(|draw| f32::from(of(draw))).collect();
            Tensor::<A::InnerBackend, 2>::from_data(TensorData::new(values, [batch, 1]), &device)
        };
        let picks: Vec<i64> = draws.iter().map(|draw| draw.pick as i64).collect();
        let picks = Tensor::<A::InnerBackend, 1, Int>::from_data(TensorData::new(picks, [batch]), &device);
        let timesteps: Vec<usize> = draws.iter().map(|draw| draw.timestep).collect();
        let image = pool.image.clone().select(0, picks.clone());
        let codes = pool.codes.clone().select(0, picks.clone());
        let condition = image.clone() + (codes - image) * share(|draw| draw.from_codes);
        let noise = normals(self.seed, first, [batch, dim + channels * size * size], &device);
        let of_condition = noise.clone().narrow(1, 0, dim);
        let noise = noise.narrow(1, dim, channels * size * size).reshape([batch, channels, size, size]);
        let labels = self.noising.class_labels(condition, of_condition, NOISE_LEVEL) * share(|draw| draw.kept);
        let clean = pool.latents.clone().select(0, picks);
        let noisy = self.schedule.add_noise(clean.clone(), noise.clone(), &timesteps);
        let target = self.schedule.velocity(clean, noise, &timesteps);
        let timesteps: Vec<f32> = timesteps.into_iter().map(|timestep| timestep as f32).collect();
        let context = Tensor::<A, 3>::zeros([batch, 1, self.context], to);
        let [noisy, target] = [noisy, target].map(|x| Tensor::from_inner(x.to_device(to)));
        let labels = Tensor::from_inner(labels.to_device(to));
        squared_error(unet.forward(noisy, &timesteps, context, Some(labels)), target)
    }
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

fn pool<A: TrainBackend>(
    inputs: &Inputs<'_, A>,
    data: &Data<'_>,
    (sequence, count): (Sequence, usize),
    device: &A::Device,
) -> Result<Pool<A>> {
    let network = inputs.network;
    let (mut latents, mut image, mut codes, mut keys) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for first in (0..count).step_by(AT_ONCE) {
        let batch = data.batch(sequence, first, AT_ONCE.min(count - first))?;
        let mean = inputs.vae.encode(batch.signed_pixels(device)).0;
        latents.push(mean * inputs.vae_config.scaling_factor);
        let pixels = batch.pixels(device);
        let made = network.generation(network.encode(pixels.clone())).flatten::<2>(1, 2);
        image.push(match &inputs.teacher {
            Some(teacher) => teacher.target(pixels, &batch.captions, None)?.flatten::<2>(1, 2),
            None => made.clone(),
        });
        codes.push(made);
        keys.extend(batch.keys);
    }
    Ok(Pool { latents: Tensor::cat(latents, 0), image: Tensor::cat(image, 0), codes: Tensor::cat(codes, 0), keys })
}
