//! Stage 1 as released: the causal Q-Former by contrast of its last embedding with the text branch's first state
//! (arXiv 2307.08041, section 3.2; reference implementation AILab-CVC/SEED, `blip2_qformer_casual.py`).
//!
//! The vision transformer is fixed, its norm `ln_vision` learns. Differences from the reference: no dropout in the Q-Former;
//! gradients flow through the embeddings of all parts and devices of a batch, where the reference gathers those of other
//! devices without.

use burn::{
    module::{AutodiffModule, Module, Param},
    tensor::{Int, Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::KeyTable,
    contrast::unit,
    error::Result,
    eva_vit::EvaVit,
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend},
    qformer::{
        QFormer,
        text::{TextBranch, TextConfig},
    },
    tokenizer::SeedConfig,
};

use super::{
    captions::Captions,
    data::{Batch, Data, Sequence},
    objective,
    parts::{Pairs, Parts},
    plan::Plan,
    replicas::Replicas,
    run::{Mean, Output, Session, Steps, TrainBackend, VALIDATION_LOSS, optimise, scalar},
};

/// What stage 1 learns by: the contrast of images and captions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alignment {
    /// Features of the common space of images and captions. Official: 256.
    #[serde(default = "embed_dim")]
    pub embed_dim: usize,
    /// The temperature to begin with; similarities are divided by it, and it learns. Weights of BLIP-2 bring their own.
    /// Official: 0.07.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Share of each label that is spread over all images of the batch. Official: 0.1.
    #[serde(default = "label_smoothing")]
    pub label_smoothing: f64,
    /// Positions of the text branch, of which captions use as many as they have tokens. Official: 512.
    #[serde(default = "positions")]
    pub positions: usize,
    /// Rows of the text branch's word embeddings, if more than the captions' vocabulary has. Official: 30523, one more than
    /// BERT's vocabulary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vocabulary: Option<usize>,
}

fn embed_dim() -> usize {
    256
}

fn temperature() -> f64 {
    0.07
}

fn label_smoothing() -> f64 {
    0.1
}

fn positions() -> usize {
    512
}

impl Alignment {
    /// What makes the values impossible, in words.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        if self.embed_dim == 0 || self.positions == 0 {
            return Err("alignment.embed_dim and positions must not be 0".to_owned());
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(format!("alignment.temperature = {} must be above 0", self.temperature));
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            return Err(format!("alignment.label_smoothing = {} must lie between 0 and 1", self.label_smoothing));
        }
        Ok(())
    }

    /// Sizes of the text branch for captions of a vocabulary.
    pub(super) fn text(&self, words: usize) -> TextConfig {
        TextConfig { vocab: self.vocabulary.unwrap_or(words).max(words), positions: self.positions }
    }
}

/// What stage 1 trains.
#[derive(Module, Debug)]
pub(super) struct Aligner<B: Backend> {
    /// Norm between steps 2 and 3.
    pub(super) ln_vision: LayerNorm<B>,
    /// Step 3.
    pub(super) causal: QFormer<B>,
    /// The captions' side.
    pub(super) text: TextBranch<B>,
    vision_proj: Linear<B>,
    text_proj: Linear<B>,
    /// Similarities are divided by it. `[1]`, a scalar in files.
    temp: Param<Tensor<B, 1>>,
}

impl<B: Backend> Aligner<B> {
    /// Keys of the released checkpoints of BLIP-2 and of SEED's stage 1, as far as this stage trains them.
    pub(super) const KEYS: KeyTable = KeyTable {
        renames: &[
            ("causal.query_tokens", "query_tokens"),
            ("causal.bert", "Qformer.bert"),
            ("text.embeddings", "Qformer.bert.embeddings"),
            ("text.layer", "Qformer.bert.encoder.layer"),
            (".self_", ".self"),
            (".layer_norm", ".LayerNorm"),
        ],
        ignored: &["Qformer.bert.embeddings.position_ids"],
    };

    /// The key of the temperature, a scalar in files.
    pub(super) const SCALAR: &str = "temp";

    /// A randomly initialised model for captions of `words` words.
    pub(super) fn new(seed: &SeedConfig, options: &Alignment, words: usize, device: &B::Device) -> Self {
        let projection = || LinearConfig::new(seed.qformer_width, options.embed_dim).init(device);
        Self {
            ln_vision: LayerNormConfig::new(seed.vit_width).with_epsilon(1e-5).init(device),
            causal: seed.qformer().init(device),
            text: options.text(words).init(&seed.qformer(), device),
            vision_proj: projection(),
            text_proj: projection(),
            temp: Param::from_tensor(Tensor::full([1], options.temperature, device)),
        }
    }
}

