//! What the UNet and the autoencoder share: residual block, upsampler, downsampler, sinusoidal embedding.
//!
//! Source: diffusers 0.20.2, `models/resnet.py` (`ResnetBlock2D`, `Upsample2D`, `Downsample2D`) and
//! `models/embeddings.py` (`get_timestep_embedding`). Field names are the checkpoint's keys.

use burn::module::Module;
use burn::nn::{
    GroupNorm, GroupNormConfig, PaddingConfig2d,
    conv::{Conv2d, Conv2dConfig},
};
use burn::tensor::{
    Tensor, TensorData,
    backend::Backend,
    module::interpolate,
    ops::{InterpolateMode, InterpolateOptions},
};
use serde::{Deserialize, Serialize};

use crate::nn::{
    Linear, LinearConfig, SeedBackend, add, conv2d, conv2d_add, group_norm, group_norm_silu, multiply, silu,
};

/// A 3 x 3 convolution that keeps height and width.
pub(super) fn conv_3x3<B: Backend>(channels: [usize; 2], device: &B::Device) -> Conv2d<B> {
    Conv2dConfig::new(channels, [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
}

/// A 1 x 1 convolution.
pub(super) fn conv_1x1<B: Backend>(channels: [usize; 2], device: &B::Device) -> Conv2d<B> {
    Conv2dConfig::new(channels, [1, 1]).init(device)
}

/// A group normalization with learned scale and shift.
pub(super) fn norm_layer<B: Backend>(groups: usize, channels: usize, eps: f64, device: &B::Device) -> GroupNorm<B> {
    GroupNormConfig::new(groups, channels).with_epsilon(eps).init(device)
}

/// How a time embedding enters a residual block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// It is added between the convolutions.
    #[default]
    Default,
    /// It scales what the second normalization leaves, by one and a half of its features, and is added to that by the other.
    ScaleShift,
}

/// Sizes of a [`ResnetBlock`].
#[derive(Clone, Copy, Debug)]
pub(super) struct ResnetSizes {
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    /// Features of the time embedding and how it enters; the autoencoder has none.
    pub(super) time: Option<(usize, TimeScaleShift)>,
    pub(super) groups: usize,
    pub(super) eps: f64,
}

/// Two normalized 3 x 3 convolutions with a shortcut; the time embedding enters between them.
#[derive(Module, Debug)]
pub struct ResnetBlock<B: Backend> {
    norm1: GroupNorm<B>,
    conv1: Conv2d<B>,
    time_emb_proj: Option<Linear<B>>,
    norm2: GroupNorm<B>,
    conv2: Conv2d<B>,
    conv_shortcut: Option<Conv2d<B>>,
    scales: bool,
}

impl ResnetSizes {
    pub(super) fn init<B: Backend>(self, device: &B::Device) -> ResnetBlock<B> {
        let Self { in_channels, out_channels, time, groups, eps } = self;
        let scales = matches!(time, Some((_, TimeScaleShift::ScaleShift)));
        let of_time = if scales { 2 * out_channels } else { out_channels };
        ResnetBlock {
            norm1: norm_layer(groups, in_channels, eps, device),
            conv1: conv_3x3([in_channels, out_channels], device),
            time_emb_proj: time.map(|(dim, _)| LinearConfig::new(dim, of_time).init(device)),
            norm2: norm_layer(groups, out_channels, eps, device),
            conv2: conv_3x3([out_channels, out_channels], device),
            conv_shortcut: (in_channels != out_channels).then(|| conv_1x1([in_channels, out_channels], device)),
            scales,
        }
    }
}

impl<B: SeedBackend> ResnetBlock<B> {
    /// `x` `[batch, in_channels, height, width]` and, in the UNet, the activated time embedding `[batch, time_dim]` ->
    /// `[batch, out_channels, height, width]`.
    pub fn forward(&self, x: Tensor<B, 4>, time: Option<&Tensor<B, 2>>) -> Tensor<B, 4> {
        let hidden = group_norm_silu(&self.norm1, x.clone());
        let time = match (&self.time_emb_proj, time) {
            (Some(project), Some(time)) => Some(project.forward(time.clone()).unsqueeze_dims(&[2, 3])), // [batch, .., 1, 1]
            _ => None,
        };
        let hidden = match time {
            Some(time) if self.scales => {
                let [scale, shift] = time.chunk(2, 1).try_into().expect("an even number of features");
                let normed = group_norm(&self.norm2, conv2d(&self.conv1, hidden));
                silu(add(multiply(normed, scale + 1.0), shift))
            }
            Some(time) => group_norm_silu(&self.norm2, conv2d_add(&self.conv1, hidden, time)),
            None => group_norm_silu(&self.norm2, conv2d(&self.conv1, hidden)),
        };
        let shortcut = match &self.conv_shortcut {
            Some(shortcut) => conv2d(shortcut, x),
            None => x,
        };
        conv2d_add(&self.conv2, hidden, shortcut)
    }
}

/// Enlarges by repeating the nearest value, then convolves.
#[derive(Module, Debug)]
pub struct Upsample<B: Backend> {
    conv: Conv2d<B>,
}

impl<B: SeedBackend> Upsample<B> {
    pub(super) fn new(channels: usize, device: &B::Device) -> Self {
        Self { conv: conv_3x3([channels, channels], device) }
    }

    /// `[batch, channels, height, width]` -> `[batch, channels, size[0], size[1]]`.
    pub fn forward(&self, x: Tensor<B, 4>, size: [usize; 2]) -> Tensor<B, 4> {
        conv2d(&self.conv, interpolate(x, size, InterpolateOptions::new(InterpolateMode::Nearest)))
    }
}

/// Halves height and width with a 3 x 3 convolution of stride 2.
#[derive(Module, Debug)]
pub struct Downsample<B: Backend> {
    conv: Conv2d<B>,
}

/// Where [`Downsample`] pads with zeros.
#[derive(Clone, Copy, Debug)]
pub(super) enum DownsamplePadding {
    /// One on every side (the UNet).
    Around,
    /// One below and one to the right (the autoencoder's encoder).
    BelowAndRight,
}

impl<B: SeedBackend> Downsample<B> {
    pub(super) fn new(channels: usize, padding: DownsamplePadding, device: &B::Device) -> Self {
        let padding = match padding {
            DownsamplePadding::Around => PaddingConfig2d::Explicit(1, 1, 1, 1),
            DownsamplePadding::BelowAndRight => PaddingConfig2d::Explicit(0, 0, 1, 1), // top, left, bottom, right
        };
        let conv = Conv2dConfig::new([channels, channels], [3, 3]).with_stride([2, 2]).with_padding(padding);
        Self { conv: conv.init(device) }
    }

    /// `[batch, channels, height, width]` -> `[batch, channels, height / 2, width / 2]`.
    pub fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        conv2d(&self.conv, x)
    }
}

