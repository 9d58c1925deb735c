//! What the values of a product are while they are multiplied: float32, bfloat16 in pairs, 8 bits in quads.

use std::cell::Cell;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    panels::{Matrix, Panel},
    tile::{Begin, COLUMNS, Kernel, Pair, Quad, ROWS, Sums, Tile},
};

/// Values that a task turns into another format.
const AT_ONCE: usize = 16 * 1024;
/// Words of a cache line.
const LINE: usize = 16;

/// One of them.
pub(super) trait Format: Copy + Send + Sync {
    /// 32 bits of the inner axis.
    type Word: Copy + Default + Send + Sync + 'static;
    /// What products are added up in.
    type Sum: Copy + Default + Send + Sync;

    /// Words that an inner axis has.
    fn words(inner: usize) -> usize;

    /// Turns rows `[.., inner]` into words, rows of which are as far apart as the number says, and scales.
    fn convert(x: &[f32], inner: usize, to: (&mut [Self::Word], usize), scales: &mut [f32]);

    /// Writes the columns of a panel as `[words, width]`; what is beyond them does not matter.
    fn pack(matrix: Matrix<'_>, inner: usize, panel: &Panel, packed: &mut Vec<Self::Word>);

    /// What the sums of a panel's columns begin with.
    fn begin(kernel: Kernel, panel: (&[Self::Word], usize)) -> [Self::Sum; COLUMNS];

    /// As [`Kernel::tile_from`].
    fn tile(
        kernel: Kernel,
        begin: Begin<'_, Self::Sum>,
        rows: (&[Self::Word], usize, usize),
        panel: (&[Self::Word], usize),
        out: &mut [Self::Sum; ROWS * COLUMNS],
    );

    /// The results that sums of `width` columns stand for, with the scales of their rows and columns; in `spare` where
    /// they are no floats yet.
    fn results<'a>(
        sums: &'a mut [Self::Sum; ROWS * COLUMNS],
        spare: &'a mut Tile,
        width: usize,
        scales: (&[f32], &[f32; COLUMNS]),
    ) -> &'a mut Tile;

    /// Panels that this thread has used before, and where it leaves them for the next product.
    fn panels() -> &'static std::thread::LocalKey<Cell<Vec<Vec<Self::Word>>>>;
}

/// Rows `[rows, inner]` of words.
pub(super) struct Rows<W> {
    words: Vec<W>,
    /// Words from one row to the next.
    stride: usize,
    /// What each is multiplied by in the end, in formats that are no floats.
    scales: Vec<f32>,
}

impl<W: Copy + Default + Send + Sync> Rows<W> {
    /// As products take them.
    pub(super) fn words(&self) -> (&[W], usize, &[f32]) {
        (&self.words, self.stride, &self.scales)
    }

    /// Rows `[.., inner]` in a format, an odd number of cache lines apart, so that the rows of a tile do not meet in one set of the
    /// first cache.
    pub(super) fn of<F: Format<Word = W>>(x: &[f32], inner: usize) -> Self {
        let count = x.len() / inner.max(1);
        let lines = F::words(inner).div_ceil(LINE);
        let stride = (lines + 1 - lines % 2) * LINE;
        let (mut words, mut scales) = (vec![W::default(); count * stride], vec![0.0; count]);
        let at_once = (AT_ONCE / inner.max(1)).max(1);
        let chunks = words.par_chunks_mut(at_once * stride).zip(scales.par_chunks_mut(at_once));
        let chunks = chunks.zip(x.par_chunks((at_once * inner).max(1)));
        chunks.for_each(|((words, scales), x)| F::convert(x, inner, (words, stride), scales));
        Self { words, stride, scales }
    }
}

/// float32.
#[derive(Clone, Copy)]
pub(super) struct Single;

thread_local! {
    static SINGLES: Cell<Vec<Vec<f32>>> = Cell::default();
    static PAIRS: Cell<Vec<Vec<Pair>>> = Cell::default();
    static QUADS: Cell<Vec<Vec<Quad>>> = Cell::default();
}

impl Format for Single {
    type Word = f32;
    type Sum = f32;

    fn words(inner: usize) -> usize {
        inner
    }

    fn convert(x: &[f32], inner: usize, (to, stride): (&mut [f32], usize), _: &mut [f32]) {
        to.chunks_exact_mut(stride).zip(x.chunks_exact(inner)).for_each(|(to, x)| to[..inner].copy_from_slice(x));
    }

    fn pack(matrix: Matrix<'_>, inner: usize, panel: &Panel, packed: &mut Vec<f32>) {
        matrix.pack(inner, panel, packed);
    }

    fn begin(_: Kernel, _: (&[f32], usize)) -> [f32; COLUMNS] {
        [0.0; COLUMNS]
    }

    fn tile(
        kernel: Kernel,
        begin: Begin<'_, f32>,
        (a, stride, rows): (&[f32], usize, usize),
        panel: (&[f32], usize),
        out: &mut Tile,
    ) {
        kernel.tile_from(begin, a, stride, rows, panel, out);
    }

    fn results<'a>(sums: &'a mut Tile, _: &'a mut Tile, _: usize, _: (&[f32], &[f32; COLUMNS])) -> &'a mut Tile {
        sums
    }

    fn panels() -> &'static std::thread::LocalKey<Cell<Vec<Vec<f32>>>> {
        &SINGLES
    }
}