impl<B: SeedBackend> Aligner<B> {
    /// Patch features before their norm `[batch, 1 + patches, vit_width]`, token ids and mask `[batch, tokens]` -> pairs.
    pub(super) fn pairs(&self, patches: Tensor<B, 3>, ids: Tensor<B, 2, Int>, mask: Tensor<B, 2>) -> Pairs<B> {
        let causal = self.causal.forward_causal(self.ln_vision.forward(patches)); // [batch, queries, width]
        let text = self.text.forward(&self.causal, ids, mask); // [batch, tokens, width]
        let [batch, queries, width] = causal.dims();
        let last = causal.narrow(1, queries - 1, 1).reshape([batch, width]);
        let first = text.narrow(1, 0, 1).reshape([batch, width]);
        Pairs { image: unit(self.vision_proj.forward(last)), text: unit(self.text_proj.forward(first)) }
    }

    /// The contrast of a whole batch, and the share of images whose own caption is nearest.
    pub(super) fn loss(&self, pairs: Pairs<B>, smoothing: f64) -> (Tensor<B, 1>, f64) {
        objective::contrast(pairs.image, pairs.text, self.temp.val().recip(), smoothing)
    }
}

/// The stage's inputs that do not learn.
pub(super) struct Inputs<'a, A: TrainBackend> {
    pub(super) options: &'a Alignment,
    pub(super) captions: &'a Captions,
    /// Step 2, fixed, on every device.
    pub(super) vit: &'a Replicas<A, EvaVit<A::InnerBackend>>,
}

impl<A: TrainBackend> Inputs<'_, A> {
    /// Pairs of some images and their captions.
    fn pairs(&self, model: &Aligner<A>, batch: &Batch, device: &A::Device) -> Result<Pairs<A>> {
        let patches = self.vit.on(device).forward(batch.pixels(device));
        let (ids, mask) = self.captions.tensors::<A>(&batch.captions, device)?;
        Ok(model.pairs(Tensor::from_inner(patches), ids, mask))
    }
}

pub(super) fn train<A: TrainBackend>(
    plan: &Plan,
    inputs: &Inputs<'_, A>,
    data: &Data<'_>,
    model: Aligner<A>,
    session: &mut Session<'_>,
    devices: &[A::Device],
) -> Result<Aligner<A>> {
    let parts = Parts::<A>::new(plan, devices);
    let smoothing = inputs.options.label_smoothing;
    let batch_at = |step: usize| data.batch(Sequence::Contrast, step * plan.batch, plan.batch);
    let step = |model: &Aligner<A>, step: usize| {
        let batch = batch_at(step)?;
        let pairs = |model: &Aligner<A>, range, device: &A::Device| inputs.pairs(model, &batch.part(range), device);
        parts.contrast(model, pairs, |model, pairs| {
            let (loss, accuracy) = model.loss(pairs, smoothing);
            let metrics = vec![("batch_accuracy", accuracy), ("temperature", scalar(model.temp.val()))];
            Output { loss, metrics }
        })
    };
    // The contrast of batches of the size that is learned from, so that its loss means what that of a step does.
    let validate = |model: &Aligner<A>| {
        let model = AutodiffModule::valid(model);
        let mut mean = Mean::default();
        for first in (0..plan.validation).step_by(plan.batch) {
            let batch = data.batch(Sequence::HeldOut, first, plan.batch.min(plan.validation - first))?;
            let patches = inputs.vit.on(&devices[0]).forward(batch.pixels(&devices[0]));
            let (ids, mask) = inputs.captions.tensors(&batch.captions, &devices[0])?;
            let (loss, accuracy) = model.loss(model.pairs(patches, ids, mask), smoothing);
            mean.add(batch.len(), &[(VALIDATION_LOSS, scalar(loss)), ("validation_accuracy", accuracy)]);
        }
        Ok(mean.metrics())
    };
    let keys = |step: usize| Ok(batch_at(step)?.keys);
    let mut task = Steps { step, after: |model, _| Ok(model), validate, keys };
    optimise("stage1", plan, session, model, &mut task)
}

#[cfg(test)]
mod tests {
    use burn::{backend::Autodiff, tensor::TensorData};
    use burn_flex::Flex;

    use super::*;
    use crate::{nn::recomputing, train::golden::Golden};

    type A = Autodiff<Flex>;

    #[test]
    fn three_steps_equal_the_reference() {
        let golden = Golden::open();
        let device = Default::default();
        let text = format!("embed_dim = {}\npositions = 12", golden.size("embed_dim"));
        let options: Alignment = toml::from_str(&text).unwrap();
        let model = Aligner::<A>::new(&golden.config, &options, golden.size("text_vocab"), &device);
        let model = golden.load(model, "stage1.safetensors", &Aligner::<A>::KEYS);
        let ids = TensorData::new(golden.cases.integers("ids").unwrap(), [6, 12]);
        let mask = TensorData::new(golden.cases.integers("attention_mask").unwrap(), [6, 12]);
        let mask = Tensor::<A, 2, Int>::from_data(mask, &device).float();
        let step = |model: &Aligner<A>| {
            let ids = Tensor::<A, 2, Int>::from_data(ids.clone(), &device);
            let pairs = model.pairs(golden.tensor("patches"), ids, mask.clone());
            vec![("loss", model.loss(pairs, options.label_smoothing).0)]
        };
        for again in [false, true] {
            recomputing(again, || golden.three_steps("stage1", 3e-4, model.clone(), &Aligner::<A>::KEYS, step));
        }
    }
}
