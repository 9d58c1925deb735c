//! Attention to many keys, in blocks of them that stay in a second-level cache: the softmax is that of the blocks seen so far, and
//! what it made of the values before is corrected when a later block holds a larger score (Milakov and Gimelshein, "Online
//! normalizer calculation for softmax", arXiv 1805.02867; Dao et al., "FlashAttention", arXiv 2205.14135).

use multiversion::multiversion;

use super::{
    super::{
        panels::{Matrix, Panel, panels},
        tile::{Begin, COLUMNS, ROWS, Tile},
    },
    LANES, Scratch, Task, pack,
};
use crate::nn::kernels;

/// Keys of a block.
const KEYS: usize = 512;
/// From so many keys on they are taken in blocks.
pub(super) const LONG: usize = 2 * KEYS;

/// What the blocks so far have made of the queries of a tile.
#[derive(Clone, Copy)]
struct Running {
    /// The largest score of each query.
    largest: [f32; ROWS],
    /// The sum of the exponentials of the scores, less the largest.
    sum: [f32; ROWS],
}

impl Task<'_> {
    /// As [`run`](Task::run).
    pub(super) fn run_long(&self, first: usize, out: &mut [f32], width: usize, scratch: &mut Scratch) {
        let Self { kernel, query, key, value, head_dim, scale, mask } = *self;
        let (rows, value_panels) = (kernel.rows(), panels(head_dim, kernel));
        let count = out.len().div_ceil(width);
        let tiles = count.div_ceil(rows);
        scratch.queries.clear();
        for query in query.values[first * query.stride..].chunks(query.stride).take(count) {
            scratch.queries.extend(query[..head_dim].iter().map(|value| value * scale));
        }
        let mut states = vec![Running { largest: [f32::MIN; ROWS], sum: [0.0; ROWS] }; tiles];
        let mut results = vec![[0.0; ROWS * COLUMNS]; tiles * value_panels.len()];
        scratch.scores.resize((rows * KEYS).max(scratch.scores.len()), 0.0);
        for start in (0..key.tokens).step_by(KEYS) {
            let keys = KEYS.min(key.tokens - start);
            let key_panels = panels(keys, kernel);
            let columns = Matrix::new(&key.values[start * key.stride..], [1, key.stride]); // [head_dim, keys]
            pack(columns, head_dim, &key_panels, &mut scratch.keys);
            let values = Matrix::new(&value.values[start * value.stride..], [value.stride, 1]); // [keys, head_dim]
            pack(values, keys, &value_panels, &mut scratch.values);
            for (i, state) in states.iter_mut().enumerate() {
                let count = rows.min(count - i * rows);
                let queries = &scratch.queries[i * rows * head_dim..];
                self.score(queries, count, (&key_panels, &scratch.keys), &mut scratch.scores);
                let results = &mut results[i * value_panels.len()..][..value_panels.len()];
                for (row, scores) in scratch.scores.chunks_exact_mut(KEYS).take(count).enumerate() {
                    if let Some(mask) = mask {
                        let mask = &mask[(first + i * rows + row) * key.tokens + start..][..keys];
                        scores.iter_mut().zip(mask).for_each(|(score, mask)| *score += mask);
                    }
                    scores[keys..].fill(f32::MIN);
                    let factor = exponentials(scores, &mut state.largest[row], &mut state.sum[row]);
                    for (panel, results) in value_panels.iter().zip(&mut *results) {
                        results[row * panel.width..][..panel.width].iter_mut().for_each(|value| *value *= factor);
                    }
                }
                for ((panel, packed), results) in value_panels.iter().zip(&scratch.values).zip(results) {
                    kernel.tile_from(Begin::Out, &scratch.scores, KEYS, count, (packed, panel.width), results);
                }
            }
        }
        for (i, (state, results)) in states.iter().zip(results.chunks_exact(value_panels.len())).enumerate() {
            for (row, out) in out[i * rows * width..].chunks_mut(width).take(rows).enumerate() {
                for (panel, results) in value_panels.iter().zip(results) {
                    let line = &results[row * panel.width..][..panel.columns];
                    let to = out[panel.first..][..panel.columns].iter_mut();
                    to.zip(line).for_each(|(to, value)| *to = value / state.sum[row]);
                }
            }
        }
    }

    /// Scores of some queries with a block of keys, in rows of [`KEYS`].
    fn score(&self, queries: &[f32], count: usize, (panels, packed): (&[Panel], &[Vec<f32>]), scores: &mut [f32]) {
        let mut tile: Tile = [0.0; ROWS * COLUMNS];
        for (panel, packed) in panels.iter().zip(packed) {
            self.kernel.tile(queries, self.head_dim, count, packed, panel.width, &mut tile);
            let lines = scores.chunks_exact_mut(KEYS).zip(tile.chunks_exact(panel.width)).take(count);
            lines.for_each(|(scores, line)| scores[panel.first..][..panel.width].copy_from_slice(line));
        }
    }
}

/// Exponentials of scores less the largest so far, which is brought up to date with the sum of the exponentials. Returns what
/// corrects those of the blocks before.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn exponentials(scores: &mut [f32], largest: &mut f32, sum: &mut f32) -> f32 {
    let (chunks, _) = scores.as_chunks_mut::<LANES>();
    let mut lanes = [*largest; LANES];
    for chunk in &*chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, &value)| *lane = if value > *lane { value } else { *lane });
    }
    let before = std::mem::replace(largest, lanes.into_iter().fold(f32::MIN, f32::max));
    let factor = kernels::exp(before - *largest);
    let mut sums = [0.0; LANES];
    for chunk in &mut *chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *value = kernels::exp(*value - *largest);
            *sum += *value;
        }
    }
    *sum = *sum * factor + sums.iter().sum::<f32>();
    factor
}
