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

/// Rows whose contributions to the gradients of scale and shift are summed by a task.
const ROWS_AT_ONCE: usize = 64;

/// Gradients of the input, the scale and the shift of [`layer_norm`], from the gradient of its output.
pub(in crate::nn) fn backward(x: &[f32], scale: &[f32], grad: &[f32], epsilon: f32) -> [Vec<f32>; 3] {
    let width = scale.len();
    assert_eq!((x.len() % width, x.len()), (0, grad.len()));
    let chunk = ROWS_AT_ONCE * width;
    let (mut out, mut sums) = (vec![0.0; x.len()], vec![0.0; x.len().div_ceil(chunk) * 2 * width]);
    let tasks = out.par_chunks_mut(chunk).zip(sums.par_chunks_mut(2 * width));
    let tasks = tasks.zip(x.par_chunks(chunk).zip(grad.par_chunks(chunk)));
    tasks.for_each(|((out, sums), (x, grad))| rows_backward((x, grad), scale, epsilon, out, sums));
    let mut totals = [vec![0.0; width], vec![0.0; width]];
    for sums in sums.chunks_exact(2 * width) {
        for (total, sums) in totals.iter_mut().zip(sums.chunks_exact(width)) {
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
    }
    let [scale, shift] = totals;
    [out, scale, shift]
}

/// With `n = (x - mean) / deviation` and `g = grad * scale`: `(g - mean(g) - n * mean(g * n)) / deviation` of each row; `sums` get
/// `grad * n` and `grad`.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn rows_backward((x, grad): (&[f32], &[f32]), scale: &[f32], epsilon: f32, out: &mut [f32], sums: &mut [f32]) {
    let width = scale.len();
    let (to_scale, to_shift) = sums.split_at_mut(width);
    for ((out, x), grad) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(grad.chunks_exact(width)) {
        let mean = sum(x, |value| value) / width as f32;
        let variance = sum(x, |value| (value - mean) * (value - mean)) / width as f32;
        let factor = 1.0 / (variance + epsilon).sqrt();
        let (mut slope, mut along) = ([0.0f32; LANES], [0.0f32; LANES]);
        let values = x.chunks(LANES).zip(grad.chunks(LANES)).zip(scale.chunks(LANES));
        for ((x, grad), scale) in values {
            for (i, ((x, grad), scale)) in x.iter().zip(grad).zip(scale).enumerate() {
                let g = grad * scale;
                slope[i] += g;
                along[i] += g * ((x - mean) * factor);
            }
        }
        let [slope, along] = [slope, along].map(|sums| sums.iter().sum::<f32>() / width as f32);
        let values = x.iter().zip(grad).zip(scale).zip(to_scale.iter_mut().zip(to_shift.iter_mut()));
        for (out, (((x, grad), scale), (to_scale, to_shift))) in out.iter_mut().zip(values) {
            let normal = (x - mean) * factor;
            *out = (grad * scale - slope - normal * along) * factor;
            *to_scale += grad * normal;
            *to_shift += grad;
        }
    }
}
