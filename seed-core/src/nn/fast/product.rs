//! Products of many rows with a weight, and what follows them.

use std::mem::MaybeUninit;

use multiversion::multiversion;
use rayon::prelude::*;

use super::{
    formats::{Format, Paired, Quads, Rows, Single},
    panels::{Matrix, Panel, panels},
    tile::{Begin, COLUMNS, Kernel, ROWS, Tile, prefetch},
};
use crate::nn::{Then, kernels};

/// Words of the panels that are packed at a time: 8 MB, which a third-level cache holds; with fewer, long rows would be read from
/// memory over and over.
const PACKED_AT_ONCE: usize = 1 << 21;
/// Words of the rows that a task goes over with all of these panels: 640 KB of a second-level cache of 1 MB.
const ROWS_AT_ONCE: usize = 160 << 10;
/// Words of the inner axis at a time: a panel of so many is a fifth of a second-level cache.
const INNER_AT_ONCE: usize = 1536;

/// Tasks that a thread gets at least, so that none waits long for another.
const TASKS_A_THREAD: usize = 2;
/// Tiles of rows that a task takes at least: what it pays for reading the panels again.
const LEAST_TILES: usize = 4;

/// A weight `[inner, columns]`; of 8 bits, with the scales of its columns.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Weight<'a> {
    pub(in crate::nn) matrix: Matrix<'a>,
    pub(in crate::nn) scales: Option<&'a [f32]>,
    pub(in crate::nn) sizes: [usize; 2],
    /// `[columns]`
    pub(in crate::nn) bias: Option<&'a [f32]>,
}

/// Rows `[rows, inner]` times a weight `[inner, columns]`, with a bias `[columns]` -> `[rows, columns]`. Where the weight is of
/// bfloat16 and the processor multiplies such values, the rows are rounded to them too; where it is of 8 bits, they are turned into
/// such, whatever the processor; all else is float32.
///
/// Panics unless the sizes are those of the values.
pub(in crate::nn) fn product(
    kernel: Kernel,
    x: &[f32],
    weight: Weight<'_>,
    rows: usize,
    then: Then<&[f32]>,
) -> Option<Vec<f32>> {
    let [inner, columns] = weight.sizes;
    assert_eq!(x.len(), rows * inner);
    let product = Product::new(kernel, weight, rows, then)?;
    Some(match weight.scales {
        _ if rows * columns == 0 => Vec::new(),
        Some(_) => product.run::<Quads>(Rows::of::<Quads>(x, inner).words()),
        None if weight.matrix.is_bf16() && kernel.has_pairs() => {
            product.run::<Paired>(Rows::of::<Paired>(x, inner).words())
        }
        None => product.run::<Single>((x, inner, &[])),
    })
}

struct Product<'a> {
    kernel: Kernel,
    weight: Weight<'a>,
    rows: usize,
    then: Then<&'a [f32]>,
}

/// Rows as a product takes them: words, those from one row to the next, and scales.
type Words<'a, W> = (&'a [W], usize, &'a [f32]);

/// A panel with its words and what its sums begin with.
type Packed<'a, F> = (&'a Panel, &'a [<F as Format>::Word], [<F as Format>::Sum; COLUMNS]);

impl<'a> Product<'a> {
    /// Nothing where the processor has no kernel for the weight.
    fn new(kernel: Kernel, weight: Weight<'a>, rows: usize, then: Then<&'a [f32]>) -> Option<Self> {
        let [_, columns] = weight.sizes;
        let kernel = if weight.scales.is_some() { kernel.of_quads()? } else { kernel };
        assert!(weight.bias.is_none_or(|bias| bias.len() == columns));
        assert!(weight.scales.is_none_or(|scales| scales.len() == columns));
        assert!(!matches!(then, Then::Add(operand) | Then::Multiply(operand) if operand.len() != rows * columns));
        Some(Self { kernel, weight, rows, then })
    }

    /// Rows that a task takes.
    fn rows_at_once<F: Format>(&self) -> usize {
        let (threads, words) = (rayon::current_num_threads(), F::words(self.weight.sizes[0]));
        let tasks =
            (self.rows * words.min(INNER_AT_ONCE)).div_ceil(ROWS_AT_ONCE * threads).max(TASKS_A_THREAD) * threads;
        let least = LEAST_TILES * self.kernel.rows();
        self.rows.div_ceil(tasks).max(least).next_multiple_of(self.kernel.rows())
    }

