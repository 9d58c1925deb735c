//! Resize, bit for bit as Pillow's `Image.resize((width, height), filter)` for RGB (Pillow 9.5 to 12.3, `Resample.c`).
//!
//! # Notation
//! | name | symbol |
//! |---|---|
//! | `scale` | source pixels for each result pixel |
//! | `stretch` | `max(scale, 1)`: the filter widens when shrinking, against aliasing |
//! | `support` | radius of the filter in source pixels |
//! | `center` | place of a result pixel in the source |
//! | `weights` | the filter at each source pixel, normalized, times 2^22, rounded |
//!
//! Horizontal first, then vertical, with 8 bits between the two; a direction that keeps its size is skipped. Sums are
//! 32-bit integers, so neither their order nor the number of threads changes a result.

use std::ops::Deref;

use image::{ImageBuffer, Rgb, RgbImage};
use multiversion::multiversion;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

/// Fraction bits of a weight: a sum of weighted 8-bit levels needs 10 more.
const PRECISION_BITS: u32 = 22;
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// Values that the horizontal pass weights at once: eight pixels.
const LANES: usize = 24;
/// Values of a row that the vertical pass sums up at once; they stay in registers and the first cache.
const STRIPE: usize = 192;

/// How source pixels are weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filter {
    /// Triangle of radius 1.
    Bilinear,
    /// Keys' cubic of radius 2 with `a = -0.5`.
    Bicubic,
}

