//! Matrices as panels of a few columns, in the order in which a tile reads them.

use std::cell::RefCell;

use burn::tensor::DType;
use burn_flex::FlexTensor;
use half::{bf16, f16, slice::HalfFloatSliceExt};

use super::{
    tile::{Kernel, Pair, Quad},
    transpose::{Number, transpose},
};

/// Some neighbouring columns of a matrix.
pub(super) struct Panel {
    /// The first of them.
    pub(super) first: usize,
    /// How many there are.
    pub(super) columns: usize,
    /// How many there are with those that fill a tile.
    pub(super) width: usize,
    kernel: Kernel,
}

/// The panels that `columns` columns make: full ones, and one of half the width where that is enough for the rest.
pub(super) fn panels(columns: usize, kernel: Kernel) -> Vec<Panel> {
    let panel = |first: usize| {
        let columns = kernel.columns().min(columns - first);
        Panel { first, columns, width: kernel.width(columns), kernel }
    };
    (0..columns).step_by(kernel.columns()).map(panel).collect()
}

/// A matrix `[inner, columns]` in memory, of any strides and type.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Matrix<'a> {
    values: Values<'a>,
    /// Steps from one inner index to the next, and from one column to the next. Those of a layer's weight are 1 and the inner
    /// size: files hold it so.
    strides: [usize; 2],
}

#[derive(Clone, Copy)]
enum Values<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    Bf16(&'a [bf16]),
    I8(&'a [i8]),
}

thread_local! {
    /// Half-precision columns of a panel on their way.
    static CONVERTED: RefCell<Vec<f32>> = RefCell::default();
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
            DType::I8 => Values::I8(&tensor.storage()[start..]),
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
            Values::F32(values) if self.strides[0] == 1 => {
                transposed(values, self.strides[1], [inner; 2], panel, packed, |at, step| values[at + step]);
            }
            Values::F32(values) => self.copy(values, panel, packed, |value| value, <[f32]>::copy_from_slice),
            Values::F16(values) => {
                self.convert(values, inner, panel, packed, f16::to_f32, |to, from| from.convert_to_f32_slice(to));
            }
            Values::Bf16(values) => {
                self.convert(values, inner, panel, packed, bf16::to_f32, |to, from| from.convert_to_f32_slice(to));
            }
            Values::I8(_) => unreachable!("8 bits are packed in quads"),
        }
    }

    fn convert<T: Copy>(
        self,
        values: &[T],
        inner: usize,
        panel: &Panel,
        packed: &mut [f32],
        one: impl Fn(T) -> f32,
        slice: impl Fn(&mut [f32], &[T]),
    ) {
        let [by_inner, by_column] = self.strides;
        if by_inner != 1 {
            return self.copy(values, panel, packed, one, slice);
        }
        CONVERTED.with_borrow_mut(|columns| {
            sized(columns, panel.columns * inner);
            for (i, to) in columns.chunks_exact_mut(inner.max(1)).enumerate() {
                slice(to, &values[(panel.first + i) * by_column..][..inner]);
            }
            let panel = Panel { first: 0, ..*panel };
            transposed(columns, inner, [inner; 2], &panel, packed, |at, step| columns[at + step]);
        });
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

    /// [`pack`](Self::pack) in pairs; where the last has no second value that is 0.
    ///
    /// Panics unless the values are bfloat16.
    pub(super) fn pack_pairs(self, inner: usize, panel: &Panel, packed: &mut Vec<Pair>) {
        let Values::Bf16(values) = self.values else { unreachable!("only bfloat16 is packed in pairs") };
        self.pack_words(values, inner, panel, packed, |pair: [Option<bf16>; 2]| {
            pair.map(|value| value.unwrap_or_default().to_bits())
        });
    }

    /// [`pack`](Self::pack) in quads; where the last has less values the others are 0.
    ///
    /// Panics unless the values are of 8 bits.
    pub(super) fn pack_quads(self, inner: usize, panel: &Panel, packed: &mut Vec<Quad>) {
        let Values::I8(values) = self.values else { unreachable!("only 8 bits are packed in quads") };
        self.pack_words(values, inner, panel, packed, |quad: [Option<i8>; 4]| {
            quad.map(|value| value.unwrap_or_default().cast_unsigned())
        });
    }

    fn pack_words<T: Number, W: Number + Default, const N: usize>(
        self,
        values: &[T],
        inner: usize,
        panel: &Panel,
        packed: &mut Vec<W>,
        word: impl Fn([Option<T>; N]) -> W,
    ) {
        let [by_inner, by_column] = self.strides;
        let steps = [inner / N, inner.div_ceil(N)];
        sized(packed, steps[1] * panel.width);
        // The values from `k` on of a column that starts at `start`.
        let values_at = |start: usize, k: usize| {
            std::array::from_fn(|i| (k + i < inner).then(|| values[start + (k + i) * by_inner]))
        };
        if by_inner == 1 {
            let word = |start: usize, step: usize| word(values_at(start, N * step));
            return transposed(values, by_column, steps, panel, packed, word);
        }
        for (step, row) in packed.chunks_exact_mut(panel.width).enumerate() {
            for (column, to) in row[..panel.columns].iter_mut().enumerate() {
                *to = word(values_at((panel.first + column) * by_column, N * step));
            }
        }
    }
}

/// Columns that lie one after the other, `by_column` apart, as `[steps, width]`. The first of the two numbers of steps is of
/// those that are whole; the rest is what `word` makes of the place of a column's first value and the step.
fn transposed<T: Number, W: Number>(
    values: &[T],
    by_column: usize,
    [whole, steps]: [usize; 2],
    panel: &Panel,
    packed: &mut [W],
    word: impl Fn(usize, usize) -> W,
) {
    let lanes = panel.kernel.columns() / 2;
    for first in (0..panel.columns).step_by(lanes) {
        let columns = lanes.min(panel.columns - first);
        let start = (panel.first + first) * by_column;
        let done = match columns == lanes {
            true => transpose(panel.kernel, &values[start..], by_column, packed, (whole, panel.width, first)),
            false => 0,
        };
        for step in done..steps {
            let row = &mut packed[step * panel.width + first..][..columns];
            row.iter_mut().enumerate().for_each(|(column, to)| *to = word(start + column * by_column, step));
        }
    }
}

/// Makes room for `len` values.
fn sized<T: Copy + Default>(packed: &mut Vec<T>, len: usize) {
    packed.resize(len, T::default());
}
