//! Measuring a tokenizer: caption retrieval, reconstruction and code usage.
//!
//! | file | measures |
//! |---|---|
//! | `retrieval` | [`Retrieval`]: which caption belongs to which image, by embeddings before and after the codes |
//! | `reconstruction` | [`Reconstruction`]: image -> tokens -> image, and back to the image embedding |
//! | `detector` | [`detect`], [`Attributes`]: which objects a scene's pixels show, and how many of their attributes are right |
//! | `usage` | [`CodeUsage`]: how much of the codebook is used, and how evenly |
//!
//! Everything is measured on [`held_out`] scenes: no training run sees a caption of them.

mod detector;
mod reconstruction;
mod retrieval;
mod usage;

use std::collections::HashSet;

use image::RgbImage;

pub use detector::{Attributes, Detected, Found, detect, score};
pub use reconstruction::{Reconstruction, reconstruction};
pub use retrieval::{Recall, Retrieval, RetrievalRow, retrieval};
pub use usage::{CodeUsage, code_usage};

use crate::scenes::{Scene, Split};

/// Images and their captions, all captions distinct.
#[derive(Clone, Debug)]
pub struct Captioned {
    /// The images.
    pub images: Vec<RgbImage>,
    /// Their captions, in the same order.
    pub captions: Vec<String>,
}

/// `count` held-out scenes with distinct captions, drawn with `seed` in the order of their indices, `size` pixels a side.
pub fn held_out(count: usize, seed: u64, size: u32) -> Captioned {
    let mut seen = HashSet::new();
    let scenes = (0..).map(|index| Scene::sample(seed, index, Split::HeldOut));
    let distinct = scenes.filter_map(|scene| {
        let caption = scene.caption();
        seen.insert(caption.clone()).then_some((scene, caption))
    });
    let (images, captions) = distinct.take(count).map(|(scene, caption)| (scene.render(size), caption)).unzip();
    Captioned { images, captions }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_scenes_are_distinct_and_the_same_every_time() {
        let (first, second) = (held_out(300, 5, 32), held_out(200, 5, 32));
        assert_eq!(first.captions[..200], second.captions[..]);
        assert_eq!(first.images[..200], second.images[..]);
        assert_eq!(first.captions.iter().collect::<HashSet<_>>().len(), 300);
    }
}
