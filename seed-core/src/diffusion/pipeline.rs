//! The whole step: generation embedding `[batch, tokens, dim]` -> image `[batch, 3, height, width]` in 0 to 1.
//!
//! Source: diffusers 0.20.2. SEED-2 calls `StableUnCLIPImg2ImgPipeline` with one token of 1024 features, empty prompts and
//! noise level 0; SEED-1 calls `StableDiffusionPipeline` with 77 tokens of 768 features in the place of a prompt.
//!
//! 1. Conditions. unCLIP: class vectors, the embeddings with a little noise ([`image_noise`](super::image_noise)), and the
//!    empty prompt as context; the unconditional vector is zeros. Stable Diffusion: the embeddings are the context, the
//!    unconditional one is the empty prompt. Negative embeddings take the place of the unconditional one, noised with
//!    noise of their own.
//! 2. Latents: [`denoise`](super::denoise()).
//! 3. Pixels: the autoencoder decodes `latents / scaling_factor`; `image / 2 + 0.5`, clamped.
//!
//! Differs from the source: latents and noise come from [`random`](super::random), one generator an image, so that a
//! seed gives the same image in every batch; the embedding of the empty prompt is computed once, when loading.

use std::borrow::Cow;
use std::ops::ControlFlow;

use burn::tensor::{Tensor, TensorData, backend::Backend};
use serde::Deserialize;

use super::config;
use super::denoise::{Condition, Guidance, Observer, denoise};
use super::empty_prompt;
use super::image_noise::{ImageNoise, ImageNormalizer, NOISE_LEVEL};
use super::random::ImageRandom;
use super::sampler::{Prediction, Sampler, SamplerConfig, SchedulerName};
use super::schedule::{NoiseSchedule, NoiseScheduleConfig};
use super::unet::{UNet, UNetConfig};
use super::vae::{self, Vae, VaeConfig};
use crate::checkpoint::{self, DType, Files, KeyTable};
use crate::error::{Error, Result};
use crate::nn::SeedBackend;

/// Pixels that the autoencoder decodes at a time; larger batches are split, because its inner maps take 2 KB a pixel.
const PIXELS_AT_ONCE: usize = 768 * 768;

/// How to decode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodeOptions {
    /// Sampling steps, from 1 to 999; PNDM calls the network once more than that.
    pub steps: usize,
    /// Guidance scale; at 1 and below there is no guidance, half the work, and negative embeddings have no effect.
    pub guidance: f64,
    /// Seed of latents and noise.
    pub seed: u64,
    /// Another scheduler than the decoder's own, with the decoder's settings.
    pub scheduler: Option<SchedulerName>,
    /// Height and width of the images in pixels, a multiple of [`Decoder::size_step`]; the decoder's own by default. The
    /// further from the size that it was trained on, the worse the images.
    pub size: Option<usize>,
    /// Decode from the first so many codes of an image; [`SeedNetwork`](crate::tokenizer::SeedNetwork) says what stands for
    /// the others.
    pub keep_first: Option<usize>,
}

impl Default for DecodeOptions {
    /// As SEED-2 decodes: 20 steps, guidance 10, the decoder's own scheduler.
    fn default() -> Self {
        Self { steps: 20, guidance: 10.0, seed: 0, scheduler: None, size: None, keep_first: None }
    }
}

/// The random tensors of a run.
#[derive(Clone, Debug)]
pub struct Start<B: Backend> {
    /// Standard normal latents `[batch, 4, height, width]`.
    pub latents: Tensor<B, 4>,
    /// Standard normal noise of the embeddings `[batch, dim]`; needed by unCLIP only.
    pub noise: Option<Tensor<B, 2>>,
    /// Standard normal noise of the negative embeddings `[batch, dim]`; needed by unCLIP with those only.
    pub negative_noise: Option<Tensor<B, 2>>,
}

/// How the denoiser is told what to draw.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // there is one a decoder
pub enum Conditioning<B: Backend> {
    /// unCLIP, of SEED-2: the generation embedding becomes a class vector.
    ClassVector {
        /// Embedding to class vector.
        image_noise: ImageNoise<B>,
        /// The schedule that its noise was made from.
        noising: NoiseScheduleConfig,
    },
    /// Stable Diffusion, of SEED-1: the generation embedding is the context of the cross-attention.
    Context,
}

