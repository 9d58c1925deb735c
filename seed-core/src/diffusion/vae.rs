//! The autoencoder: image `[batch, 3, height, width]` in -1 to 1 <-> latents `[batch, 4, height / 8, width / 8]`.
//!
//! Source: diffusers 0.20.2, `AutoencoderKL` (`models/autoencoder_kl.py`, `models/vae.py`). Field names are the
//! checkpoint's keys. Sampling and the scaling factor belong to the callers.

use burn::module::Module;
use burn::nn::{GroupNorm, conv::Conv2d};
use burn::tensor::{Tensor, backend::Backend};
use serde::{Deserialize, Serialize};

use super::blocks::{
    Downsample, DownsamplePadding, ResnetBlock, ResnetSizes, Upsample, conv_1x1, conv_3x3, norm_layer,
};
use super::unet_blocks::{map_to_tokens, tokens_to_map};
use crate::checkpoint::{KeyTable, Weights};
use crate::nn::{Linear, LinearConfig, SeedBackend, attention, conv2d, group_norm, group_norm_silu};

/// Module paths are checkpoint keys.
pub const KEYS: KeyTable = KeyTable::EXACT;

/// Module paths to the keys of files from before diffusers 0.15, Stable Diffusion's own among them.
pub const OLD_KEYS: KeyTable = KeyTable {
    renames: &[(".to_q", ".query"), (".to_k", ".key"), (".to_v", ".value"), (".to_out.0", ".proj_attn")],
    ignored: &[],
};

/// The key table of a weight file.
pub fn keys_of(weights: &Weights) -> &'static KeyTable {
    match weights.keys().any(|key| key.ends_with(".attentions.0.query.weight")) {
        true => &OLD_KEYS,
        false => &KEYS,
    }
}

/// Epsilon of every group normalization.
const EPS: f64 = 1e-6;

/// The encoder's log-variances are kept in this range.
const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);

/// Sizes of a [`Vae`], named as in diffusers' `vae/config.json`. `serde_json` writes a file that diffusers reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "_class_name", rename = "AutoencoderKL")]
pub struct VaeConfig {
    /// Channels of the image.
    pub in_channels: usize,
    /// Channels of the decoded image.
    pub out_channels: usize,
    /// Kinds of the encoder's levels; as many as `block_out_channels`.
    pub down_block_types: Vec<DownEncoderType>,
    /// Kinds of the decoder's levels; as many as `block_out_channels`.
    pub up_block_types: Vec<UpDecoderType>,
    /// Channels of each level, from the image inwards.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of an encoder level; one more in the decoder.
    pub layers_per_block: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Groups of the group normalizations.
    #[serde(default = "default_groups")]
    pub norm_num_groups: usize,
    /// Factor that makes latents of standard deviation about 1.
    #[serde(default = "default_scaling")]
    pub scaling_factor: f64,
}

/// A level of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownEncoderType {
    /// Residual blocks, then a downsampler.
    DownEncoderBlock2D,
}

/// A level of the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpDecoderType {
    /// Residual blocks, then an upsampler.
    UpDecoderBlock2D,
}

fn default_groups() -> usize {
    32
}

fn default_scaling() -> f64 {
    0.18215
}

impl VaeConfig {
    /// The autoencoder of Stable Diffusion 1 and 2.
    pub fn stable_diffusion() -> Self {
        Self::sized(&[128, 256, 512, 512], 2, 32)
    }

