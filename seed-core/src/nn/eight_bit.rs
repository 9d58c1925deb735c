//! Products of 8-bit numbers: a weight `[output, input]` with a scale for each output, activations with one for each row.
//!
//! # Notation
//! | name | symbol |
//! |---|---|
//! | `step` | `s = max |x| / 127` of a row |
//! | `nearest` | `q = round(x / s)`, the even one of two, in `-127..=127` |
//! | `result` | `y = (sum q_x q_w) s_x s_w` |
//!
//! Sums are whole numbers, so that every way to add them up gives the same ones: what is here in plain loops is the oracle of
//! the processor's instructions. The weight is a quantized tensor of the backend, in which the scheme says nothing of the
//! scales: there is one for each output.

use burn::tensor::{
    Bytes, DType, Tensor, TensorPrimitive,
    quantization::{QuantScheme, QuantStore},
};
use burn_flex::{Flex, FlexQTensor, FlexTensor, Layout};
use rayon::prelude::*;

use super::kernels;

/// Largest inner axis: the sums of a longer one could leave 32 bits.
pub(super) const LARGEST_INPUT: usize = i32::MAX as usize / (255 * 127);

/// The step between two neighbouring numbers of a row, and its inverse: both 0 for a row of zeros. A row that is not
/// finite has a step that is not, so that its results are not either.
#[inline(always)]
pub(super) fn step(row: &[f32]) -> (f32, f32) {
    // Of floats without a sign the bits are in their order, with those that are no numbers last; a largest whole number is found
    // in any order, which the compiler makes use of.
    let largest = row.iter().fold(0, |largest: u32, value| largest.max(value.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(largest);
    let inverse = if largest >= f32::MIN_POSITIVE { 127.0 / largest } else { 0.0 };
    (largest / 127.0, inverse)
}

/// The number nearest to a value.
#[inline(always)]
pub(super) fn nearest(value: f32, inverse: f32) -> i32 {
    // Adding 1.5 * 2^23 rounds to the nearest whole number, the even one of two, and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let scaled = (value * inverse).clamp(-127.0, 127.0);
    (scaled + ROUND).to_bits().cast_signed() - ROUND.to_bits().cast_signed()
}

/// What a sum stands for.
#[inline(always)]
pub(super) fn result(sum: i32, row: f32, column: f32) -> f32 {
    sum as f32 * (row * column)
}

/// Rows `[.., inner]` as numbers and the step of each row.
pub(super) fn quantize(x: &[f32], inner: usize) -> (Vec<i8>, Vec<f32>) {
    let mut numbers = vec![0i8; x.len()];
    let mut steps = vec![0.0; x.len() / inner.max(1)];
    let rows = numbers.par_chunks_exact_mut(inner.max(1)).zip(x.par_chunks_exact(inner.max(1))).zip(&mut steps);
    rows.for_each(|((numbers, x), to)| {
        let (step, inverse) = step(x);
        *to = step;
        numbers.iter_mut().zip(x).for_each(|(number, &value)| *number = nearest(value, inverse) as i8);
    });
    (numbers, steps)
}

/// A weight `[output, input]` as a quantized tensor `[input, output]`; nothing where sums could leave 32 bits.
pub(super) fn weight(rows: &[f32], [outputs, inputs]: [usize; 2]) -> Option<Tensor<Flex, 2>> {
    if inputs > LARGEST_INPUT || rows.is_empty() {
        return None;
    }
    let (numbers, steps) = quantize(rows, inputs);
    let layout = Layout::contiguous([outputs, inputs].into()).transpose(0, 1);
    let numbers = FlexTensor::new(Bytes::from_elems(numbers), layout, DType::I8);
    let scheme = QuantScheme::default().with_store(QuantStore::Native);
    Some(Tensor::from_primitive(TensorPrimitive::QFloat(FlexQTensor::new(numbers, scheme, steps))))
}

/// The numbers of a weight and its scales, where it is one of [`weight`].
pub(super) fn parts(weight: &Tensor<Flex, 2>) -> Option<FlexQTensor> {
    match weight.clone().into_primitive() {
        TensorPrimitive::QFloat(weight) => Some(weight),
        TensorPrimitive::Float(_) => None,
    }
}

/// Rows `[.., input]` in order times a weight -> `[.., output]`, in plain loops.
pub(super) fn product<const D: usize>(x: Tensor<Flex, D>, weight: &FlexQTensor) -> Tensor<Flex, D> {
    let [inputs, outputs] = weight.tensor().layout().shape().dims();
    let mut shape = x.shape();
    shape[D - 1] = outputs;
    let x = x.into_primitive().tensor().to_contiguous();
    let (numbers, steps) = quantize(x.storage(), inputs);
    let mut out = vec![0.0; shape.num_elements()];
    let rows = out.par_chunks_exact_mut(outputs).zip(numbers.par_chunks_exact(inputs)).zip(steps);
    let columns: &[i8] = weight.tensor().storage();
    rows.for_each(|((out, row), step)| {
        let columns = columns.chunks_exact(inputs).zip(weight.scales());
        for (out, (column, &scale)) in out.iter_mut().zip(columns) {
            let products = row.iter().zip(column).map(|(&a, &b)| i32::from(a) * i32::from(b));
            *out = result(products.sum(), step, scale);
        }
    });
    Tensor::from_primitive(TensorPrimitive::Float(kernels::from_vec(out, shape)))
}