/// A diffusion decoder. The fields are public so that training can put its own networks together.
#[derive(Clone, Debug)]
pub struct Decoder<B: Backend> {
    /// Sizes of the denoiser.
    pub unet_config: UNetConfig,
    /// The denoiser.
    pub unet: UNet<B>,
    /// Sizes of the autoencoder.
    pub vae_config: VaeConfig,
    /// The autoencoder.
    pub vae: Vae<B>,
    /// How the denoiser is told what to draw.
    pub conditioning: Conditioning<B>,
    /// The sampler.
    pub sampler: Sampler,
    /// The embedding of the empty prompt `[1, words, width]`.
    pub empty_prompt: Tensor<B, 3>,
}

/// `model_index.json`; its list of parts is diffusers' business, each part is checked when it is read.
#[derive(Deserialize)]
struct ModelIndex {
    #[serde(rename = "_class_name")]
    class: String,
}

#[derive(Deserialize)]
struct NormalizerConfig {
    embedding_dim: usize,
}

impl<B: SeedBackend> Decoder<B> {
    /// The decoder of SEED-2 (unCLIP 2.1, 768 pixels) with random weights, which are drawn when they are first needed.
    pub fn unclip_768(device: &B::Device) -> Self {
        let (unet_config, vae_config) = (UNetConfig::unclip_768(), VaeConfig::stable_diffusion());
        let dim = unet_config.projection_class_embeddings_input_dim.unwrap_or_default() / 2;
        let noising = NoiseScheduleConfig::unclip_embedding();
        let normalizer = ImageNormalizer::identity(dim, device);
        Self {
            unet: unet_config.init(device),
            vae: vae_config.init(device),
            conditioning: Conditioning::ClassVector {
                image_noise: ImageNoise { normalizer, schedule: NoiseSchedule::new(&noising) },
                noising,
            },
            sampler: Sampler::new(&SamplerConfig::stable_diffusion(Prediction::VPrediction)),
            empty_prompt: Tensor::zeros([1, 77, unet_config.cross_attention_dim], device),
            unet_config,
            vae_config,
        }
    }

    /// Loads a folder in diffusers' layout, with the weights of the networks' layers in `dtype`.
    ///
    /// Needs `model_index.json`, `unet`, `vae`, `scheduler`, for unCLIP `image_normalizer` and `image_noising_scheduler`,
    /// and either `empty_prompt.safetensors` or `text_encoder` and `tokenizer`. Anything else is left alone.
    ///
    /// # Errors
    /// Whatever is missing, broken or not supported, by file and field or key.
    pub fn load(files: &Files, device: &B::Device, dtype: DType) -> Result<Self> {
        let index: ModelIndex = files.json("model_index.json")?;
        let conditioning = match index.class.as_str() {
            UNCLIP => load_class_vector(files, device)?,
            STABLE_DIFFUSION => Conditioning::Context,
            other => {
                let reason =
                    format!("_class_name = {other:?} is not supported, only {UNCLIP:?} and {STABLE_DIFFUSION:?}");
                return Err(Error::Config { file: files.describe("model_index.json"), reason });
            }
        };
        let (unet_config, unet) = load_unet(&files.sub("unet"), device, dtype)?;
        let (vae_config, vae) = load_vae(&files.sub("vae"), device, dtype)?;
        let sampler = Sampler::new(&config::sampler(&files.sub("scheduler"), SCHEDULER)?);
        let model = Self {
            unet_config,
            unet,
            vae_config,
            vae,
            conditioning,
            sampler,
            empty_prompt: empty_prompt::embedding(files, device)?,
        };
        model.check().map_err(|reason| Error::Config { file: files.describe("model_index.json"), reason })?;
        Ok(model)
    }

