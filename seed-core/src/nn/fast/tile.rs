//! The innermost product: a few rows times one panel of columns, in registers.
//!
//! Written with intrinsics because the compiler keeps no tile in registers by itself: the same loops as plain Rust reach
//! half of the speed.

#![allow(unsafe_code, reason = "vector instructions and loads without bounds checks, all of them in this file")]

/// Most rows of a tile.
pub(super) const ROWS: usize = 12;
/// Most columns of a tile.
pub(super) const COLUMNS: usize = 32;

/// A tile of results: `rows` times the columns of the panel, a row after the other.
pub(super) type Tile = [f32; ROWS * COLUMNS];

/// Vector instructions that a tile is computed with. A value is proof that this processor has them: only [`all`](Self::all)
/// makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    instructions: Instructions,
    has_pairs: bool,
}

/// Two neighbouring values of the inner axis in bfloat16, the first in the lower half.
pub(super) type Pair = u32;

/// Values in bfloat16 as pairs; nothing where they do not lie as such.
pub(super) fn pairs(values: &[half::bf16]) -> Option<&[Pair]> {
    // SAFETY: both are plain numbers of which every bit pattern is one.
    let (before, pairs, after) = unsafe { values.align_to::<Pair>() };
    (cfg!(target_endian = "little") && before.is_empty() && after.is_empty()).then_some(pairs)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "none of them on other architectures")]
enum Instructions {
    /// 16 lanes, 12 rows.
    Avx512,
    /// 8 lanes, 6 rows.
    Avx2,
}

impl Kernel {
    /// The widest of this processor.
    pub(super) fn detect() -> Option<Self> {
        Self::all().into_iter().next()
    }

    /// All of this processor, the widest first.
    pub(super) fn all() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                let has_pairs = is_x86_feature_detected!("avx512bf16");
                all.push(Self { instructions: Instructions::Avx512, has_pairs });
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Self { instructions: Instructions::Avx2, has_pairs: false });
            }
        }
        all
    }

    /// Rows of a full tile.
    pub(super) fn rows(self) -> usize {
        match self.instructions {
            Instructions::Avx512 => ROWS,
            Instructions::Avx2 => ROWS / 2,
        }
    }

    /// Columns of a full panel: two registers. A panel of half of them, one register, ends a matrix.
    pub(super) fn columns(self) -> usize {
        match self.instructions {
            Instructions::Avx512 => COLUMNS,
            Instructions::Avx2 => COLUMNS / 2,
        }
    }

    /// Columns of the panel in which `left` columns are taken.
    pub(super) fn width(self, left: usize) -> usize {
        if left > self.columns() / 2 { self.columns() } else { self.columns() / 2 }
    }

    /// Whether [`tile_of_pairs`](Self::tile_of_pairs) can be called.
    pub(super) fn has_pairs(self) -> bool {
        self.has_pairs
    }

    /// Product of `rows` rows of `a`, each `stride` after the one before, with a panel `[inner, width]`. The results are the
    /// first `rows * width` values of `out`.
    ///
    /// Panics unless the rows lie in `a`, and rows and width are those of a tile.
    pub(super) fn tile(self, a: &[f32], stride: usize, rows: usize, panel: &[f32], width: usize, out: &mut Tile) {
        let inner = self.check(a, stride, rows, panel, width);
        let is_wide = width == self.columns();
        // SAFETY: the processor has the instructions (see `Kernel`); `check` holds every row inside `a` and the panel to
        // `inner` times `width`, and a tile of `rows` times `width` values fits `out`.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            match (self.instructions, is_wide) {
                (Instructions::Avx512, true) => avx512::run::<2>(a, stride, rows, panel, inner, out),
                (Instructions::Avx512, false) => avx512::run::<1>(a, stride, rows, panel, inner, out),
                (Instructions::Avx2, true) => avx2::run::<2>(a, stride, rows, panel, inner, out),
                (Instructions::Avx2, false) => avx2::run::<1>(a, stride, rows, panel, inner, out),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no kernel was detected: {inner} {is_wide} {out:?}");
    }

    /// [`tile`](Self::tile) of pairs in bfloat16, with sums in float32; `stride` and the rows of the panel count pairs.
    ///
    /// Panics as well without [`has_pairs`](Self::has_pairs).
    pub(super) fn tile_of_pairs(
        self,
        a: &[Pair],
        stride: usize,
        rows: usize,
        panel: &[Pair],
        width: usize,
        out: &mut Tile,
    ) {
        assert!(self.has_pairs);
        let inner = self.check(a, stride, rows, panel, width);
        let is_wide = width == self.columns();
        // SAFETY: as in `tile`; `has_pairs` is proof of the instructions.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            if is_wide {
                avx512_bf16::run::<2>(a, stride, rows, panel, inner, out);
            } else {
                avx512_bf16::run::<1>(a, stride, rows, panel, inner, out);
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("no kernel was detected: {inner} {is_wide} {out:?}");
    }

    /// The inner size of a panel, where rows and panel are what a tile may read.
    fn check<T>(self, a: &[T], stride: usize, rows: usize, panel: &[T], width: usize) -> usize {
        let inner = panel.len() / width;
        assert!(rows >= 1 && rows <= self.rows() && (width == self.columns() || width * 2 == self.columns()));
        assert!(inner * width == panel.len() && (rows - 1) * stride + inner <= a.len());
        inner
    }
}

