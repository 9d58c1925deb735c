//! The tokenizer as programs use it: images -> [`Codes`] -> images, with the backend chosen at run time.
//!
//! [`open`] gives a [`SeedTokenizer`], which hides the backend; [`Tokenizer`] is what stands behind it, for programs that
//! chose theirs when they were compiled. Batches of any size are split so that memory stays bounded, which changes no
//! code.

mod features;
mod part;

use std::{
    ops::ControlFlow,
    sync::{Mutex, OnceLock, PoisonError},
};

use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;
use serde::Serialize;

use crate::{
    checkpoint::{DType, Files},
    codes::Codes,
    contrast::{Contrast, ContrastConfig},
    device::{Device, OnBackend},
    diffusion::{DecodeOptions, Decoder},
    error::{Error, Result},
    nn::SeedBackend,
    pixels::{self, Preprocessor, Preset, RgbImage},
};

use super::{BundleConfig, DECODER, Model, SeedNetwork};

pub use features::Features;
pub use part::Part;

/// Tokens of images that are worth a part of a batch of their own.
const LEAST_TOKENS: usize = 1024;
/// Most images that are encoded at a time.
const ENCODE_AT_ONCE: usize = 32;

/// Most pixels that are sampled at a time, at least one image: attention maps of the denoiser grow with the images.
const DECODE_PIXELS_AT_ONCE: usize = 768 * 768;

/// Called with the finished and all steps of a decoding; [`ControlFlow::Break`] ends it.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// Embeddings of unit length, `[count, dim]`, row after row.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// Features of one embedding.
    pub dim: usize,
    /// All features, `[count * dim]`.
    pub values: Vec<f32>,
}

impl Embeddings {
    /// The embeddings in turn.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.values.chunks_exact(self.dim.max(1))
    }
}

/// What codes come from. Codes of two provenances that differ in weights or preprocessing do not belong together; other
/// differences can flip codes of small margin only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Provenance {
    /// Name of the model.
    pub model: String,
    /// SHA-256 of the file that holds the weights of steps 2 to 5.
    pub weights: String,
    /// How images become pixels.
    pub preprocess: Preset,
    /// Device that computed.
    pub device: String,
    /// DType that it computed in.
    pub dtype: String,
    /// Version of this library.
    pub version: &'static str,
}

/// A SEED tokenizer on some backend. All methods may be called from several threads.
pub trait SeedTokenizer: Send + Sync {
    /// The bundle's configuration.
    fn config(&self) -> &BundleConfig;

    /// How images become pixels.
    fn preprocessor(&self) -> &Preprocessor;

    /// Weights of each part. Reads the caption side and the decoder if they are there and were not needed before.
    ///
    /// # Errors
    /// Whatever is wrong with the files of those.
    fn parts(&self) -> Result<Vec<Part>>;

    /// Images -> codes `[images, tokens]`.
    ///
    /// # Errors
    /// None that depend on the images.
    fn encode(&self, images: &[RgbImage]) -> Result<Codes>;

    /// Pixels as [`preprocessor`](Self::preprocessor) makes them, `[3, size, size]` an image -> codes `[images, tokens]`.
    ///
    /// # Errors
    /// [`Error::Argument`] for an image of another size.
    fn encode_pixels(&self, images: &[Vec<f32>]) -> Result<Codes>;

    /// As [`encode_pixels`](Self::encode_pixels), with the margin of every code, `[images * tokens]`: how much larger the
    /// squared distance to the runner-up in the codebook is. Small margins are where another device, dtype or version may
    /// give another code.
    ///
    /// # Errors
    /// As [`encode_pixels`](Self::encode_pixels).
    fn encode_pixels_with_margins(&self, images: &[Vec<f32>]) -> Result<(Codes, Vec<f32>)>;

