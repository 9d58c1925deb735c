//! Generation embedding `[batch, dim]` -> class vector `[batch, 2 * dim]` of the UNet: noised a little, with its noise
//! level appended.
//!
//! Source: diffusers 0.20.2, `StableUnCLIPImg2ImgPipeline.noise_image_embeddings` and `StableUnCLIPImageNormalizer`.

use burn::module::{Module, Param};
use burn::tensor::{Tensor, backend::Backend};

use super::blocks::sinusoidal_embedding;
use super::schedule::NoiseSchedule;

/// The noise level that SEED decodes at. Its noise is small (0.6 % of the signal), not zero.
pub const NOISE_LEVEL: usize = 0;

/// Mean and standard deviation of image embeddings; often 0 and 1.
#[derive(Module, Debug)]
pub struct ImageNormalizer<B: Backend> {
    mean: Param<Tensor<B, 2>>,
    std: Param<Tensor<B, 2>>,
}

impl<B: Backend> ImageNormalizer<B> {
    /// The normalizer that changes nothing, for embeddings of `dim` features.
    pub fn identity(dim: usize, device: &B::Device) -> Self {
        let filled = |value: f32| Param::from_tensor(Tensor::full([1, dim], value, device));
        Self { mean: filled(0.0), std: filled(1.0) }
    }

    /// Features of the embeddings.
    pub fn dim(&self) -> usize {
        self.mean.lazy_shape()[1]
    }

    /// `[batch, dim]` -> mean 0, standard deviation 1.
    pub fn scale(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        (x - self.mean.val()) / self.std.val()
    }

    /// The inverse of [`scale`](Self::scale).
    pub fn unscale(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        x * self.std.val() + self.mean.val()
    }
}

/// Makes class vectors.
#[derive(Clone, Debug)]
pub struct ImageNoise<B: Backend> {
    /// Mean and standard deviation of the embeddings.
    pub normalizer: ImageNormalizer<B>,
    /// How noise grows with the level.
    pub schedule: NoiseSchedule,
}

impl<B: Backend> ImageNoise<B> {
    /// `embeddings` and standard normal `noise`, both `[batch, dim]` -> class vectors `[batch, 2 * dim]`: noised at
    /// `level`, then the sinusoidal embedding of the level.
    pub fn class_labels(&self, embeddings: Tensor<B, 2>, noise: Tensor<B, 2>, level: usize) -> Tensor<B, 2> {
        let [batch, dim] = embeddings.dims();
        let noised = self.schedule.add_noise(self.normalizer.scale(embeddings), noise, &vec![level; batch]);
        let noised = self.normalizer.unscale(noised);
        let level = sinusoidal_embedding(&vec![level as f32; batch], dim, &noised.device()); // [batch, dim]
        Tensor::cat(vec![noised, level], 1)
    }
}