    /// An RGB autoencoder with 4 latent channels; height and width shrink by `2^(channels.len() - 1)`.
    pub fn sized(channels: &[usize], layers_per_block: usize, norm_num_groups: usize) -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DownEncoderType::DownEncoderBlock2D; channels.len()],
            up_block_types: vec![UpDecoderType::UpDecoderBlock2D; channels.len()],
            block_out_channels: channels.to_vec(),
            layers_per_block,
            latent_channels: 4,
            norm_num_groups,
            scaling_factor: default_scaling(),
        }
    }

    /// Pixels of a latent's side.
    pub fn shrink(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// What makes the sizes impossible, in words; every network that [`init`](Self::init) is asked for must pass.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self) -> Result<(), String> {
        let (levels, groups) = (self.block_out_channels.len(), self.norm_num_groups);
        if levels == 0 || self.layers_per_block == 0 || groups == 0 {
            return Err("block_out_channels, layers_per_block and norm_num_groups must not be empty or 0".into());
        }
        for (name, found) in
            [("down_block_types", self.down_block_types.len()), ("up_block_types", self.up_block_types.len())]
        {
            if found != levels {
                return Err(format!("{name} has {found} entries where block_out_channels has {levels}"));
            }
        }
        if let Some(channels) =
            self.block_out_channels.iter().find(|&&channels| channels == 0 || channels % groups != 0)
        {
            return Err(format!("block_out_channels has {channels}, no multiple of norm_num_groups = {groups}"));
        }
        if !self.scaling_factor.is_finite() || self.scaling_factor <= 0.0 {
            return Err(format!("scaling_factor = {} is not positive", self.scaling_factor));
        }
        Ok(())
    }

    /// A network with random weights. Panics if [`check`](Self::check) finds the sizes impossible.
    pub fn init<B: SeedBackend>(&self, device: &B::Device) -> Vae<B> {
        if let Err(reason) = self.check() {
            panic!("impossible autoencoder: {reason}");
        }
        let latent = self.latent_channels;
        Vae {
            encoder: self.encoder(device),
            decoder: self.decoder(device),
            quant_conv: conv_1x1([2 * latent, 2 * latent], device),
            post_quant_conv: conv_1x1([latent, latent], device),
        }
    }

    fn resnet<B: SeedBackend>(&self, in_channels: usize, out_channels: usize, device: &B::Device) -> ResnetBlock<B> {
        let groups = self.norm_num_groups;
        ResnetSizes { in_channels, out_channels, time: None, groups, eps: EPS }.init(device)
    }

    fn middle<B: SeedBackend>(&self, channels: usize, device: &B::Device) -> MidBlock<B> {
        MidBlock {
            attentions: [MapAttention::new(channels, self.norm_num_groups, device)],
            resnets: [self.resnet(channels, channels, device), self.resnet(channels, channels, device)],
        }
    }

    fn encoder<B: SeedBackend>(&self, device: &B::Device) -> Encoder<B> {
        let channels = &self.block_out_channels;
        let last = channels[channels.len() - 1];
        let block = |level: usize| {
            let (output, below) = (channels[level], channels[level.saturating_sub(1)]);
            let input = |layer| if layer == 0 { below } else { output };
            let down =
                (level + 1 < channels.len()).then(|| Downsample::new(output, DownsamplePadding::BelowAndRight, device));
            EncoderBlock {
                resnets: (0..self.layers_per_block).map(|layer| self.resnet(input(layer), output, device)).collect(),
                downsamplers: down.into_iter().collect(),
            }
        };
        Encoder {
            conv_in: conv_3x3([self.in_channels, channels[0]], device),
            down_blocks: (0..channels.len()).map(block).collect(),
            mid_block: self.middle(last, device),
            conv_norm_out: norm_layer(self.norm_num_groups, last, EPS, device),
            conv_out: conv_3x3([last, 2 * self.latent_channels], device),
        }
    }

    fn decoder<B: SeedBackend>(&self, device: &B::Device) -> Decoder<B> {
        let channels = &self.block_out_channels;
        let last = channels[channels.len() - 1];
        let block = |level: usize| {
            let (output, below) = (channels[level], channels[(level + 1).min(channels.len() - 1)]);
            let input = |layer| if layer == 0 { below } else { output };
            let up = (level > 0).then(|| Upsample::new(output, device));
            DecoderBlock {
                resnets: (0..=self.layers_per_block).map(|layer| self.resnet(input(layer), output, device)).collect(),
                upsamplers: up.into_iter().collect(),
            }
        };
        Decoder {
            conv_in: conv_3x3([self.latent_channels, last], device),
            mid_block: self.middle(last, device),
            up_blocks: (0..channels.len()).rev().map(block).collect(),
            conv_norm_out: norm_layer(self.norm_num_groups, channels[0], EPS, device),
            conv_out: conv_3x3([channels[0], self.out_channels], device),
        }
    }
}

