//! Tiles against plain sums, on every kernel of the processor.

use super::*;

/// Every number of rows and both widths against a loop in float64.
#[test]
fn tiles_equal_plain_sums() {
    for kernel in Kernel::all() {
        for rows in 1..=kernel.rows() {
            for (width, inner, spare) in
                [(kernel.columns(), 37, 3), (kernel.columns() / 2, 1, 0), (kernel.columns(), 0, 1)]
            {
                let stride = inner + spare;
                let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0;
                let a: Vec<f32> = (0..rows * stride + inner).map(value).collect();
                let panel: Vec<f32> = (0..inner * width).map(|i| value(i + 7)).collect();
                let mut out = [f32::NAN; ROWS * COLUMNS];
                kernel.tile(&a, stride, rows, &panel, width, &mut out);
                for (i, &found) in out[..rows * width].iter().enumerate() {
                    let (row, column) = (i / width, i % width);
                    let term = |k: usize| f64::from(a[row * stride + k]) * f64::from(panel[k * width + column]);
                    let want = (0..inner).map(term).sum::<f64>();
                    assert!((f64::from(found) - want).abs() < 1e-5, "{kernel:?} {rows} x {width}: {found}, {want}");
                }
                assert!(out[rows * width..].iter().all(|value| value.is_nan()), "written beyond the tile");
            }
        }
    }
}

/// Pairs of an odd and an even number of values, of which the second of the last may be none.
#[test]
fn tiles_of_pairs_equal_sums_of_rounded_values() {
    let Some(kernel) = Kernel::detect().filter(|kernel| kernel.has_pairs()) else { return };
    let pair = |i: usize| {
        let value = |i: usize| half::bf16::from_f32(((i * 37 % 101) as f32 - 50.0) / 50.0).to_bits();
        [value(2 * i), value(2 * i + 1)]
    };
    let values = |pair: Pair| pair.map(|bits| f64::from(half::bf16::from_bits(bits).to_f32()));
    let (most, wide) = (kernel.rows(), kernel.columns());
    for (rows, width, inner) in [(most, wide, 19), (5, wide / 2, 1), (1, wide, 44)] {
        let a: Vec<Pair> = (0..rows * inner).map(pair).collect();
        let panel: Vec<Pair> = (0..inner * width).map(|i| pair(i + 11)).collect();
        let mut out = [f32::NAN; ROWS * COLUMNS];
        kernel.tile_of_pairs(Begin::Row(&[0.0; COLUMNS]), &a, inner, rows, (&panel, width), &mut out);
        for (i, &found) in out[..rows * width].iter().enumerate() {
            let term = |k: usize| {
                let ([a0, a1], [b0, b1]) = (values(a[i / width * inner + k]), values(panel[k * width + i % width]));
                a0 * b0 + a1 * b1
            };
            let want = (0..inner).map(term).sum::<f64>();
            assert!((f64::from(found) - want).abs() < 1e-5, "{rows} x {width}: {found}, {want}");
        }
    }
}

/// Every number of rows, both widths, and what is begun with, on all that this processor has.
#[test]
fn tiles_of_quads_are_exact() {
    let byte = |i: usize| (i * 97 % 256) as u8;
    let quad = |i: usize| std::array::from_fn(|j| byte(4 * i + j));
    for kernel in Kernel::all() {
        if !kernel.has_quads() {
            continue;
        }
        for rows in 1..=kernel.rows() {
            for (width, inner) in [(kernel.columns(), 23), (kernel.columns() / 2, 1), (kernel.columns(), 0)] {
                let a: Vec<Quad> = (0..rows * inner).map(quad).collect();
                let panel: Vec<Quad> = (0..inner * width).map(|i| quad(i + 5)).collect();
                let begin: Vec<i32> = (0..width as i32).map(|i| i * 1001 - 7).collect();
                let mut out = [i32::MIN; ROWS * COLUMNS];
                kernel.tile_of_quads(Begin::Row(&begin), &a, inner, rows, (&panel, width), &mut out);
                let want = |i: usize| {
                    let term = |k: usize| {
                        let (a, b) = (a[i / width * inner + k], panel[k * width + i % width]);
                        let products = a.into_iter().zip(b);
                        products.map(|(a, b)| i32::from(a) * i32::from(b.cast_signed())).sum::<i32>()
                    };
                    begin[i % width] + (0..inner).map(term).sum::<i32>()
                };
                let wanted: Vec<i32> = (0..rows * width).map(want).collect();
                assert_eq!(out[..rows * width], wanted, "{kernel:?} {rows} x {width} x {inner}");
                assert!(out[rows * width..].iter().all(|&sum| sum == i32::MIN), "written beyond the tile");
                kernel.tile_of_quads(Begin::Out, &a, inner, rows, (&panel, width), &mut out);
                let twice = wanted.iter().enumerate().map(|(i, sum)| 2 * sum - begin[i % width]);
                assert!(twice.eq(out[..rows * width].iter().copied()), "{kernel:?} continued");
            }
        }
    }
}

#[test]
#[should_panic(expected = "assertion failed")]
fn rows_outside_of_the_matrix_are_refused() {
    let Some(kernel) = Kernel::detect() else { panic!("assertion failed: no kernel here") };
    let panel = vec![0.0; 5 * kernel.columns()];
    kernel.tile(&[0.0; 9], 5, 2, &panel, kernel.columns(), &mut [0.0; ROWS * COLUMNS]);
}
