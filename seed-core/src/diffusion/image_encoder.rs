//! CLIP's vision tower with its projection: normalized pixels `[batch, 3, size, size]` -> image embedding `[batch, dim]`.
//!
//! Source: transformers 4.30.2, `CLIPVisionModelWithProjection`. It is the teacher of SEED-2's generation embedding and
//! lies in unCLIP's folder as `image_encoder`; decoding codes does not need it.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Embedding, EmbeddingConfig, Initializer};
use burn::tensor::{Tensor, backend::Backend};
use serde::Deserialize;

use super::clip_layer::{ClipLayer, LayersConfig};
use super::config;
use crate::checkpoint::{self, Files, KeyTable};
use crate::error::{Error, Result};
use crate::nn::{LayerNorm, Linear, LinearConfig, SeedBackend, conv2d};

/// Module paths to checkpoint keys. `pre_layrnorm` is spelt so in every file.
pub const KEYS: KeyTable = KeyTable {
    renames: &[
        ("layers", "vision_model.encoder.layers"),
        ("pre_layernorm", "vision_model.pre_layrnorm"),
        ("post_layernorm", "vision_model.post_layernorm"),
        ("visual_projection", "visual_projection"),
        ("", "vision_model.embeddings"),
    ],
    ignored: &["vision_model.embeddings.position_ids"],
};

/// Sizes of an [`ImageEncoder`], named as in transformers' `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ImageEncoderConfig {
    /// Pixels of a side.
    pub image_size: usize,
    /// Pixels of a patch's side.
    pub patch_size: usize,
    /// Features of the image embedding.
    pub projection_dim: usize,
    /// Sizes of the layers.
    #[serde(flatten)]
    pub layers: LayersConfig,
}

impl ImageEncoderConfig {
    /// What makes the sizes impossible, in words; every network that [`init`](Self::init) is asked for must pass.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        let (size, patch) = (self.image_size, self.patch_size);
        if size == 0 || patch == 0 || size % patch != 0 {
            return Err(format!("image_size = {size} is no multiple of patch_size = {patch}"));
        }
        self.layers.check()
    }

    /// A network with random weights. Panics if [`check`](Self::check) finds the sizes impossible.
    pub fn init<B: SeedBackend>(&self, device: &B::Device) -> ImageEncoder<B> {
        if let Err(reason) = self.check() {
            panic!("impossible image encoder: {reason}");
        }
        let (layers, width) = (&self.layers, self.layers.hidden_size);
        let patch = [self.patch_size; 2];
        let patches = (self.image_size / self.patch_size).pow(2);
        ImageEncoder {
            class_embedding: Initializer::Normal { mean: 0.0, std: 0.02 }.init([width], device),
            patch_embedding: Conv2dConfig::new([3, width], patch).with_stride(patch).with_bias(false).init(device),
            position_embedding: EmbeddingConfig::new(patches + 1, width).init(device),
            pre_layernorm: layers.norm(device),
            layers: layers.layers(device),
            post_layernorm: layers.norm(device),
            visual_projection: LinearConfig::new(width, self.projection_dim).with_bias(false).init(device),
        }
    }
}

/// CLIP's vision tower.
#[derive(Module, Debug)]
pub struct ImageEncoder<B: Backend> {
    class_embedding: Param<Tensor<B, 1>>,
    patch_embedding: Conv2d<B>,
    position_embedding: Embedding<B>,
    pre_layernorm: LayerNorm<B>,
    layers: Vec<ClipLayer<B>>,
    post_layernorm: LayerNorm<B>,
    visual_projection: Linear<B>,
}

impl<B: SeedBackend> ImageEncoder<B> {
    /// Loads transformers' layout: `config.json` and `model.safetensors`.
    ///
    /// # Errors
    /// Whatever is missing, broken or not supported, by file and field or key.
    pub fn load(files: &Files, device: &B::Device) -> Result<(ImageEncoderConfig, Self)> {
        let config: ImageEncoderConfig = config::read(files, "config.json", &config::IMAGE_ENCODER)?;
        config.check().map_err(|reason| Error::Config { file: files.describe("config.json"), reason })?;
        let weights = config::weights(files, "model")?;
        let encoder = checkpoint::load(config.init(device), &weights, &KEYS)?;
        Ok((config, encoder))
    }

    /// Pixels `[batch, 3, image_size, image_size]`, normalized as for step 2 -> image embeddings
    /// `[batch, projection_dim]`, not normalized.
    pub fn forward(&self, pixels: Tensor<B, 4>) -> Tensor<B, 2> {
        let [batch, ..] = pixels.dims();
        let patches = conv2d(&self.patch_embedding, pixels).flatten::<3>(2, 3).swap_dims(1, 2); // [batch, patches, width]
        let [_, _, width] = patches.dims();
        let class = self.class_embedding.val().reshape([1, 1, width]).repeat_dim(0, batch);
        let positions = self.position_embedding.weight.val().unsqueeze::<3>(); // [1, 1 + patches, width]
        let mut x = self.pre_layernorm.forward(Tensor::cat(vec![class, patches], 1) + positions);
        for layer in &self.layers {
            x = layer.forward(x, None);
        }
        let class = x.narrow(1, 0, 1).reshape([batch, width]);
        self.visual_projection.forward(self.post_layernorm.forward(class))
    }
}
