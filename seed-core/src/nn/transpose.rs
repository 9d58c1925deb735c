//! Matrices with rows and columns exchanged, in memory: maps of channels to tokens, and back.
//!
//! Flex does so on one core, and without tiles for more than one matrix.

use burn::tensor::{DType, Shape, ops::FloatTensorOps};
use burn_flex::{Flex, FlexTensor};
use multiversion::multiversion;
use rayon::prelude::*;

use super::kernels::from_vec;

/// Rows of the result that a task writes.
const ROWS: usize = 64;
/// Side of the squares that stay in the first cache.
const SIDE: usize = 16;

/// `[batch, rows, columns]` -> `[batch, columns, rows]`.
pub(super) fn transpose(x: FlexTensor) -> FlexTensor {
    let [batch, rows, columns] = x.layout().shape().dims();
    if x.dtype() != DType::F32 || batch * rows * columns == 0 {
        return Flex::float_swap_dims(x, 1, 2);
    }
    let x = x.to_contiguous();
    let input = x.storage::<f32>();
    let mut output = vec![0.0; input.len()];
    let images = output.par_chunks_exact_mut(rows * columns).zip(input.par_chunks_exact(rows * columns));
    images.for_each(|(output, input)| {
        let tasks = output.par_chunks_mut(ROWS * rows).enumerate();
        tasks.for_each(|(task, output)| copy(&input[task * ROWS..], columns, output, rows));
    });
    from_vec(output, Shape::new([batch, columns, rows]))
}

/// Some rows of `rows` values of the result, which are columns of the input.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2", "aarch64+neon"))]
pub(super) fn copy(input: &[f32], columns: usize, output: &mut [f32], rows: usize) {
    for first in (0..rows).step_by(SIDE) {
        for (group, output) in output.chunks_mut(SIDE * rows).enumerate() {
            let lines = first..rows.min(first + SIDE);
            for (i, output) in output.chunks_exact_mut(rows).enumerate() {
                let column = group * SIDE + i;
                let to = output[lines.clone()].iter_mut();
                to.zip(lines.clone()).for_each(|(to, row)| *to = input[row * columns + column]);
            }
        }
    }
}
