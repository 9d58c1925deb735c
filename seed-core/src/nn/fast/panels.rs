//! Matrices as panels of a few columns, in the order in which a tile reads them.

use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::{bf16, f16, slice::HalfFloatSliceExt};
use multiversion::multiversion;
use rayon::prelude::*;

use super::tile::{Kernel, Pair, Tile};

/// Some neighbouring columns of a matrix.
pub(super) struct Panel {
    /// The first of them.
    pub(super) first: usize,
    /// How many there are.
    pub(super) columns: usize,
    /// How many there are with those that fill a tile.
    pub(super) width: usize,
}

/// The panels that `columns` columns make: full ones, and one of half the width where that is enough for the rest.
pub(super) fn panels(columns: usize, kernel: Kernel) -> Vec<Panel> {
    let panel = |first: usize| {
        let columns = kernel.columns().min(columns - first);
        Panel { first, columns, width: kernel.width(columns) }
    };
    (0..columns).step_by(kernel.columns()).map(panel).collect()
}

/// A matrix `[inner, columns]` in memory, of any strides and floating type.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Matrix<'a> {
    values: Values<'a>,
    /// Steps from one inner index to the next, and from one column to the next.
    strides: [usize; 2],
}

#[derive(Clone, Copy)]
enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
}

impl<'a> Matrix<'a> {
    /// A float32 matrix.
    pub(super) fn new(values: &'a [f32], strides: [usize; 2]) -> Self {
        Self { values: Values::F32(values), strides }
    }

    /// A tensor `[inner, columns]`; nothing for other types and negative strides.
    pub(in crate::nn) fn of(tensor: &'a FlexTensor) -> Option<Self> {
        let layout = tensor.layout();
        let [inner, column] = layout.strides() else { return None };
        let strides = [usize::try_from(*inner).ok()?, usize::try_from(*column).ok()?];
        let start = layout.start_offset();
        let values = match tensor.dtype() {
            DType::F32 => Values::F32(&tensor.storage()[start..]),
            DType::F16 => Values::F16(&tensor.storage()[start..]),
            DType::BF16 => Values::Bf16(&tensor.storage()[start..]),
            _ => return None,
        };
        Some(Self { values, strides })
    }

    /// Whether its values are bfloat16.
    pub(in crate::nn) fn is_bf16(self) -> bool {
        matches!(self.values, Values::Bf16(_))
    }

    /// Writes the columns of a panel as `[inner, width]`; what is beyond them does not matter.
    pub(super) fn pack(self, inner: usize, panel: &Panel, packed: &mut Vec<f32>) {
        sized(packed, inner * panel.width);
        match self.values {
            Values::F32(values) => self.copy(values, panel, packed, |value| value, <[f32]>::copy_from_slice),
            Values::F16(values) => {
                self.copy(values, panel, packed, f16::to_f32, |to, from| from.convert_to_f32_slice(to));
            }
            Values::Bf16(values) => {
                self.copy(values, panel, packed, bf16::to_f32, |to, from| from.convert_to_f32_slice(to));
            }
        }
    }

    #[inline]
    fn copy<T: Copy>(
        self,
        values: &[T],
        panel: &Panel,
        packed: &mut [f32],
        one: impl Fn(T) -> f32,
        slice: impl Fn(&mut [f32], &[T]),
    ) {
        let [by_inner, by_column] = self.strides;
        for (k, row) in packed.chunks_exact_mut(panel.width).enumerate() {
            let row = &mut row[..panel.columns];
            let start = k * by_inner + panel.first * by_column;
            if by_column == 1 {
                slice(row, &values[start..start + panel.columns]);
            } else {
                let from = values[start..].iter().step_by(by_column.max(1));
                row.iter_mut().zip(from).for_each(|(to, &value)| *to = one(value));
            }
        }
    }
}

/// Makes room for `len` values.
fn sized<T: Copy + Default>(packed: &mut Vec<T>, len: usize) {
    if packed.len() != len {
        packed.clear();
        packed.resize(len, T::default());
    }
}

/// What the values of a product are while they are multiplied; sums are float32.
pub(super) trait Format: Copy + Send + Sync {
    /// One step of the inner axis.
    type Step: Copy + Default + Send + Sync;

    /// Steps that an inner axis has.
    fn steps(inner: usize) -> usize;

