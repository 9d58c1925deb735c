//! Vectorised elementwise kernels for Flex, with their gradients.
//!
//! Written as plain loops over slices that the compiler vectorises; `multiversion` picks the widest instruction set at
//! run time. Each element is computed on its own, so results do not depend on batch size or thread count. Tensors of
//! another dtype than float32 take the backend's own path.
//!
//! # Notation
//! | name | symbol |
//! |---|---|
//! | `erf` | error function, rational minimax on `[-4, 4]`, within 1e-7 of the true value |
//! | `exp` | `2^n * p(r)`, `x = n ln 2 + r`, degree 6, relative error below 2e-7 |

use burn::tensor::{DType, Shape};
use burn_flex::{FlexTensor, Layout};
use multiversion::multiversion;
use rayon::prelude::*;

/// Elements that one task works on: large enough to pay for the scheduling, small enough to stay in the cache.
const CHUNK: usize = 16 * 1024;

/// Applies `kernel` to every element of a float32 tensor, `plain` to any other dtype.
pub(super) fn unary(
    x: FlexTensor,
    kernel: fn(&[f32], &mut [f32]),
    plain: impl Fn(FlexTensor) -> FlexTensor,
) -> FlexTensor {
    if x.dtype() != DType::F32 {
        return plain(x);
    }
    let x = x.to_contiguous();
    let input = x.storage::<f32>();
    let mut output = vec![0.0; input.len()];
    output.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK)).for_each(|(out, x)| kernel(x, out));
    from_vec(output, x.layout().shape().clone())
}

/// Applies `kernel` to every pair of elements of two float32 tensors of one shape, `plain` to any other dtype.
pub(super) fn binary(
    x: FlexTensor,
    grad: FlexTensor,
    kernel: fn(&[f32], &[f32], &mut [f32]),
    plain: impl Fn(FlexTensor, FlexTensor) -> FlexTensor,
) -> FlexTensor {
    if x.dtype() != DType::F32 || grad.dtype() != DType::F32 {
        return plain(x, grad);
    }
    let (x, grad) = (x.to_contiguous(), grad.to_contiguous());
    let (input, slope) = (x.storage::<f32>(), grad.storage::<f32>());
    let mut output = vec![0.0; input.len()];
    output
        .par_chunks_mut(CHUNK)
        .zip(input.par_chunks(CHUNK))
        .zip(slope.par_chunks(CHUNK))
        .for_each(|((out, x), g)| kernel(x, g, out));
    from_vec(output, x.layout().shape().clone())
}

pub(super) fn from_vec(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(burn::tensor::Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// Gradient of a softmax over the last axis from its output `y`.
pub(super) fn softmax_backward(
    y: FlexTensor,
    grad: FlexTensor,
    plain: impl Fn(FlexTensor, FlexTensor) -> FlexTensor,
) -> FlexTensor {
    let shape = y.layout().shape().clone();
    let row = shape[shape.num_dims() - 1];
    if y.dtype() != DType::F32 || grad.dtype() != DType::F32 || row == 0 {
        return plain(y, grad);
    }
    let (y, grad) = (y.to_contiguous(), grad.to_contiguous());
    let mut output = vec![0.0; shape.num_elements()];
    let rows = (CHUNK / row).max(1) * row;
    output
        .par_chunks_mut(rows)
        .zip(y.storage::<f32>().par_chunks(rows))
        .zip(grad.storage::<f32>().par_chunks(rows))
        .for_each(|((out, y), grad)| softmax_backward_rows(y, grad, out, row));
    from_vec(output, shape)
}

/// Copies heads out of tokens: each run of `head_dim` values stays together.
pub(super) fn split_heads(x: FlexTensor, heads: usize, plain: impl Fn(FlexTensor, usize) -> FlexTensor) -> FlexTensor {
    let [batch, tokens, width] = x.layout().shape().dims();
    let head_dim = width / heads;
    let Some([by_image, by_token, 1]) = unit_strides(&x) else { return plain(x, heads) };
    let (input, start) = (x.storage::<f32>(), x.layout().start_offset());
    let mut output = vec![0.0; batch * tokens * width];
    output.par_chunks_mut((tokens * head_dim).max(1)).enumerate().for_each(|(i, out)| {
        let (image, head) = (i / heads, i % heads);
        for (token, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let from = start + image * by_image + token * by_token + head * head_dim;
            out.copy_from_slice(&input[from..from + head_dim]);
        }
    });
    from_vec(output, Shape::new([batch, heads, tokens, head_dim]))
}

/// Copies heads back into tokens.
pub(super) fn merge_heads(x: FlexTensor, plain: impl Fn(FlexTensor) -> FlexTensor) -> FlexTensor {
    let [batch, heads, tokens, head_dim] = x.layout().shape().dims();
    let Some([by_image, by_head, by_token, 1]) = unit_strides(&x) else { return plain(x) };
    let (input, start) = (x.storage::<f32>(), x.layout().start_offset());
    let width = heads * head_dim;
    let mut output = vec![0.0; batch * tokens * width];
    output.par_chunks_mut((tokens * width).max(1)).enumerate().for_each(|(image, out)| {
        for (i, out) in out.chunks_exact_mut(head_dim).enumerate() {
            let from = start + image * by_image + i % heads * by_head + i / heads * by_token;
            out.copy_from_slice(&input[from..from + head_dim]);
        }
    });
    from_vec(output, Shape::new([batch, tokens, width]))
}

/// Strides of a float32 tensor that is not empty and whose last axis is contiguous, all non-negative.
fn unit_strides<const D: usize>(x: &FlexTensor) -> Option<[usize; D]> {
    let mut strides = [0; D];
    for (to, &from) in strides.iter_mut().zip(x.layout().strides()) {
        *to = usize::try_from(from).ok()?;
    }
    let plain = x.dtype() == DType::F32 && x.layout().num_elements() > 0 && strides[D - 1] == 1;
    plain.then_some(strides)
}

/// `erf(x)` as an odd rational function: numerator of degree 13, denominator of degree 8.
#[inline(always)]
fn erf(x: f32) -> f32 {
    // From here on erf is 1 to float32 precision, and the quotient misses it by a rounding.
    const SATURATED: f32 = 4.0;
    let x = x.clamp(-SATURATED, SATURATED);
    let s = x * x;
    let mut p = -2.726_142_5e-10_f32;
    p = p * s + 2.770_681_1e-8;
    p = p * s - 2.101_024e-6;
    p = p * s - 5.692_506_3e-5;
    p = p * s - 7.349_906_3e-4;
    p = p * s - 2.954_600_1e-3;
    p = p * s - 1.609_603_5e-2;
    let mut q = -1.456_607_2e-5_f32;
    q = q * s - 2.133_740_4e-4;
    q = q * s - 1.682_827_4e-3;
    q = q * s - 7.373_329_2e-3;
    q = q * s - 1.426_470_4e-2;
    if x.abs() < SATURATED { x * p / q } else { 1f32.copysign(x) }
}

/// `exp(x)` by range reduction; flushes to zero below -87 and saturates above 88.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer without a call, and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4; // ln 2 in two parts
    let mut p = 1.0 / 720.0_f32;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// `x * Phi(x)`.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gelu(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = gelu_of(x);
    }
}

