//! Group normalization with its gradients in one pass each.
//!
//! # Notation
//! | name | symbol |
//! |---|---|
//! | `normal` | `n = (x - mean) / sqrt(var + eps)`, mean and biased variance over a group of channels of one image |
//! | `scale`, `shift` | `gamma`, `beta`, one number a channel: `y = gamma * n + beta` |
//! | `slope` | `g = dL/dy * gamma` |
//!
//! Gradients: `dL/dgamma = sum dL/dy * n`, `dL/dbeta = sum dL/dy`, both over images and positions, and
//! `dL/dx = (g - mean(g) - n * mean(g * n)) / sqrt(var + eps)`.

use burn::tensor::{DType, Shape, TensorMetadata, backend::Backend, ops::FloatTensor};
use burn_flex::FlexTensor;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    SeedBackend,
    kernels::{exp, from_vec},
};

/// Number of groups and epsilon.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// Groups that the channels are divided into.
    pub count: usize,
    /// Added to the variance.
    pub epsilon: f64,
}

/// Gradients of the input `[batch, channels, height, width]`, the scale and the shift `[channels]`.
pub(super) type Gradients<T> = [T; 3];

/// The plain form, by tensor operations.
pub(super) fn plain<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    shift: FloatTensor<B>,
    groups: Groups,
) -> FloatTensor<B> {
    let shape = x.shape();
    let (normal, _) = normalize::<B>(x, groups);
    let normal = B::float_reshape(normal, shape.clone());
    B::float_add(B::float_mul(normal, by_channel::<B>(scale)), by_channel::<B>(shift))
}

/// Gradients of the plain form.
pub(super) fn plain_backward<B: Backend>(
    x: FloatTensor<B>,
    scale: FloatTensor<B>,
    grad: FloatTensor<B>,
    groups: Groups,
) -> Gradients<FloatTensor<B>> {
    let shape = x.shape();
    let channels = shape[1];
    let (normal, inverse) = normalize::<B>(x, groups); // [batch * groups, values], [batch * groups, 1]
    let rows = normal.shape();
    let channel_sum = |x: FloatTensor<B>| {
        let x = B::float_sum_dim(B::float_sum_dim(B::float_sum_dim(x, 3), 2), 0);
        B::float_reshape(x, Shape::new([channels]))
    };
    let product = B::float_mul(grad.clone(), B::float_reshape(normal.clone(), shape.clone()));
    let (scale_grad, shift_grad) = (channel_sum(product), channel_sum(grad.clone()));
    let slope = B::float_reshape(B::float_mul(grad, by_channel::<B>(scale)), rows);
    let mean = B::float_mean_dim(slope.clone(), 1);
    let along = B::float_mean_dim(B::float_mul(slope.clone(), normal.clone()), 1);
    let input = B::float_sub(B::float_sub(slope, mean), B::float_mul(normal, along));
    [B::float_reshape(B::float_mul(input, inverse), shape), scale_grad, shift_grad]
}

fn normalize<B: Backend>(x: FloatTensor<B>, groups: Groups) -> (FloatTensor<B>, FloatTensor<B>) {
    let shape = x.shape();
    let rows = shape[0] * groups.count;
    let x = B::float_reshape(x, Shape::new([rows, shape.num_elements() / rows.max(1)]));
    let centred = B::float_sub(x.clone(), B::float_mean_dim(x, 1));
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let inverse = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, groups.epsilon.into())));
    (B::float_mul(centred, inverse.clone()), inverse)
}

fn by_channel<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let channels = x.shape().num_elements();
    B::float_reshape(x, Shape::new([1, channels, 1, 1]))
}

/// Whether the kernels below serve these tensors.
fn covered(tensors: &[&FlexTensor]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32 && tensor.layout().num_elements() > 0)
}

/// [`plain`] on Flex, with SiLU of the result where it is asked for.
pub(super) fn forward(x: FlexTensor, scale: FlexTensor, shift: FlexTensor, groups: Groups, silu: bool) -> FlexTensor {
    if !covered(&[&x, &scale, &shift]) {
        let normed = plain::<burn_flex::Flex>(x, scale, shift, groups);
        return if silu { burn_flex::Flex::fused_silu(normed) } else { normed };
    }
    let shape = x.layout().shape().clone();
    let [_, channels, height, width] = shape.dims();
    let (x, scale, shift) = (x.to_contiguous(), scale.to_contiguous(), shift.to_contiguous());
    let (input, scale, shift) = (x.storage::<f32>(), scale.storage::<f32>(), shift.storage::<f32>());
    let (area, members) = (height * width, channels / groups.count);
    let line = if silu { line_silu } else { line };
    let mut output = vec![0.0; input.len()];
    let rows = output.par_chunks_mut(members * area).zip(input.par_chunks(members * area));
    rows.enumerate().for_each(|(row, (output, input))| {
        let (mean, inverse) = moments(input, groups.epsilon);
        let first = row % groups.count * members;
        for (i, (output, input)) in output.chunks_exact_mut(area).zip(input.chunks_exact(area)).enumerate() {
            let factor = inverse * scale[first + i];
            line(input, factor, shift[first + i] - mean * factor, output);
        }
    });
    from_vec(output, shape)
}