/// One module for each set of instructions: `run` with `R` registers a row.
#[cfg(target_arch = "x86_64")]
macro_rules! instructions {
    ($name:ident, $features:literal, $value:ty, $lanes:literal, [$($rows:literal)*],
     $zero:path, $load:path, $store:path, $set:path, $fma:path) => {
        mod $name {
            use super::Tile;

            /// # Safety
            /// The processor has the features; `a` holds `rows` rows of `inner` values, each `stride` after the one before;
            /// `panel` holds `inner` times `R` registers; `out` holds `rows` times `R` registers.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn run<const R: usize>(
                a: &[$value], stride: usize, rows: usize, panel: &[$value], inner: usize, out: &mut Tile,
            ) {
                match rows {
                    // SAFETY: as this function's, with the number of rows as a constant.
                    $($rows => unsafe { tile::<$rows, R>(a.as_ptr(), stride, panel.as_ptr(), inner, out.as_mut_ptr()) },)*
                    _ => unreachable!("a tile of {rows} rows"),
                }
            }

            /// # Safety
            /// As [`run`]'s, with `M` rows.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn tile<const M: usize, const R: usize>(
                a: *const $value, stride: usize, panel: *const $value, inner: usize, out: *mut f32,
            ) {
                let mut sums = [[$zero(); R]; M];
                for k in 0..inner {
                    // SAFETY: `k` is below `inner`, so that the row of the panel and the value of each row of `a` are inside.
                    let columns: [_; R] = std::array::from_fn(|r| unsafe { $load(panel.add((k * R + r) * $lanes)) });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: as above.
                        let value = $set(unsafe { *a.add(row * stride + k) });
                        for (sum, &column) in sums.iter_mut().zip(&columns) {
                            *sum = $fma(value, column, *sum);
                        }
                    }
                }
                for (i, &sum) in sums.iter().flatten().enumerate() {
                    // SAFETY: `out` holds `M` times `R` registers.
                    unsafe { $store(out.add(i * $lanes), sum) };
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
instructions!(
    avx512, "avx512f", f32, 16, [1 2 3 4 5 6 7 8 9 10 11 12],
    std::arch::x86_64::_mm512_setzero_ps, std::arch::x86_64::_mm512_loadu_ps, std::arch::x86_64::_mm512_storeu_ps,
    std::arch::x86_64::_mm512_set1_ps, std::arch::x86_64::_mm512_fmadd_ps
);
#[cfg(target_arch = "x86_64")]
instructions!(
    avx512_bf16, "avx512f,avx512bf16", u32, 16, [1 2 3 4 5 6 7 8 9 10 11 12],
    std::arch::x86_64::_mm512_setzero_ps, super::pairs::load, std::arch::x86_64::_mm512_storeu_ps,
    super::pairs::set, super::pairs::dot
);
#[cfg(target_arch = "x86_64")]
instructions!(
    avx2, "avx2,fma", f32, 8, [1 2 3 4 5 6],
    std::arch::x86_64::_mm256_setzero_ps, std::arch::x86_64::_mm256_loadu_ps, std::arch::x86_64::_mm256_storeu_ps,
    std::arch::x86_64::_mm256_set1_ps, std::arch::x86_64::_mm256_fmadd_ps
);

/// Registers of pairs, as the macro names their instructions.
#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::{__m512, __m512bh, __m512i, _mm512_dpbf16_ps, _mm512_loadu_epi32, _mm512_set1_epi32};

    /// # Safety
    /// 16 pairs can be read from `from` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) unsafe fn load(from: *const u32) -> __m512i {
        // SAFETY: as this function's.
        unsafe { _mm512_loadu_epi32(from.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn set(pair: u32) -> __m512i {
        _mm512_set1_epi32(pair.cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn dot(a: __m512i, b: __m512i, sum: __m512) -> __m512 {
        // SAFETY: 512 bits are 32 bfloat16 values, whatever they are.
        let [a, b] = [a, b].map(|pairs| unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) });
        _mm512_dpbf16_ps(sum, a, b)
    }
}

#[cfg(test)]
mod tests {
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
            let value = |i: usize| u32::from(half::bf16::from_f32(((i * 37 % 101) as f32 - 50.0) / 50.0).to_bits());
            value(2 * i) | value(2 * i + 1) << 16
        };
        let values = |pair: Pair| [pair << 16, pair & 0xffff_0000].map(|bits| f64::from(f32::from_bits(bits)));
        for (rows, width, inner) in [(12, 32, 19), (5, 16, 1), (1, 32, 44)] {
            let a: Vec<Pair> = (0..rows * inner).map(pair).collect();
            let panel: Vec<Pair> = (0..inner * width).map(|i| pair(i + 11)).collect();
            let mut out = [f32::NAN; ROWS * COLUMNS];
            kernel.tile_of_pairs(&a, inner, rows, &panel, width, &mut out);
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

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn rows_outside_of_the_matrix_are_refused() {
        let Some(kernel) = Kernel::detect() else { panic!("assertion failed: no kernel here") };
        let panel = vec![0.0; 5 * kernel.columns()];
        kernel.tile(&[0.0; 9], 5, 2, &panel, kernel.columns(), &mut [0.0; ROWS * COLUMNS]);
    }
}