    /// Which parts do not fit together, in words.
    fn check(&self) -> Result<(), String> {
        let (unet, vae) = (&self.unet_config, &self.vae_config);
        let class_dim = unet.projection_class_embeddings_input_dim.unwrap_or_default();
        let wanted = match &self.conditioning {
            Conditioning::ClassVector { image_noise, .. } => 2 * image_noise.normalizer.dim(),
            Conditioning::Context => 0,
        };
        let [_, _, width] = self.empty_prompt.dims();
        for (what, left, right) in [
            ("channels into the unet and out of it", unet.in_channels, unet.out_channels),
            ("channels of the unet and latent_channels of the vae", unet.in_channels, vae.latent_channels),
            ("class vector of the unet and twice the image_normalizer's embedding", class_dim, wanted),
            ("cross_attention_dim of the unet and width of the empty prompt", unet.cross_attention_dim, width),
        ] {
            if left != right {
                return Err(format!("its parts do not fit together: {what} are {left} and {right}"));
            }
        }
        Ok(())
    }

    /// Tokens and features of a generation embedding.
    pub fn embedding_shape(&self) -> [usize; 2] {
        match &self.conditioning {
            Conditioning::ClassVector { image_noise, .. } => [1, image_noise.normalizer.dim()],
            Conditioning::Context => {
                let [_, words, width] = self.empty_prompt.dims();
                [words, width]
            }
        }
    }

    /// What the size of an image is a multiple of: the network halves it on every level.
    pub fn size_step(&self) -> usize {
        self.vae_config.shrink() << (self.unet_config.block_out_channels.len() - 1)
    }

    /// Height and width of the images, unless another size is asked for.
    pub fn image_size(&self) -> usize {
        self.unet_config.sample_size * self.vae_config.shrink()
    }