impl Filter {
    fn radius(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn at(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// RGB pixels in memory that somebody else may own; [`RgbImage`] is one that owns its own.
pub type RgbBuffer<P> = ImageBuffer<Rgb<u8>, P>;

/// The image in another size.
///
/// # Panics
/// When `width` or `height` is 0, or the image is empty.
pub fn resize<P: Deref<Target = [u8]>>(image: &RgbBuffer<P>, width: u32, height: u32, filter: Filter) -> RgbImage {
    assert!(width > 0 && height > 0 && !image.as_raw().is_empty(), "an empty image cannot be resized");
    let (from_width, from_height) = (image.width() as usize, image.height() as usize);
    let (to_width, to_height) = (width as usize, height as usize);
    let rows = Weights::new(from_height, to_height, filter);
    let wide = match to_width == from_width {
        true => None,
        false => Some(horizontal(image.as_raw(), from_width, &Weights::new(from_width, to_width, filter))),
    };
    let wide = wide.as_deref().unwrap_or(image.as_raw());
    let data = match to_height == from_height {
        true => wide.to_vec(),
        false => vertical(wide, 3 * to_width, &rows),
    };
    RgbImage::from_raw(width, height, data).expect("as many values as pixels")
}

/// For each result pixel of one direction, the source pixels that it is made of.
struct Weights {
    /// First source pixel, and number of source pixels.
    spans: Vec<(usize, usize)>,
    /// `stride` weights for each result pixel; those beyond the span are 0.
    weights: Vec<i32>,
    stride: usize,
}

impl Weights {
    fn new(from: usize, to: usize, filter: Filter) -> Self {
        let scale = from as f64 / to as f64;
        let stretch = scale.max(1.0);
        let support = filter.radius() * stretch;
        let stride = support.ceil() as usize * 2 + 1;
        let mut spans = Vec::with_capacity(to);
        let mut weights = vec![0; to * stride];
        let mut exact = Vec::with_capacity(stride);
        for (i, weights) in weights.chunks_exact_mut(stride).enumerate() {
            let center = (i as f64 + 0.5) * scale;
            // Truncation toward zero, as in C.
            let first = (center - support + 0.5).max(0.0) as usize;
            let count = ((center + support + 0.5) as usize).min(from) - first;
            let inverse = 1.0 / stretch;
            exact.clear();
            exact.extend((0..count).map(|j| filter.at(((j + first) as f64 - center + 0.5) * inverse)));
            let sum: f64 = exact.iter().sum();
            for (weight, &exact) in weights.iter_mut().zip(&exact) {
                let fixed = (if sum == 0.0 { exact } else { exact / sum }) * f64::from(1 << PRECISION_BITS);
                *weight = (if fixed < 0.0 { fixed - 0.5 } else { fixed + 0.5 }) as i32;
            }
            spans.push((first, count));
        }
        Self { spans, weights, stride }
    }

    fn of(&self, i: usize) -> (usize, &[i32]) {
        let (first, count) = self.spans[i];
        (first, &self.weights[i * self.stride..][..count])
    }
}

fn level(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Adds a weighted level. Absolute weights sum to less than 1.3 * 2^22, so this never wraps; saying so keeps overflow
/// checks out of the loops.
fn add(sum: &mut i32, level: u8, weight: i32) {
    *sum = sum.wrapping_add(i32::from(level).wrapping_mul(weight));
}

/// `[height, from_width, 3] -> [height, to_width, 3]`
fn horizontal(data: &[u8], from_width: usize, weights: &Weights) -> Vec<u8> {
    let to_width = weights.spans.len();
    let height = data.len() / (3 * from_width);
    let tripled: Vec<i32> = weights.weights.iter().flat_map(|&weight| [weight; 3]).collect();
    let mut result = vec![0; height * 3 * to_width];
    let rows = result.par_chunks_exact_mut(3 * to_width).zip(data.par_chunks_exact(3 * from_width));
    rows.with_min_len(16).for_each(|(to, from)| horizontal_row(from, to, &weights.spans, &tripled));
    result
}

/// One row; `tripled` has each weight once for each channel, so that pixels need not be taken apart.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn horizontal_row(from: &[u8], to: &mut [u8], spans: &[(usize, usize)], tripled: &[i32]) {
    let stride = tripled.len() / spans.len();
    for ((pixel, &(first, count)), weights) in to.chunks_exact_mut(3).zip(spans).zip(tripled.chunks_exact(stride)) {
        let from = &from[3 * first..][..3 * count];
        let weights = &weights[..3 * count];
        let mut lanes = [0; LANES];
        let (levels, weights) = (from.chunks_exact(LANES), weights.chunks_exact(LANES));
        let (last_levels, last_weights) = (levels.remainder(), weights.remainder());
        for (levels, weights) in levels.zip(weights) {
            for ((lane, &level), &weight) in lanes.iter_mut().zip(levels).zip(weights) {
                add(lane, level, weight);
            }
        }
        for ((lane, &level), &weight) in lanes.iter_mut().zip(last_levels).zip(last_weights) {
            add(lane, level, weight);
        }
        let mut sums = [HALF; 3];
        for lanes in lanes.chunks_exact(3) {
            sums.iter_mut().zip(lanes).for_each(|(sum, lane)| *sum = sum.wrapping_add(*lane));
        }
        pixel.copy_from_slice(&sums.map(level));
    }
}

/// `[from_height, length] -> [to_height, length]`
fn vertical(data: &[u8], length: usize, weights: &Weights) -> Vec<u8> {
    let mut result = vec![0; weights.spans.len() * length];
    result.par_chunks_exact_mut(length).enumerate().with_min_len(4).for_each(|(i, to)| {
        let (first, weights) = weights.of(i);
        vertical_row(&data[first * length..][..weights.len() * length], to, weights);
    });
    result
}

#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2", "aarch64+neon"))]
fn vertical_row(from: &[u8], to: &mut [u8], weights: &[i32]) {
    let length = to.len();
    for (stripe, to) in to.chunks_mut(STRIPE).enumerate() {
        let mut sums = [HALF; STRIPE];
        for (row, &weight) in from.chunks_exact(length).zip(weights) {
            let row = &row[stripe * STRIPE..][..to.len()];
            for (sum, &level) in sums.iter_mut().zip(row) {
                add(sum, level, weight);
            }
        }
        for (to, &sum) in to.iter_mut().zip(&sums) {
            *to = level(sum);
        }
    }
}