    /// As [`encode_pixels`](Self::encode_pixels); `finished` is called with the name of each step when it is done, for those who
    /// measure. All images are one batch.
    ///
    /// # Errors
    /// As [`encode_pixels`](Self::encode_pixels).
    fn encode_pixels_observed(&self, images: &[Vec<f32>], finished: &mut dyn FnMut(&'static str)) -> Result<Codes>;

    /// What codes come from: enough to tell whether two sets of them belong together.
    ///
    /// # Errors
    /// [`Error::Read`] when the bundle does not record its hash and its weights cannot be read again.
    fn provenance(&self) -> Result<Provenance>;

    /// How this model's images are decoded best: what [`decode`](Self::decode) is called with unless the user says
    /// otherwise.
    fn decode_options(&self) -> DecodeOptions {
        let own = self.config().decode;
        DecodeOptions { steps: own.steps, guidance: own.guidance, ..DecodeOptions::default() }
    }

    /// Codes -> images of the decoder's size, as [`decode_with`](Self::decode_with).
    ///
    /// # Errors
    /// As [`decode_with`](Self::decode_with).
    fn decode(&self, codes: &Codes, options: &DecodeOptions) -> Result<Vec<RgbImage>> {
        self.decode_with(codes, None, options, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Codes -> images of the decoder's size or the one that the options ask for.
    ///
    /// `negative` holds codes to move away from, as many as `codes` or one for all. Each image draws latents and noise
    /// from a generator of its own, under the seed and its [`stream`](Codes::streams): the same seed and codes give the
    /// same image wherever they stand in whatever batch, up to rounding.
    ///
    /// # Errors
    /// [`Error::MissingPart`] without a decoder, and whatever is wrong with its files; [`Error::CodeCount`] and
    /// [`Error::CodeOutOfRange`] for codes of another model; [`Error::Argument`] for options that are not possible;
    /// [`Error::Interrupted`].
    fn decode_with(
        &self,
        codes: &Codes,
        negative: Option<&Codes>,
        options: &DecodeOptions,
        progress: Progress<'_>,
    ) -> Result<Vec<RgbImage>>;

    /// Height and width of decoded images; none without a decoder. Reads the decoder.
    ///
    /// # Errors
    /// Whatever is wrong with its files.
    fn decoded_size(&self) -> Result<Option<usize>>;

    /// Images -> embeddings in the space of captions, from the patch features.
    ///
    /// # Errors
    /// [`Error::MissingPart`] without a caption side, and whatever is wrong with its files.
    fn image_embeddings(&self, images: &[RgbImage]) -> Result<Embeddings>;

    /// Images -> embeddings in the space of captions, from the last causal embedding, before it becomes codes.
    ///
    /// # Errors
    /// As [`image_embeddings`](Self::image_embeddings).
    fn causal_embeddings(&self, images: &[RgbImage]) -> Result<Embeddings>;

    /// Codes -> embeddings in the space of captions, from the last causal embedding that the detokenizer makes of them.
    ///
    /// # Errors
    /// As [`image_embeddings`](Self::image_embeddings), and for codes as [`decode_with`](Self::decode_with).
    fn code_embeddings(&self, codes: &Codes) -> Result<Embeddings>;

    /// Pixels as [`encode_pixels`](Self::encode_pixels) takes them -> causal embeddings, what becomes codes in step 4.
    ///
    /// # Errors
    /// As [`encode_pixels`](Self::encode_pixels).
    fn causal_features(&self, images: &[Vec<f32>]) -> Result<Features>;

    /// Codes -> generation embeddings, what step 6 draws from; one token an image for SEED-2.
    ///
    /// # Errors
    /// For codes as [`decode_with`](Self::decode_with).
    fn generation_features(&self, codes: &Codes) -> Result<Features>;

    /// Captions -> embeddings.
    ///
    /// # Errors
    /// As [`image_embeddings`](Self::image_embeddings); [`Error::Argument`] for a caption that the model cannot read.
    fn caption_embeddings(&self, captions: &[String]) -> Result<Embeddings>;
}

/// Opens a model: reads its configuration and steps 2 to 5. The decoder is read when the first image is decoded.
///
/// `preprocess` replaces the bundle's own preset.
///
/// # Errors
/// [`Error::Device`] for a device that is not there or does not compute in `dtype`; [`Error::Bundle`], [`Error::Config`] and
/// whatever else is wrong with the model's files.
pub fn open(model: &Model, device: Device, dtype: DType, preprocess: Option<Preset>) -> Result<Box<dyn SeedTokenizer>> {
    struct Open<'a>(&'a Model, Option<Preset>, (Device, DType));
    impl OnBackend for Open<'_> {
        type Output = Result<Box<dyn SeedTokenizer>>;

        fn run<B: SeedBackend>(self, device: B::Device) -> Self::Output {
            let (place, dtype) = self.2;
            let computes = match dtype {
                DType::Int8 => B::eight_bit_weight(&[1.0], [1, 1]).is_some(),
                _ => B::supports_dtype(&device, dtype.element()),
            };
            if !computes {
                let reason = format!("it does not compute in {dtype}; choose another dtype");
                return Err(Error::Device { device: place.to_string(), reason });
            }
            let tokenizer = Tokenizer::<B>::load(self.0.files(), device, dtype, self.1)?;
            Ok(Box::new(Tokenizer { place, ..tokenizer }))
        }
    }
    device.run(Open(model, preprocess, (device, dtype)))?
}

/// A [`SeedTokenizer`] on the backend `B`.
#[derive(Debug)]
pub struct Tokenizer<B: SeedBackend> {
    config: BundleConfig,
    preprocessor: Preprocessor,
    preset: Preset,
    /// Where [`open`] was asked to compute.
    place: Device,
    dtype: DType,
    files: Files,
    device: B::Device,
    network: SeedNetwork<B>,
    contrast: Lazy<Contrast<B>>,
    decoder: Lazy<Decoder<B>>,
}

impl<B: SeedBackend> Tokenizer<B> {
    /// Reads the configuration and steps 2 to 5 of a bundle.
    ///
    /// # Errors
    /// As [`open`].
    pub fn load(files: Files, device: B::Device, dtype: DType, preprocess: Option<Preset>) -> Result<Self> {
        let config = BundleConfig::read(&files)?;
        let network = config.load_network(&files, &device, dtype)?;
        let size = config.model.image_size as u32;
        let preset = preprocess.unwrap_or(config.preprocess);
        Ok(Self {
            preprocessor: Preprocessor::new(size, preset),
            preset,
            place: Device::default(),
            dtype,
            config,
            files,
            device,
            network,
            contrast: Lazy::default(),
            decoder: Lazy::default(),
        })
    }

    /// Steps 2 to 5.
    pub fn network(&self) -> &SeedNetwork<B> {
        &self.network
    }

    /// The caption side.
    ///
    /// # Errors
    /// As [`SeedTokenizer::image_embeddings`].
    pub fn contrast(&self) -> Result<(&ContrastConfig, &Contrast<B>)> {
        let contrast = self.contrast.get(|| self.config.load_contrast(&self.files, &self.device))?;
        let config = self.config.contrast.as_ref();
        Ok((config.expect("load_contrast refuses a bundle without its configuration"), contrast))
    }

    /// Step 6.
    ///
    /// # Errors
    /// As [`SeedTokenizer::decode_with`].
    pub fn decoder(&self) -> Result<&Decoder<B>> {
        self.decoder.get(|| {
            if !self.has_decoder() {
                let reason = format!(
                    "images are made by the folder {DECODER}/ of a bundle, in diffusers layout; add it or choose another model"
                );
                return Err(Error::MissingPart { part: "diffusion decoder", reason });
            }
            let files = self.files.sub(DECODER);
            let decoder = Decoder::load(&files, &self.device, self.dtype)?;
            self.config.model.check_decoder(decoder.embedding_shape(), files.describe("model_index.json"))?;
            Ok(decoder)
        })
    }

    fn has_decoder(&self) -> bool {
        self.files.sub(DECODER).exists("model_index.json")
    }

    /// Preprocessed images as one tensor `[images, 3, size, size]`.
    fn tensor(&self, images: &[Vec<f32>]) -> Result<Tensor<B, 4>> {
        let size = self.preprocessor.size as usize;
        if let Some((index, image)) = images.iter().enumerate().find(|(_, image)| image.len() != 3 * size * size) {
            let reason = format!("image {index} must have 3 * {size} * {size} values, as the preprocessor makes them");
            return Err(Error::Argument { name: "pixels", value: format!("{} values", image.len()), reason });
        }
        Ok(Tensor::from_data(TensorData::new(images.concat(), [images.len(), 3, size, size]), &self.device))
    }

    fn preprocess(&self, images: &[RgbImage]) -> Vec<Vec<f32>> {
        images.par_iter().map(|image| self.preprocessor.apply(image)).collect()
    }

    /// Encodes in bounded batches; `quantize` turns latents into codes and whatever else is asked of them.
    fn encode_with<T: Send>(
        &self,
        images: &[Vec<f32>],
        quantize: impl Fn(Tensor<B, 3>) -> (Tensor<B, 2, Int>, T) + Sync,
    ) -> Result<(Codes, Vec<T>)> {
        let encode = |images: &[Vec<f32>]| {
            let causal = self.network.causal_embeddings(self.tensor(images)?);
            Ok(quantize(self.network.quantizer.latents(causal)))
        };
        let mut batches = Vec::new();
        for images in images.chunks(ENCODE_AT_ONCE) {
            batches.extend(images.par_chunks(self.side_by_side(images.len())).map(encode).collect::<Result<Vec<_>>>()?);
        }
        let (codes, others) = batches.into_iter().unzip();
        Ok((self.codes(codes)?, others))
    }

    /// Images of a batch that are computed as one part, beside the others: on the CPU a thread that goes through the whole
    /// network alone never waits for another, if there is enough for all.
    fn side_by_side(&self, batch: usize) -> usize {
        let [tokens, _] = self.config.model.vit_features();
        let parts = if B::PARTS_SIDE_BY_SIDE { rayon::current_num_threads() } else { 1 };
        batch.div_ceil(parts).max(LEAST_TOKENS.div_ceil(tokens))
    }

    /// Batches of `[images, tokens]` as codes of this model.
    fn codes(&self, batches: Vec<Tensor<B, 2, Int>>) -> Result<Codes> {
        let model = &self.config.model;
        let mut values: Vec<u64> = Vec::new();
        for codes in batches {
            values.extend(codes.into_data().iter::<i64>().map(i64::unsigned_abs));
        }
        Codes::from_rows(values.chunks(model.num_queries), model.num_queries, model.codebook_size)
    }

    /// Codes that are known to be this model's, `[images, tokens]`.
    fn code_tensor(&self, codes: &Codes) -> Tensor<B, 2, Int> {
        let values: Vec<i32> = codes.as_slice().iter().map(|&code| i32::from(code)).collect();
        Tensor::from_data(TensorData::new(values, [codes.batch(), codes.tokens()]), &self.device)
    }

    /// Holds when this model could have made `codes`.
    fn check(&self, codes: &Codes) -> Result<()> {
        let model = &self.config.model;
        Codes::from_rows(codes.rows(), model.num_queries, model.codebook_size).map(drop)
    }

    /// Embeds images in bounded batches.
    fn embed_images(
        &self,
        images: &[RgbImage],
        embed: impl Fn(&Contrast<B>, Tensor<B, 4>) -> Tensor<B, 2>,
    ) -> Result<Embeddings> {
        let (config, contrast) = self.contrast()?;
        let mut all = Embeddings { dim: config.embed_dim, values: Vec::new() };
        for images in images.chunks(ENCODE_AT_ONCE) {
            all.values.extend(floats(embed(contrast, self.tensor(&self.preprocess(images))?)));
        }
        Ok(all)
    }
}

impl<B: SeedBackend> SeedTokenizer for Tokenizer<B> {
    fn config(&self) -> &BundleConfig {
        &self.config
    }

    fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    fn parts(&self) -> Result<Vec<Part>> {
        let network = &self.network;
        let mut parts = vec![
            Part::of::<B>("vision transformer", &network.visual_encoder).and::<B>(&network.ln_vision),
            Part::of::<B>("causal Q-Former", &network.causal),
            Part::of::<B>("codebook", &network.quantizer),
            Part::of::<B>("detokenizer", &network.detokenizer),
        ];
        if self.config.contrast.is_some() {
            parts.push(Part::of::<B>("caption side", self.contrast()?.1));
        }
        if self.has_decoder() {
            let decoder = self.decoder()?;
            parts.push(Part::of::<B>("decoder: denoiser", &decoder.unet));
            parts.push(Part::of::<B>("decoder: autoencoder", &decoder.vae));
        }
        Ok(parts)
    }

    fn encode(&self, images: &[RgbImage]) -> Result<Codes> {
        let batches = images.chunks(ENCODE_AT_ONCE).map(|images| self.encode_pixels(&self.preprocess(images)));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        let model = &self.config.model;
        Codes::from_rows(batches.iter().flat_map(Codes::rows), model.num_queries, model.codebook_size)
    }

    fn encode_pixels(&self, images: &[Vec<f32>]) -> Result<Codes> {
        Ok(self.encode_with(images, |latents| (self.network.quantizer.nearest(latents), ()))?.0)
    }

    fn encode_pixels_with_margins(&self, images: &[Vec<f32>]) -> Result<(Codes, Vec<f32>)> {
        let (codes, margins) = self.encode_with(images, |latents| {
            let (codes, lead) = self.network.quantizer.nearest_with_margins(latents);
            (codes, floats(lead))
        })?;
        Ok((codes, margins.concat()))
    }

    fn encode_pixels_observed(&self, images: &[Vec<f32>], finished: &mut dyn FnMut(&'static str)) -> Result<Codes> {
        let network = &self.network;
        let mut done = |step: &'static str| {
            B::sync(&self.device).expect("a device that computes can be waited for");
            finished(step);
        };
        let features = network.features(self.tensor(images)?);
        done("vision transformer");
        let causal = network.causal.forward_causal(features);
        done("causal Q-Former");
        let codes = self.codes(vec![network.quantizer.nearest(network.quantizer.latents(causal))]);
        done("codebook");
        codes
    }

    fn provenance(&self) -> Result<Provenance> {
        Ok(Provenance {
            model: self.config.name.clone(),
            weights: self.config.weights_hash(&self.files)?,
            preprocess: self.preset,
            device: self.place.to_string(),
            dtype: self.dtype.to_string(),
            version: env!("CARGO_PKG_VERSION"),
        })
    }

    fn decode_with(
        &self,
        codes: &Codes,
        negative: Option<&Codes>,
        options: &DecodeOptions,
        progress: Progress<'_>,
    ) -> Result<Vec<RgbImage>> {
        self.check(codes)?;
        if let Some(negative) = negative {
            self.check(negative)?;
            if ![1, codes.batch()].contains(&negative.batch()) {
                let reason = format!("there must be one for all or one for each of the {} images", codes.batch());
                let value = format!("codes of {} images", negative.batch());
                return Err(Error::Argument { name: "negative", value, reason });
            }
        }
        let decoder = self.decoder()?;
        let size = options.size.unwrap_or(decoder.image_size());
        let kept = options.keep_first.unwrap_or(codes.tokens());
        if kept == 0 || kept > codes.tokens() {
            let reason = format!("an image has {} codes; keep at least 1 and at most all of them", codes.tokens());
            return Err(Error::Argument { name: "keep_first", value: kept.to_string(), reason });
        }
        let at_once = (DECODE_PIXELS_AT_ONCE / (size * size).max(1)).clamp(1, ENCODE_AT_ONCE);
        let batches = codes.batch().div_ceil(at_once);
        let mut images = Vec::with_capacity(codes.batch());
        for batch in 0..batches {
            let range = batch * at_once..codes.batch().min((batch + 1) * at_once);
            let codes = codes.slice(range.clone());
            let streams: Vec<u64> = codes.streams().collect();
            let embed = |codes: &Codes| self.network.generation_of_first(self.code_tensor(codes), kept);
            let away = negative.map(|negative| match negative.batch() {
                1 => embed(negative).repeat_dim(0, range.len()),
                _ => embed(&negative.slice(range.clone())),
            });
            let mut part = |finished, steps| progress(batch * steps + finished, batches * steps);
            let decoded = decoder.decode(embed(&codes), away, &streams, options, &mut part)?;
            let values = floats(decoded);
            images.extend(values.chunks(3 * size * size).map(|v| pixels::from_unit(v, size as u32, size as u32)));
        }
        Ok(images)
    }

    fn decoded_size(&self) -> Result<Option<usize>> {
        self.has_decoder().then(|| self.decoder().map(Decoder::image_size)).transpose()
    }

    fn image_embeddings(&self, images: &[RgbImage]) -> Result<Embeddings> {
        self.embed_images(images, |contrast, pixels| contrast.image(self.network.features(pixels)))
    }

    fn causal_embeddings(&self, images: &[RgbImage]) -> Result<Embeddings> {
        self.embed_images(images, |contrast, pixels| contrast.causal(self.network.causal_embeddings(pixels)))
    }

    fn code_embeddings(&self, codes: &Codes) -> Result<Embeddings> {
        self.check(codes)?;
        let (config, contrast) = self.contrast()?;
        let mut all = Embeddings { dim: config.embed_dim, values: Vec::new() };
        for start in (0..codes.batch()).step_by(ENCODE_AT_ONCE) {
            let part = codes.slice(start..codes.batch().min(start + ENCODE_AT_ONCE));
            let rebuilt = self.network.semantic(self.code_tensor(&part)).ok_or_else(|| Error::MissingPart {
                part: "semantic branch",
                reason: "SEED-1 does not rebuild causal embeddings from codes; choose a SEED-2 model".to_owned(),
            })?;
            all.values.extend(floats(contrast.causal(rebuilt)));
        }
        Ok(all)
    }

    fn causal_features(&self, images: &[Vec<f32>]) -> Result<Features> {
        let mut all = Features::none(self.config.model.num_queries, self.config.model.qformer_width);
        for images in images.chunks(ENCODE_AT_ONCE) {
            all.push(self.network.causal_embeddings(self.tensor(images)?));
        }
        Ok(all)
    }

    fn generation_features(&self, codes: &Codes) -> Result<Features> {
        self.check(codes)?;
        let mut all = Features::none(self.config.model.generation_tokens(), self.config.model.generation_dim);
        for start in (0..codes.batch()).step_by(ENCODE_AT_ONCE) {
            let part = codes.slice(start..codes.batch().min(start + ENCODE_AT_ONCE));
            all.push(self.network.generation(self.code_tensor(&part)));
        }
        Ok(all)
    }

    fn caption_embeddings(&self, captions: &[String]) -> Result<Embeddings> {
        let (config, contrast) = self.contrast()?;
        let mut all = Embeddings { dim: config.embed_dim, values: Vec::new() };
        for captions in captions.chunks(ENCODE_AT_ONCE) {
            all.values.extend(floats(contrast.captions(config, captions, &self.device)?));
        }
        Ok(all)
    }
}

/// The values of a tensor in memory order.
fn floats<B: SeedBackend, const D: usize>(x: Tensor<B, D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

/// A part that is read when it is first needed, once. A failure is not kept: the next call tries again.
#[derive(Debug)]
struct Lazy<T> {
    value: OnceLock<T>,
    loading: Mutex<()>,
}

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self { value: OnceLock::new(), loading: Mutex::new(()) }
    }
}

impl<T> Lazy<T> {
    fn get(&self, load: impl FnOnce() -> Result<T>) -> Result<&T> {
        let _alone = self.loading.lock().unwrap_or_else(PoisonError::into_inner); // it guards no data
        match self.value.get() {
            Some(value) => Ok(value),
            None => {
                let value = load()?;
                Ok(self.value.get_or_init(|| value))
            }
        }
    }
}

#[cfg(test)]
mod tests;
