//! Stage "vision": the vision transformer and a text tower by contrast on captions (arXiv 2103.00020, figure 3).
//!
//! Batches of scenes hold near-duplicates that differ in one attribute, see `data`. The embedding also has to draw the
//! image, see `sketch`.

use burn::tensor::{Tensor, TensorData};

use crate::{
    contrast::{ContrastConfig, generation_target},
    error::{Error, Result},
};

use super::{
    data::{Batch, Data, Sequence},
    model::{TrainModel, scale},
    objective,
    plan::Plan,
    run::{Mean, Output, Session, Steps, TrainBackend, VALIDATION_LOSS, optimise, scalar},
    sketch::{SIDE, WEIGHT},
};

pub(super) fn train<A: TrainBackend>(
    plan: &Plan,
    data: &Data<'_>,
    text: &ContrastConfig,
    model: TrainModel<A>,
    session: &mut Session<'_>,
    device: &A::Device,
) -> Result<TrainModel<A>> {
    let embed = |model: &TrainModel<A>, batch: &Batch| {
        let ids = TensorData::new(text.ids(&batch.captions)?, [batch.len(), text.context]);
        let image = model.contrast.image(model.network.features(batch.pixels(device)));
        Ok::<_, Error>((image, model.contrast.text(Tensor::from_data(ids, device))))
    };
    let step = |model: &TrainModel<A>, step: usize| {
        let batch = data.batch(Sequence::Contrast, step * plan.batch, plan.batch)?;
        let (image, caption) = embed(model, &batch)?;
        let (contrast, accuracy) = objective::contrast(image.clone(), caption, scale(&model.vision_scale), 0.0);
        let drawn = batch.signed_pixels_of_size(SIDE, device);
        let sketch = model.image_sketch.error(generation_target(image).unsqueeze_dim(1), drawn);
        let metrics = vec![("batch_accuracy", accuracy), ("sketch", scalar(sketch.clone()))];
        Ok(Output { loss: contrast + sketch * WEIGHT, metrics }.backward(model))
    };
    let validate = |model: &TrainModel<A>| {
        let mut mean = Mean::default();
        for first in (0..plan.validation).step_by(plan.batch) {
            let batch = data.batch(Sequence::HeldOut, first, plan.batch.min(plan.validation - first))?;
            let (image, caption) = embed(model, &batch)?;
            let (loss, accuracy) = objective::contrast(image, caption, scale(&model.vision_scale), 0.0);
            mean.add(batch.len(), &[(VALIDATION_LOSS, scalar(loss)), ("validation_accuracy", accuracy)]);
        }
        Ok(mean.metrics())
    };
    let keys = |step: usize| Ok(data.batch(Sequence::Contrast, step * plan.batch, plan.batch)?.keys);
    let mut task = Steps { step, after: |model, _| Ok(model), validate, keys };
    optimise("vision", plan, session, model, &mut task)
}
