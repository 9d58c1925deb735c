//! Stage 2: codebook and detokenizer (arXiv 2310.01218, section 3.2).
//!
//! Three losses, weighted 5, 2 and 0.5 as released: quantisation, cosine of the rebuilt causal embeddings, squared error
//! of the generation embedding. Differences from the official training:
//! - rows start at latents of the data instead of uniformly in `+-1 / codes`;
//! - every few steps, rows that no latent of a fresh sample chose restart at random latents of it (dead codes);
//! - the commitment term carries the factor 0.25 (van den Oord 2017) instead of the codebook term;
//! - the generation target is the vision stage's image embedding, scaled to unit variance, instead of CLIP ViT-H's;
//! - the loss of the causal embeddings weighs 10 instead of 2, against the pictures below;
//! - the causal Q-Former goes on learning, so that what the codes cannot hold gives way to what they can; what the
//!   semantic branch rebuilds are the causal embeddings that stage 1 ended with;
//! - both rebuilt embeddings also draw the scene, by the heads that drew it from the image embedding and from the causal
//!   ones, see `sketch`. The heads stay as they are: what they have learned to read tells the codes what to hold, sooner
//!   than heads that learn along;
//! - stage 1's contrast on captions goes on, with the last causal embedding as it is and as the codes rebuild it.

use burn::{
    module::Module as _,
    tensor::{Tensor, TensorData},
};

use crate::{
    contrast::{ContrastConfig, generation_target},
    error::Result,
};

use super::{
    data::{Data, Sequence},
    model::{TrainModel, frozen, scale},
    objective::{contrast, cosine_loss, quantization, squared_error},
    plan::Plan,
    rows::{distinct, restart},
    run::{Output, Session, Steps, TrainBackend, optimise, scalar},
    sketch::{SIDE, WEIGHT},
};

/// Weights of the quantisation, semantic and generation losses.
const WEIGHTS: [f64; 3] = [5.0, 10.0, 0.5];
/// Weights of the pictures that the generation embedding and the rebuilt causal embeddings draw. With that of the other stages the
/// causal embeddings are rebuilt worse.
const PICTURES: [f64; 2] = [0.5 * WEIGHT, 0.25 * WEIGHT];
/// Weight of either contrast.
const CONTRAST: f64 = 0.5;
/// Factor of the commitment term.
const COMMITMENT: f64 = 0.25;
/// Steps between two searches for dead rows.
const RESTART_EVERY: usize = 20;
/// Latents for each row, of those that decide which rows are dead.
const RESTART_LATENTS: usize = 8;
/// The share of the steps after which rows are left alone to settle.
const RESTART_UNTIL: f64 = 0.8;

pub(super) fn train<A: TrainBackend>(
    plan: &Plan,
    data: &Data<'_>,
    text: &ContrastConfig,
    model: TrainModel<A>,
    session: &mut Session<'_>,
    device: &A::Device,
) -> Result<TrainModel<A>> {
    let fixed = frozen(&model);
    let step = |model: &TrainModel<A>, step: usize| {
        let batch = data.batch(Sequence::Contrast, step * plan.batch, plan.batch)?;
        let ids = TensorData::new(text.ids(&batch.captions)?, [plan.batch, text.context]);
        let caption: Tensor<A, 2> = Tensor::from_inner(fixed.contrast.text(Tensor::from_data(ids, device)));
        let features = fixed.network.features(batch.pixels(device));
        let target = generation_target(fixed.contrast.image(features.clone()));
        let settled: Tensor<A, 3> = Tensor::from_inner(fixed.network.causal.forward_causal(features.clone()));
        let network = &model.network;
        let causal = network.causal.forward_causal(Tensor::from_inner(features));
        let z = network.quantizer.latents(causal.clone());
        let codes = network.quantizer.nearest(z.clone().detach());
        let rows = network.quantizer.rows(codes.clone());
        let quantize = quantization(z.clone(), rows.clone(), COMMITMENT, false);
        let straight_through = z.clone() + (rows - z).detach();
        let states = network.quantizer.states(straight_through);
        let semantic = network.detokenizer.semantic(states.clone());
        let rebuilt = semantic.expect("a recipe's model has a semantic branch");
        let semantic = cosine_loss(rebuilt.clone(), settled);
        let similarity = scale(&model.causal_scale);
        let (before, _) = contrast(model.contrast.causal(causal), caption.clone(), similarity.clone(), 0.0);
        let (after, accuracy) = contrast(model.contrast.causal(rebuilt.clone()), caption, similarity, 0.0);
        let made = network.detokenizer.generation(states);
        let generation = squared_error(made.clone(), Tensor::from_inner(target).unsqueeze_dim(1));
        let drawn = batch.signed_pixels_of_size(SIDE, device);
        let sketch = model.image_sketch.clone().no_grad().error(made, drawn.clone());
        let causal_sketch = model.causal_sketch.clone().no_grad().error(rebuilt, drawn);
        let metrics = vec![
            ("quantize", scalar(quantize.clone())),
            ("semantic", scalar(semantic.clone())),
            ("generation", scalar(generation.clone())),
            ("sketch", scalar(sketch.clone())),
            ("causal_sketch", scalar(causal_sketch.clone())),
            ("batch_accuracy", accuracy),
            ("batch_codes", distinct(codes)),
        ];
        let official = quantize * WEIGHTS[0] + semantic * WEIGHTS[1] + generation * WEIGHTS[2];
        let loss = official + (before + after) * CONTRAST + sketch * PICTURES[0] + causal_sketch * PICTURES[1];
        Ok(Output { loss, metrics }.backward(model))
    };
    let [rows, _] = model.network.quantizer.embedding.weight.dims();
    let restart_images = (rows * RESTART_LATENTS).div_ceil(model.network.causal.queries());
    let restart_until = (plan.steps as f64 * RESTART_UNTIL) as usize;
    let after = |mut model: TrainModel<A>, step: usize| {
        if step.is_multiple_of(RESTART_EVERY) && step <= restart_until {
            let current = frozen(&model).network;
            let sample = data.batch(Sequence::Rows, step / RESTART_EVERY * restart_images, restart_images)?;
            let latents = current.quantizer.latents(current.causal_embeddings(sample.pixels(device)));
            model.network.quantizer = restart(model.network.quantizer, latents, data.seed ^ step as u64, step == 0);
        }
        Ok(model)
    };
    let keys = |step: usize| Ok(data.batch(Sequence::Contrast, step * plan.batch, plan.batch)?.keys);
    let mut task = Steps { step, after, validate: |_: &TrainModel<A>| Ok(Vec::new()), keys };
    optimise("stage2", plan, session, model, &mut task)
}