    /// Packs panels into the first of `packed`.
    fn pack<'p, F: Format>(&self, panels: &'p [Panel], packed: &'p mut Vec<Vec<F::Word>>) -> Vec<Packed<'p, F>> {
        packed.resize_with(panels.len().max(packed.len()), Vec::new);
        let pack = |(words, panel): (&'p mut Vec<F::Word>, &'p Panel)| -> Packed<'p, F> {
            F::pack(self.weight.matrix, self.weight.sizes[0], panel, words);
            (panel, words, F::begin(self.kernel, (words, panel.width)))
        };
        packed.par_iter_mut().zip(panels).map(pack).collect()
    }

    fn run<F: Format>(&self, (x, stride, scales): Words<'_, F::Word>) -> Vec<f32> {
        let (kernel, rows, [inner, columns]) = (self.kernel, self.rows, self.weight.sizes);
        let mut all = Vec::with_capacity(rows * columns);
        let out = &mut all.spare_capacity_mut()[..rows * columns];
        let panels = panels(columns, kernel);
        let group = (PACKED_AT_ONCE / (kernel.columns() * F::words(inner).max(1))).max(rayon::current_num_threads());
        let at_once = self.rows_at_once::<F>();
        let mut packed = F::panels().take();
        for panels in panels.chunks(group) {
            let packed = self.pack::<F>(panels, &mut packed);
            out.par_chunks_mut(at_once * columns).enumerate().for_each(|(chunk, out)| {
                let first = chunk * at_once;
                let scales = scales.get(first..).unwrap_or_default();
                self.rows::<F>((&x[first * stride..], stride, scales), &packed, first, out);
            });
        }
        F::panels().set(packed);
        // SAFETY: the panels are all columns, the chunks all rows, and of each row of a chunk the columns of each panel were
        // written.
        #[allow(unsafe_code, reason = "zeroing what is written over at once was 3 % of an encode")]
        unsafe {
            all.set_len(rows * columns);
        }
        all
    }

    /// Some rows, from `first` on, with some panels. A long inner axis is taken in parts, each with all panels and rows, whose sums
    /// go on where those of the part before ended: a panel's part stays in the second cache for all rows.
    fn rows<F: Format>(
        &self,
        (x, stride, scales): Words<'_, F::Word>,
        packed: &[Packed<'_, F>],
        first: usize,
        out: &mut [MaybeUninit<f32>],
    ) {
        let (kernel, [inner, columns]) = (self.kernel, self.weight.sizes);
        let words = F::words(inner);
        let parts = words.div_ceil(INNER_AT_ONCE).max(1);
        let part = words.div_ceil(parts);
        let tiles = (out.len() / columns).div_ceil(kernel.rows());
        let kept = if parts > 1 { packed.len() * tiles } else { 1 };
        let mut sums = vec![[F::Sum::default(); ROWS * COLUMNS]; kept];
        let mut spare: Tile = [0.0; ROWS * COLUMNS];
        for i in 0..parts {
            let (from, to) = (i * part, words.min((i + 1) * part));
            for (p, (panel, words, begin)) in packed.iter().enumerate() {
                let words = &words[from * panel.width..to * panel.width];
                let ends = Ends::new(self, panel);
                for (t, out) in out.chunks_mut(kernel.rows() * columns).enumerate() {
                    let (row, count) = (t * kernel.rows(), out.len() / columns);
                    let sums = &mut sums[if parts > 1 { p * tiles + t } else { 0 }];
                    let begin = if i == 0 { Begin::Row(&begin[..]) } else { Begin::Out };
                    if i + 1 == parts {
                        for line in out.chunks(columns) {
                            prefetch(&line[panel.first..][..panel.columns]);
                        }
                        if let Then::Add(operand) | Then::Multiply(operand) = self.then {
                            let operand = &operand[(first + row) * columns..][..out.len()];
                            operand.chunks(columns).for_each(|line| prefetch(&line[panel.first..][..panel.columns]));
                        }
                    }
                    let rows = (&x[row * stride + from..], stride, count);
                    F::tile(kernel, begin, rows, (words, panel.width), sums);
                    if i + 1 == parts {
                        let scales = (scales.get(row..).unwrap_or_default(), &ends.scales);
                        let results = F::results(sums, &mut spare, panel.width, scales);
                        let operand = |values: &'a [f32]| &values[(first + row) * columns + panel.first..];
                        let then = match self.then {
                            Then::Nothing => Then::Nothing,
                            Then::Gelu => Then::Gelu,
                            Then::Add(residual) => Then::Add(operand(residual)),
                            Then::Multiply(factor) => Then::Multiply(operand(factor)),
                        };
                        let results = &results[..count * panel.width];
                        finish(results, &ends, panel, then, (&mut out[panel.first..], columns));
                    }
                }
            }
        }
    }
}

