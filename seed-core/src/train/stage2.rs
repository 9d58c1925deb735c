//! Stage 2 as released: codebook and detokenizer on a fixed stage 1 (arXiv 2310.01218, section 3.2; reference
//! implementation AILab-CVC/SEED, `blip2_qformer_codebook_all_image.py`).
//!
//! Three losses: quantisation; cosine of the rebuilt causal embeddings; squared error of the generation embedding against
//! a teacher's. Differences from the reference: no dropout in the fixed Q-Former.

use std::sync::Mutex;

use burn::{
    module::{AutodiffModule, Module},
    tensor::{Int, Tensor, backend::Backend},
};

use crate::{
    checkpoint::KeyTable,
    contrast::unit,
    detokenizer::Detokenizer,
    error::Result,
    nn::SeedBackend,
    qformer::QFormer,
    quantizer::Quantizer,
    tokenizer::{SeedConfig, SeedNetwork},
};

use super::{
    clip_words::ClipWords,
    coding::{Coding, Rows},
    data::{Batch, Data, Sequence},
    objective::{cosine_loss, quantization, squared_error},
    origin::Encoder,
    parts::Parts,
    plan::Plan,
    replicas::Replicas,
    rows::{Means, distinct, follow, on_the_sphere, restart},
    run::{Metrics, Output, Session, Steps, TrainBackend, VALIDATION_LOSS, optimise, scalar},
    teacher::Teacher,
};

/// What stage 2 trains.
#[derive(Module, Debug)]
pub(super) struct Coder<B: Backend> {
    /// Step 3, where it goes on learning.
    pub(super) causal: Option<QFormer<B>>,
    /// Step 4.
    pub(super) quantizer: Quantizer<B>,
    /// Step 5.
    pub(super) detokenizer: Detokenizer<B>,
    /// Where rows follow their means.
    means: Option<Means<B>>,
}

/// The losses of a batch before they are weighted, and what they were computed from.
pub(super) struct Losses<B: Backend> {
    pub(super) quantize: Tensor<B, 1>,
    /// Nothing for a model without a semantic branch, as SEED-1.
    pub(super) semantic: Option<Tensor<B, 1>>,
    pub(super) generation: Tensor<B, 1>,
    /// `[batch, queries]`
    pub(super) codes: Tensor<B, 2, Int>,
    /// `[batch, queries, dim]`
    pub(super) latents: Tensor<B, 3>,
}

impl<B: Backend> Coder<B> {
    /// Keys of the released checkpoints.
    #[cfg_attr(not(test), expect(dead_code, reason = "the stage ends as a whole network, which has the same keys"))]
    pub(super) const KEYS: KeyTable = SeedNetwork::<B>::KEYS;

    /// A randomly initialised model; with a Q-Former, one that goes on learning.
    pub(super) fn new(seed: &SeedConfig, causal: Option<QFormer<B>>, device: &B::Device) -> Self {
        let (quantizer, detokenizer) = (seed.quantizer().init(device), seed.detokenizer().init(device));
        Self { causal, quantizer, detokenizer, means: None }
    }
}

impl<B: SeedBackend> Coder<B> {
    /// Causal embeddings that are coded and that are rebuilt, both `[batch, queries, width]`, and the teacher's embedding
    /// `[batch, tokens, generation_dim]` -> losses.
    pub(super) fn losses(
        &self,
        causal: Tensor<B, 3>,
        settled: Tensor<B, 3>,
        target: Tensor<B, 3>,
        options: &Coding,
    ) -> Losses<B> {
        let on_sphere = |x: Tensor<B, 3>| {
            let [batch, queries, dim] = x.dims();
            unit(x.reshape([batch * queries, dim])).reshape([batch, queries, dim])
        };
        let z = self.quantizer.latents(causal); // [batch, queries, dim]
        let z = if options.unit_length { on_sphere(z) } else { z };
        let codes = self.quantizer.nearest(z.clone().detach());
        let rows = self.quantizer.rows(codes.clone());
        let rows = if options.unit_length { on_sphere(rows) } else { rows };
        let rows = if options.mean_decay.is_some() { rows.detach() } else { rows };
        let quantize = quantization(z.clone(), rows.clone(), options.beta, options.legacy_beta);
        let straight_through = z.clone() + (rows - z.clone()).detach();
        let states = self.quantizer.states(straight_through); // [batch, queries, width]
        let semantic = self.detokenizer.semantic(states.clone()).map(|rebuilt| cosine_loss(rebuilt, settled));
        let generation = squared_error(self.detokenizer.generation(states), target);
        Losses { quantize, semantic, generation, codes, latents: z }
    }
}

