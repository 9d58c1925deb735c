//! The gradient of a convolution's weight: patches `[in * k * k, batch * positions]` times the gradient of the maps.
//!
//! The rows of a tile are values of a patch at all positions of some images, unfolded by the task that multiplies them; its
//! columns are output channels. Each value is the sum of one chain of multiply-adds for each group of images, whose number
//! follows from the sizes of the maps alone.

use rayon::prelude::*;

use super::super::{
    panels::{Matrix, Panel, panels},
    tile::{COLUMNS, Kernel, ROWS, Tile},
};
use crate::nn::{
    conv::{Sizes, unfold_row},
    transpose,
};

/// Positions that are multiplied at a time, about, if an image does not have more.
const POSITIONS_AT_ONCE: usize = 512;
/// Unfolded values of a task, about: a quarter of a second-level cache.
const VALUES_AT_ONCE: usize = 1 << 16;
/// Most tiles of rows of a task.
const MOST_TILES: usize = 8;

/// Gradient `[out, in * k * k]` from `x` `[batch, in, height, width]` and `grad` `[batch, out, height', width']`.
///
/// Panics unless the sizes are those of the values.
pub(in crate::nn) fn weight_gradient(kernel: Kernel, x: &[f32], grad: &[f32], sizes: &Sizes) -> Vec<f32> {
    let ([inputs, outputs], positions, taps) = (sizes.channels, sizes.positions(), sizes.rows());
    assert_eq!(x.len(), sizes.batch * inputs * sizes.input[0] * sizes.input[1]);
    assert_eq!(grad.len(), outputs * sizes.columns());
    let mut turned = vec![0.0; taps * outputs];
    if turned.is_empty() || positions == 0 {
        return turned;
    }
    let panels = panels(outputs, kernel);
    let width: usize = panels.iter().map(|panel| panel.width).sum();
    let images = (POSITIONS_AT_ONCE / positions).clamp(1, sizes.batch);
    let packed = pack(grad, sizes, images, &panels, width);
    let tiles = (VALUES_AT_ONCE / (images * positions * kernel.rows())).clamp(1, MOST_TILES);
    let rows = tiles * kernel.rows();
    turned.par_chunks_mut(rows * outputs).enumerate().for_each_init(Vec::new, |columns, (task, out)| {
        let mut tile: Tile = [0.0; ROWS * COLUMNS];
        let taps = task * rows..task * rows + out.len() / outputs;
        for (group, packed) in packed.chunks(images * positions * width).enumerate() {
            let inner = packed.len() / width;
            columns.clear();
            columns.resize(taps.len() * inner, 0.0);
            for (tap, columns) in taps.clone().zip(columns.chunks_exact_mut(inner)) {
                unfold_row(x, sizes, tap, group * images, columns);
            }
            for panel in &panels {
                let packed = &packed[panel.first * inner..][..panel.width * inner];
                for (i, out) in out.chunks_mut(kernel.rows() * outputs).enumerate() {
                    let a = &columns[i * kernel.rows() * inner..];
                    kernel.tile(a, inner, out.len() / outputs, packed, panel.width, &mut tile);
                    for (out, line) in out.chunks_exact_mut(outputs).zip(tile.chunks_exact(panel.width)) {
                        let out = out[panel.first..][..panel.columns].iter_mut();
                        out.zip(line).for_each(|(out, value)| *out += value);
                    }
                }
            }
        }
    });
    let mut gradient = vec![0.0; turned.len()];
    let parts = gradient.par_chunks_mut(COLUMNS * taps).enumerate();
    parts.for_each(|(part, out)| transpose::copy(&turned[part * COLUMNS..], outputs, out, taps));
    gradient
}

/// The gradient of the maps as panels `[images * positions, width]`: those of some images after those of the images before.
fn pack(grad: &[f32], sizes: &Sizes, images: usize, panels: &[Panel], width: usize) -> Vec<f32> {
    let (positions, outputs) = (sizes.positions(), sizes.channels[1]);
    let mut packed = vec![0.0; sizes.batch * positions * width];
    let groups = packed.par_chunks_mut(images * positions * width).zip(grad.par_chunks(images * positions * outputs));
    groups.for_each_init(Vec::new, |scratch, (packed, grad)| {
        let inner = packed.len() / width;
        for panel in panels {
            let packed = packed[panel.first * inner..][..panel.width * inner].chunks_exact_mut(positions * panel.width);
            for (packed, grad) in packed.zip(grad.chunks_exact(positions * outputs)) {
                Matrix::new(grad, [1, positions]).pack(positions, panel, scratch);
                packed.copy_from_slice(scratch);
            }
        }
    });
    packed
}
