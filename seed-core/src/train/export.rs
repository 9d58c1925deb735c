//! What was trained, as a bundle.

use std::path::Path;

use burn::tensor::Tensor;

use crate::{
    checkpoint::Dtype,
    diffusion::{
        Conditioning, Decoder, UNet, UNetConfig, Vae, VaeConfig,
        image_noise::{ImageNoise, ImageNormalizer},
        sampler::{Prediction, Sampler, SamplerConfig},
        schedule::{NoiseSchedule, NoiseScheduleConfig},
    },
    error::Result,
    nn::SeedBackend,
    pixels::Preset,
    tokenizer::{BundleConfig, DECODER, DecodeDefaults, FORMAT},
};

use super::{Recipe, TrainModel};

/// The decoder's parts.
pub(super) struct Parts<B: SeedBackend> {
    pub(super) vae_config: VaeConfig,
    pub(super) vae: Vae<B>,
    pub(super) unet_config: UNetConfig,
    pub(super) unet: UNet<B>,
}

/// Steps 2 to 5 and the caption side.
pub(super) fn tokenizer<B: SeedBackend>(recipe: &Recipe, folder: &Path, model: &TrainModel<B>) -> Result<()> {
    let config = BundleConfig {
        format: FORMAT,
        name: recipe.name.clone(),
        provenance: format!("trained from scenes by the recipe {:?}, seed {}", recipe.name, recipe.seed),
        preprocess: Preset::Seed,
        decode: DecodeDefaults { steps: recipe.diffusion.steps, guidance: recipe.diffusion.guidance },
        weights_sha256: None, // of what is written
        model: recipe.model.clone(),
        contrast: Some(recipe.text()),
    };
    config.save(folder, &model.network, Some(&model.contrast), Dtype::F16)
}

/// Step 6.
pub(super) fn decoder<B: SeedBackend>(
    recipe: &Recipe,
    folder: &Path,
    parts: Parts<B>,
    device: &B::Device,
) -> Result<()> {
    let noising = NoiseScheduleConfig::unclip_embedding();
    let decoder = Decoder {
        empty_prompt: Tensor::zeros([1, 1, parts.unet_config.cross_attention_dim], device),
        unet_config: parts.unet_config,
        unet: parts.unet,
        vae_config: parts.vae_config,
        vae: parts.vae,
        conditioning: Conditioning::ClassVector {
            image_noise: ImageNoise {
                normalizer: ImageNormalizer::identity(recipe.model.generation_dim, device),
                schedule: NoiseSchedule::new(&noising),
            },
            noising,
        },
        sampler: Sampler::new(&SamplerConfig::stable_diffusion(Prediction::VPrediction)),
    };
    decoder.save(&folder.join(DECODER), Dtype::F16)
}