    /// Writes the columns of a panel as `[steps, width]`; what is beyond them does not matter.
    fn pack(matrix: Matrix<'_>, inner: usize, panel: &Panel, packed: &mut Vec<Self::Step>);

    /// As [`Kernel::tile`].
    fn tile(
        kernel: Kernel,
        a: &[Self::Step],
        stride: usize,
        rows: usize,
        panel: (&[Self::Step], usize),
        out: &mut Tile,
    );
}

/// float32.
#[derive(Clone, Copy)]
pub(super) struct Single;

impl Format for Single {
    type Step = f32;

    fn steps(inner: usize) -> usize {
        inner
    }

    fn pack(matrix: Matrix<'_>, inner: usize, panel: &Panel, packed: &mut Vec<f32>) {
        matrix.pack(inner, panel, packed);
    }

    fn tile(kernel: Kernel, a: &[f32], stride: usize, rows: usize, (panel, width): (&[f32], usize), out: &mut Tile) {
        kernel.tile(a, stride, rows, panel, width, out);
    }
}

/// bfloat16, two steps in one.
#[derive(Clone, Copy)]
pub(super) struct Paired;

impl Paired {
    /// Rows `[.., inner]` rounded to bfloat16, the nearest and the even one of two. A last value without another is paired
    /// with 0.
    pub(super) fn round(x: &[f32], inner: usize) -> Vec<Pair> {
        let mut out = vec![0; x.len() / inner.max(1) * Self::steps(inner)];
        if !out.is_empty() {
            let rows = (AT_ONCE / inner).max(1);
            let chunks = out.par_chunks_mut(rows * Self::steps(inner)).zip(x.par_chunks(rows * inner));
            chunks.for_each(|(out, x)| round_rows(x, inner, out));
        }
        out
    }
}

/// Values that a task rounds.
const AT_ONCE: usize = 16 * 1024;

#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn round_rows(x: &[f32], inner: usize, out: &mut [Pair]) {
    let bits = |value: f32| {
        let bits = value.to_bits();
        // A NaN stays one; of all else half a unit less than the next value of the upper half is added.
        if value.is_nan() { bits >> 16 | 0x40 } else { bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16 }
    };
    for (out, x) in out.chunks_exact_mut(Paired::steps(inner)).zip(x.chunks_exact(inner)) {
        let (pairs, rest) = x.as_chunks::<2>();
        for (out, &[first, second]) in out.iter_mut().zip(pairs) {
            *out = bits(first) | bits(second) << 16;
        }
        if let (Some(out), [last]) = (out.last_mut(), rest) {
            *out = bits(*last);
        }
    }
}

impl Format for Paired {
    type Step = Pair;

    fn steps(inner: usize) -> usize {
        inner.div_ceil(2)
    }

    fn pack(matrix: Matrix<'_>, inner: usize, panel: &Panel, packed: &mut Vec<Pair>) {
        sized(packed, Self::steps(inner) * panel.width);
        let Values::Bf16(values) = matrix.values else { unreachable!("only bfloat16 is packed in pairs") };
        let [by_inner, by_column] = matrix.strides;
        let pair = |first: bf16, second: bf16| Pair::from(first.to_bits()) | Pair::from(second.to_bits()) << 16;
        for (step, row) in packed.chunks_exact_mut(panel.width).enumerate() {
            let row = &mut row[..panel.columns];
            let start = 2 * step * by_inner + panel.first * by_column;
            let is_last = 2 * step + 1 == inner;
            if by_column == 1 && !is_last {
                let lines = [start, start + by_inner].map(|start| &values[start..start + panel.columns]);
                let lines = lines[0].iter().zip(lines[1]);
                row.iter_mut().zip(lines).for_each(|(to, (&first, &second))| *to = pair(first, second));
                continue;
            }
            for (column, to) in row.iter_mut().enumerate() {
                let first = start + column * by_column;
                *to = pair(values[first], if is_last { bf16::ZERO } else { values[first + by_inner] });
            }
        }
    }

    fn tile(kernel: Kernel, a: &[Pair], stride: usize, rows: usize, (panel, width): (&[Pair], usize), out: &mut Tile) {
        kernel.tile_of_pairs(a, stride, rows, panel, width, out);
    }
}
