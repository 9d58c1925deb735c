//! Image -> tokens -> image: whether what comes back is the same picture to the model, how near its pixels are, and of
//! scenes, which attributes of the objects can still be read from them.

use std::ops::ControlFlow;

use image::RgbImage;
use rayon::prelude::*;
use serde::Serialize;

use super::{Attributes, Captioned, Recall, detect, nearness::Nearness, score};
use crate::{
    codes::Codes,
    diffusion::{DecodeOptions, SchedulerName},
    error::Result,
    scenes::Scene,
    tokenizer::{Embeddings, SeedTokenizer},
};

/// Images that are decoded at a time.
const BATCH: usize = 32;

/// How well images come back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reconstruction {
    /// Number of images.
    pub images: usize,
    /// What stands for an image in the two fields that follow: "image", its embedding in the space of captions, or for models
    /// without a caption side "causal", its causal embeddings.
    pub embedding: &'static str,
    /// Which original is nearest to a reconstruction, by embeddings.
    pub nearest_original: Recall,
    /// Mean cosine of the embeddings of original and reconstruction.
    pub similarity: f64,
    /// Mean peak signal-to-noise ratio of the pixels, in dB.
    pub psnr: f64,
    /// Mean structural similarity of the grey values, 1 for equal images.
    pub ssim: f64,
    /// Mean absolute difference of the channels, 0 to 255.
    pub absolute_error: f64,
    /// Of scenes: what a detector reads from the reconstructions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Attributes>,
    /// Of scenes: what the detector reads from the originals, which is the most that reconstructions can reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attributes_of_originals: Option<Attributes>,
    /// Sampling steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
    /// Seed.
    pub seed: u64,
    /// The scheduler, when it was another than the decoder's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<&'static str>,
    /// Height and width of the decoded images, when they were others than the decoder's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<usize>,
    /// Codes of an image that it was decoded from, when they were not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_first: Option<usize>,
    /// The reconstructions, in the order of the images.
    #[serde(skip)]
    pub decoded: Vec<RgbImage>,
}

/// Encodes, decodes and compares. `progress` is called with the finished and all images.
///
/// # Errors
/// [`Error::MissingPart`](crate::Error::MissingPart) for a model without a decoder;
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub fn reconstruction(
    seed: &dyn SeedTokenizer,
    data: &Captioned,
    options: &DecodeOptions,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Reconstruction> {
    let images = &data.images;
    let decoded = decode(seed, &seed.encode(images)?, options, progress)?;
    let originals = embed(seed, images)?;
    Ok(compare(seed, data, &originals, decoded, options)?.with_originals(data))
}

/// Images from `codes`, in bounded batches.
pub(super) fn decode(
    seed: &dyn SeedTokenizer,
    codes: &Codes,
    options: &DecodeOptions,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Vec<RgbImage>> {
    let all = codes.batch();
    let mut decoded = Vec::with_capacity(all);
    while decoded.len() < all {
        let first = decoded.len();
        let batch = codes.slice(first..(first + BATCH).min(all));
        decoded.extend(seed.decode_with(&batch, None, options, &mut |_, _| progress(first, all))?);
    }
    Ok(decoded)
}

/// What stands for images, and its name.
pub(super) fn embed(seed: &dyn SeedTokenizer, images: &[RgbImage]) -> Result<(&'static str, Embeddings)> {
    if seed.config().contrast.is_some() {
        return Ok(("image", seed.image_embeddings(images)?));
    }
    let mut all = Embeddings { dim: 0, values: Vec::new() };
    for images in images.chunks(BATCH) {
        let pixels: Vec<Vec<f32>> = images.par_iter().map(|image| seed.preprocessor().apply(image)).collect();
        let features = seed.causal_features(&pixels)?;
        let [_, tokens, width] = features.shape;
        all.dim = tokens * width;
        for image in features.values.chunks(all.dim.max(1)) {
            let length = image.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
            all.values.extend(image.iter().map(|x| x / length));
        }
    }
    Ok(("causal", all))
}

/// Compares reconstructions with images, of which `originals` are the embeddings.
pub(super) fn compare(
    seed: &dyn SeedTokenizer,
    data: &Captioned,
    originals: &(&'static str, Embeddings),
    decoded: Vec<RgbImage>,
    options: &DecodeOptions,
) -> Result<Reconstruction> {
    let (embedding, originals) = originals;
    let (_, again) = embed(seed, &decoded)?;
    let count = data.images.len().max(1) as f64;
    let pairs = data.images.par_iter().zip(&decoded);
    let near: Vec<Nearness> = pairs.map(|(image, decoded)| Nearness::new(image, decoded)).collect();
    let mean = |of: fn(&Nearness) -> f64| near.iter().map(of).sum::<f64>() / count;
    Ok(Reconstruction {
        images: data.images.len(),
        embedding,
        nearest_original: Recall::new(&again, originals),
        similarity: mean_cosine(&again, originals),
        psnr: mean(|near| near.psnr),
        ssim: mean(|near| near.ssim),
        absolute_error: mean(|near| near.absolute),
        attributes: data.scenes.as_deref().map(|scenes| read(&decoded, scenes)),
        attributes_of_originals: None,
        steps: options.steps,
        guidance: options.guidance,
        seed: options.seed,
        scheduler: options.scheduler.map(SchedulerName::name),
        size: options.size,
        keep_first: options.keep_first,
        decoded,
    })
}

impl Reconstruction {
    /// With what can be read from the images themselves.
    fn with_originals(mut self, data: &Captioned) -> Self {
        self.attributes_of_originals = data.scenes.as_deref().map(|scenes| read(&data.images, scenes));
        self
    }
}

/// What can be read from `images` of `scenes`.
fn read(images: &[RgbImage], scenes: &[Scene]) -> Attributes {
    let scores = images.par_iter().zip(scenes).map(|(image, scene)| score(&detect(image), scene));
    scores.collect::<Vec<_>>().into_iter().fold(Attributes::default(), |mut sum, one| {
        sum += one;
        sum
    })
}

fn mean_cosine(left: &Embeddings, right: &Embeddings) -> f64 {
    let cosines =
        left.rows().zip(right.rows()).map(|(a, b)| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>());
    cosines.sum::<f64>() / left.rows().len().max(1) as f64
}
