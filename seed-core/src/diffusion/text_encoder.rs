//! CLIP's text encoder: token ids `[batch, words]` -> context `[batch, words, width]`.
//!
//! Source: transformers 4.30.2, `CLIPTextModel` (its `last_hidden_state`): pre-norm, causal, learned positions. The
//! decoders here need it once, for the empty prompt.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Int, Tensor, backend::Backend};
use serde::Deserialize;

use super::clip_layer::{ClipLayer, LayersConfig};
use crate::checkpoint::KeyTable;
use crate::nn::{LayerNorm, SeedBackend};

/// Module paths to checkpoint keys.
pub const KEYS: KeyTable = KeyTable {
    renames: &[
        ("layers", "text_model.encoder.layers"),
        ("final_layer_norm", "text_model.final_layer_norm"),
        ("", "text_model.embeddings"),
    ],
    ignored: &["text_model.embeddings.position_ids"],
};

/// Sizes of a [`TextEncoder`], named as in transformers' `config.json`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct TextEncoderConfig {
    /// Number of tokens in the vocabulary.
    pub vocab_size: usize,
    /// Longest text; every prompt is padded to it.
    pub max_position_embeddings: usize,
    /// Sizes of the layers.
    #[serde(flatten)]
    pub layers: LayersConfig,
}

impl TextEncoderConfig {
    /// What makes the sizes impossible, in words; every network that [`init`](Self::init) is asked for must pass.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        self.layers.check()
    }

    /// A network with random weights. Panics if [`check`](Self::check) finds the sizes impossible.
    pub fn init<B: SeedBackend>(&self, device: &B::Device) -> TextEncoder<B> {
        if let Err(reason) = self.check() {
            panic!("impossible text encoder: {reason}");
        }
        let (layers, width) = (&self.layers, self.layers.hidden_size);
        TextEncoder {
            token_embedding: EmbeddingConfig::new(self.vocab_size, width).init(device),
            position_embedding: EmbeddingConfig::new(self.max_position_embeddings, width).init(device),
            layers: layers.layers(device),
            final_layer_norm: layers.norm(device),
        }
    }
}

/// CLIP's text encoder.
#[derive(Module, Debug)]
pub struct TextEncoder<B: Backend> {
    token_embedding: Embedding<B>,
    position_embedding: Embedding<B>,
    layers: Vec<ClipLayer<B>>,
    final_layer_norm: LayerNorm<B>,
}

impl<B: SeedBackend> TextEncoder<B> {
    /// Token ids `[batch, words]`, at most as many words as there are positions -> `[batch, words, width]`.
    pub fn forward(&self, ids: Tensor<B, 2, Int>) -> Tensor<B, 3> {
        let ([_, words], device) = (ids.dims(), ids.device());
        let positions = Tensor::arange(0..words as i64, &device).unsqueeze(); // [1, words]
        let mut x = self.token_embedding.forward(ids) + self.position_embedding.forward(positions);
        let later = Tensor::<B, 2, burn::tensor::Bool>::tril_mask([words, words], 0, &device);
        let mask = Tensor::zeros([words, words], &device).mask_fill(later, f32::NEG_INFINITY);
        for layer in &self.layers {
            x = layer.forward(x, Some(&mask));
        }
        self.final_layer_norm.forward(x)
    }
}
