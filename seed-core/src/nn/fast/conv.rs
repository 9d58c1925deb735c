//! Two-dimensional convolution as a product of the weight `[out, in * k * k]` with patches, without a matrix of all patches.
//!
//! The rows of a tile are output channels, read where the weight lies; its columns are output positions, so that results are
//! written as the maps lie in memory. A task takes some positions, packs their patches for some input channels at a time
//! into panels that stay in a second-level cache, and goes over all output channels with them.
//!
//! Each value is the sum of one chain of multiply-adds for each group of input channels, in the order of the channels; the
//! groups follow from the kernel's size alone, so results depend neither on the batch nor on the threads.

mod format;
mod gradient;
mod patches;

use std::ops::Range;

use half::{bf16, f16};
use rayon::prelude::*;

use super::{
    panels::{Panel, panels},
    tile::{COLUMNS, Kernel, ROWS, Tile},
};
use crate::nn::conv::Sizes;
use format::{Format, Paired, Scratch, Single, rounded};
use patches::Patches;

pub(in crate::nn) use gradient::weight_gradient;

/// Values of a patch that are multiplied at a time, about.
const INNER_AT_ONCE: usize = 768;
/// Bytes of the panels of a task, about: two thirds of a second-level cache.
const PANEL_BYTES: usize = 640 * 1024;
/// Tasks that a thread gets where there is enough to do.
const TASKS_A_THREAD: usize = 2;
/// Tiles of output channels that a task takes at least: what it pays for packing.
const LEAST_TILES: usize = 8;
/// Positions that a task takes at least, if there are as many: what it pays for reading the weight.
const LEAST_COLUMNS: usize = 128;

/// A weight `[out, in * k * k]` in order.
#[derive(Clone, Copy, Debug)]
pub(in crate::nn) enum Weight<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

/// What is added to the maps.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::nn) struct Added<'a> {
    /// To each channel `[out]`.
    pub(in crate::nn) bias: Option<&'a [f32]>,
    /// To each channel of each image `[batch, out]`.
    pub(in crate::nn) by_image: Option<&'a [f32]>,
    /// To each value `[batch, out, height', width']`.
    pub(in crate::nn) maps: Option<&'a [f32]>,
}

/// Convolves `x` `[batch, in, height, width]` -> `[batch, out, height', width']`. Where the weight is of bfloat16 and the
/// processor multiplies such values, `x` is rounded to them too; all else is float32.
///
/// Panics unless the sizes are those of the values.
pub(in crate::nn) fn convolve(
    kernel: Kernel,
    x: &[f32],
    weight: Weight<'_>,
    added: Added<'_>,
    sizes: Sizes,
) -> Vec<f32> {
    let ([inputs, outputs], sizes) = (sizes.channels, sizes.of_lines());
    assert_eq!(x.len(), sizes.batch * inputs * sizes.input[0] * sizes.input[1]);
    assert_eq!(weight.len(), outputs * sizes.rows());
    assert!(added.bias.is_none_or(|bias| bias.len() == outputs));
    assert!(added.by_image.is_none_or(|values| values.len() == sizes.batch * outputs));
    assert!(added.maps.is_none_or(|maps| maps.len() == outputs * sizes.columns()));
    let mut out = vec![0.0; outputs * sizes.columns()];
    if out.is_empty() {
        return out;
    }
    if matches!(weight, Weight::Bf16(_)) && kernel.has_pairs() {
        let x = rounded(x);
        let layer = Layer::<Paired> { kernel, x: &x, weight, added, sizes };
        layer.run(&mut out);
    } else {
        let layer = Layer::<Single> { kernel, x, weight, added, sizes };
        layer.run(&mut out);
    }
    out
}

impl Weight<'_> {
    fn len(self) -> usize {
        match self {
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::Bf16(values) => values.len(),
        }
    }
}

/// A convolution.
struct Layer<'a, F: Format> {
    kernel: Kernel,
    x: &'a [F::Value],
    weight: Weight<'a>,
    added: Added<'a>,
    sizes: Sizes,
}

/// Some output channels at some positions of some images.
struct Task<'a> {
    images: Range<usize>,
    channels: Range<usize>,
    /// Of each image.
    positions: Range<usize>,
    /// The results: those of the channels of an image after those of the image before.
    planes: Vec<&'a mut [f32]>,
}

