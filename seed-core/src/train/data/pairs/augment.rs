//! An image that is learned from: another part of it each time, and its mirror image half of the time.
//!
//! Reference: torchvision's `RandomResizedCrop(size, scale, ratio, BICUBIC)` and `RandomHorizontalFlip()` on Pillow's
//! images, as BLIP-2's training has them, with the scale 0.5 to 1. Ten tries for a box of a random area and shape that
//! lies within the image, then the largest one in the middle; the box is cut out and then resized. Difference: the random
//! numbers, which are ChaCha's and follow from seed and position, not from what was drawn before.

use image::imageops;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::pixels::{Filter, RgbImage, resize};

/// Width by height that a box may have.
const RATIO: [f64; 2] = [3.0 / 4.0, 4.0 / 3.0];
/// Boxes that are tried.
const TRIES: usize = 10;

/// How images are changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Augment {
    /// Least and largest share of the image's area that is seen.
    pub(super) scale: [f64; 2],
    /// Whether half of the images are mirrored.
    pub(super) flip: bool,
}

/// Part of an image, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Crop {
    x: u32,
    y: u32,
    width: u32,
    height: u32,
}

impl Augment {
    /// The image at a position of the sequence that `seed` begins, `size` pixels a side.
    pub(super) fn apply(&self, image: &RgbImage, size: u32, seed: u64, position: u64) -> RgbImage {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ 0x6175_676d_656e_7400); // "augment"
        random.set_stream(position);
        let Crop { x, y, width, height } = self.crop(image.width(), image.height(), &mut random);
        let part = imageops::crop_imm(image, x, y, width, height).to_image();
        let resized = resize(&part, size, size, Filter::Bicubic);
        if self.flip && random.random_bool(0.5) { imageops::flip_horizontal(&resized) } else { resized }
    }

    fn crop(&self, width: u32, height: u32, random: &mut impl Rng) -> Crop {
        let area = f64::from(width) * f64::from(height);
        let [least, most] = RATIO.map(f64::ln);
        for _ in 0..TRIES {
            let target = area * random.random_range(self.scale[0]..=self.scale[1]);
            let ratio = random.random_range(least..most).exp();
            let w = (target * ratio).sqrt().round_ties_even() as u32; // as Python rounds
            let h = (target / ratio).sqrt().round_ties_even() as u32;
            if (1..=width).contains(&w) && (1..=height).contains(&h) {
                let y = random.random_range(0..=height - h);
                return Crop { x: random.random_range(0..=width - w), y, width: w, height: h };
            }
        }
        middle(width, height)
    }
}

/// The largest box of an admitted shape, in the middle.
fn middle(width: u32, height: u32) -> Crop {
    let ratio = f64::from(width) / f64::from(height);
    let [least, most] = RATIO;
    // A side of one pixel would be rounded away at the most extreme shapes.
    let side = |length: f64| (length.round_ties_even() as u32).max(1);
    let (w, h) = if ratio < least {
        (width, side(f64::from(width) / least))
    } else if ratio > most {
        (side(f64::from(height) * most), height)
    } else {
        (width, height)
    };
    Crop { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OFFICIAL: Augment = Augment { scale: [0.5, 1.0], flip: true };

    fn random(seed: u64) -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(seed)
    }

    proptest! {
        #[test]
        fn a_crop_lies_within_the_image(width in 1..400u32, height in 1..400u32, seed: u64) {
            let crop = OFFICIAL.crop(width, height, &mut random(seed));
            prop_assert!(crop.width > 0 && crop.x + crop.width <= width, "{crop:?}");
            prop_assert!(crop.height > 0 && crop.y + crop.height <= height, "{crop:?}");
        }

        #[test]
        fn a_crop_has_the_area_and_the_shape_asked_for(seed: u64) {
            let crop = OFFICIAL.crop(640, 480, &mut random(seed));
            let share = f64::from(crop.width * crop.height) / (640.0 * 480.0);
            let ratio = f64::from(crop.width) / f64::from(crop.height);
            // A pixel's rounding of either side.
            prop_assert!((0.497..=1.0).contains(&share), "{crop:?} is {share} of the image");
            prop_assert!((0.747..=1.338).contains(&ratio), "{crop:?} has the ratio {ratio}");
        }
    }

    #[test]
    fn what_no_box_fits_is_cut_in_the_middle() {
        // No box of half of these images' area is of an admitted shape.
        let crop = OFFICIAL.crop(1000, 10, &mut random(1));
        assert_eq!(crop, Crop { x: 493, y: 0, width: 13, height: 10 });
        let crop = OFFICIAL.crop(9, 700, &mut random(2));
        assert_eq!(crop, Crop { x: 0, y: 344, width: 9, height: 12 });
        assert_eq!(middle(40, 30), Crop { x: 0, y: 0, width: 40, height: 30 });
    }

    #[test]
    fn areas_shapes_and_mirrors_are_spread_evenly() {
        let image = RgbImage::from_fn(64, 48, |x, _| image::Rgb([4 * x as u8, 0, 0]));
        let count = 400;
        let (mut shares, mut mirrored) = (Vec::new(), 0);
        for position in 0..count {
            let got = OFFICIAL.apply(&image, 8, 5, position);
            mirrored += u32::from(got.get_pixel(0, 0)[0] > got.get_pixel(7, 0)[0]);
            let crop = OFFICIAL.crop(640, 480, &mut random(position));
            shares.push(f64::from(crop.width * crop.height) / (640.0 * 480.0));
        }
        assert!((150..250).contains(&mirrored), "{mirrored} of {count} are mirrored");
        // Large boxes of extreme shapes do not fit, so that the mean lies somewhat below 0.75.
        let mean = shares.iter().sum::<f64>() / count as f64;
        assert!((0.66..0.76).contains(&mean), "mean share {mean}");
        let unflipped = Augment { flip: false, ..OFFICIAL };
        let rises = |position| {
            let got = unflipped.apply(&image, 8, 5, position);
            got.get_pixel(0, 0)[0] < got.get_pixel(7, 0)[0]
        };
        assert!((0..40).all(rises));
    }

    #[test]
    fn the_whole_image_is_resized_as_without_augmentation() {
        let image = RgbImage::from_fn(31, 31, |x, y| image::Rgb([8 * x as u8, 8 * y as u8, 7]));
        let whole = Augment { scale: [1.0, 1.0], flip: false };
        // A square box of the whole area is the only one that fits, or else the middle: all of it.
        assert_eq!(whole.apply(&image, 16, 1, 2), resize(&image, 16, 16, Filter::Bicubic));
        let again = OFFICIAL.apply(&image, 16, 1, 2);
        assert_eq!(again, OFFICIAL.apply(&image, 16, 1, 2));
        assert_ne!(again, OFFICIAL.apply(&image, 16, 1, 3));
        assert_ne!(again, OFFICIAL.apply(&image, 16, 2, 2));
    }
}