/// What belongs to the columns of a panel, filled up.
struct Ends {
    scales: [f32; COLUMNS],
    bias: [f32; COLUMNS],
}

impl Ends {
    fn new(product: &Product<'_>, panel: &Panel) -> Self {
        let of = |values: Option<&[f32]>| {
            let mut here = [0.0; COLUMNS];
            let Some(values) = values else { return here };
            here[..panel.columns].copy_from_slice(&values[panel.first..][..panel.columns]);
            here
        };
        Self { scales: of(product.weight.scales), bias: of(product.weight.bias) }
    }
}

/// Adds the bias to the results of a panel, does what follows, and writes them to rows that are `step` apart, as those of an operand
/// are.
#[multiversion(targets("x86_64+avx512f+fma", "x86_64+avx2+fma", "aarch64+neon"))]
fn finish(results: &[f32], ends: &Ends, panel: &Panel, then: Then<&[f32]>, out: (&mut [MaybeUninit<f32>], usize)) {
    const WIDE: usize = 16;
    const NARROW: usize = 8;
    match (then, panel.width.is_multiple_of(WIDE)) {
        (Then::Nothing, true) => each::<WIDE>(results, ends, panel, &[], out, |value, _| value),
        (Then::Nothing, false) => each::<NARROW>(results, ends, panel, &[], out, |value, _| value),
        (Then::Gelu, true) => each::<WIDE>(results, ends, panel, &[], out, |value, _| kernels::gelu_of(value)),
        (Then::Gelu, false) => each::<NARROW>(results, ends, panel, &[], out, |value, _| kernels::gelu_of(value)),
        (Then::Add(residual), true) => each::<WIDE>(results, ends, panel, residual, out, |value, add| value + add),
        (Then::Add(residual), false) => each::<NARROW>(results, ends, panel, residual, out, |value, add| value + add),
        (Then::Multiply(factor), true) => each::<WIDE>(results, ends, panel, factor, out, |value, by| value * by),
        (Then::Multiply(factor), false) => each::<NARROW>(results, ends, panel, factor, out, |value, by| value * by),
    }
}