impl<F: Format> Layer<'_, F> {
    fn run(&self, out: &mut [f32]) {
        let tasks = self.tasks(out);
        tasks.into_par_iter().for_each(|task| F::with_scratch(|scratch| self.compute(task, scratch)));
    }

    /// Input channels that are multiplied at a time: an even number, for pairs.
    fn channels_at_once(&self) -> usize {
        (INNER_AT_ONCE / self.sizes.area()).max(1).next_multiple_of(2)
    }

    /// Divides the results among tasks: whole images where they are small, parts of one where they are large; and by output
    /// channels as well, where there are few of these.
    fn tasks<'o>(&self, out: &'o mut [f32]) -> Vec<Task<'o>> {
        let (sizes, rows) = (&self.sizes, self.kernel.rows());
        let (positions, outputs) = (sizes.positions(), sizes.channels[1]);
        let inner = self.channels_at_once().min(sizes.channels[0]) * sizes.area();
        let wanted = TASKS_A_THREAD * rayon::current_num_threads();
        let share = sizes.columns().div_ceil(wanted).max(LEAST_COLUMNS);
        let at_once = (PANEL_BYTES / size_of::<F::Step>() / inner.div_ceil(F::VALUES)).clamp(1, share);
        let images = (at_once / positions).max(1);
        let blocks = ((positions + at_once / 2) / at_once).max(1);
        let block = positions.div_ceil(blocks).next_multiple_of(self.kernel.columns());
        let count = sizes.batch.div_ceil(images) * positions.div_ceil(block);
        let parts = wanted.div_ceil(count).min(outputs / (LEAST_TILES * rows)).max(1);
        let part = outputs.div_ceil(parts).next_multiple_of(rows);
        let parts = outputs.div_ceil(part);
        let mut tasks = Vec::new();
        for (group, out) in out.chunks_mut(images * outputs * positions).enumerate() {
            let first = tasks.len();
            let images = group * images..group * images + out.len() / (outputs * positions);
            for start in (0..positions).step_by(block) {
                for channel in (0..outputs).step_by(part) {
                    let channels = channel..(channel + part).min(outputs);
                    let planes = Vec::with_capacity(images.len() * channels.len());
                    let positions = start..(start + block).min(positions);
                    tasks.push(Task { images: images.clone(), channels, positions, planes });
                }
            }
            for (plane, out) in out.chunks_mut(positions).enumerate() {
                let tasks = tasks[first..].iter_mut().skip(plane % outputs / part).step_by(parts);
                tasks.zip(out.chunks_mut(block)).for_each(|(task, out)| task.planes.push(out));
            }
        }
        tasks
    }

    fn compute(&self, mut task: Task<'_>, scratch: &mut Scratch<F::Value, F::Step>) {
        let (sizes, kernel, area) = (&self.sizes, self.kernel, self.sizes.area());
        let (inputs, total) = (sizes.channels[0], sizes.rows());
        let columns = task.images.len() * task.positions.len();
        let panels: Vec<_> = panels(columns, kernel)
            .into_iter()
            .map(|panel| {
                let patches = Patches::new(sizes, &task.images, &task.positions, &panel);
                (panel, patches)
            })
            .collect();
        let mut tile: Tile = [0.0; ROWS * COLUMNS];
        for start in (0..inputs).step_by(self.channels_at_once()) {
            let channels = start..(start + self.channels_at_once()).min(inputs);
            let inner = channels.len() * area;
            let steps = inner.div_ceil(F::VALUES);
            scratch.panels.resize((columns + kernel.columns()) * steps, F::Step::default());
            // Channel by channel: the panels' patches of one lie side by side.
            for (unit, first) in channels.clone().step_by(F::VALUES).enumerate() {
                let channels = first..(first + F::VALUES).min(channels.end);
                for (panel, patches) in &panels {
                    let to = &mut scratch.panels[panel.first * steps..][..panel.width * steps];
                    let to = to.chunks_mut(area * panel.width).nth(unit);
                    F::pack(self.x, patches, channels.clone(), to.unwrap_or_default(), &mut scratch.lines);
                }
            }
            for first in (0..task.channels.len()).step_by(kernel.rows()) {
                let count = kernel.rows().min(task.channels.len() - first);
                let from = (task.channels.start + first) * total + start * area;
                let a = F::rows(self.weight, from, [count, inner, total], &mut scratch.rows);
                for (panel, _) in &panels {
                    let packed = &scratch.panels[panel.first * steps..][..panel.width * steps];
                    F::tile(kernel, a, count, (packed, panel.width), &mut tile);
                    self.add(&mut task, first..first + count, panel, &tile, start == 0);
                }
            }
        }
    }

    /// Adds a tile to the results of some channels of a task, or begins them with it and all that is added to the maps.
    fn add(&self, task: &mut Task<'_>, rows: Range<usize>, panel: &Panel, tile: &Tile, is_first: bool) {
        let (outputs, all, count) = (self.sizes.channels[1], self.sizes.positions(), task.positions.len());
        let end = panel.first + panel.columns;
        let mut column = panel.first;
        while column < end {
            let (image, position) = (column / count, column % count);
            let len = (count - position).min(end - column);
            for row in rows.clone() {
                let values = &tile[(row - rows.start) * panel.width + column - panel.first..][..len];
                let out = &mut task.planes[image * task.channels.len() + row][position..][..len];
                if !is_first {
                    out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
                    continue;
                }
                let (image, channel) = (task.images.start + image, task.channels.start + row);
                let mut base = self.added.bias.map_or(0.0, |bias| bias[channel]);
                base += self.added.by_image.map_or(0.0, |values| values[image * outputs + channel]);
                out.iter_mut().zip(values).for_each(|(out, value)| *out = value + base);
                if let Some(maps) = self.added.maps {
                    let maps = &maps[(image * outputs + channel) * all + task.positions.start + position..];
                    out.iter_mut().zip(maps).for_each(|(out, value)| *out += value);
                }
            }
            column += len;
        }
    }
}