impl<B: Backend> Losses<B> {
    /// The weighted sum and its parts.
    fn weighted(self, options: &Coding) -> (Tensor<B, 1>, Metrics) {
        let quantize = self.quantize * options.quantize;
        let generation = self.generation * options.generation;
        let mut metrics = vec![
            ("quantize", scalar(quantize.clone())),
            ("generation", scalar(generation.clone())),
            ("batch_codes", distinct(self.codes)),
        ];
        let mut loss = quantize + generation;
        if let Some(semantic) = self.semantic {
            let semantic = semantic * options.semantic;
            metrics.push(("semantic", scalar(semantic.clone())));
            loss = loss + semantic;
        }
        (loss, metrics)
    }
}

/// The stage's inputs that do not learn.
pub(super) struct Inputs<'a, A: TrainBackend> {
    pub(super) options: &'a Coding,
    /// Steps 2 and 3 as stage 1 left them, on every device.
    pub(super) encoder: &'a Replicas<A, Encoder<A::InnerBackend>>,
    /// On every device.
    pub(super) teacher: &'a Replicas<A, Teacher<A::InnerBackend>>,
    /// How captions become tokens for a teacher that reads them.
    pub(super) words: Option<&'a ClipWords>,
}

/// What a batch is coded from and what it is to become.
struct Prepared<B: Backend> {
    features: Tensor<B, 3>,
    settled: Tensor<B, 3>,
    target: Tensor<B, 3>,
}

impl<A: TrainBackend> Inputs<'_, A> {
    fn prepare(&self, batch: &Batch, device: &A::Device) -> Result<Prepared<A::InnerBackend>> {
        let encoder = self.encoder.on(device);
        let pixels = batch.pixels(device);
        let features = encoder.features(pixels.clone());
        let settled = encoder.causal.forward_causal(features.clone());
        let target = self.teacher.on(device).target(pixels, &batch.captions, self.words)?;
        Ok(Prepared { features, settled, target })
    }

    /// Latents of images of a sequence by the model as it is.
    fn latents(&self, model: &Coder<A>, batch: &Batch, device: &A::Device) -> Result<Tensor<A::InnerBackend, 3>> {
        let (encoder, model) = (self.encoder.on(device), AutodiffModule::valid(model));
        let causal = model.causal.as_ref().unwrap_or(&encoder.causal);
        let z = model.quantizer.latents(causal.forward_causal(encoder.features(batch.pixels(device))));
        let [images, queries, dim] = z.dims();
        Ok(match self.options.unit_length {
            true => unit(z.reshape([images * queries, dim])).reshape([images, queries, dim]),
            false => z,
        })
    }
}

/// Latents of a part with their codes, for rows that follow their means.
type Chosen<B> = (usize, Tensor<B, 3>, Tensor<B, 2, Int>);

