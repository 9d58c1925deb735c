//! Products of many rows with a weight, and what follows them.

use rayon::prelude::*;

use super::{
    panels::{Format, Matrix, Paired, Single, panels},
    tile::{COLUMNS, Kernel, ROWS, Tile},
};
use crate::nn::{Then, kernels};

/// Values of the panels that are packed at a time: 8 MB, which a third-level cache holds; with fewer, long rows would be read from
/// memory over and over.
const PACKED_AT_ONCE: usize = 1 << 21;
/// Values of the rows that a task goes over with all of these panels: half of a second-level cache.
const ROWS_AT_ONCE: usize = 1 << 17;

/// Tasks that a thread gets where there is enough to do, so that none waits long for another.
const TASKS_A_THREAD: usize = 8;
/// Tiles of rows that a task takes at least: what it pays for reading the panels again.
const LEAST_TILES: usize = 4;

/// Rows `[rows, inner]` times a weight `[inner, columns]`, with a bias `[columns]` -> `[rows, columns]`. Where the weight is of
/// bfloat16 and the processor multiplies such values, the rows are rounded to them too; all else is float32.
///
/// Panics unless the sizes are those of the values.
pub(in crate::nn) fn product(
    kernel: Kernel,
    x: &[f32],
    weight: Matrix<'_>,
    sizes: [usize; 3],
    bias: Option<&[f32]>,
    then: Then<&[f32]>,
) -> Vec<f32> {
    if weight.is_bf16() && kernel.has_pairs() {
        return run::<Paired>(kernel, &Paired::round(x, sizes[1]), weight, sizes, bias, then);
    }
    run::<Single>(kernel, x, weight, sizes, bias, then)
}

fn run<F: Format>(
    kernel: Kernel,
    x: &[F::Step],
    weight: Matrix<'_>,
    [rows, inner, columns]: [usize; 3],
    bias: Option<&[f32]>,
    then: Then<&[f32]>,
) -> Vec<f32> {
    let steps = F::steps(inner);
    assert_eq!(x.len(), rows * steps);
    assert!(bias.is_none_or(|bias| bias.len() == columns));
    assert!(!matches!(then, Then::Add(operand) | Then::Multiply(operand) if operand.len() != rows * columns));
    if rows * columns == 0 {
        return Vec::new();
    }
    let mut all = Vec::with_capacity(rows * columns);
    let out = &mut all.spare_capacity_mut()[..rows * columns];
    let panels = panels(columns, kernel);
    let group = (PACKED_AT_ONCE / (kernel.columns() * steps.max(1))).max(rayon::current_num_threads());
    let share = rows.div_ceil(TASKS_A_THREAD * rayon::current_num_threads()).max(LEAST_TILES * kernel.rows());
    let rows_at_once = (ROWS_AT_ONCE / steps.max(1)).clamp(kernel.rows(), share).next_multiple_of(kernel.rows());
    let mut packed = vec![Vec::new(); group.min(panels.len())];
    for panels in panels.chunks(group) {
        packed.par_iter_mut().zip(panels).for_each(|(packed, panel)| F::pack(weight, inner, panel, packed));
        out.par_chunks_mut(rows_at_once * columns).enumerate().for_each(|(chunk, out)| {
            let first_row = chunk * rows_at_once;
            let (mut tile, mut after): (Tile, Tile) = ([0.0; ROWS * COLUMNS], [0.0; ROWS * COLUMNS]);
            for (panel, packed) in panels.iter().zip(&packed) {
                let columns_here = panel.first..panel.first + panel.columns;
                for (i, out) in out.chunks_mut(kernel.rows() * columns).enumerate() {
                    let row = first_row + i * kernel.rows();
                    let count = out.len() / columns;
                    F::tile(kernel, &x[row * steps..], steps, count, (packed, panel.width), &mut tile);
                    let mut results = &mut tile[..count * panel.width];
                    if let Some(bias) = bias {
                        results.chunks_exact_mut(panel.width).for_each(|line| add(line, &bias[columns_here.clone()]));
                    }
                    match then {
                        Then::Nothing => {}
                        Then::Gelu => {
                            kernels::gelu(results, &mut after[..count * panel.width]);
                            results = &mut after[..count * panel.width];
                        }
                        Then::Add(residual) => {
                            let lines = residual[row * columns..].chunks_exact(columns);
                            let results = results.chunks_exact_mut(panel.width);
                            results.zip(lines).for_each(|(line, residual)| add(line, &residual[columns_here.clone()]));
                        }
                        Then::Multiply(factor) => {
                            let lines = factor[row * columns..].chunks_exact(columns);
                            let results = results.chunks_exact_mut(panel.width);
                            results.zip(lines).for_each(|(line, factor)| multiply(line, &factor[columns_here.clone()]));
                        }
                    }
                    for (out, line) in out.chunks_exact_mut(columns).zip(results.chunks_exact(panel.width)) {
                        out[columns_here.clone()].write_copy_of_slice(&line[..panel.columns]);
                    }
                }
            }
        });
    }
    // SAFETY: the panels are all columns, the chunks all rows, and of each row of a chunk the columns of each panel were written.
    #[allow(unsafe_code, reason = "zeroing what is written over at once was 3 % of an encode")]
    unsafe {
        all.set_len(rows * columns);
    }
    all
}

fn add(to: &mut [f32], values: &[f32]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to += value);
}

fn multiply(to: &mut [f32], values: &[f32]) {
    to.iter_mut().zip(values).for_each(|(to, value)| *to *= value);
}
