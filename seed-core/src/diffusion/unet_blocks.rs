//! Blocks of the UNet: transformers over the pixels of a feature map, and the down, middle and up blocks.
//!
//! Source: diffusers 0.20.2, `models/transformer_2d.py`, `models/attention.py`, `models/unet_2d_blocks.py`. Field names
//! are the checkpoint's keys. Dropout is left out (zero in every released model).
//!
//! Axes: `tokens` = `height * width` of a feature map; `words` = tokens of the context.

use burn::module::Module;
use burn::nn::{
    Dropout, DropoutConfig, GroupNorm,
    conv::{Conv2d, Conv2dConfig},
};
use burn::tensor::{Tensor, backend::Backend};

use super::blocks::{Downsample, DownsamplePadding, ResnetBlock, ResnetSizes, TimeScaleShift, Upsample, norm_layer};
use crate::nn::{
    LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend, attention, conv2d, conv2d_add, group_norm, transpose,
};

/// Epsilon of the group normalization before a transformer, whatever `norm_eps` says.
const TRANSFORMER_EPS: f64 = 1e-6;

/// What all blocks of one UNet level have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct LevelSizes {
    pub(super) time: (usize, TimeScaleShift),
    pub(super) groups: usize,
    pub(super) eps: f64,
    pub(super) context_dim: usize,
    pub(super) linear_projection: bool,
    /// Attention heads; `None` for a level without attention.
    pub(super) heads: Option<usize>,
}

impl LevelSizes {
    fn resnet<B: SeedBackend>(&self, channels: [usize; 2], device: &B::Device) -> ResnetBlock<B> {
        let [in_channels, out_channels] = channels;
        let time = Some(self.time);
        ResnetSizes { in_channels, out_channels, time, groups: self.groups, eps: self.eps }.init(device)
    }

    fn transformers<B: SeedBackend>(&self, channels: usize, count: usize, device: &B::Device) -> Vec<Transformer2d<B>> {
        let Some(heads) = self.heads else { return Vec::new() };
        (0..count).map(|_| Transformer2d::new(channels, heads, self, device)).collect()
    }
}

/// One level of the contracting half.
#[derive(Module, Debug)]
pub struct DownBlock<B: Backend> {
    resnets: Vec<ResnetBlock<B>>,
    attentions: Vec<Transformer2d<B>>,
    downsamplers: Vec<Downsample<B>>,
}

impl<B: SeedBackend> DownBlock<B> {
    pub(super) fn new(
        channels: [usize; 2],
        layers: usize,
        downsample: bool,
        sizes: &LevelSizes,
        device: &B::Device,
    ) -> Self {
        let [in_channels, out_channels] = channels;
        let input = |layer| if layer == 0 { in_channels } else { out_channels };
        let padding = DownsamplePadding::Around;
        Self {
            resnets: (0..layers).map(|layer| sizes.resnet([input(layer), out_channels], device)).collect(),
            attentions: sizes.transformers(out_channels, layers, device),
            downsamplers: downsample.then(|| Downsample::new(out_channels, padding, device)).into_iter().collect(),
        }
    }

    /// Feature map -> feature map of the next level; every intermediate map is pushed on `skips`.
    pub fn forward(
        &self,
        mut x: Tensor<B, 4>,
        time: &Tensor<B, 2>,
        context: &Tensor<B, 3>,
        skips: &mut Vec<Tensor<B, 4>>,
    ) -> Tensor<B, 4> {
        for (layer, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, Some(time));
            if let Some(transformer) = self.attentions.get(layer) {
                x = transformer.forward(x, context);
            }
            skips.push(x.clone());
        }
        if let Some(downsample) = self.downsamplers.first() {
            x = downsample.forward(x);
            skips.push(x.clone());
        }
        x
    }
}

/// The middle: residual block, transformer, residual block.
#[derive(Module, Debug)]
pub struct MidBlock<B: Backend> {
    attentions: Vec<Transformer2d<B>>,
    resnets: Vec<ResnetBlock<B>>,
}

impl<B: SeedBackend> MidBlock<B> {
    pub(super) fn new(channels: usize, sizes: &LevelSizes, device: &B::Device) -> Self {
        Self {
            attentions: sizes.transformers(channels, 1, device),
            resnets: (0..2).map(|_| sizes.resnet([channels, channels], device)).collect(),
        }
    }

    /// Keeps the shape.
    pub fn forward(&self, x: Tensor<B, 4>, time: &Tensor<B, 2>, context: &Tensor<B, 3>) -> Tensor<B, 4> {
        let x = self.resnets[0].forward(x, Some(time));
        let x = self.attentions[0].forward(x, context);
        self.resnets[1].forward(x, Some(time))
    }
}

