//! CLIP's text encoder: token ids `[batch, words]` -> context `[batch, words, width]`.
//!
//! Source: transformers 4.30.2, `CLIPTextModel` (its `last_hidden_state`): pre-norm, causal, learned positions. The
//! decoders here need it once, for the empty prompt.

use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Int, Tensor, backend::Backend};
use serde::Deserialize;

use crate::checkpoint::KeyTable;
use crate::nn::{SeedBackend, attention, gelu, merge_heads, silu, split_heads};

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
    /// Features of a token.
    pub hidden_size: usize,
    /// Inner features of the MLPs.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads of a layer.
    pub num_attention_heads: usize,
    /// Longest text; every prompt is padded to it.
    pub max_position_embeddings: usize,
    /// Activation of the MLPs.
    #[serde(default)]
    pub hidden_act: Activation,
    /// Epsilon of the layer normalizations.
    #[serde(default = "default_eps")]
    pub layer_norm_eps: f64,
}

fn default_eps() -> f64 {
    1e-5
}

/// Activation of the MLPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x * sigmoid(1.702 x)` (OpenAI's CLIP).
    #[default]
    QuickGelu,
    /// Exact GELU (OpenCLIP).
    Gelu,
}

/// Slope of [`Activation::QuickGelu`].
const QUICK: f64 = 1.702;

impl Activation {
    fn apply<B: SeedBackend, const D: usize>(self, x: Tensor<B, D>) -> Tensor<B, D> {
        match self {
            Self::QuickGelu => silu(x * QUICK) / QUICK,
            Self::Gelu => gelu(x),
        }
    }
}

impl TextEncoderConfig {
    /// What makes the sizes impossible, in words; every network that [`init`](Self::init) is asked for must pass.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if heads == 0 || width == 0 || width % heads != 0 {
            return Err(format!("hidden_size = {width} is no multiple of num_attention_heads = {heads}"));
        }
        Ok(())
    }

    /// A network with random weights. Panics if [`check`](Self::check) finds the sizes impossible.
    pub fn init<B: SeedBackend>(&self, device: &B::Device) -> TextEncoder<B> {
        if let Err(reason) = self.check() {
            panic!("impossible text encoder: {reason}");
        }
        let width = self.hidden_size;
        TextEncoder {
            token_embedding: EmbeddingConfig::new(self.vocab_size, width).init(device),
            position_embedding: EmbeddingConfig::new(self.max_position_embeddings, width).init(device),
            layers: (0..self.num_hidden_layers).map(|_| self.layer(device)).collect(),
            final_layer_norm: self.norm(device),
        }
    }

    fn norm<B: Backend>(&self, device: &B::Device) -> LayerNorm<B> {
        LayerNormConfig::new(self.hidden_size).with_epsilon(self.layer_norm_eps).init(device)
    }

    fn layer<B: Backend>(&self, device: &B::Device) -> Layer<B> {
        let (width, hidden) = (self.hidden_size, self.intermediate_size);
        let square = || LinearConfig::new(width, width).init(device);
        Layer {
            layer_norm1: self.norm(device),
            self_attn: SelfAttention {
                q_proj: square(),
                k_proj: square(),
                v_proj: square(),
                out_proj: square(),
                heads: self.num_attention_heads,
            },
            layer_norm2: self.norm(device),
            mlp: Mlp {
                fc1: LinearConfig::new(width, hidden).init(device),
                fc2: LinearConfig::new(hidden, width).init(device),
                activation: self.hidden_act,
            },
        }
    }
}

/// CLIP's text encoder.
#[derive(Module, Debug)]
pub struct TextEncoder<B: Backend> {
    token_embedding: Embedding<B>,
    position_embedding: Embedding<B>,
    layers: Vec<Layer<B>>,
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
            x = layer.forward(x, &mask);
        }
        self.final_layer_norm.forward(x)
    }
}

/// Causal self-attention and an MLP, each after a layer normalization.
#[derive(Module, Debug)]
pub struct Layer<B: Backend> {
    layer_norm1: LayerNorm<B>,
    self_attn: SelfAttention<B>,
    layer_norm2: LayerNorm<B>,
    mlp: Mlp<B>,
}

impl<B: SeedBackend> Layer<B> {
    fn forward(&self, x: Tensor<B, 3>, mask: &Tensor<B, 2>) -> Tensor<B, 3> {
        let x = self.self_attn.forward(self.layer_norm1.forward(x.clone()), mask) + x;
        self.mlp.forward(self.layer_norm2.forward(x.clone())) + x
    }
}

/// Multi-head self-attention.
#[derive(Module, Debug)]
pub struct SelfAttention<B: Backend> {
    q_proj: Linear<B>,
    k_proj: Linear<B>,
    v_proj: Linear<B>,
    out_proj: Linear<B>,
    heads: usize,
}

impl<B: SeedBackend> SelfAttention<B> {
    fn forward(&self, x: Tensor<B, 3>, mask: &Tensor<B, 2>) -> Tensor<B, 3> {
        let [_, _, width] = x.dims();
        let query = split_heads(self.q_proj.forward(x.clone()), self.heads);
        let key = split_heads(self.k_proj.forward(x.clone()), self.heads);
        let value = split_heads(self.v_proj.forward(x), self.heads);
        let scale = ((width / self.heads) as f64).powf(-0.5);
        self.out_proj.forward(merge_heads(attention(query, key, value, scale, Some(mask.clone()))))
    }
}

/// Two linear layers.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    fc1: Linear<B>,
    fc2: Linear<B>,
    #[module(skip)]
    activation: Activation,
}

impl<B: SeedBackend> Mlp<B> {
    fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        self.fc2.forward(self.activation.apply(self.fc1.forward(x)))
    }
}