    /// Decodes `embeddings` `[batch, tokens, dim]` to images `[batch, 3, size, size]` in 0 to 1, of the size that the
    /// options ask for or [`image_size`](Self::image_size).
    ///
    /// `negative` `[batch, tokens, dim]` are embeddings to move away from. `images` are the indices of the images, which choose
    /// their random numbers: an image depends on its embeddings, its index and the options, not on its batch. `progress`
    /// is called with the finished and all steps after each; [`ControlFlow::Break`] ends the run.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Interrupted`].
    pub fn decode(
        &self,
        embeddings: Tensor<B, 3>,
        negative: Option<Tensor<B, 3>>,
        images: &[u64],
        options: &DecodeOptions,
        progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<Tensor<B, 4>> {
        let [batch, _, _] = embeddings.dims();
        if images.len() != batch {
            let reason = format!("there must be one index for each of the {batch} embeddings");
            return Err(Error::Argument { name: "images", value: format!("{} indices", images.len()), reason });
        }
        let size = options.size.unwrap_or(self.image_size());
        let start = self.draw(options.seed, images, self.latent_size(size)?, &embeddings.device());
        let mut observe = |step: super::denoise::Step<'_, B>| progress(step.finished, step.total);
        let latents = self.latents(embeddings, negative, start, options, &mut observe)?;
        Ok(self.pixels(latents))
    }

    /// Height and width of the latents of images of `size` pixels.
    fn latent_size(&self, size: usize) -> Result<usize> {
        let step = self.size_step();
        if size == 0 || !size.is_multiple_of(step) {
            let reason = format!("it must be a multiple of {step}, as the decoder's own {} is", self.image_size());
            return Err(Error::Argument { name: "size", value: size.to_string(), reason });
        }
        Ok(size / self.vae_config.shrink())
    }

    /// The random tensors of the images with the given indices: latents of height and width `size` first, then for unCLIP
    /// the embedding's noise, then the negative embedding's.
    pub fn draw(&self, seed: u64, images: &[u64], size: usize, device: &B::Device) -> Start<B> {
        let channels = self.unet_config.in_channels;
        let [_, dim] = self.embedding_shape();
        let [mut latents, mut noise, mut negative_noise] = [const { Vec::new() }; 3];
        for &image in images {
            let mut random = ImageRandom::new(seed, image);
            latents.extend(random.normals(channels * size * size));
            noise.extend(random.normals(dim));
            negative_noise.extend(random.normals(dim));
        }
        let batch = images.len();
        let noised = matches!(self.conditioning, Conditioning::ClassVector { .. });
        let vectors = |values| noised.then(|| Tensor::from_data(TensorData::new(values, [batch, dim]), device));
        Start {
            latents: Tensor::from_data(TensorData::new(latents, [batch, channels, size, size]), device),
            noise: vectors(noise),
            negative_noise: vectors(negative_noise),
        }
    }

    /// Steps 1 and 2: the latents `[batch, 4, height, width]` of the images, from given random tensors.
    ///
    /// # Errors
    /// [`Error::Argument`], [`Error::Interrupted`].
    pub fn latents(
        &self,
        embeddings: Tensor<B, 3>,
        negative: Option<Tensor<B, 3>>,
        start: Start<B>,
        options: &DecodeOptions,
        observe: Observer<'_, B>,
    ) -> Result<Tensor<B, 4>> {
        self.check_arguments(&embeddings, negative.as_ref(), &start, options)?;
        let wanted = self.condition(embeddings, start.noise)?;
        let guidance = match (options.guidance > 1.0, negative) {
            (false, _) => None,
            (true, Some(negative)) => Some(self.condition(negative, start.negative_noise)?),
            (true, None) => Some(self.unconditional(&wanted)),
        };
        let guidance = guidance.map(|away_from| Guidance { away_from, scale: options.guidance });
        let sampler = self.chosen_sampler(options)?;
        denoise(&self.unet, &sampler, wanted, guidance, start.latents, options.steps, observe)
    }

    /// Step 1: what the denoiser is told by `embeddings` `[batch, tokens, dim]`.
    fn condition(&self, embeddings: Tensor<B, 3>, noise: Option<Tensor<B, 2>>) -> Result<Condition<B>> {
        let [batch, _, _] = embeddings.dims();
        match &self.conditioning {
            Conditioning::Context => Ok(Condition { context: embeddings, class_labels: None }),
            Conditioning::ClassVector { image_noise, .. } => {
                let noise = noise.ok_or_else(|| Error::Argument {
                    name: "noise",
                    value: "none".to_owned(),
                    reason: "embeddings and negative embeddings each need noise of their own".to_owned(),
                })?;
                let labels = image_noise.class_labels(embeddings.flatten::<2>(1, 2), noise, NOISE_LEVEL);
                Ok(Condition { context: self.empty_prompt.clone().repeat_dim(0, batch), class_labels: Some(labels) })
            }
        }
    }

    /// What the denoiser is told without embeddings, for as many images as `wanted`.
    fn unconditional(&self, wanted: &Condition<B>) -> Condition<B> {
        let [batch, _, _] = wanted.context.dims();
        let class_labels = wanted.class_labels.as_ref().map(Tensor::zeros_like);
        Condition { context: self.empty_prompt.clone().repeat_dim(0, batch), class_labels }
    }

    /// Step 3: latents `[batch, 4, height, width]` -> images `[batch, 3, shrink * height, shrink * width]` in 0 to 1.
    pub fn pixels(&self, latents: Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, _, height, width] = latents.dims();
        let pixels = height * width * self.vae_config.shrink().pow(2);
        let at_once = (PIXELS_AT_ONCE / pixels).max(1);
        let latents = latents / self.vae_config.scaling_factor;
        let images = latents.split(at_once, 0).into_iter().map(|part| self.vae.decode(part)).collect();
        (Tensor::cat(images, 0) / 2.0 + 0.5).clamp(0.0, 1.0)
    }

    fn check_arguments(
        &self,
        embeddings: &Tensor<B, 3>,
        negative: Option<&Tensor<B, 3>>,
        start: &Start<B>,
        options: &DecodeOptions,
    ) -> Result<()> {
        let refuse = |name, value: String, reason: String| Err(Error::Argument { name, value, reason });
        let ([batch, tokens, dim], shape) = (embeddings.dims(), self.embedding_shape());
        if batch == 0 || [tokens, dim] != shape {
            let reason = format!("it must be [batch, {}, {}] with at least one image", shape[0], shape[1]);
            return refuse("embeddings", format!("{:?}", embeddings.dims()), reason);
        }
        if let Some(negative) = negative
            && negative.dims() != [batch, tokens, dim]
        {
            let reason = format!("it must be [{batch}, {tokens}, {dim}]");
            return refuse("negative", format!("{:?}", negative.dims()), reason);
        }
        let mut noises = [&start.noise, &start.negative_noise].into_iter().flatten();
        if let Some(noise) = noises.find(|noise| noise.dims() != [batch, dim]) {
            return refuse("noise", format!("{:?}", noise.dims()), format!("it must be [{batch}, {dim}]"));
        }
        let [images, channels, _, _] = start.latents.dims();
        if [images, channels] != [batch, self.unet_config.in_channels] {
            let reason = format!("it must be [{batch}, {}, height, width]", self.unet_config.in_channels);
            return refuse("latents", format!("{:?}", start.latents.dims()), reason);
        }
        if !options.guidance.is_finite() {
            return refuse("guidance", options.guidance.to_string(), "it must be a finite number".into());
        }
        self.chosen_sampler(options)?.run::<B>(options.steps).map(drop)
    }