/// `x * Phi(x)`, for loops that the compiler vectorises.
#[inline(always)]
pub(super) fn gelu_of(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `grad * (Phi(x) + x * phi(x))`.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn gelu_backward(x: &[f32], grad: &[f32], out: &mut [f32]) {
    const INV_SQRT_TAU: f32 = 0.398_942_3;
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        let cdf = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
        let pdf = INV_SQRT_TAU * exp(-0.5 * x * x);
        *out = grad * (cdf + x * pdf);
    }
}

/// `x * sigmoid(x)`.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn silu(x: &[f32], out: &mut [f32]) {
    for (out, &x) in out.iter_mut().zip(x) {
        *out = x / (1.0 + exp(-x));
    }
}

/// `grad * sigmoid(x) * (1 + x * (1 - sigmoid(x)))`.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn silu_backward(x: &[f32], grad: &[f32], out: &mut [f32]) {
    for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
        let sigmoid = 1.0 / (1.0 + exp(-x));
        *out = grad * sigmoid * (1.0 + x * (1.0 - sigmoid));
    }
}

/// `y * (grad - sum(y * grad))` for each row of `row` elements.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn softmax_backward_rows(y: &[f32], grad: &[f32], out: &mut [f32], row: usize) {
    for ((out, y), grad) in out.chunks_exact_mut(row).zip(y.chunks_exact(row)).zip(grad.chunks_exact(row)) {
        // Sixteen partial sums: a single one would chain every addition.
        let mut sums = [0.0f32; 16];
        for (y, grad) in y.chunks(16).zip(grad.chunks(16)) {
            for ((sum, &y), &grad) in sums.iter_mut().zip(y).zip(grad) {
                *sum += y * grad;
            }
        }
        let sum: f32 = sums.iter().sum();
        for ((out, &y), &grad) in out.iter_mut().zip(y).zip(grad) {
            *out = y * (grad - sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Float32 rounding of values up to about 6, with the polynomials' own error.
    const TOLERANCE: f64 = 2e-6;

    fn grid() -> Vec<f32> {
        (-1200..=1200).map(|i| i as f32 / 150.0).chain([0.0, -0.0, 40.0, -40.0, 1e-20]).collect()
    }

    /// erf in float64 by its Taylor series (small arguments) or its limit.
    fn erf64(x: f64) -> f64 {
        if x.abs() > 4.5 {
            return x.signum();
        }
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 * sum.abs().max(1e-300) && n < 400.0 {
            n += 1.0;
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    fn check(name: &str, got: &[f32], want: impl Fn(f64) -> f64) {
        for (&x, &got) in grid().iter().zip(got) {
            let want = want(f64::from(x));
            assert!(
                (f64::from(got) - want).abs() <= TOLERANCE * want.abs().max(1.0),
                "{name}({x}) = {got}, want {want}"
            );
        }
    }

    #[test]
    fn kernels_equal_float64() {
        let x = grid();
        let ones = vec![1.0; x.len()];
        let mut out = vec![0.0; x.len()];
        let cdf = |x: f64| 0.5 * (1.0 + erf64(x / 2f64.sqrt()));
        let pdf = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        gelu(&x, &mut out);
        check("gelu", &out, |x| x * cdf(x));
        gelu_backward(&x, &ones, &mut out);
        check("gelu'", &out, |x| cdf(x) + x * pdf(x));
        silu(&x, &mut out);
        check("silu", &out, |x| x * sigmoid(x));
        silu_backward(&x, &ones, &mut out);
        check("silu'", &out, |x| sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x))));
    }
}
