//! Image -> tokens -> image: whether what comes back is the same picture to the model, and how near its pixels are.

use std::ops::ControlFlow;

use image::RgbImage;
use serde::Serialize;

use super::Recall;
use crate::{
    diffusion::{DecodeOptions, SchedulerName},
    error::Result,
    pixels::{Filter, resize},
    tokenizer::{Embeddings, SeedTokenizer},
};

/// Images that are decoded at a time.
const BATCH: usize = 32;

/// How well images come back.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reconstruction {
    /// Number of images.
    pub images: usize,
    /// Which original is nearest to a reconstruction, by image embeddings.
    pub nearest_original: Recall,
    /// Mean cosine of the image embeddings of original and reconstruction.
    pub similarity: f64,
    /// Mean peak signal-to-noise ratio of the pixels, in dB.
    pub psnr: f64,
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
}

/// Encodes, decodes and compares. `progress` is called with the finished and all images.
///
/// # Errors
/// [`Error::MissingPart`](crate::Error::MissingPart) for a model without a caption side or a decoder;
/// [`Error::Interrupted`](crate::Error::Interrupted).
pub fn reconstruction(
    seed: &dyn SeedTokenizer,
    images: &[RgbImage],
    options: &DecodeOptions,
    progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
) -> Result<Reconstruction> {
    let codes = seed.encode(images)?;
    let mut decoded = Vec::with_capacity(images.len());
    while decoded.len() < images.len() {
        let (first, all) = (decoded.len(), images.len());
        let batch = codes.slice(first..(first + BATCH).min(all));
        decoded.extend(seed.decode_with(&batch, None, options, &mut |_, _| progress(first, all))?);
    }
    let (original, again) = (seed.image_embeddings(images)?, seed.image_embeddings(&decoded)?);
    let count = images.len().max(1) as f64;
    Ok(Reconstruction {
        images: images.len(),
        nearest_original: Recall::new(&again, &original),
        similarity: mean_cosine(&again, &original),
        psnr: images.iter().zip(&decoded).map(|(image, decoded)| psnr(image, decoded)).sum::<f64>() / count,
        steps: options.steps,
        guidance: options.guidance,
        seed: options.seed,
        scheduler: options.scheduler.map(SchedulerName::name),
        size: options.size,
        keep_first: options.keep_first,
    })
}

fn mean_cosine(left: &Embeddings, right: &Embeddings) -> f64 {
    let cosines =
        left.rows().zip(right.rows()).map(|(a, b)| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>());
    cosines.sum::<f64>() / left.rows().len().max(1) as f64
}

/// Peak signal-to-noise ratio of `decoded` against `image`, resized to its size if need be, in dB; at most 100.
fn psnr(image: &RgbImage, decoded: &RgbImage) -> f64 {
    let (width, height) = decoded.dimensions();
    let image = resize(image, width, height, Filter::Bicubic);
    let squares = image.as_raw().iter().zip(decoded.as_raw()).map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2));
    let error = squares.sum::<f64>() / image.as_raw().len().max(1) as f64;
    (10.0 * (255.0f64.powi(2) / error.max(1e-10)).log10()).min(100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psnr_of_known_differences() {
        let image = RgbImage::from_pixel(8, 8, image::Rgb([100, 100, 100]));
        let other = RgbImage::from_pixel(8, 8, image::Rgb([110, 110, 110]));
        assert!((psnr(&image, &other) - 20.0 * 25.5f64.log10()).abs() < 1e-9);
        assert_eq!(psnr(&image, &image), 100.0);
    }
}
