//! The innermost product: a few rows times one panel of columns, in registers.
//!
//! Written with intrinsics because the compiler keeps no tile in registers by itself: the same loops as plain Rust reach
//! half of the speed.

#![allow(unsafe_code, reason = "vector instructions and loads without bounds checks, all of them in this file")]

#[cfg(test)]
mod tests;

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
    has_dot: bool,
}

/// Two neighbouring values of the inner axis in bfloat16.
pub(super) type Pair = [u16; 2];

/// Four neighbouring values of the inner axis in 8 bits: of rows without a sign, of panels with one.
pub(super) type Quad = [u8; 4];

/// A tile of whole numbers, as [`Tile`].
pub(super) type Sums = [i32; ROWS * COLUMNS];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(dead_code, reason = "none of them on other architectures")]
enum Instructions {
    /// 16 lanes, 12 rows.
    Avx512,
    /// 8 lanes, 6 rows.
    Avx2,
    /// 8 lanes in two registers, 6 rows: 24 of the 32 registers are sums.
    Neon,
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
                let has_dot = is_x86_feature_detected!("avx512vnni");
                all.push(Self { instructions: Instructions::Avx512, has_pairs, has_dot });
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                let has_dot = is_x86_feature_detected!("avxvnni");
                all.push(Self { instructions: Instructions::Avx2, has_pairs: false, has_dot });
                if has_dot {
                    all.push(Self { instructions: Instructions::Avx2, has_pairs: false, has_dot: false });
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if is_aarch64_feature_detected!("neon") {
            let (has_pairs, has_dot) = (is_aarch64_feature_detected!("bf16"), is_aarch64_feature_detected!("i8mm"));
            all.push(Self { instructions: Instructions::Neon, has_pairs, has_dot });
            if has_pairs || has_dot {
                all.push(Self { instructions: Instructions::Neon, has_pairs: false, has_dot: false });
            }
        }
        all
    }

    /// Rows of a full tile.
    pub(super) fn rows(self) -> usize {
        match self.instructions {
            Instructions::Avx512 => ROWS,
            Instructions::Avx2 | Instructions::Neon => ROWS / 2,
        }
    }

