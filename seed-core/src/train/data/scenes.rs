//! Scenes of the training split, in the place of a dataset: each follows from the recipe's seed and its number.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use crate::{
    error::Result,
    scenes::{Scene, Split},
};

use super::{Batch, Images, Pictures, Sequence};

/// Scenes in a group of near-duplicates, where captions are told apart. They differ in one attribute, so that an embedding
/// has to keep every attribute, not only those that tell random scenes apart.
const GROUP: usize = 4;
/// Restarts of codebook rows are this many times as far apart as what they draw.
const ROWS_APART: u64 = 20;

/// Draws scenes.
#[derive(Clone, Debug)]
pub(super) struct SceneData {
    pub(super) seed: u64,
    pub(super) image_size: usize,
}

impl Pictures for SceneData {
    fn batch(&self, sequence: Sequence, first: usize, count: usize) -> Result<Batch> {
        let first = first as u64;
        // Sequences lie far from each other, those to learn from at the beginning.
        let (first, group, split) = match sequence {
            Sequence::Contrast => (first, GROUP, Split::Train),
            Sequence::Pixels => (first, 1, Split::Train),
            Sequence::Pool => (u64::MAX / 8 + first, 1, Split::Train),
            Sequence::Places | Sequence::Latents => (u64::MAX / 4 + first, 1, Split::Train),
            Sequence::Rows => (u64::MAX / 2 + first * ROWS_APART, 1, Split::Train),
            Sequence::HeldOut => (first, 1, Split::HeldOut),
        };
        let scenes = self.groups(first, count, group, split);
        Ok(Batch {
            keys: (first..first + count as u64).map(|index| format!("scene {index}")).collect(),
            captions: scenes.iter().map(Scene::caption).collect(),
            images: Images::Scenes(scenes),
            size: self.image_size,
        })
    }
}

impl SceneData {
    /// `count` scenes of a split from the number `first` on, in groups of `group`: one drawn, the others variants that differ
    /// from it in one attribute. Variants of the other split are replaced by scenes of their own.
    fn groups(&self, first: u64, count: usize, group: usize, split: Split) -> Vec<Scene> {
        (0..count)
            .into_par_iter()
            .map(|i| {
                let index = first + i as u64;
                let own = || Scene::sample(self.seed, index, split);
                if i % group == 0 {
                    return own();
                }
                let base = Scene::sample(self.seed, index - (i % group) as u64, split);
                let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ 0x7661_7269_616e_7400); // "variant"
                random.set_stream(index);
                let variant = base.variant(&mut random);
                if variant.split() == split { variant } else { own() }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;

    fn batch(sequence: Sequence, first: usize, count: usize) -> Batch {
        SceneData { seed: SEED, image_size: 16 }.batch(sequence, first, count).unwrap()
    }

    /// The bundled model was made of these: its recipe makes it again only as long as they stay.
    #[test]
    fn sequences_begin_where_the_bundled_model_found_them() {
        let begins = [
            (Sequence::Contrast, 128, 128),
            (Sequence::Pixels, 128, 128),
            (Sequence::Places, 0, u64::MAX / 4),
            (Sequence::Latents, 0, u64::MAX / 4),
            (Sequence::Rows, 3 * 256, u64::MAX / 2 + 60 * 256),
            (Sequence::Pool, 64, u64::MAX / 8 + 64),
        ];
        for (sequence, first, index) in begins {
            let scene = Scene::sample(SEED, index, Split::Train);
            let batch = batch(sequence, first, 1);
            assert_eq!(batch.captions, [scene.caption()], "{sequence:?}");
            assert_eq!(batch.images(24), [scene.render(24)], "{sequence:?}");
            assert_eq!(batch.keys, [format!("scene {index}")]);
        }
    }

    #[test]
    fn what_is_held_out_is_never_learned_from() {
        let held_out = batch(Sequence::HeldOut, 0, 50).captions;
        let scenes: Vec<String> = (0..50).map(|i| Scene::sample(SEED, i, Split::HeldOut).caption()).collect();
        assert_eq!(held_out, scenes);
        for sequence in [Sequence::Contrast, Sequence::Pixels, Sequence::Rows, Sequence::Pool] {
            let learned = batch(sequence, 0, 500).captions;
            assert!(held_out.iter().all(|caption| !learned.contains(caption)), "{sequence:?}");
        }
    }

    #[test]
    fn only_what_is_told_apart_comes_in_groups() {
        let own = |count| (0..count).map(|i| Scene::sample(SEED, i, Split::Train).caption()).collect::<Vec<_>>();
        let count = 40;
        assert_eq!(batch(Sequence::Pixels, 0, count).captions, own(count as u64));
        let grouped = batch(Sequence::Contrast, 0, count).captions;
        let same: Vec<bool> = grouped.iter().zip(own(count as u64)).map(|(a, b)| *a == b).collect();
        assert!(same.iter().step_by(GROUP).all(|same| *same), "the first of each group is drawn");
        assert!(same.iter().filter(|same| !**same).count() > count / 2, "the others are variants of it");
        let later = batch(Sequence::Contrast, 8, 8);
        assert_eq!(later.captions, grouped[8..16]);
        let part = later.part(2..5);
        assert_eq!(part.len(), 3);
        assert_eq!(part.captions, grouped[10..13]);
    }
}
