//! Batches of scenes: pixels and captions from a seed and a step alone.

use burn::tensor::{Tensor, TensorData, backend::Backend};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::{
    pixels::{Preprocessor, Preset},
    scenes::{Scene, Split},
};

/// Draws scenes of the training split.
#[derive(Clone, Debug)]
pub(super) struct SceneData {
    pub(super) seed: u64,
    pub(super) image_size: usize,
}

impl SceneData {
    /// `batch` scenes for `step`, in groups of `group`: one drawn, the others variants that differ from it in one
    /// attribute. Variants of the held-out split are replaced by scenes of their own.
    pub(super) fn scenes(&self, step: usize, batch: usize, group: usize) -> Vec<Scene> {
        let first = (step * batch) as u64;
        (0..batch)
            .into_par_iter()
            .map(|i| {
                let index = first + i as u64;
                let own = || Scene::sample(self.seed, index, Split::Train);
                if i % group == 0 {
                    return own();
                }
                let base = Scene::sample(self.seed, index - (i % group) as u64, Split::Train);
                let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ 0x7661_7269_616e_7400); // "variant"
                random.set_stream(index);
                let variant = base.variant(&mut random);
                if variant.split() == Split::Train { variant } else { own() }
            })
            .collect()
    }

    /// What the scenes of a step are called.
    pub(super) fn keys(&self, step: usize, batch: usize) -> Vec<String> {
        (step * batch..(step + 1) * batch).map(|index| format!("scene {index}")).collect()
    }

    /// `count` scenes from the index `first` on.
    pub(super) fn scenes_from(&self, first: u64, count: usize) -> Vec<Scene> {
        let indices = (first..first + count as u64).into_par_iter();
        indices.map(|index| Scene::sample(self.seed, index, Split::Train)).collect()
    }

    /// Normalized pixels `[scenes, 3, size, size]`.
    pub(super) fn pixels<B: Backend>(&self, scenes: &[Scene], device: &B::Device) -> Tensor<B, 4> {
        pixels(scenes, &Preprocessor::new(self.image_size as u32, Preset::Seed), device)
    }

    /// Pixels in -1..1, as a VAE sees them, `[scenes, 3, size, size]`.
    pub(super) fn signed_pixels<B: Backend>(&self, scenes: &[Scene], device: &B::Device) -> Tensor<B, 4> {
        self.signed_pixels_of_size(scenes, self.image_size, device)
    }

    /// As [`signed_pixels`](Self::signed_pixels), `size` pixels a side.
    pub(super) fn signed_pixels_of_size<B: Backend>(
        &self,
        scenes: &[Scene],
        size: usize,
        device: &B::Device,
    ) -> Tensor<B, 4> {
        let mut preprocessor = Preprocessor::new(size as u32, Preset::Seed);
        (preprocessor.mean, preprocessor.std) = ([0.5; 3], [0.5; 3]);
        pixels(scenes, &preprocessor, device)
    }
}

fn pixels<B: Backend>(scenes: &[Scene], preprocessor: &Preprocessor, device: &B::Device) -> Tensor<B, 4> {
    let size = preprocessor.size as usize;
    let values: Vec<Vec<f32>> =
        scenes.par_iter().map(|scene| preprocessor.apply(&scene.render(preprocessor.size))).collect();
    Tensor::from_data(TensorData::new(values.concat(), [scenes.len(), 3, size, size]), device)
}

/// Captions of scenes, in order.
pub(super) fn captions(scenes: &[Scene]) -> Vec<String> {
    scenes.iter().map(Scene::caption).collect()
}