/// One level of the expanding half; each layer reads one skip.
#[derive(Module, Debug)]
pub struct UpBlock<B: Backend> {
    resnets: Vec<ResnetBlock<B>>,
    attentions: Vec<Transformer2d<B>>,
    upsamplers: Vec<Upsample<B>>,
}

/// Channels of an [`UpBlock`].
#[derive(Clone, Copy, Debug)]
pub(super) struct UpChannels {
    /// Of the map that comes from below.
    pub(super) below: usize,
    /// Of this level's output.
    pub(super) output: usize,
    /// Of the last skip, which is the input of the same level on the way down.
    pub(super) last_skip: usize,
}

impl<B: SeedBackend> UpBlock<B> {
    pub(super) fn new(
        channels: UpChannels,
        layers: usize,
        upsample: bool,
        sizes: &LevelSizes,
        device: &B::Device,
    ) -> Self {
        let UpChannels { below, output, last_skip } = channels;
        let input = |layer| {
            let skip = if layer + 1 == layers { last_skip } else { output };
            skip + if layer == 0 { below } else { output }
        };
        Self {
            resnets: (0..layers).map(|layer| sizes.resnet([input(layer), output], device)).collect(),
            attentions: sizes.transformers(output, layers, device),
            upsamplers: upsample.then(|| Upsample::new(output, device)).into_iter().collect(),
        }
    }

    /// Feature map -> feature map of the level above, as large as that level's skips; pops one skip a layer.
    pub fn forward(
        &self,
        mut x: Tensor<B, 4>,
        time: &Tensor<B, 2>,
        context: &Tensor<B, 3>,
        skips: &mut Vec<Tensor<B, 4>>,
    ) -> Tensor<B, 4> {
        for (layer, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().expect("the up blocks have as many layers as the down blocks made skips");
            x = resnet.forward(Tensor::cat(vec![x, skip], 1), Some(time));
            if let Some(transformer) = self.attentions.get(layer) {
                x = transformer.forward(x, context);
            }
        }
        if let (Some(upsample), Some(skip)) = (self.upsamplers.first(), skips.last()) {
            let [_, _, height, width] = skip.dims();
            x = upsample.forward(x, [height, width]);
        }
        x
    }
}

/// Into and out of the transformer's width: a 1 x 1 convolution on the map, or a linear layer on its pixels.
#[derive(Module, Debug)]
pub enum Projection<B: Backend> {
    /// Stable Diffusion 1.
    Conv(Conv2d<B>),
    /// Stable Diffusion 2.
    Linear(Linear<B>),
}

impl<B: SeedBackend> Projection<B> {
    fn new(channels: usize, linear: bool, device: &B::Device) -> Self {
        match linear {
            false => Self::Conv(Conv2dConfig::new([channels, channels], [1, 1]).init(device)),
            true => Self::Linear(LinearConfig::new(channels, channels).init(device)),
        }
    }
}

/// Attention over the pixels of a feature map, with cross-attention to the context.
#[derive(Module, Debug)]
pub struct Transformer2d<B: Backend> {
    norm: GroupNorm<B>,
    proj_in: Projection<B>,
    transformer_blocks: Vec<TransformerBlock<B>>,
    proj_out: Projection<B>,
}

impl<B: SeedBackend> Transformer2d<B> {
    fn new(channels: usize, heads: usize, sizes: &LevelSizes, device: &B::Device) -> Self {
        Self {
            norm: norm_layer(sizes.groups, channels, TRANSFORMER_EPS, device),
            proj_in: Projection::new(channels, sizes.linear_projection, device),
            transformer_blocks: vec![TransformerBlock::new(channels, heads, sizes.context_dim, device)],
            proj_out: Projection::new(channels, sizes.linear_projection, device),
        }
    }

    /// `x` `[batch, channels, height, width]`, `context` `[batch, words, context_dim]` -> the shape of `x`.
    pub fn forward(&self, x: Tensor<B, 4>, context: &Tensor<B, 3>) -> Tensor<B, 4> {
        let [_, _, height, width] = x.dims();
        let normed = group_norm(&self.norm, x.clone());
        let mut tokens = match &self.proj_in {
            Projection::Conv(conv) => map_to_tokens(conv2d(conv, normed)),
            Projection::Linear(linear) => linear.forward(map_to_tokens(normed)),
        }; // [batch, tokens, channels]
        for block in &self.transformer_blocks {
            tokens = block.forward(tokens, context);
        }
        match &self.proj_out {
            Projection::Conv(conv) => conv2d_add(conv, tokens_to_map(tokens, [height, width]), x),
            Projection::Linear(linear) => tokens_to_map(linear.forward(tokens), [height, width]) + x,
        } // [batch, channels, height, width]
    }
}

