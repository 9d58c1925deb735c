//! Attention over heads that stay where the projections wrote them.

mod long;

use std::cell::RefCell;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    panels::{Matrix, Panel, panels},
    tile::{COLUMNS, Kernel, ROWS, Tile},
};
use crate::nn::kernels;

/// Values that a row of scores is a multiple of.
pub(super) const LANES: usize = 16;
/// Queries that a task takes at most; their keys and values are packed once for all of them.
const QUERIES_AT_ONCE: usize = 512;

/// Values `[batch, tokens, heads * head_dim]` of which the last axis is contiguous.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Heads<'a> {
    /// From the first value on.
    pub(in crate::nn) values: &'a [f32],
    /// Tokens of an image.
    pub(in crate::nn) tokens: usize,
    /// Steps from an image to the next and from a token to the next.
    pub(in crate::nn) strides: [usize; 2],
}

impl<'a> Heads<'a> {
    /// From the first value of a head of an image on.
    pub(super) fn of(self, image: usize, head: usize, head_dim: usize) -> &'a [f32] {
        &self.values[image * self.strides[0] + head * head_dim..]
    }
}

/// What a task needs besides its results: kept by its thread for the next.
#[derive(Default)]
struct Scratch {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    queries: Vec<f32>,
    scores: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Softmax attention of queries to keys and values -> `[batch, queries, heads * head_dim]`. `scale` multiplies the queries,
/// `mask` `[queries, tokens]` is added to the scores.
///
/// The scores of a tile of queries are all that is in memory, with many keys those of a block of them.
pub(in crate::nn) fn attention(
    kernel: Kernel,
    [query, key, value]: [Heads<'_>; 3],
    [batch, heads, head_dim]: [usize; 3],
    scale: f32,
    mask: Option<&[f32]>,
) -> Vec<f32> {
    assert!(mask.is_none_or(|mask| mask.len() == query.tokens * key.tokens));
    assert_eq!(key.tokens, value.tokens);
    let width = heads * head_dim;
    let mut out = vec![0.0; batch * query.tokens * width];
    if out.is_empty() || key.tokens == 0 {
        return out;
    }
    let share = (batch * query.tokens).div_ceil(rayon::current_num_threads());
    let at_once = share.clamp(1, query.tokens.min(QUERIES_AT_ONCE)).next_multiple_of(kernel.rows());
    let images = out.par_chunks_mut(query.tokens * width).enumerate();
    let tasks = images.flat_map(|(image, out)| {
        out.par_chunks_mut(at_once * width).enumerate().map(move |(chunk, out)| (image, chunk * at_once, out))
    });
    tasks.for_each(|(image, first, out)| {
        SCRATCH.with_borrow_mut(|scratch| {
            for head in 0..heads {
                let [query, key, value] = [query, key, value].map(|part| Part {
                    values: part.of(image, head, head_dim),
                    tokens: part.tokens,
                    stride: part.strides[1],
                });
                let task = Task { kernel, query, key, value, head_dim, scale, mask };
                let out = &mut out[head * head_dim..];
                match key.tokens < long::LONG {
                    true => task.run(first, out, width, scratch),
                    false => task.run_long(first, out, width, scratch),
                }
            }
        });
    });
    out
}

/// One head of one image.
#[derive(Clone, Copy)]
struct Part<'a> {
    values: &'a [f32],
    tokens: usize,
    stride: usize,
}

/// Attention of one head of one image.
struct Task<'a> {
    kernel: Kernel,
    query: Part<'a>,
    key: Part<'a>,
    value: Part<'a>,
    head_dim: usize,
    scale: f32,
    mask: Option<&'a [f32]>,
}

impl Task<'_> {
    /// Writes the results of the queries from `first` on into the first `head_dim` values of each `width` of `out`.
    fn run(&self, first: usize, out: &mut [f32], width: usize, scratch: &mut Scratch) {
        let Self { kernel, query, key, value, head_dim, scale, mask } = *self;
        let keys = Matrix::new(key.values, [1, key.stride]); // [head_dim, tokens]
        let values = Matrix::new(value.values, [value.stride, 1]); // [tokens, head_dim]
        let (key_panels, value_panels) = (panels(key.tokens, kernel), panels(head_dim, kernel));
        pack(keys, head_dim, &key_panels, &mut scratch.keys);
        pack(values, value.tokens, &value_panels, &mut scratch.values);
        let by_query = key.tokens.next_multiple_of(kernel.columns().max(LANES));
        scratch.scores.resize((kernel.rows() * by_query).max(scratch.scores.len()), 0.0);
        let mut tile: Tile = [0.0; ROWS * COLUMNS];
        for (i, out) in out.chunks_mut(kernel.rows() * width).enumerate() {
            let (row, count) = (first + i * kernel.rows(), out.len().div_ceil(width));
            scratch.queries.clear();
            for query in query.values[row * query.stride..].chunks(query.stride).take(count) {
                scratch.queries.extend(query[..head_dim].iter().map(|value| value * scale));
            }
            for (panel, packed) in key_panels.iter().zip(&scratch.keys) {
                kernel.tile(&scratch.queries, head_dim, count, packed, panel.width, &mut tile);
                let lines = scratch.scores.chunks_exact_mut(by_query).zip(tile.chunks_exact(panel.width)).take(count);
                lines.for_each(|(scores, line)| scores[panel.first..][..panel.width].copy_from_slice(line));
            }
            for (j, scores) in scratch.scores.chunks_exact_mut(by_query).take(count).enumerate() {
                if let Some(mask) = mask {
                    let mask = &mask[(row + j) * key.tokens..][..key.tokens];
                    scores.iter_mut().zip(mask).for_each(|(score, mask)| *score += mask);
                }
                scores[key.tokens..].fill(f32::MIN);
                softmax(scores);
            }
            for (panel, packed) in value_panels.iter().zip(&scratch.values) {
                kernel.tile(&scratch.scores, by_query, count, packed, panel.width, &mut tile);
                for (out, line) in out.chunks_mut(width).zip(tile.chunks_exact(panel.width)) {
                    out[panel.first..][..panel.columns].copy_from_slice(&line[..panel.columns]);
                }
            }
        }
    }
}

fn pack(matrix: Matrix<'_>, inner: usize, panels: &[Panel], packed: &mut Vec<Vec<f32>>) {
    packed.resize_with(panels.len().max(packed.len()), Vec::new);
    packed.iter_mut().zip(panels).for_each(|(packed, panel)| matrix.pack(inner, panel, packed));
}

/// Softmax of one row of a multiple of [`LANES`] values. What fills it up is [`f32::MIN`], and becomes 0.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
pub(super) fn softmax(row: &mut [f32]) {
    let (chunks, _) = row.as_chunks_mut::<LANES>();
    let mut largest = [f32::MIN; LANES];
    for chunk in &*chunks {
        largest
            .iter_mut()
            .zip(chunk)
            .for_each(|(largest, &value)| *largest = if value > *largest { value } else { *largest });
    }
    let largest = largest.into_iter().fold(f32::MIN, f32::max);
    let mut sums = [0.0; LANES];
    for chunk in &mut *chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = kernels::exp(*value - largest);
            *sum += *value;
        }
    }
    let factor = 1.0 / sums.iter().sum::<f32>();
    chunks.as_flattened_mut().iter_mut().for_each(|value| *value *= factor);
}
