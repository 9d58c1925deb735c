//! Layer normalization of rows.

use multiversion::multiversion;
use rayon::prelude::*;

/// Values that a task takes.
const AT_ONCE: usize = 16 * 1024;
/// Partial sums: a single one would chain every addition.
const LANES: usize = 16;

/// `(x - mean) / sqrt(variance + epsilon) * scale + shift` of each row, as long as `scale`.
///
/// Panics unless `x` has whole rows and `shift` is as long as `scale`.
pub(in crate::nn) fn layer_norm(x: &[f32], scale: &[f32], shift: &[f32], epsilon: f32) -> Vec<f32> {
    let width = scale.len();
    assert_eq!((x.len() % width, shift.len()), (0, width));
    let mut out = vec![0.0; x.len()];
    let chunk = (AT_ONCE / width).max(1) * width;
    out.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(out, x)| rows(x, scale, shift, epsilon, out));
    out
}

#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn rows(x: &[f32], scale: &[f32], shift: &[f32], epsilon: f32, out: &mut [f32]) {
    let width = scale.len();
    for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
        let mean = sum(x, |value| value) / width as f32;
        let variance = sum(x, |value| (value - mean) * (value - mean)) / width as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        for (((out, &x), &scale), &shift) in out.iter_mut().zip(x).zip(scale).zip(shift) {
            *out = (x - mean) * factor * scale + shift;
        }
    }
}

#[inline(always)]
fn sum(x: &[f32], of: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, &value) in sums.iter_mut().zip(chunk) {
            *sum += of(value);
        }
    }
    for (sum, &value) in sums.iter_mut().zip(rest) {
        *sum += of(value);
    }
    sums.iter().sum()
}
