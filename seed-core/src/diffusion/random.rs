//! Random numbers of decoding: one generator an image, so that an image depends on its own codes, the seed and its
//! index, not on the batch that it is decoded in.
//!
//! # The numbers, bit by bit
//! 1. The generator is ChaCha with 8 rounds. Its key is the seed as 8 little-endian bytes followed by 24 zeros, its
//!    stream (the 64-bit nonce) the index of the image, its block counter 0.
//! 2. A 64-bit word is two successive 32-bit words of the key stream, the lower half first.
//! 3. Two words `a`, `b` make two normal numbers (Box-Muller, in double precision, then rounded to float32):
//!    `u = ((a >> 11) + 1) / 2^53`, `v = (b >> 11) / 2^53`, `r = sqrt(-2 ln u)`, `r cos(2 pi v)` and `r sin(2 pi v)`.
//! 4. Each tensor is filled in memory order from whole pairs; of an odd number of values the last `sin` is dropped.

use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The generator of one image.
#[derive(Clone, Debug)]
pub struct ImageRandom(ChaCha8Rng);

impl ImageRandom {
    /// The generator of the image `index` under `seed`.
    pub fn new(seed: u64, index: u64) -> Self {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(index);
        Self(generator)
    }

    /// The next `count` standard normal numbers.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        let mut values = Vec::with_capacity(count + 1);
        while values.len() < count {
            values.extend(self.pair());
        }
        values.truncate(count);
        values
    }

    fn pair(&mut self) -> [f32; 2] {
        const UNIT: f64 = 1.0 / (1u64 << 53) as f64;
        let u = ((self.0.next_u64() >> 11) + 1) as f64 * UNIT; // (0, 1]
        let v = (self.0.next_u64() >> 11) as f64 * UNIT; // [0, 1)
        let (radius, angle) = ((-2.0 * u.ln()).sqrt(), std::f64::consts::TAU * v);
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key stream of ChaCha8 with a zero key and nonce begins with 3e00ef2f 895f40d6 7f5bb8e8 1f09a5a1 (test vector
    /// of the eSTREAM set); read little-endian these are the first two words.
    #[test]
    fn the_first_pair_is_the_documented_one() {
        let (a, b) = (0xd640_5f89_2fef_003e_u64, 0xa1a5_091f_e8b8_5b7f_u64);
        let u = ((a >> 11) + 1) as f64 / 2f64.powi(53);
        let v = (b >> 11) as f64 / 2f64.powi(53);
        let (r, angle) = ((-2.0 * u.ln()).sqrt(), 2.0 * std::f64::consts::PI * v);
        assert_eq!(ImageRandom::new(0, 0).normals(2), [(r * angle.cos()) as f32, (r * angle.sin()) as f32]);
    }

    #[test]
    fn seed_and_index_matter() {
        let first = ImageRandom::new(1, 2).normals(8);
        assert_eq!(first, ImageRandom::new(1, 2).normals(8));
        assert_ne!(first, ImageRandom::new(2, 1).normals(8));
        assert_ne!(first, ImageRandom::new(1, 3).normals(8));
    }

    #[test]
    fn moments_are_those_of_a_normal_distribution() {
        /// Five standard errors of the mean of 100,000 values.
        const MARGIN: f64 = 5.0 / 316.0;
        let values = ImageRandom::new(7, 0).normals(100_001);
        assert_eq!(values.len(), 100_001);
        let moment = |power: i32| values.iter().map(|&x| f64::from(x).powi(power)).sum::<f64>() / values.len() as f64;
        assert!(moment(1).abs() < MARGIN, "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < 2.0 * MARGIN, "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < 10.0 * MARGIN, "{}", moment(4));
    }
}
