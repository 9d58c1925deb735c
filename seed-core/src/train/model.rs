//! What the stages train: the tokenizer, and the towers that tie it to captions.

use burn::{
    module::{AutodiffModule, Module, Param},
    tensor::{Tensor, backend::Backend},
};

use crate::{
    contrast::{Contrast, ContrastConfig},
    tokenizer::{SeedConfig, SeedNetwork},
};

use super::{run::TrainBackend, sketch::Sketch, start::distinct};

/// The tokenizer and its captions' side, of which each stage trains a part.
#[derive(Module, Debug)]
pub struct TrainModel<B: Backend> {
    /// Steps 2 to 5.
    pub network: SeedNetwork<B>,
    /// Text tower and projections.
    pub contrast: Contrast<B>,
    /// Logarithm of the similarity scale of the vision stage, `[1]`.
    pub vision_scale: Param<Tensor<B, 1>>,
    /// The same of stage 1.
    pub causal_scale: Param<Tensor<B, 1>>,
    /// What the image embedding shows; not part of the bundle.
    pub image_sketch: Sketch<B>,
    /// What the causal embeddings show; not part of the bundle.
    pub causal_sketch: Sketch<B>,
}

/// Starting similarity scale, 1 / 0.07.
const SCALE: f64 = 14.3;

/// Largest similarity scale, as in CLIP.
const MAX_SCALE: f64 = 100.0;

impl<B: Backend> TrainModel<B> {
    /// A randomly initialised model.
    pub fn new(seed: &SeedConfig, contrast: &ContrastConfig, device: &B::Device) -> Self {
        let scale = || Param::from_tensor(Tensor::full([1], SCALE.ln(), device));
        Self {
            network: distinct(seed.init(device)),
            contrast: distinct(contrast.init(seed.vit_features(), seed.qformer_width, device)),
            vision_scale: scale(),
            causal_scale: scale(),
            image_sketch: Sketch::of_image(contrast.embed_dim, device),
            causal_sketch: Sketch::of_queries(seed.num_queries, seed.qformer_width, device),
        }
    }
}

/// The similarity scale out of its logarithm.
pub(super) fn scale<B: Backend>(log: &Param<Tensor<B, 1>>) -> Tensor<B, 1> {
    log.val().exp().clamp_max(MAX_SCALE)
}

/// The model without gradients: what a stage holds fixed is computed on it.
pub(super) fn frozen<A: TrainBackend>(model: &TrainModel<A>) -> TrainModel<A::InnerBackend> {
    model.valid()
}
