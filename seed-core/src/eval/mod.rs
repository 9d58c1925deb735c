//! Measuring a tokenizer: caption retrieval, reconstruction, code usage; and how a training run went.
//!
//! | file | measures |
//! |---|---|
//! | `retrieval` | [`Retrieval`]: which caption belongs to which image, by embeddings before and after the codes |
//! | `reconstruction`, `nearness` | [`Reconstruction`]: image -> tokens -> image, and back to the image embedding |
//! | `detector` | [`detect`], [`Attributes`]: which objects a scene's pixels show, and how many of their attributes are right |
//! | `prefixes` | [`Prefix`]: both of the first codes alone |
//! | `usage`, `coded` | [`CodeUsage`], [`Coded`]: how much of the codebook is used, how evenly and how clearly |
//! | `training` | [`training_report`]: the curves of a run |
//! | `page`, `chart` | HTML and SVG that need nothing from elsewhere |
//!
//! What no training run has seen a caption of are [`held_out`] scenes; other images are [`Captioned`] too.

mod chart;
mod coded;
mod detector;
mod nearness;
mod page;
mod prefixes;
mod reconstruction;
mod retrieval;
mod training;
mod usage;

use std::collections::HashSet;

use image::RgbImage;

pub use coded::Coded;
pub use detector::{Attributes, Detected, Found, detect, score};
pub use page::save_page;
pub use prefixes::{PREFIX_COLUMNS, Prefix, prefix_cells, prefix_lengths, prefixes, prefixes_page};
pub use reconstruction::{Reconstruction, reconstruction};
pub use retrieval::{Recall, Retrieval, RetrievalRow, retrieval, unreadable};
pub use training::training_report;
pub use usage::{CodeUsage, Margins, Quantile, code_usage};

use crate::scenes::{Scene, Split};

/// Images, and what is known of them.
#[derive(Clone, Debug, Default)]
pub struct Captioned {
    /// The images.
    pub images: Vec<RgbImage>,
    /// Their captions, in the same order, all distinct; none at all where images have none.
    pub captions: Vec<String>,
    /// The scenes that they show, if they show scenes.
    pub scenes: Option<Vec<Scene>>,
}

/// `count` held-out scenes with distinct captions, drawn with `seed` in the order of their indices, `size` pixels a side.
pub fn held_out(count: usize, seed: u64, size: u32) -> Captioned {
    let mut seen = HashSet::new();
    let scenes = (0..).map(|index| Scene::sample(seed, index, Split::HeldOut));
    let distinct = scenes.filter_map(|scene| {
        let caption = scene.caption();
        seen.insert(caption.clone()).then_some((scene, caption))
    });
    let (scenes, captions): (Vec<Scene>, Vec<String>) = distinct.take(count).unzip();
    let images = scenes.iter().map(|scene| scene.render(size)).collect();
    Captioned { images, captions, scenes: Some(scenes) }
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