/// The autoencoder.
#[derive(Module, Debug)]
pub struct Vae<B: Backend> {
    encoder: Encoder<B>,
    decoder: Decoder<B>,
    quant_conv: Conv2d<B>,
    post_quant_conv: Conv2d<B>,
}

impl<B: SeedBackend> Vae<B> {
    /// Image `[batch, 3, height, width]` in -1 to 1 -> mean and log-variance of the unscaled latents, each
    /// `[batch, 4, height / shrink, width / shrink]`; the log-variance is clamped to -30 to 20.
    pub fn encode(&self, image: Tensor<B, 4>) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let moments = conv2d(&self.quant_conv, self.encoder.forward(image)); // [batch, 2 * 4, ..]
        let [batch, channels, height, width] = moments.dims();
        let half = |from| moments.clone().slice([0..batch, from..from + channels / 2, 0..height, 0..width]);
        (half(0), half(channels / 2).clamp(LOG_VARIANCE.0, LOG_VARIANCE.1))
    }

    /// Unscaled latents `[batch, 4, height, width]` -> image `[batch, 3, shrink * height, shrink * width]`, about -1 to
    /// 1 and not clamped.
    pub fn decode(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        self.decoder.forward(conv2d(&self.post_quant_conv, latents))
    }
}

/// Image -> moments of the latents.
#[derive(Module, Debug)]
pub struct Encoder<B: Backend> {
    conv_in: Conv2d<B>,
    down_blocks: Vec<EncoderBlock<B>>,
    mid_block: MidBlock<B>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
}

impl<B: SeedBackend> Encoder<B> {
    /// `[batch, 3, height, width]` -> `[batch, 2 * 4, height / shrink, width / shrink]`.
    pub fn forward(&self, image: Tensor<B, 4>) -> Tensor<B, 4> {
        let mut x = conv2d(&self.conv_in, image);
        for block in &self.down_blocks {
            x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x, None));
            x = block.downsamplers.iter().fold(x, |x, downsample| downsample.forward(x));
        }
        x = self.mid_block.forward(x);
        conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, x))
    }
}

/// Latents -> image.
#[derive(Module, Debug)]
pub struct Decoder<B: Backend> {
    conv_in: Conv2d<B>,
    mid_block: MidBlock<B>,
    up_blocks: Vec<DecoderBlock<B>>,
    conv_norm_out: GroupNorm<B>,
    conv_out: Conv2d<B>,
}

impl<B: SeedBackend> Decoder<B> {
    /// `[batch, 4, height, width]` -> `[batch, 3, shrink * height, shrink * width]`.
    pub fn forward(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        let mut x = self.mid_block.forward(conv2d(&self.conv_in, latents));
        for block in &self.up_blocks {
            x = block.resnets.iter().fold(x, |x, resnet| resnet.forward(x, None));
            let [_, _, height, width] = x.dims();
            x = block.upsamplers.iter().fold(x, |x, upsample| upsample.forward(x, [2 * height, 2 * width]));
        }
        conv2d(&self.conv_out, group_norm_silu(&self.conv_norm_out, x))
    }
}

/// One level of the encoder.
#[derive(Module, Debug)]
pub struct EncoderBlock<B: Backend> {
    resnets: Vec<ResnetBlock<B>>,
    downsamplers: Vec<Downsample<B>>,
}

/// One level of the decoder.
#[derive(Module, Debug)]
pub struct DecoderBlock<B: Backend> {
    resnets: Vec<ResnetBlock<B>>,
    upsamplers: Vec<Upsample<B>>,
}

