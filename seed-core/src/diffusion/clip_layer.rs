//! The layer that CLIP's two towers consist of: `[batch, tokens, width]` -> the same.
//!
//! Source: transformers 4.30.2, `CLIPEncoderLayer`: pre-norm self-attention and MLP. Field names are the checkpoint's.

use burn::module::Module;
use burn::tensor::{Tensor, backend::Backend};
use serde::Deserialize;

use crate::nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend, attention, gelu, silu};

/// Sizes that both towers have, named as in transformers' `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct LayersConfig {
    /// Features of a token.
    pub hidden_size: usize,
    /// Inner features of the MLPs.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Attention heads of a layer.
    pub num_attention_heads: usize,
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

impl LayersConfig {
    /// What makes the sizes impossible, in words.
    pub(super) fn check(&self) -> Result<(), String> {
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if heads == 0 || width == 0 || width % heads != 0 {
            return Err(format!("hidden_size = {width} is no multiple of num_attention_heads = {heads}"));
        }
        Ok(())
    }

    pub(super) fn norm<B: Backend>(&self, device: &B::Device) -> LayerNorm<B> {
        LayerNormConfig::new(self.hidden_size).with_epsilon(self.layer_norm_eps).init(device)
    }

    pub(super) fn layers<B: Backend>(&self, device: &B::Device) -> Vec<ClipLayer<B>> {
        (0..self.num_hidden_layers).map(|_| self.layer(device)).collect()
    }

    fn layer<B: Backend>(&self, device: &B::Device) -> ClipLayer<B> {
        let (width, hidden) = (self.hidden_size, self.intermediate_size);
        let square = || LinearConfig::new(width, width).init(device);
        ClipLayer {
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

/// Self-attention and an MLP, each after a layer normalization.
#[derive(Module, Debug)]
pub struct ClipLayer<B: Backend> {
    layer_norm1: LayerNorm<B>,
    self_attn: SelfAttention<B>,
    layer_norm2: LayerNorm<B>,
    mlp: Mlp<B>,
}

impl<B: SeedBackend> ClipLayer<B> {
    /// `mask` `[tokens, tokens]` is added to the attention's scores.
    pub(super) fn forward(&self, x: Tensor<B, 3>, mask: Option<&Tensor<B, 2>>) -> Tensor<B, 3> {
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
    fn forward(&self, x: Tensor<B, 3>, mask: Option<&Tensor<B, 2>>) -> Tensor<B, 3> {
        let query = self.q_proj.forward(x.clone());
        let (key, value) = (self.k_proj.forward(x.clone()), self.v_proj.forward(x));
        self.out_proj.forward(attention(query, key, value, self.heads, mask.cloned()))
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
