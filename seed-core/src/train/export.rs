//! What was trained, as a bundle.

use std::path::Path;

use burn::tensor::Tensor;

use crate::{
    checkpoint::{DType, Files},
    contrast::Contrast,
    diffusion::{
        Conditioning, Decoder, UNet, UNetConfig, Vae, VaeConfig,
        image_noise::{ImageNoise, ImageNormalizer},
        load_unet, load_vae,
        sampler::{Prediction, Sampler, SamplerConfig},
        schedule::{NoiseSchedule, NoiseScheduleConfig},
    },
    error::{Error, Result},
    nn::SeedBackend,
    pixels::Preset,
    tokenizer::{BundleConfig, CONFIG, DECODER, DecodeDefaults, FORMAT, Model, SeedNetwork},
};

use super::{DiffusionSizes, Recipe, TextSizes};

/// The decoder's parts.
pub(super) struct Parts<B: SeedBackend> {
    pub(super) vae_config: VaeConfig,
    pub(super) vae: Vae<B>,
    pub(super) unet_config: UNetConfig,
    pub(super) unet: UNet<B>,
}

/// Steps 2 to 5 and the caption side, without gradients.
pub(super) struct Tokenizer<B: SeedBackend> {
    pub(super) config: BundleConfig,
    pub(super) network: SeedNetwork<B>,
    pub(super) contrast: Option<Contrast<B>>,
    /// SHA-256 of the weights when they were given.
    pub(super) given: Option<String>,
}

impl<B: SeedBackend> Tokenizer<B> {
    /// What the recipe's stages made.
    pub(super) fn trained(recipe: &Recipe, network: SeedNetwork<B>, contrast: Option<Contrast<B>>) -> Self {
        let config = BundleConfig {
            format: FORMAT,
            name: recipe.name.clone(),
            provenance: format!(
                "trained from {} by the recipe {:?}, seed {}",
                recipe.data.describe(),
                recipe.name,
                recipe.seed
            ),
            preprocess: Preset::Seed,
            decode: decode(recipe),
            weights: None, // of what is written
            model: recipe.model.clone(),
            contrast: contrast.as_ref().and(recipe.contrast.as_ref()).map(TextSizes::of_scenes),
        };
        Self { config, network, contrast, given: None }
    }

    /// What another run made, for a decoder by this recipe.
    pub(super) fn open(model: &Model, recipe: &Recipe, device: &B::Device) -> Result<Self> {
        let files = model.files();
        let mut config = BundleConfig::read(&files)?;
        config.verify(&files)?;
        let network = config.load_network(&files, device, DType::F32)?;
        let contrast = config.contrast.is_some().then(|| config.load_contrast(&files, device)).transpose()?;
        let words = recipe.contrast.as_ref().map(TextSizes::of_scenes);
        if config.model != recipe.model || (words.is_some() && config.contrast != words) {
            return Err(Error::Argument {
                name: "tokenizer",
                value: files.describe(CONFIG),
                reason: format!("its sizes are not those of [model] and [contrast] of the recipe {:?}", recipe.name),
            });
        }
        config.decode = decode(recipe);
        Ok(Self { given: Some(config.weights_hash(&files)?), config, network, contrast })
    }

    /// Writes the bundle, still without a decoder.
    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        self.config.save(folder, &self.network, self.contrast.as_ref(), DType::F16)
    }
}

/// How the recipe's decoder decodes, or SEED-2's.
fn decode(recipe: &Recipe) -> DecodeDefaults {
    match &recipe.diffusion {
        Some(DiffusionSizes { steps, guidance, .. }) => DecodeDefaults { steps: *steps, guidance: *guidance },
        None => DecodeDefaults::default(),
    }
}

/// The autoencoder in `files`.
pub(super) fn open_vae<B: SeedBackend>(
    files: &Files,
    recipe: &Recipe,
    sizes: &DiffusionSizes,
    device: &B::Device,
) -> Result<(VaeConfig, Vae<B>)> {
    let (config, vae) = load_vae(files, device, DType::F32)?;
    let wanted = VaeConfig { scaling_factor: config.scaling_factor, ..sizes.vae() };
    if config != wanted { Err(other_sizes("autoencoder", files, recipe)) } else { Ok((config, vae)) }
}

/// The UNet in `files`.
pub(super) fn open_unet<B: SeedBackend>(
    files: &Files,
    recipe: &Recipe,
    sizes: &DiffusionSizes,
    device: &B::Device,
) -> Result<UNet<B>> {
    let (config, unet) = load_unet(files, device, DType::F32)?;
    if config != sizes.unet(&recipe.model) { Err(other_sizes("decoder", files, recipe)) } else { Ok(unet) }
}

fn other_sizes(name: &'static str, files: &Files, recipe: &Recipe) -> Error {
    Error::Argument {
        name,
        value: files.describe("config.json"),
        reason: format!("its sizes are not those of [diffusion] of the recipe {:?}", recipe.name),
    }
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
    decoder.save(&folder.join(DECODER), DType::F16)
}