/// bfloat16, two values in a word: the nearest of a value, and the even one of two. A last value without another is paired with 0.
#[derive(Clone, Copy)]
pub(super) struct Paired;

#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn round_rows(x: &[f32], inner: usize, out: &mut [Pair], stride: usize) {
    for (out, x) in out.chunks_exact_mut(stride).zip(x.chunks_exact(inner)) {
        for (out, &value) in out.as_flattened_mut().iter_mut().zip(x) {
            let bits = value.to_bits();
            // Half a unit less than the next value of the upper half is added; that a NaN stays one is seen to.
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            *out = if value.is_nan() { bits >> 16 | 0x40 } else { rounded } as u16;
        }
    }
}

impl Format for Paired {
    type Word = Pair;
    type Sum = f32;

    fn words(inner: usize) -> usize {
        inner.div_ceil(2)
    }

    fn convert(x: &[f32], inner: usize, (to, stride): (&mut [Pair], usize), _: &mut [f32]) {
        round_rows(x, inner, to, stride);
    }

    fn pack(matrix: Matrix<'_>, inner: usize, panel: &Panel, packed: &mut Vec<Pair>) {
        matrix.pack_pairs(inner, panel, packed);
    }

    fn begin(_: Kernel, _: (&[Pair], usize)) -> [f32; COLUMNS] {
        [0.0; COLUMNS]
    }

    fn tile(
        kernel: Kernel,
        begin: Begin<'_, f32>,
        (a, stride, rows): (&[Pair], usize, usize),
        panel: (&[Pair], usize),
        out: &mut Tile,
    ) {
        kernel.tile_of_pairs(begin, a, stride, rows, panel, out);
    }

    fn results<'a>(sums: &'a mut Tile, _: &'a mut Tile, _: usize, _: (&[f32], &[f32; COLUMNS])) -> &'a mut Tile {
        sums
    }

    fn panels() -> &'static std::thread::LocalKey<Cell<Vec<Vec<Pair>>>> {
        &PAIRS
    }
}

/// 8 bits, four values in a word, as [`eight_bit::quantize`](crate::nn::eight_bit::quantize) makes them. Rows are without a sign:
/// 128 more than the numbers that they stand for.
#[derive(Clone, Copy)]
pub(super) struct Quads;

/// Four times the 0 of a row.
const ZEROS: Quad = [128; 4];

#[multiversion(targets("x86_64+avx512f+avx512bw+fma", "x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn quantize_rows(x: &[f32], inner: usize, out: &mut [Quad], stride: usize, scales: &mut [f32]) {
    let rows = out.chunks_exact_mut(stride).zip(scales).zip(x.chunks_exact(inner));
    for ((out, scale), x) in rows {
        let (step, inverse) = crate::nn::eight_bit::step(x);
        *scale = step;
        // What is beyond the row's end is 0 and meets weights of 0.
        for (out, &value) in out.as_flattened_mut().iter_mut().zip(x) {
            *out = (crate::nn::eight_bit::nearest(value, inverse) + 128) as u8;
        }
    }
}

impl Format for Quads {
    type Word = Quad;
    type Sum = i32;

    fn words(inner: usize) -> usize {
        inner.div_ceil(4)
    }

    fn convert(x: &[f32], inner: usize, (to, stride): (&mut [Quad], usize), scales: &mut [f32]) {
        quantize_rows(x, inner, to, stride, scales);
    }

    fn pack(matrix: Matrix<'_>, inner: usize, panel: &Panel, packed: &mut Vec<Quad>) {
        matrix.pack_quads(inner, panel, packed);
    }

    /// Less what the 128 of every value of a row adds up to.
    fn begin(kernel: Kernel, panel: (&[Quad], usize)) -> [i32; COLUMNS] {
        let (words, width) = panel;
        let zeros = vec![ZEROS; words.len() / width];
        let mut sums: Sums = [0; ROWS * COLUMNS];
        kernel.tile_of_quads(Begin::Row(&[0; COLUMNS]), &zeros, zeros.len(), 1, panel, &mut sums);
        std::array::from_fn(|i| -sums[i])
    }

    fn tile(
        kernel: Kernel,
        begin: Begin<'_, i32>,
        (a, stride, rows): (&[Quad], usize, usize),
        panel: (&[Quad], usize),
        out: &mut Sums,
    ) {
        kernel.tile_of_quads(begin, a, stride, rows, panel, out);
    }

    fn results<'a>(
        sums: &'a mut Sums,
        spare: &'a mut Tile,
        width: usize,
        (rows, columns): (&[f32], &[f32; COLUMNS]),
    ) -> &'a mut Tile {
        scale(sums, width, rows, columns, spare);
        spare
    }

    fn panels() -> &'static std::thread::LocalKey<Cell<Vec<Vec<Quad>>>> {
        &QUADS
    }
}

#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma"))]
fn scale(sums: &Sums, width: usize, rows: &[f32], columns: &[f32; COLUMNS], out: &mut Tile) {
    for ((out, sums), &row) in out.chunks_exact_mut(width).zip(sums.chunks_exact(width)).zip(rows) {
        for ((out, &sum), &column) in out.iter_mut().zip(sums).zip(columns) {
            *out = crate::nn::eight_bit::result(sum, row, column);
        }
    }
}