pub(super) fn train<A: TrainBackend>(
    plan: &Plan,
    inputs: &Inputs<'_, A>,
    data: &Data<'_>,
    mut model: Coder<A>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<Coder<A>> {
    let (device, options) = (&devices[0], inputs.options);
    let parts = Parts::<A>::new(plan, devices);
    let sample = |number: usize| {
        let count = options.restart_images;
        data.batch(Sequence::Rows, number * count, count)
    };
    if options.init == Rows::Latents {
        let latents = inputs.latents(&model, &sample(0)?, device)?;
        model.quantizer = restart(model.quantizer, latents, data.seed, true);
    }
    if options.unit_length {
        model.quantizer = on_the_sphere(model.quantizer);
    }
    if options.mean_decay.is_some() {
        model.means = Some(Means::of(model.quantizer.embedding.weight.val()));
    }
    let batch_at = |step: usize| data.batch(Sequence::Contrast, step * plan.batch, plan.batch);
    let chosen: Mutex<Vec<Chosen<A::InnerBackend>>> = Mutex::default();
    let keep = |chosen_by_part: Chosen<A::InnerBackend>| {
        chosen.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(chosen_by_part);
    };
    let step = |model: &Coder<A>, step: usize| {
        let batch = batch_at(step)?;
        parts.learn(model, |model: &Coder<A>, range, to| {
            let start = range.start;
            let Prepared { features, settled, target } = inputs.prepare(&batch.part(range), to)?;
            let [settled, target] = [settled, target].map(Tensor::<A, 3>::from_inner);
            let causal = match &model.causal {
                Some(causal) => causal.forward_causal(Tensor::from_inner(features)),
                None => settled.clone(),
            };
            let losses = model.losses(causal, settled, target, options);
            if options.mean_decay.is_some() {
                let inner = (losses.latents.clone().inner(), losses.codes.clone().inner());
                keep((start, inner.0.to_device(device), inner.1.to_device(device)));
            }
            let (loss, metrics) = losses.weighted(options);
            Ok(Output { loss, metrics })
        })
    };
    let until = (plan.steps as f64 * options.restart_until) as usize;
    let after = |mut model: Coder<A>, step: usize| {
        if let (Some(decay), Some(means)) = (options.mean_decay, model.means.take()) {
            let mut parts = std::mem::take(&mut *chosen.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            parts.sort_by_key(|(start, ..)| *start);
            let (latents, codes): (Vec<_>, Vec<_>) =
                parts.into_iter().map(|(_, latents, codes)| (latents, codes)).unzip();
            let latents = Tensor::cat(latents, 0).flatten::<2>(0, 1); // [batch * queries, dim]
            let codes = Tensor::cat(codes, 0).flatten::<1>(0, 1);
            let (quantizer, means) = follow(model.quantizer, means, latents, codes, decay);
            (model.quantizer, model.means) = (quantizer, Some(means));
        }
        let restarts = options.restart_every > 0 && step > 0 && step <= until;
        if restarts && step.is_multiple_of(options.restart_every) {
            let latents = inputs.latents(&model, &sample(step / options.restart_every)?, device)?;
            model.quantizer = restart(model.quantizer, latents, data.seed ^ step as u64, false);
        }
        if options.unit_length {
            model.quantizer = on_the_sphere(model.quantizer);
        }
        Ok(model)
    };
    let validate = |model: &Coder<A>| validate(model, inputs, plan, data, device);
    let keys = |step: usize| Ok(batch_at(step)?.keys);
    let mut task = Steps { step, after, validate, keys };
    optimise("stage2", plan, session, model, &mut task)
}

/// The losses over held-out images.
fn validate<A: TrainBackend>(
    model: &Coder<A>,
    inputs: &Inputs<'_, A>,
    plan: &Plan,
    data: &Data<'_>,
    device: &A::Device,
) -> Result<Metrics> {
    let model = AutodiffModule::valid(model);
    let (mut sum, mut codes) = (0.0, Vec::new());
    for first in (0..plan.validation).step_by(plan.batch) {
        let size = plan.batch.min(plan.validation - first);
        let batch = data.batch(Sequence::HeldOut, first, size)?;
        let Prepared { features, settled, target } = inputs.prepare(&batch, device)?;
        let causal = match &model.causal {
            Some(causal) => causal.forward_causal(features),
            None => settled.clone(),
        };
        let losses = model.losses(causal, settled, target, inputs.options);
        codes.push(losses.codes.clone());
        sum += scalar(losses.weighted(inputs.options).0) * size as f64;
    }
    let codes = distinct(Tensor::cat(codes, 0));
    Ok(vec![(VALIDATION_LOSS, sum / plan.validation as f64), ("validation_codes", codes)])
}

#[cfg(test)]
mod tests {
    use burn::backend::Autodiff;
    use burn_flex::Flex;

    use super::*;
    use crate::{nn::recomputing, train::golden::Golden};

    type A = Autodiff<Flex>;

    #[test]
    fn three_steps_equal_the_reference() {
        let golden = Golden::open();
        let options: Coding = toml::from_str("").unwrap();
        let model = Coder::<A>::new(&golden.config, None, &Default::default());
        let model = golden.load(model, "stage2.safetensors", &Coder::<A>::KEYS);
        let mut codes = Vec::new();
        let mut step = |model: &Coder<A>| {
            let target = golden.tensor::<A, 2>("clip_embedding").unsqueeze_dim(1);
            let causal = golden.tensor::<A, 3>("causal");
            let losses = model.losses(causal.clone(), causal, target, &options);
            codes.push(losses.codes.into_data().iter::<i64>().collect::<Vec<_>>());
            let quantize = losses.quantize * options.quantize;
            let semantic = losses.semantic.expect("this model has the branch") * options.semantic;
            let generation = losses.generation * options.generation;
            let loss = quantize.clone() + semantic.clone() + generation.clone();
            vec![("loss", loss), ("quantize", quantize), ("semantic", semantic), ("generation", generation)]
        };
        for again in [false, true] {
            recomputing(again, || golden.three_steps("stage2", 1e-3, model.clone(), &Coder::<A>::KEYS, &mut step));
        }
        for (index, codes) in (0..3).cycle().zip(codes) {
            assert_eq!(codes, golden.cases.integers(&format!("stage2.step{index}.codes")).unwrap(), "step {index}");
        }
    }
}