    /// Columns of a full panel: two registers, or two pairs of them. A panel of half of them ends a matrix.
    pub(super) fn columns(self) -> usize {
        match self.instructions {
            Instructions::Avx512 => COLUMNS,
            Instructions::Avx2 | Instructions::Neon => COLUMNS / 2,
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

    /// This one, or the widest with which [`tile_of_quads`](Self::tile_of_quads) can be called.
    pub(super) fn of_quads(self) -> Option<Self> {
        [self].into_iter().chain(Self::all()).find(|kernel| kernel.has_quads())
    }

    /// But for 512 bits, 16 do where the processor does not multiply 8.
    fn has_quads(self) -> bool {
        self.has_dot || self.instructions != Instructions::Avx512
    }

    /// Product of `rows` rows of `a`, each `stride` after the one before, with a panel `[inner, width]`. The results are the
    /// first `rows * width` values of `out`.
    ///
    /// Panics unless the rows lie in `a`, and rows and width are those of a tile.
    pub(super) fn tile(self, a: &[f32], stride: usize, rows: usize, panel: &[f32], width: usize, out: &mut Tile) {
        self.tile_from(Begin::Row(&[0.0; COLUMNS]), a, stride, rows, (panel, width), out);
    }

    /// As [`tile`](Self::tile), added to what `begin` says.
    pub(super) fn tile_from(
        self,
        begin: Begin<'_, f32>,
        a: &[f32],
        stride: usize,
        rows: usize,
        (panel, width): (&[f32], usize),
        out: &mut Tile,
    ) {
        let inner = self.check(&begin, a, stride, rows, panel, width);
        let is_wide = width == self.columns();
        // SAFETY: the processor has the instructions (see `Kernel`); `check` holds every row inside `a`, the panel to `inner`
        // times `width`, and the sums that are begun with to those of a tile; `rows` times `width` values fit `out`.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            match (self.instructions, is_wide) {
                (Instructions::Avx512, true) => avx512::run::<2>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Avx512, false) => avx512::run::<1>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Avx2, true) => avx2::run::<2>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Avx2, false) => avx2::run::<1>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Neon, _) => unreachable!("of another architecture"),
            }
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            match is_wide {
                true => neon::run::<2>(begin, a, stride, rows, panel, inner, out),
                false => neon::run::<1>(begin, a, stride, rows, panel, inner, out),
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        unreachable!("no kernel was detected: {inner} {is_wide} {begin:?} {out:?}");
    }

    /// As [`tile_from`](Self::tile_from), of pairs in bfloat16 with sums in float32; `stride` and the rows of the panel count pairs.
    ///
    /// Panics as well without [`has_pairs`](Self::has_pairs).
    pub(super) fn tile_of_pairs(
        self,
        begin: Begin<'_, f32>,
        a: &[Pair],
        stride: usize,
        rows: usize,
        (panel, width): (&[Pair], usize),
        out: &mut Tile,
    ) {
        assert!(self.has_pairs);
        let inner = self.check(&begin, a, stride, rows, panel, width);
        let is_wide = width == self.columns();
        // SAFETY: as in `tile_from`; `has_pairs` is proof of the instructions.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            match is_wide {
                true => avx512_bf16::run::<2>(begin, a, stride, rows, panel, inner, out),
                false => avx512_bf16::run::<1>(begin, a, stride, rows, panel, inner, out),
            }
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            match is_wide {
                true => neon_bf16::run::<2>(begin, a, stride, rows, panel, inner, out),
                false => neon_bf16::run::<1>(begin, a, stride, rows, panel, inner, out),
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        unreachable!("no kernel was detected: {inner} {is_wide} {begin:?} {out:?}");
    }

    /// As [`tile_from`](Self::tile_from), of quads with sums that are exact; `stride` and the rows of the panel count quads.
    ///
    /// Panics as well for a kernel that [`of_quads`](Self::of_quads) does not return.
    pub(super) fn tile_of_quads(
        self,
        begin: Begin<'_, i32>,
        a: &[Quad],
        stride: usize,
        rows: usize,
        (panel, width): (&[Quad], usize),
        out: &mut Sums,
    ) {
        let inner = self.check(&begin, a, stride, rows, panel, width);
        let is_wide = width == self.columns();
        // SAFETY: as in `tile_from`; `has_dot` is proof of the instructions where they are taken.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            match (self.instructions, self.has_dot, is_wide) {
                (Instructions::Avx512, true, true) => avx512_vnni::run::<2>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Avx512, true, false) => avx512_vnni::run::<1>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Avx512, false, _) => panic!("no quads in 512 bits"),
                (Instructions::Avx2, true, true) => avx_vnni::run::<2>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Avx2, true, false) => avx_vnni::run::<1>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Avx2, false, true) => avx2_quads::run::<2>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Avx2, false, false) => avx2_quads::run::<1>(begin, a, stride, rows, panel, inner, out),
                (Instructions::Neon, ..) => unreachable!("of another architecture"),
            }
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            match (self.has_dot, is_wide) {
                (true, true) => neon_i8mm::run::<2>(begin, a, stride, rows, panel, inner, out),
                (true, false) => neon_i8mm::run::<1>(begin, a, stride, rows, panel, inner, out),
                (false, true) => neon_quads::run::<2>(begin, a, stride, rows, panel, inner, out),
                (false, false) => neon_quads::run::<1>(begin, a, stride, rows, panel, inner, out),
            }
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        unreachable!("no kernel was detected: {inner} {is_wide} {begin:?} {out:?}");
    }

    /// The inner size of a panel, where rows, panel and sums are what a tile may read.
    fn check<S, T>(
        self,
        begin: &Begin<'_, S>,
        a: &[T],
        stride: usize,
        rows: usize,
        panel: &[T],
        width: usize,
    ) -> usize {
        let inner = panel.len() / width;
        assert!(rows >= 1 && rows <= self.rows() && (width == self.columns() || width * 2 == self.columns()));
        assert!(inner * width == panel.len() && (rows - 1) * stride + inner <= a.len());
        assert!(!matches!(begin, Begin::Row(sums) if sums.len() < width));
        inner
    }
}