/// `[batch, channels, height, width]` -> `[batch, height * width, channels]`.
pub(super) fn map_to_tokens<B: SeedBackend>(x: Tensor<B, 4>) -> Tensor<B, 3> {
    let [batch, channels, height, width] = x.dims();
    transpose(x.reshape([batch, channels, height * width]))
}

/// `[batch, height * width, channels]` -> `[batch, channels, height, width]`.
pub(super) fn tokens_to_map<B: SeedBackend>(x: Tensor<B, 3>, size: [usize; 2]) -> Tensor<B, 4> {
    let [batch, _, channels] = x.dims();
    transpose(x).reshape([batch, channels, size[0], size[1]])
}

/// Self-attention, cross-attention and feed-forward, each after a layer normalization.
#[derive(Module, Debug)]
pub struct TransformerBlock<B: Backend> {
    norm1: LayerNorm<B>,
    attn1: Attention<B>,
    norm2: LayerNorm<B>,
    attn2: Attention<B>,
    norm3: LayerNorm<B>,
    ff: FeedForward<B>,
}

impl<B: SeedBackend> TransformerBlock<B> {
    fn new(width: usize, heads: usize, context_dim: usize, device: &B::Device) -> Self {
        let norm = || LayerNormConfig::new(width).init(device);
        Self {
            norm1: norm(),
            attn1: Attention::new(width, width, heads, device),
            norm2: norm(),
            attn2: Attention::new(width, context_dim, heads, device),
            norm3: norm(),
            ff: FeedForward::new(width, device),
        }
    }

    /// `x` `[batch, tokens, width]`, `context` `[batch, words, context_dim]` -> the shape of `x`.
    pub fn forward(&self, x: Tensor<B, 3>, context: &Tensor<B, 3>) -> Tensor<B, 3> {
        let normed = self.norm1.forward(x.clone());
        let x = self.attn1.forward(normed.clone(), normed, x);
        let x = self.attn2.forward(self.norm2.forward(x.clone()), context.clone(), x);
        self.ff.forward(self.norm3.forward(x.clone()), x)
    }
}

/// Multi-head attention without biases on queries, keys and values.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    to_q: Linear<B>,
    to_k: Linear<B>,
    to_v: Linear<B>,
    to_out: [Linear<B>; 1],
    heads: usize,
}

impl<B: SeedBackend> Attention<B> {
    fn new(width: usize, context_dim: usize, heads: usize, device: &B::Device) -> Self {
        Self {
            to_q: LinearConfig::new(width, width).with_bias(false).init(device),
            to_k: LinearConfig::new(context_dim, width).with_bias(false).init(device),
            to_v: LinearConfig::new(context_dim, width).with_bias(false).init(device),
            to_out: [LinearConfig::new(width, width).init(device)],
            heads,
        }
    }

    /// `x` `[batch, tokens, width]`, `context` `[batch, words, context_dim]` -> the shape of `x`, plus `residual`.
    pub fn forward(&self, x: Tensor<B, 3>, context: Tensor<B, 3>, residual: Tensor<B, 3>) -> Tensor<B, 3> {
        let query = self.to_q.forward(x);
        let (key, value) = (self.to_k.forward(context.clone()), self.to_v.forward(context));
        self.to_out[0].forward_add(attention(query, key, value, self.heads, None), residual)
    }
}

/// Gated feed-forward, four times as wide inside. The checkpoint's second entry is a dropout.
#[derive(Module, Debug)]
pub struct FeedForward<B: Backend> {
    net: (GatedGelu<B>, Dropout, Linear<B>),
}

impl<B: SeedBackend> FeedForward<B> {
    fn new(width: usize, device: &B::Device) -> Self {
        let hidden = 4 * width;
        let gated = GatedGelu { proj: LinearConfig::new(width, 2 * hidden).init(device) };
        Self { net: (gated, DropoutConfig::new(0.0).init(), LinearConfig::new(hidden, width).init(device)) }
    }

    /// `x` `[batch, tokens, width]` -> the same shape, plus `residual`.
    pub fn forward(&self, x: Tensor<B, 3>, residual: Tensor<B, 3>) -> Tensor<B, 3> {
        self.net.2.forward_add(self.net.0.forward(x), residual)
    }
}

/// GEGLU: one half of the projection, gated by the GELU of the other.
#[derive(Module, Debug)]
pub struct GatedGelu<B: Backend> {
    proj: Linear<B>,
}

impl<B: SeedBackend> GatedGelu<B> {
    /// `[batch, tokens, width]` -> `[batch, tokens, hidden]`.
    pub fn forward(&self, x: Tensor<B, 3>) -> Tensor<B, 3> {
        self.proj.forward_gated(x)
    }
}