/// What `last` makes of every result with its bias and of its operand, `LANES` at a time.
#[inline(always)]
fn each<const LANES: usize>(
    results: &[f32],
    ends: &Ends,
    panel: &Panel,
    operand: &[f32],
    (out, step): (&mut [MaybeUninit<f32>], usize),
    last: impl Fn(f32, f32) -> f32,
) {
    let (bias, _) = ends.bias.as_chunks::<LANES>();
    for (i, line) in results.chunks_exact(panel.width).enumerate() {
        let (line, _) = line.as_chunks::<LANES>();
        for (j, (values, bias)) in line.iter().zip(bias).enumerate().take(panel.columns.div_ceil(LANES)) {
            let at = i * step + j * LANES;
            let columns = LANES.min(panel.columns - j * LANES);
            let operand = if operand.is_empty() { &[0.0; LANES] } else { &operand[at..at + columns] };
            let out = &mut out[at..at + columns];
            let mut lanes = *values;
            lanes.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            if let (Some(operand), Some(out)) = (operand.first_chunk::<LANES>(), out.first_chunk_mut::<LANES>()) {
                lanes.iter_mut().zip(operand).for_each(|(value, &with)| *value = last(*value, with));
                out.write_copy_of_slice(&lanes);
            } else {
                lanes.iter_mut().zip(operand).for_each(|(value, &with)| *value = last(*value, with));
                out.write_copy_of_slice(&lanes[..columns]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    //! On every kernel of this processor, against sums in float64 and, of 8 bits, in whole numbers.

    use burn::tensor::{Bytes, DType};
    use burn_flex::{FlexTensor, Layout};
    use half::bf16;
    use proptest::prelude::*;

    use super::*;
    use crate::nn::eight_bit;

    /// Roundings of float32 sums, for each term: these are below 1.
    const TOLERANCE: f64 = 1e-6;

    /// Numbers between -1 and 1 that have nothing to do with one another.
    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state as f32 / 2f32.powi(31) - 1.0
        };
        (0..count).map(next).collect()
    }

    /// A weight `[inner, columns]` as files hold it.
    fn tensor<T: burn::tensor::Element>(rows: Vec<T>, [inner, columns]: [usize; 2], dtype: DType) -> FlexTensor {
        FlexTensor::new(Bytes::from_elems(rows), Layout::contiguous([columns, inner].into()).transpose(0, 1), dtype)
    }

    /// Sums of products of rows and columns, both one after the other.
    fn sums<'a>(x: &'a [f32], weight: &'a [f32], [inner, columns]: [usize; 2]) -> impl Iterator<Item = f64> + 'a {
        let rows = x.chunks_exact(inner.max(1));
        rows.flat_map(move |row| {
            (0..columns).map(move |column| {
                let column = &weight[column * inner..][..inner];
                row.iter().zip(column).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
            })
        })
    }

    fn check(rows: usize, sizes: [usize; 2], seed: u32) {
        let [inner, columns] = sizes;
        let (x, weight, bias) =
            (values(rows * inner, seed), values(inner * columns, seed + 1), values(columns, seed + 2));
        let halves: Vec<bf16> = weight.iter().map(|&value| bf16::from_f32(value)).collect();
        let rounded = |values: &[f32]| values.iter().map(|&value| bf16::from_f32(value).to_f32()).collect::<Vec<_>>();
        let (numbers, scales) = eight_bit::quantize(&weight, inner);
        let (quads, steps) = eight_bit::quantize(&x, inner);
        let floats = |values: &[i8]| values.iter().map(|&value| f32::from(value)).collect::<Vec<_>>();
        let exact: Vec<i32> = sums(&floats(&quads), &floats(&numbers), sizes).map(|sum| sum as i32).collect();
        for kernel in Kernel::all() {
            let run = |tensor: &FlexTensor, scales| {
                let weight = Weight { matrix: Matrix::of(tensor).unwrap(), scales, sizes, bias: Some(&bias) };
                product(kernel, &x, weight, rows, Then::Nothing).unwrap()
            };
            let near = |found: Vec<f32>, x: &[f32], weight: &[f32], what: &str| {
                assert_eq!(found.len(), rows * columns, "{what}");
                for (i, (found, sum)) in found.into_iter().zip(sums(x, weight, sizes)).enumerate() {
                    let want = sum + f64::from(bias[i % columns]);
                    assert!(
                        (f64::from(found) - want).abs() < TOLERANCE * (inner + 1) as f64,
                        "{kernel:?} {what} {rows} {sizes:?} at {i}"
                    );
                }
            };
            near(run(&tensor(weight.clone(), sizes, DType::F32), None), &x, &weight, "f32");
            let kept = if kernel.has_pairs() { rounded(&x) } else { x.clone() };
            near(run(&tensor(halves.clone(), sizes, DType::BF16), None), &kept, &rounded(&weight), "bf16");
            let found = run(&tensor(numbers.clone(), sizes, DType::I8), Some(&scales));
            let want = exact
                .iter()
                .enumerate()
                .map(|(i, &sum)| eight_bit::result(sum, steps[i / columns], scales[i % columns]) + bias[i % columns]);
            assert_eq!(found, want.collect::<Vec<_>>(), "{kernel:?} int8 {rows} {sizes:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn products_of_any_size(rows in 0usize..60, inner in 1usize..150, columns in 0usize..90, seed in 0u32..1000) {
            check(rows, [inner, columns], seed);
        }
    }

    /// In parts, each of which goes on where the one before ended; one row; nothing.
    #[test]
    fn long_rows_and_none() {
        check(30, [2 * INNER_AT_ONCE + 7, 40], 1);
        check(1, [4 * INNER_AT_ONCE + 9, 33], 2);
        check(0, [5, 40], 3);
        check(1, [1, 1], 4);
    }
}
