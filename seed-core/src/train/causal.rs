//! Stage 1: the causal Q-Former by contrast of its last embedding (arXiv 2307.08041, section 3.2).
//!
//! The vision transformer is fixed, its norm `ln_vision` too. Differences from the official training: the text side is
//! the vision stage's tower, fixed, instead of the Q-Former's own branch; no label smoothing; batches hold
//! near-duplicates as in the vision stage.
//!
//! Known weakness: from random initial weights, nothing in this loss asks the queries to differ, and they come to say nearly
//! the same. The official training starts from BLIP-2's queries, which differ already.

use burn::tensor::{Tensor, TensorData};

use crate::{contrast::ContrastConfig, error::Result};

use super::{
    data::{self, SceneData},
    model::{TrainModel, frozen, scale},
    objective,
    run::{Output, Plan, Session, TrainBackend, optimise},
    vision::GROUP,
};

pub(super) fn train<A: TrainBackend>(
    plan: &Plan,
    scenes: &SceneData,
    text: &ContrastConfig,
    model: TrainModel<A>,
    session: &mut Session<'_>,
    device: &A::Device,
) -> Result<TrainModel<A>> {
    let fixed = frozen(&model);
    let step = |model: &TrainModel<A>, step: usize| {
        let batch = scenes.scenes(step, plan.batch, GROUP);
        let ids = TensorData::new(text.ids(&data::captions(&batch))?, [plan.batch, text.context]);
        let features = Tensor::from_inner(fixed.network.features(scenes.pixels(&batch, device)));
        let caption = Tensor::from_inner(fixed.contrast.text(Tensor::from_data(ids, device)));
        let last = model.contrast.causal(model.network.causal.forward_causal(features));
        let (loss, accuracy) = objective::contrast(last, caption, scale(&model.causal_scale));
        Ok(Output { loss, metrics: vec![("batch_accuracy", accuracy)] })
    };
    optimise("stage1", plan, session, model, step, |model, _| model)
}