/// Residual block, attention, residual block.
#[derive(Module, Debug)]
pub struct MidBlock<B: Backend> {
    attentions: [MapAttention<B>; 1],
    resnets: [ResnetBlock<B>; 2],
}

impl<B: SeedBackend> MidBlock<B> {
    /// Keeps the shape.
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [first, second] = &self.resnets;
        second.forward(self.attentions[0].forward(first.forward(x, None)), None)
    }
}

/// Single-head self-attention over the pixels of a map, with a shortcut.
#[derive(Module, Debug)]
pub struct MapAttention<B: Backend> {
    group_norm: GroupNorm<B>,
    to_q: Linear<B>,
    to_k: Linear<B>,
    to_v: Linear<B>,
    to_out: [Linear<B>; 1],
}

impl<B: SeedBackend> MapAttention<B> {
    fn new(channels: usize, groups: usize, device: &B::Device) -> Self {
        let linear = || LinearConfig::new(channels, channels).init(device);
        Self {
            group_norm: norm_layer(groups, channels, EPS, device),
            to_q: linear(),
            to_k: linear(),
            to_v: linear(),
            to_out: [linear()],
        }
    }

    /// Keeps the shape `[batch, channels, height, width]`.
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, _, height, width] = x.dims();
        let tokens = map_to_tokens(group_norm(&self.group_norm, x.clone())); // [batch, height * width, channels]
        let query = self.to_q.forward(tokens.clone());
        let (key, value) = (self.to_k.forward(tokens.clone()), self.to_v.forward(tokens));
        let out = attention(query, key, value, 1, None);
        tokens_to_map(self.to_out[0].forward(out), [height, width]) + x
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use burn_flex::Flex;

    use super::*;

    #[test]
    fn encode_and_decode_have_the_expected_shapes() {
        let device = Default::default();
        for levels in 1..=4 {
            let config = VaeConfig::sized(&[8, 8, 16, 16][..levels], 1, 4);
            let vae = config.init::<Flex>(&device);
            let image = Tensor::random([2, 3, 24, 16], Distribution::Uniform(-1.0, 1.0), &device);
            let (mean, log_variance) = vae.encode(image);
            let shrink = config.shrink();
            assert_eq!(mean.dims(), [2, 4, 24 / shrink, 16 / shrink]);
            assert_eq!(log_variance.dims(), mean.dims());
            assert_eq!(vae.decode(mean).dims(), [2, 3, 24, 16]);
        }
    }

    #[test]
    #[cfg(feature = "train")]
    fn every_weight_has_a_gradient() {
        use burn::module::{ModuleVisitor, Param};
        use burn::tensor::backend::AutodiffBackend;

        type Train = burn::backend::Autodiff<Flex>;
        struct Check<'a>(&'a <Train as AutodiffBackend>::Gradients, usize);
        impl ModuleVisitor<Train> for Check<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<Train, D>>) {
                assert!(param.val().grad(self.0).is_some(), "no gradient for {:?}", param.val().dims());
                self.1 += 1;
            }
        }
        let device = Default::default();
        let vae = VaeConfig::sized(&[8, 16], 1, 4).init::<Train>(&device);
        let image = Tensor::<Train, 4>::random([2, 3, 16, 16], Distribution::Uniform(-1.0, 1.0), &device);
        let (mean, log_variance) = vae.encode(image.clone());
        let loss = (vae.decode(mean) - image).square().mean() + log_variance.square().mean();
        let gradients = loss.backward();
        let mut check = Check(&gradients, 0);
        vae.visit(&mut check);
        assert!(check.1 > 50);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let good = VaeConfig::sized(&[8, 16], 1, 4);
        assert_eq!(good.check(), Ok(()));
        for broken in [
            VaeConfig { norm_num_groups: 3, ..good.clone() },
            VaeConfig { up_block_types: vec![], ..good.clone() },
            VaeConfig { scaling_factor: 0.0, ..good.clone() },
        ] {
            assert!(broken.check().is_err(), "{broken:?}");
        }
    }
}
