//! What a convolution multiplies: float32, or bfloat16 in pairs.

use std::{cell::RefCell, ops::Range};

use half::slice::HalfFloatSliceExt;
use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    super::tile::{Begin, COLUMNS, Kernel, Pair, Tile},
    Weight,
    patches::Patches,
};

/// What is multiplied; sums are float32.
pub(super) trait Format {
    /// A value of the input.
    type Value: Copy + Default + Send + Sync;
    /// One step of the inner axis.
    type Step: Copy + Default + Send + Sync + 'static;

    /// Values of the inner axis in a step.
    const VALUES: usize;

    /// Some rows of the weight with `inner` values from `start` on, each row `total` after the one before, as steps; with the
    /// steps from a row to the next.
    fn rows<'a>(
        weight: Weight<'a>,
        start: usize,
        sizes: [usize; 3],
        scratch: &'a mut Vec<Self::Step>,
    ) -> (&'a [Self::Step], usize);

    /// Patches of the channels of one step, as `[steps, width]`.
    fn pack(
        x: &[Self::Value],
        patches: &Patches<'_>,
        channels: Range<usize>,
        panel: &mut [Self::Step],
        scratch: &mut Vec<Self::Value>,
    );

    /// As [`Kernel::tile`].
    fn tile(kernel: Kernel, a: (&[Self::Step], usize), rows: usize, panel: (&[Self::Step], usize), out: &mut Tile);

    /// Calls `work` with this thread's scratch.
    fn with_scratch(work: impl FnOnce(&mut Scratch<Self::Value, Self::Step>));
}

/// What a task needs besides its results: kept by its thread for the next.
#[derive(Default)]
pub(super) struct Scratch<V, T> {
    /// Patches of one step, before they are paired.
    pub(super) lines: Vec<V>,
    /// Panels of patches, one after the other.
    pub(super) panels: Vec<T>,
    /// Rows of the weight, where they cannot be read where they lie.
    pub(super) rows: Vec<T>,
}

/// float32.
pub(super) struct Single;

impl Format for Single {
    type Value = f32;
    type Step = f32;

    const VALUES: usize = 1;

    fn rows<'a>(
        weight: Weight<'a>,
        start: usize,
        [count, inner, total]: [usize; 3],
        scratch: &'a mut Vec<f32>,
    ) -> (&'a [f32], usize) {
        if let Weight::F32(values) = weight {
            return (&values[start..], total);
        }
        scratch.resize(count * inner, 0.0);
        for (row, to) in scratch.chunks_exact_mut(inner).enumerate() {
            let range = start + row * total..start + row * total + inner;
            match weight {
                Weight::F32(values) => to.copy_from_slice(&values[range]),
                Weight::F16(values) => values[range].convert_to_f32_slice(to),
                Weight::Bf16(values) => values[range].convert_to_f32_slice(to),
            }
        }
        (scratch, inner)
    }

    fn pack(x: &[f32], patches: &Patches<'_>, channels: Range<usize>, panel: &mut [f32], _: &mut Vec<f32>) {
        patches.write(x, channels, panel);
    }

    fn tile(
        kernel: Kernel,
        (a, stride): (&[f32], usize),
        rows: usize,
        (panel, width): (&[f32], usize),
        out: &mut Tile,
    ) {
        kernel.tile(a, stride, rows, panel, width, out);
    }

    fn with_scratch(work: impl FnOnce(&mut Scratch<f32, f32>)) {
        thread_local!(static SCRATCH: RefCell<Scratch<f32, f32>> = RefCell::default());
        SCRATCH.with_borrow_mut(work);
    }
}

/// bfloat16, two values in a step.
pub(super) struct Paired;

impl Format for Paired {
    type Value = u16;
    type Step = Pair;

    const VALUES: usize = 2;

    fn rows<'a>(
        weight: Weight<'a>,
        start: usize,
        [count, inner, total]: [usize; 3],
        scratch: &'a mut Vec<Pair>,
    ) -> (&'a [Pair], usize) {
        let Weight::Bf16(weight) = weight else { unreachable!("only bfloat16 is multiplied in pairs") };
        if inner.is_multiple_of(2) && total.is_multiple_of(2) {
            let values: &[u16] = weight[start..start + (count - 1) * total + inner].reinterpret_cast();
            return (values.as_chunks().0, total / 2);
        }
        let steps = inner.div_ceil(2);
        scratch.resize(count * steps, Pair::default());
        for (row, to) in scratch.chunks_exact_mut(steps).enumerate() {
            let values = weight[start + row * total..][..inner].chunks(2);
            to.iter_mut().zip(values).for_each(|(to, values)| {
                *to = std::array::from_fn(|i| values.get(i).map_or(0, |value| value.to_bits()));
            });
        }
        (scratch, steps)
    }

    fn pack(x: &[u16], patches: &Patches<'_>, channels: Range<usize>, panel: &mut [Pair], lines: &mut Vec<u16>) {
        let (width, area) = (patches.width(), patches.area());
        lines.resize(2 * area * width, 0);
        if channels.len() == 1 {
            lines.fill(0);
        }
        patches.write(x, channels, lines);
        interleave(lines, width, panel);
    }

    fn tile(
        kernel: Kernel,
        (a, stride): (&[Pair], usize),
        rows: usize,
        (panel, width): (&[Pair], usize),
        out: &mut Tile,
    ) {
        kernel.tile_of_pairs(Begin::Row(&[0.0; COLUMNS]), a, stride, rows, (panel, width), out);
    }

    fn with_scratch(work: impl FnOnce(&mut Scratch<u16, Pair>)) {
        thread_local!(static SCRATCH: RefCell<Scratch<u16, Pair>> = RefCell::default());
        SCRATCH.with_borrow_mut(work);
    }
}

/// Two lines of values each to one of pairs.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn interleave(lines: &[u16], width: usize, out: &mut [Pair]) {
    for (out, lines) in out.chunks_exact_mut(width).zip(lines.chunks_exact(2 * width)) {
        let (first, second) = lines.split_at(width);
        let values = first.iter().zip(second);
        out.iter_mut().zip(values).for_each(|(out, (&a, &b))| *out = [a, b]);
    }
}

/// Values that a task rounds.
const AT_ONCE: usize = 16 * 1024;

/// Values rounded to bfloat16, the nearest and the even one of two.
pub(super) fn rounded(x: &[f32]) -> Vec<u16> {
    let mut out = vec![0; x.len()];
    out.par_chunks_mut(AT_ONCE).zip(x.par_chunks(AT_ONCE)).for_each(|(out, x)| round(x, out));
    out
}

#[multiversion(targets("x86_64+avx512f+avx512bw+fma", "x86_64+avx2+fma"))]
fn round(x: &[f32], out: &mut [u16]) {
    for (out, value) in out.iter_mut().zip(x) {
        let bits = value.to_bits();
        let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
        *out = if value.is_nan() { bits >> 16 | 0x40 } else { nearest } as u16;
    }
}