/// Sinusoidal embedding of whole numbers -> `[timesteps, dim]`, cosines first.
///
/// diffusers' `get_timestep_embedding` with `flip_sin_to_cos` and `downscale_freq_shift = 0`, in its float32 order of
/// operations.
///
/// | name | symbol |
/// |---|---|
/// | `frequency` of pair `i` | `10000^(-i / (dim / 2))` |
pub(super) fn sinusoidal_embedding<B: Backend>(timesteps: &[f32], dim: usize, device: &B::Device) -> Tensor<B, 2> {
    let half = dim / 2;
    let log_period = -(10_000f64.ln() as f32);
    let frequencies: Vec<f32> = (0..half).map(|i| (log_period * i as f32 / half as f32).exp()).collect();
    let mut values = Vec::with_capacity(timesteps.len() * dim);
    for &timestep in timesteps {
        let angles = frequencies.iter().map(|frequency| timestep * frequency);
        values.extend(angles.clone().map(f32::cos));
        values.extend(angles.map(f32::sin));
    }
    Tensor::from_data(TensorData::new(values, [timesteps.len(), 2 * half]), device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;
    use burn_flex::Flex;

    use super::*;

    /// Sums of nine small products in float32.
    const ROUNDING: f64 = 1e-5;

    /// The encoder's downsampler reads rows and columns 0 to 2, 2 to 4, ... and zeros beyond the lower right edge.
    #[test]
    fn encoder_downsampling_pads_below_and_right() {
        let device = Default::default();
        let layer = Downsample::<Flex>::new(1, DownsamplePadding::BelowAndRight, &device);
        let weight: Vec<f32> = layer.conv.weight.val().into_data().to_vec().unwrap();
        let bias = layer.conv.bias.as_ref().unwrap().val().into_scalar();
        let pixels: Vec<f32> = (0..16).map(|i| (i as f32 * 0.7).sin()).collect();
        let at = |y: usize, x: usize| if y < 4 && x < 4 { pixels[y * 4 + x] } else { 0.0 };
        let mut expected = Vec::new();
        for (top, left) in [(0, 0), (0, 2), (2, 0), (2, 2)] {
            let products = (0..9).map(|k| weight[k] * at(top + k / 3, left + k % 3));
            expected.push(products.sum::<f32>() + bias);
        }
        let x = Tensor::<Flex, 4>::from_data(TensorData::new(pixels.clone(), [1, 1, 4, 4]), &device);
        let tolerance = Tolerance::<f32>::absolute(ROUNDING);
        layer.forward(x).into_data().assert_approx_eq(&TensorData::new(expected, [1, 1, 2, 2]), tolerance);
    }

    #[test]
    fn embedding_of_zero_is_ones_then_zeros() {
        let embedding = sinusoidal_embedding::<Flex>(&[0.0], 6, &Default::default());
        assert_eq!(embedding.into_data().to_vec::<f32>().unwrap(), [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    }
}