    fn chosen_sampler(&self, options: &DecodeOptions) -> Result<Cow<'_, Sampler>> {
        match options.scheduler {
            Some(scheduler) if scheduler != self.sampler.config().scheduler => {
                self.sampler.with_scheduler(scheduler).map(Cow::Owned)
            }
            _ => Ok(Cow::Borrowed(&self.sampler)),
        }
    }
}

/// Class of a decoder's folder that takes class vectors.
pub(super) const UNCLIP: &str = "StableUnCLIPImg2ImgPipeline";
/// Class of a decoder's folder that takes contexts.
pub(super) const STABLE_DIFFUSION: &str = "StableDiffusionPipeline";

const MODEL: &str = "config.json";
const SCHEDULER: &str = "scheduler_config.json";
const WEIGHTS: &str = "diffusion_pytorch_model";

/// A configuration whose values have been checked too.
fn checked<T: serde::de::DeserializeOwned>(
    files: &Files,
    name: &str,
    fields: &config::Fields,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<T> {
    let config: T = config::read(files, name, fields)?;
    check(&config).map_err(|reason| Error::Config { file: files.describe(name), reason })?;
    Ok(config)
}

/// Loads a denoiser from its folder.
///
/// # Errors
/// Whatever is missing, broken or not supported, by file and field or key.
pub fn load_unet<B: SeedBackend>(files: &Files, device: &B::Device, dtype: DType) -> Result<(UNetConfig, UNet<B>)> {
    let config = checked(files, MODEL, &config::UNET, UNetConfig::check)?;
    let weights = config::weights(files, WEIGHTS)?;
    let unet = checkpoint::load_as(config.init(device), &weights, &KeyTable::EXACT, dtype)?;
    Ok((config, unet))
}

/// Loads an autoencoder from its folder.
///
/// # Errors
/// Whatever is missing, broken or not supported, by file and field or key.
pub fn load_vae<B: SeedBackend>(files: &Files, device: &B::Device, dtype: DType) -> Result<(VaeConfig, Vae<B>)> {
    let config = checked(files, MODEL, &config::VAE, VaeConfig::check)?;
    let weights = config::weights(files, WEIGHTS)?;
    let vae = checkpoint::load_as(config.init(device), &weights, vae::keys_of(&weights), dtype)?;
    Ok((config, vae))
}

fn load_class_vector<B: SeedBackend>(files: &Files, device: &B::Device) -> Result<Conditioning<B>> {
    let noising = files.sub("image_noising_scheduler");
    let noising: NoiseScheduleConfig = checked(&noising, SCHEDULER, &config::DDPM, NoiseScheduleConfig::check)?;
    let normalizer = load_normalizer(&files.sub("image_normalizer"), device)?;
    let image_noise = ImageNoise { normalizer, schedule: NoiseSchedule::new(&noising) };
    Ok(Conditioning::ClassVector { image_noise, noising })
}

fn load_normalizer<B: SeedBackend>(files: &Files, device: &B::Device) -> Result<ImageNormalizer<B>> {
    let even = |config: &NormalizerConfig| match config.embedding_dim {
        dim if dim > 0 && dim % 2 == 0 => Ok(()),
        dim => Err(format!("embedding_dim = {dim} is not a positive even number")),
    };
    let config = checked(files, MODEL, &config::NORMALIZER, even)?;
    let weights = config::weights(files, WEIGHTS)?;
    checkpoint::load(ImageNormalizer::identity(config.embedding_dim, device), &weights, &KeyTable::EXACT)
}
