//! What the stages learn from: images with captions, drawn by their number alone.
//!
//! A `Data` is a few endless sequences of images, one for each `Sequence`; a stage asks for so many of them from a position
//! on. What stands at a position follows from the recipe and the data, so that a run which goes on gets the batches of
//! one that was never interrupted.
//!
//! | file | what |
//! |---|---|
//! | `options` | what a recipe may ask for |
//! | `scenes` | scenes, rendered as they are asked for |
//! | `pairs` | images with captions of a dataset |

mod options;
#[cfg(feature = "dataset")]
mod pairs;
mod scenes;

use std::{ops::Range, path::Path, sync::atomic::AtomicBool};

use burn::tensor::{Tensor, TensorData, backend::Backend};
use rayon::prelude::*;

use crate::{
    error::Result,
    pixels::{Filter, Preprocessor, Preset, RgbImage, resize},
    scenes::Scene,
};

pub use options::{DataOptions, PairOptions};
#[cfg(feature = "dataset")]
pub use pairs::{Pair, Pairs};

use super::recipe::Recipe;

/// What of the data could not be used, in a run's folder: one JSON object a line.
pub const FAILURES: &str = "failures.jsonl";

/// What images are asked for; each is a sequence of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sequence {
    /// To tell apart by their captions: the stages vision, 1 and 2.
    Contrast,
    /// To rebuild: the stage vae.
    Pixels,
    /// To average features over, before stage 1.
    Places,
    /// To restart codebook rows at.
    Rows,
    /// To measure latents on, after the stage vae.
    Latents,
    /// To compute latents and conditions of once: the stage decoder.
    Pool,
    /// To measure a model on, during training: never learned from.
    HeldOut,
}

/// Where images come from.
pub(super) trait Pictures: Send + Sync {
    /// The images at the positions `first..first + count` of a sequence.
    fn batch(&self, sequence: Sequence, first: usize, count: usize) -> Result<Batch>;
}

/// The images that a run learns from.
pub(super) struct Data<'a> {
    /// The recipe's seed.
    pub(super) seed: u64,
    pictures: Box<dyn Pictures + 'a>,
}

impl<'a> Data<'a> {
    /// What a recipe names, for a run in `folder`. `stop` ends a wait for the first images.
    ///
    /// # Errors
    /// When there are no such data; when the run in `folder` was begun with others.
    pub(super) fn open(recipe: &Recipe, folder: &Path, stop: &'a AtomicBool) -> Result<Self> {
        let (seed, image_size) = (recipe.seed, recipe.model.image_size);
        let pictures = match &recipe.data {
            DataOptions::Scenes {} => Box::new(scenes::SceneData { seed, image_size }),
            DataOptions::Pairs(options) => open_pairs(options, seed, image_size, folder, stop)?,
        };
        Ok(Self { seed, pictures })
    }

    /// `count` images of a sequence from the position `first` on.
    ///
    /// # Errors
    /// When the data cannot be read.
    pub(super) fn batch(&self, sequence: Sequence, first: usize, count: usize) -> Result<Batch> {
        self.pictures.batch(sequence, first, count)
    }
}

#[cfg(feature = "dataset")]
fn open_pairs<'a>(
    options: &PairOptions,
    seed: u64,
    image_size: usize,
    folder: &Path,
    stop: &'a AtomicBool,
) -> Result<Box<dyn Pictures + 'a>> {
    Ok(Box::new(Pairs::open(options, seed, image_size, folder, stop)?))
}

#[cfg(not(feature = "dataset"))]
fn open_pairs<'a>(
    options: &PairOptions,
    _: u64,
    _: usize,
    _: &Path,
    _: &'a AtomicBool,
) -> Result<Box<dyn Pictures + 'a>> {
    let reason = "this build reads no datasets; build it with the feature dataset".to_owned();
    Err(crate::Error::Input { name: options.inputs.join(" "), reason })
}

/// Images with what belongs to them, in order.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// What tells each from others of the data.
    pub(super) keys: Vec<String>,
    /// A caption each.
    pub(super) captions: Vec<String>,
    images: Images,
    size: usize,
}

/// The images of a batch.
#[derive(Clone, Debug)]
enum Images {
    /// Rendered at whatever size is asked for.
    Scenes(Vec<Scene>),
    /// Resized to whatever size is asked for.
    #[cfg_attr(not(feature = "dataset"), expect(dead_code))]
    Pixels(Vec<RgbImage>),
}

impl Batch {
    /// Number of images.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// The images at the places `range` alone.
    pub(super) fn part(&self, range: Range<usize>) -> Self {
        let images = match &self.images {
            Images::Scenes(scenes) => Images::Scenes(scenes[range.clone()].to_vec()),
            Images::Pixels(images) => Images::Pixels(images[range.clone()].to_vec()),
        };
        let (keys, captions) = (self.keys[range.clone()].to_vec(), self.captions[range].to_vec());
        Self { keys, captions, images, size: self.size }
    }

    /// The images, `size` pixels a side.
    pub(super) fn images(&self, size: usize) -> Vec<RgbImage> {
        match &self.images {
            Images::Scenes(scenes) => scenes.par_iter().map(|scene| scene.render(size as u32)).collect(),
            Images::Pixels(images) => {
                let resized = |image| resize(image, size as u32, size as u32, Filter::Bicubic);
                images.par_iter().map(resized).collect()
            }
        }
    }

    /// Normalized pixels as the vision transformer sees them, `[batch, 3, size, size]`.
    pub(super) fn pixels<B: Backend>(&self, device: &B::Device) -> Tensor<B, 4> {
        self.preprocessed(&Preprocessor::new(self.size as u32, Preset::Seed), device)
    }

    /// Pixels in -1..1 as a VAE sees them, `[batch, 3, size, size]`.
    pub(super) fn signed_pixels<B: Backend>(&self, device: &B::Device) -> Tensor<B, 4> {
        self.signed_pixels_of_size(self.size, device)
    }

    /// As [`signed_pixels`](Self::signed_pixels), `size` pixels a side.
    pub(super) fn signed_pixels_of_size<B: Backend>(&self, size: usize, device: &B::Device) -> Tensor<B, 4> {
        let (mean, std) = ([0.5; 3], [0.5; 3]);
        self.preprocessed(&Preprocessor { size: size as u32, filter: Filter::Bicubic, mean, std }, device)
    }

    fn preprocessed<B: Backend>(&self, preprocessor: &Preprocessor, device: &B::Device) -> Tensor<B, 4> {
        let size = preprocessor.size as usize;
        let images = self.images(size);
        let values: Vec<Vec<f32>> = images.par_iter().map(|image| preprocessor.apply(image)).collect();
        Tensor::from_data(TensorData::new(values.concat(), [self.len(), 3, size, size]), device)
    }
}