/// Asks for the cache lines of some values, which are read or written soon: they come while a tile is computed.
#[inline]
pub(super) fn prefetch<T>(values: &[T]) {
    /// Bytes of a line.
    const LINE: usize = 64;
    #[cfg(target_arch = "x86_64")]
    for value in values.iter().step_by(LINE / size_of::<T>().max(1)) {
        // SAFETY: nothing is read; a hint may be of any address, and this one is of a value.
        unsafe { arch::_mm_prefetch::<{ arch::_MM_HINT_T0 }>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(target_arch = "aarch64")]
    for value in values.iter().step_by(LINE / size_of::<T>().max(1)) {
        // SAFETY: as above.
        unsafe {
            std::arch::asm!("prfm pldl1keep, [{}]", in(reg) std::ptr::from_ref(value), options(nostack, preserves_flags, readonly));
        }
    }
}

/// What the sums of a tile begin with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin<'a, S> {
    /// These, as many as the panel has columns, for every row.
    Row(&'a [S]),
    /// Those that are in `out`.
    Out,
}

/// One module for each set of instructions: `run` with `R` registers a row.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! instructions {
    ($name:ident, $features:literal, $value:ty, $sum:ty, $lanes:literal, [$($rows:literal)*],
     $begin:path, $load:path, $store:path, $set:path, $dot:path) => {
        mod $name {
            use super::{Begin, COLUMNS, ROWS};

            /// # Safety
            /// The processor has the features; `a` holds `rows` rows of `inner` values, each `stride` after the one before;
            /// `panel` holds `inner` times `R` registers, `out` `rows` times `R`, and `begin` `R` where it is a row.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn run<const R: usize>(
                begin: Begin<'_, $sum>,
                a: &[$value],
                stride: usize,
                rows: usize,
                panel: &[$value],
                inner: usize,
                out: &mut [$sum; ROWS * COLUMNS],
            ) {
                let (a, panel, out) = (a.as_ptr(), panel.as_ptr(), out.as_mut_ptr());
                let begin = match begin {
                    Begin::Row(sums) => (sums.as_ptr(), 0),
                    Begin::Out => (out.cast_const(), R * $lanes),
                };
                match rows {
                    // SAFETY: as this function's, with the number of rows as a constant.
                    $($rows => unsafe { tile::<$rows, R>(begin, a, stride, panel, inner, out) },)*
                    _ => unreachable!("a tile of {rows} rows"),
                }
            }

            /// # Safety
            /// As [`run`]'s, with `M` rows; the sums that these begin with are `begin.1` apart.
            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn tile<const M: usize, const R: usize>(
                (begin, step): (*const $sum, usize),
                a: *const $value,
                stride: usize,
                panel: *const $value,
                inner: usize,
                out: *mut $sum,
            ) {
                // SAFETY: `begin` holds `R` registers for each row, the same ones or others.
                let first = |row: usize, r: usize| unsafe { $begin(begin.add(row * step + r * $lanes).cast()) };
                let mut sums: [[_; R]; M] = std::array::from_fn(|row| std::array::from_fn(|r| first(row, r)));
                for k in 0..inner {
                    // SAFETY: `k` is below `inner`, so that the row of the panel and the value of each row of `a` are inside.
                    let columns: [_; R] = std::array::from_fn(|r| unsafe { $load(panel.add((k * R + r) * $lanes).cast()) });
                    for (row, sums) in sums.iter_mut().enumerate() {
                        // SAFETY: as above.
                        let value = $set(unsafe { *a.add(row * stride + k) });
                        for (sum, &column) in sums.iter_mut().zip(&columns) {
                            *sum = $dot(*sum, value, column);
                        }
                    }
                }
                for (i, &sum) in sums.iter().flatten().enumerate() {
                    // SAFETY: `out` holds `M` times `R` registers.
                    unsafe { $store(out.add(i * $lanes).cast(), sum) };
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as arch;
#[cfg(target_arch = "aarch64")]
use std::arch::{aarch64 as arch, is_aarch64_feature_detected};

#[cfg(target_arch = "x86_64")]
instructions!(
    avx512, "avx512f", f32, f32, 16, [1 2 3 4 5 6 7 8 9 10 11 12],
    super::arch::_mm512_loadu_ps, super::arch::_mm512_loadu_ps, super::arch::_mm512_storeu_ps,
    super::arch::_mm512_set1_ps, super::dots::single_512
);
#[cfg(target_arch = "x86_64")]
instructions!(
    avx512_bf16, "avx512f,avx512bf16", super::Pair, f32, 16, [1 2 3 4 5 6 7 8 9 10 11 12],
    super::arch::_mm512_loadu_ps, super::arch::_mm512_loadu_si512, super::arch::_mm512_storeu_ps,
    super::dots::set_pair_512, super::dots::pairs_512
);
#[cfg(target_arch = "x86_64")]
instructions!(
    avx512_vnni, "avx512f,avx512vnni", super::Quad, i32, 16, [1 2 3 4 5 6 7 8 9 10 11 12],
    super::arch::_mm512_loadu_si512, super::arch::_mm512_loadu_si512, super::arch::_mm512_storeu_si512,
    super::dots::set_512, super::arch::_mm512_dpbusd_epi32
);
#[cfg(target_arch = "x86_64")]
instructions!(
    avx2, "avx2,fma", f32, f32, 8, [1 2 3 4 5 6],
    super::arch::_mm256_loadu_ps, super::arch::_mm256_loadu_ps, super::arch::_mm256_storeu_ps,
    super::arch::_mm256_set1_ps, super::dots::single_256
);
#[cfg(target_arch = "x86_64")]
instructions!(
    avx_vnni, "avx2,avxvnni", super::Quad, i32, 8, [1 2 3 4 5 6],
    super::arch::_mm256_loadu_si256, super::arch::_mm256_loadu_si256, super::arch::_mm256_storeu_si256,
    super::dots::set_256, super::arch::_mm256_dpbusd_avx_epi32
);
#[cfg(target_arch = "x86_64")]
instructions!(
    avx2_quads, "avx2,fma", super::Quad, i32, 8, [1 2 3 4 5 6],
    super::arch::_mm256_loadu_si256, super::arch::_mm256_loadu_si256, super::arch::_mm256_storeu_si256,
    super::dots::set_256, super::dots::quads_256
);

#[cfg(target_arch = "aarch64")]
instructions!(
    neon, "neon", f32, f32, 8, [1 2 3 4 5 6],
    super::arch::vld1q_f32_x2, super::arch::vld1q_f32_x2, super::arch::vst1q_f32_x2,
    super::arch::vdupq_n_f32, super::dots::single
);
#[cfg(target_arch = "aarch64")]
instructions!(
    neon_bf16, "neon,bf16", super::Pair, f32, 8, [1 2 3 4 5 6],
    super::arch::vld1q_f32_x2, super::arch::vld1q_u8_x2, super::arch::vst1q_f32_x2,
    super::dots::set_pair, super::dots::pairs
);
#[cfg(target_arch = "aarch64")]
instructions!(
    neon_i8mm, "neon,i8mm", super::Quad, i32, 8, [1 2 3 4 5 6],
    super::arch::vld1q_s32_x2, super::arch::vld1q_u8_x2, super::arch::vst1q_s32_x2,
    super::dots::set_quad, super::dots::quads_of_8
);
#[cfg(target_arch = "aarch64")]
instructions!(
    neon_quads, "neon", super::Quad, i32, 8, [1 2 3 4 5 6],
    super::arch::vld1q_s32_x2, super::arch::vld1q_u8_x2, super::arch::vst1q_s32_x2,
    super::dots::set_quad, super::dots::quads_of_16
);

/// A sum and the products of one register with two. What the standard library has no function for yet is a line of assembly.
#[cfg(target_arch = "aarch64")]
mod dots {
    use std::arch::asm;

    use super::arch::*;

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn set_pair([first, second]: super::Pair) -> uint8x16_t {
        vreinterpretq_u8_u32(vdupq_n_u32(u32::from(first) | u32::from(second) << 16))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn set_quad(quad: super::Quad) -> uint8x16_t {
        vreinterpretq_u8_u32(vdupq_n_u32(u32::from_le_bytes(quad)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn single(sum: float32x4x2_t, a: float32x4_t, b: float32x4x2_t) -> float32x4x2_t {
        float32x4x2_t(vfmaq_f32(sum.0, a, b.0), vfmaq_f32(sum.1, a, b.1))
    }

    /// One instruction for each register of sums.
    macro_rules! dot {
        ($name:ident, $features:literal, $instruction:literal, $sum:ident, $sums:ident) => {
            #[inline]
            #[target_feature(enable = $features)]
            pub(super) fn $name(sum: $sums, a: uint8x16_t, b: uint8x16x2_t) -> $sums {
                let dot = |mut sum: $sum, b: uint8x16_t| {
                    // SAFETY: registers alone, and the processor has the instruction.
                    unsafe {
                        asm!($instruction, inout(vreg) sum, in(vreg) a, in(vreg) b,
                            options(pure, nomem, nostack, preserves_flags));
                    }
                    sum
                };
                $sums(dot(sum.0, b.0), dot(sum.1, b.1))
            }
        };
    }

    dot!(pairs, "neon,bf16", "bfdot {0:v}.4s, {1:v}.8h, {2:v}.8h", float32x4_t, float32x4x2_t);
    dot!(quads_of_8, "neon,i8mm", "usdot {0:v}.4s, {1:v}.16b, {2:v}.16b", int32x4_t, int32x4x2_t);

    /// In 16 bits, which hold every product.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn quads_of_16(sum: int32x4x2_t, a: uint8x16_t, b: uint8x16x2_t) -> int32x4x2_t {
        let a = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(a))); // twice the four values
        let dot = |sum: int32x4_t, b: uint8x16_t| {
            let b = vreinterpretq_s8_u8(b);
            let products = |b| vpaddlq_s16(vmulq_s16(a, b));
            vaddq_s32(sum, vpaddq_s32(products(vmovl_s8(vget_low_s8(b))), products(vmovl_high_s8(b))))
        };
        int32x4x2_t(dot(sum.0, b.0), dot(sum.1, b.1))
    }
}

/// A sum and the products of two registers.
#[cfg(target_arch = "x86_64")]
mod dots {
    use super::arch::*;

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn set_512(quad: super::Quad) -> __m512i {
        _mm512_set1_epi32(i32::from_le_bytes(quad))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn set_pair_512([first, second]: super::Pair) -> __m512i {
        _mm512_set1_epi32((u32::from(first) | u32::from(second) << 16).cast_signed())
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn single_512(sum: __m512, a: __m512, b: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, sum)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn pairs_512(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: 512 bits are 32 bfloat16 values, whatever they are.
        let [a, b] = [a, b].map(|pairs| unsafe { std::mem::transmute::<__m512i, __m512bh>(pairs) });
        _mm512_dpbf16_ps(sum, a, b)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn set_256(quad: super::Quad) -> __m256i {
        _mm256_set1_epi32(i32::from_le_bytes(quad))
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn single_256(sum: __m256, a: __m256, b: __m256) -> __m256 {
        _mm256_fmadd_ps(a, b, sum)
    }

    /// In 16 bits: the instruction for 8 saturates where two products are added.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn quads_256(sum: __m256i, a: __m256i, b: __m256i) -> __m256i {
        let (even_a, odd_a) = (_mm256_and_si256(a, _mm256_set1_epi16(0xff)), _mm256_srli_epi16(a, 8));
        let (even_b, odd_b) = (_mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8), _mm256_srai_epi16(b, 8));
        let (even, odd) = (_mm256_madd_epi16(even_a, even_b), _mm256_madd_epi16(odd_a, odd_b));
        _mm256_add_epi32(sum, _mm256_add_epi32(even, odd))
    }
}
