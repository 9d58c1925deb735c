//! Stage 1: the causal Q-Former by contrast of its last embedding (arXiv 2307.08041, section 3.2).
//!
//! The vision transformer is fixed, its norm `ln_vision` too. Differences from the official training: the text side is
//! the vision stage's tower, fixed, instead of the Q-Former's own branch; no label smoothing; batches hold
//! near-duplicates as in the vision stage; all causal embeddings together draw the image, see `sketch`, because from
//! random initial weights nothing in the contrast of the last one asks the queries to differ. The official training
//! starts from BLIP-2's queries, which differ already.

use burn::tensor::{Int, Tensor, TensorData};

use crate::{contrast::ContrastConfig, error::Result, tokenizer::SeedNetwork};

use super::{
    data::{Data, Sequence},
    model::{TrainModel, frozen, scale},
    objective,
    plan::Plan,
    run::{Output, Session, Steps, TrainBackend, optimise, scalar},
    sketch::{SIDE, WEIGHT},
};

/// Images whose features are averaged.
const AVERAGED: usize = 256;
/// How sharply the queries read what resembles them at the start.
const SHARPNESS: f32 = 9.0;

pub(super) fn train<A: TrainBackend>(
    plan: &Plan,
    data: &Data<'_>,
    text: &ContrastConfig,
    model: TrainModel<A>,
    session: &mut Session<'_>,
    device: &A::Device,
) -> Result<TrainModel<A>> {
    let fixed = frozen(&model);
    let model = TrainModel { network: start_at_places(model.network, &fixed, data, device)?, ..model };
    let step = |model: &TrainModel<A>, step: usize| {
        let batch = data.batch(Sequence::Contrast, step * plan.batch, plan.batch)?;
        let ids = TensorData::new(text.ids(&batch.captions)?, [plan.batch, text.context]);
        let features = Tensor::from_inner(fixed.network.features(batch.pixels(device)));
        let caption = Tensor::from_inner(fixed.contrast.text(Tensor::from_data(ids, device)));
        let causal = model.network.causal.forward_causal(features);
        let last = model.contrast.causal(causal.clone());
        let (contrast, accuracy) = objective::contrast(last, caption, scale(&model.causal_scale), 0.0);
        let sketch = model.causal_sketch.error(causal, batch.signed_pixels_of_size(SIDE, device));
        let metrics = vec![("batch_accuracy", accuracy), ("sketch", scalar(sketch.clone()))];
        Ok(Output { loss: contrast + sketch * WEIGHT, metrics }.backward(model))
    };
    let keys = |step: usize| Ok(data.batch(Sequence::Contrast, step * plan.batch, plan.batch)?.keys);
    let mut task = Steps { step, after: |model, _| Ok(model), validate: |_: &TrainModel<A>| Ok(Vec::new()), keys };
    optimise("stage1", plan, session, model, &mut task)
}

/// Queries that start as what is peculiar to places: the mean features of patches that are spread over the image, in
/// reading order. Random ones all read the mean of all patches at first, and within these few steps nothing parts them;
/// the official training starts from BLIP-2's, which are apart. Where the widths differ they stay random.
fn start_at_places<A: TrainBackend>(
    network: SeedNetwork<A>,
    fixed: &TrainModel<A::InnerBackend>,
    data: &Data<'_>,
    device: &A::Device,
) -> Result<SeedNetwork<A>> {
    let sample = data.batch(Sequence::Places, 0, AVERAGED)?;
    let features = fixed.network.features(sample.pixels(device)); // [images, 1 + patches, width]
    let [_, tokens, width] = features.dims();
    let patches = tokens - 1;
    let mean = features.mean_dim(0).reshape([tokens, width]).narrow(0, 1, patches);
    let peculiar = mean.clone() - mean.mean_dim(0); // [patches, width]
    let queries = network.causal.queries();
    let spread: Vec<i64> = (0..queries).map(|query| (query * patches / queries) as i64).collect();
    let spread = Tensor::<A::InnerBackend, 1, Int>::from_data(TensorData::new(spread, [queries]), device);
    let causal = network.causal.reading(Tensor::from_inner(peculiar.select(0, spread)), SHARPNESS);
    Ok(SeedNetwork { causal, ..network })
}
