//! Gradients of attention, one head of one image after the other: the scores of one head are all that is in memory.
//!
//! # Notation
//! | name | symbol |
//! |---|---|
//! | `weights` | `p = softmax(scale * q k' + mask)`, `[queries, tokens]` |
//! | `slopes` | `s = scale * p * (dp - sum(p * dp))`, `dp = g v'`, with the gradient `g` of the output |
//!
//! `dq = s k`, `dk = s' q`, `dv = p' g`.

use std::cell::RefCell;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    attention::{Heads, LANES, softmax},
    panels::{Matrix, panels},
    tile::{COLUMNS, Kernel, ROWS, Tile},
};
use crate::nn::transpose;

/// What a task needs besides its results: kept by its thread for the next.
#[derive(Default)]
struct Scratch {
    /// Query, key, value and gradient of a head, in order.
    parts: [Vec<f32>; 4],
    weights: Vec<f32>,
    slopes: Vec<f32>,
    turned: Vec<f32>,
    packed: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Gradients of query, key and value, `[batch, tokens, heads * head_dim]` each, from these three and the gradient of the output.
pub(in crate::nn) fn attention_backward(
    kernel: Kernel,
    [query, key, value, grad]: [Heads<'_>; 4],
    [batch, heads, head_dim]: [usize; 3],
    scale: f32,
    mask: Option<&[f32]>,
) -> [Vec<f32>; 3] {
    assert!(mask.is_none_or(|mask| mask.len() == query.tokens * key.tokens));
    assert_eq!([key.tokens, query.tokens], [value.tokens, grad.tokens]);
    let width = heads * head_dim;
    let mut out = [query.tokens, key.tokens, key.tokens].map(|tokens| vec![0.0; batch * tokens * width]);
    if query.tokens * key.tokens * width == 0 {
        return out;
    }
    let [queries, keys, values] = &mut out;
    let images = queries.par_chunks_mut(query.tokens * width);
    let images = images.zip(keys.par_chunks_mut(key.tokens * width).zip(values.par_chunks_mut(key.tokens * width)));
    images.enumerate().for_each(|(image, (queries, (keys, values)))| {
        SCRATCH.with_borrow_mut(|scratch| {
            for head in 0..heads {
                let parts = [query, key, value, grad];
                for (to, from) in scratch.parts.iter_mut().zip(parts) {
                    gather(from.of(image, head, head_dim), from.strides[1], [from.tokens, head_dim], to);
                }
                let [queries, keys, values] =
                    [&mut *queries, &mut *keys, &mut *values].map(|out| &mut out[head * head_dim..]);
                let sizes = [query.tokens, key.tokens, head_dim];
                Task { kernel, sizes, width, scale, mask }.run(scratch, [queries, keys, values]);
            }
        });
    });
    out
}

/// Rows of `inner` values, each `stride` after the one before, in order.
fn gather(from: &[f32], stride: usize, [rows, inner]: [usize; 2], to: &mut Vec<f32>) {
    to.clear();
    (0..rows).for_each(|row| to.extend_from_slice(&from[row * stride..][..inner]));
}

/// One head of one image.
struct Task<'a> {
    kernel: Kernel,
    /// Queries, tokens, features of a head.
    sizes: [usize; 3],
    /// Values from a row of a result to the next.
    width: usize,
    scale: f32,
    mask: Option<&'a [f32]>,
}

impl Task<'_> {
    fn run(&self, scratch: &mut Scratch, [queries_out, keys_out, values_out]: [&mut [f32]; 3]) {
        let [queries, tokens, dim] = self.sizes;
        let Scratch { parts: [query, key, value, grad], weights, slopes, turned, packed } = scratch;
        let stride = tokens.next_multiple_of(LANES);
        weights.resize(queries * stride, 0.0);
        slopes.resize(queries * stride, 0.0);
        let transposed = |x| Matrix::new(x, [1, dim]);
        self.multiply((query, dim, queries), transposed(key), [dim, tokens], packed, (weights, stride));
        self.multiply((grad, dim, queries), transposed(value), [dim, tokens], packed, (slopes, stride));
        for (i, row) in weights.chunks_exact_mut(stride).enumerate() {
            row.iter_mut().for_each(|score| *score *= self.scale);
            if let Some(mask) = self.mask {
                row.iter_mut().zip(&mask[i * tokens..][..tokens]).for_each(|(score, mask)| *score += mask);
            }
            row[tokens..].fill(f32::MIN);
            softmax(row);
        }
        for (weights, slopes) in weights.chunks_exact(stride).zip(slopes.chunks_exact_mut(stride)) {
            slope(&weights[..tokens], self.scale, &mut slopes[..tokens]);
        }
        let rows = |x| Matrix::new(x, [dim, 1]);
        self.multiply((slopes, stride, queries), rows(key), [tokens, dim], packed, (queries_out, self.width));
        turned.resize(stride * queries, 0.0);
        transpose::copy(slopes, stride, turned, queries);
        self.multiply((turned, queries, tokens), rows(query), [queries, dim], packed, (keys_out, self.width));
        transpose::copy(weights, stride, turned, queries);
        self.multiply((turned, queries, tokens), rows(grad), [queries, dim], packed, (values_out, self.width));
    }

    /// Some rows, `stride` apart, times `b` `[inner, columns]`; the results' rows are another stride apart.
    fn multiply(
        &self,
        (a, stride, rows): (&[f32], usize, usize),
        b: Matrix<'_>,
        [inner, columns]: [usize; 2],
        packed: &mut Vec<f32>,
        (out, out_stride): (&mut [f32], usize),
    ) {
        let mut tile: Tile = [0.0; ROWS * COLUMNS];
        for panel in panels(columns, self.kernel) {
            b.pack(inner, &panel, packed);
            for first in (0..rows).step_by(self.kernel.rows()) {
                let count = self.kernel.rows().min(rows - first);
                self.kernel.tile(&a[first * stride..], stride, count, packed, panel.width, &mut tile);
                for (row, line) in tile.chunks_exact(panel.width).take(count).enumerate() {
                    let to = &mut out[(first + row) * out_stride + panel.first..][..panel.columns];
                    to.copy_from_slice(&line[..panel.columns]);
                }
            }
        }
    }
}

/// `slopes = scale * weights * (slopes - sum(weights * slopes))`
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn slope(weights: &[f32], scale: f32, slopes: &mut [f32]) {
    let mut sums = [0.0f32; LANES];
    for (weights, slopes) in weights.chunks(LANES).zip(slopes.chunks(LANES)) {
        for ((sum, weight), slope) in sums.iter_mut().zip(weights).zip(slopes) {
            *sum += weight * slope;
        }
    }
    let sum: f32 = sums.iter().sum();
    slopes.iter_mut().zip(weights).for_each(|(slope, weight)| *slope = scale * weight * (*slope - sum));
}