/// `x * factor + offset`
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn line(x: &[f32], factor: f32, offset: f32, out: &mut [f32]) {
    out.iter_mut().zip(x).for_each(|(y, &x)| *y = x * factor + offset);
}

/// SiLU of `x * factor + offset`.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn line_silu(x: &[f32], factor: f32, offset: f32, out: &mut [f32]) {
    for (y, &x) in out.iter_mut().zip(x) {
        let normed = x * factor + offset;
        *y = normed / (1.0 + exp(-normed));
    }
}

/// [`plain_backward`] on Flex.
pub(super) fn backward(x: FlexTensor, scale: FlexTensor, grad: FlexTensor, groups: Groups) -> Gradients<FlexTensor> {
    if !covered(&[&x, &scale, &grad]) {
        return plain_backward::<burn_flex::Flex>(x, scale, grad, groups);
    }
    let shape = x.layout().shape().clone();
    let [batch, channels, height, width] = shape.dims();
    let (x, scale, grad) = (x.to_contiguous(), scale.to_contiguous(), grad.to_contiguous());
    let (input, scale, grad) = (x.storage::<f32>(), scale.storage::<f32>(), grad.storage::<f32>());
    let (area, members) = (height * width, channels / groups.count);
    let row = members * area;
    let mut output = vec![0.0; input.len()];
    // Of each channel of each image: sum of the gradient, and of the gradient times the normal.
    let mut sums = vec![[0.0f32; 2]; batch * channels];
    let rows = output.par_chunks_mut(row).zip(sums.par_chunks_mut(members));
    let rows = rows.zip(input.par_chunks(row).zip(grad.par_chunks(row)));
    rows.enumerate().for_each(|(index, ((output, sums), (input, grad)))| {
        let (mean, inverse) = moments(input, groups.epsilon);
        let scale = &scale[index % groups.count * members..][..members];
        let (mut slope_mean, mut along) = (0.0, 0.0);
        for (i, sums) in sums.iter_mut().enumerate() {
            let range = i * area..(i + 1) * area;
            *sums = products(&input[range.clone()], &grad[range], [mean, inverse]);
            slope_mean += sums[0] * scale[i];
            along += sums[1] * scale[i];
        }
        let (slope_mean, along) = (slope_mean / row as f32, along / row as f32);
        for (i, output) in output.chunks_exact_mut(area).enumerate() {
            let range = i * area..(i + 1) * area;
            slopes(&input[range.clone()], &grad[range], [mean, inverse, scale[i], slope_mean, along], output);
        }
    });
    let total = |kind: usize| {
        let channel = |c: usize| (0..batch).map(|image| sums[image * channels + c][kind]).sum();
        from_vec((0..channels).map(channel).collect(), Shape::new([channels]))
    };
    [from_vec(output, shape), total(1), total(0)]
}

/// Sums of the gradient, and of the gradient times the normal.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn products(x: &[f32], grad: &[f32], [mean, inverse]: [f32; 2]) -> [f32; 2] {
    let mut parts = [[0.0f32; PARTS]; 2];
    for (x, grad) in x.chunks(PARTS).zip(grad.chunks(PARTS)) {
        for (i, (x, grad)) in x.iter().zip(grad).enumerate() {
            parts[0][i] += grad;
            parts[1][i] += grad * ((x - mean) * inverse);
        }
    }
    parts.map(|parts| parts.iter().sum())
}

/// The gradient of the input.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn slopes(x: &[f32], grad: &[f32], [mean, inverse, scale, slope_mean, along]: [f32; 5], out: &mut [f32]) {
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        let normal = (x - mean) * inverse;
        *out = (grad * scale - slope_mean - normal * along) * inverse;
    }
}

/// Mean and inverse standard deviation.
fn moments(values: &[f32], epsilon: f64) -> (f32, f32) {
    let mean = sum(values) / values.len() as f64;
    let variance = sum_of_squares(values, mean as f32) / values.len() as f64;
    (mean as f32, (1.0 / (variance + epsilon).sqrt()) as f32)
}

/// Partial sums, which vectorise and round less than one chain; the order of a sum depends on the length alone.
const PARTS: usize = 16;
/// Values that are summed in float32.
const AT_ONCE: usize = 4096;

#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn sum(values: &[f32]) -> f64 {
    let mut total = 0.0;
    for values in values.chunks(AT_ONCE) {
        let (chunks, rest) = values.as_chunks::<PARTS>();
        let mut parts = [0.0; PARTS];
        for chunk in chunks {
            parts.iter_mut().zip(chunk).for_each(|(part, value)| *part += value);
        }
        parts.iter_mut().zip(rest).for_each(|(part, value)| *part += value);
        total += f64::from(parts.iter().sum::<f32>());
    }
    total
}

/// Sum of `(x - mean)^2`.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn sum_of_squares(values: &[f32], mean: f32) -> f64 {
    let mut total = 0.0;
    for values in values.chunks(AT_ONCE) {
        let (chunks, rest) = values.as_chunks::<PARTS>();
        let mut parts = [0.0; PARTS];
        for chunk in chunks {
            parts.iter_mut().zip(chunk).for_each(|(part, value)| *part += (value - mean) * (value - mean));
        }
        parts.iter_mut().zip(rest).for_each(|(part, value)| *part += (value - mean) * (value - mean));
        total += f64::from(parts.iter().sum::<f32>());
    }
    total
}
