//! Rows of 32-bit words to columns: the rows of a weight as files hold it become a panel.

#![allow(unsafe_code, reason = "vector loads and stores without bounds checks, all of them behind one check")]

use half::bf16;

use super::tile::Kernel;

/// Numbers of which one, two or four make a word of 32 bits; any bits are a number.
pub(super) trait Number: Copy {}

impl Number for f32 {}
impl Number for [u16; 2] {}
impl Number for [u8; 4] {}
impl Number for bf16 {}
impl Number for i8 {}

/// `lanes` rows of `from`, each `stride` numbers after the one before and `steps` words long, as the columns from `first` on of
/// `to` `[steps, width]`. Returns how many steps were done, a multiple of `lanes`: the rest is the caller's.
///
/// `lanes` is half of the kernel's columns: 16 with 512 bits and 8 with 256, or with twice 128. Panics unless all of it is inside.
pub(super) fn transpose<T: Number, W: Number>(
    kernel: Kernel,
    from: &[T],
    stride: usize,
    to: &mut [W],
    (steps, width, first): (usize, usize, usize),
) -> usize {
    let lanes = kernel.columns() / 2;
    let (done, in_word) = (steps / lanes * lanes, 4 / size_of::<T>());
    assert!(size_of::<W>() == 4 && first + lanes <= width && done * width <= to.len());
    assert!(done == 0 || (lanes - 1) * stride + done * in_word <= from.len());
    let bytes = stride * size_of::<T>();
    for step in (0..done).step_by(lanes) {
        let (from, to) = (from[step * in_word..].as_ptr(), to[step * width + first..].as_mut_ptr());
        // SAFETY: the processor has the instructions (see `Kernel`). Each of the `lanes` rows has `lanes` words from `step` on
        // inside of `from`, each of the `lanes` steps as many from `first` on inside of `to`, as was checked above; loads
        // and stores need no alignment, and any 32 bits are a word.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            match lanes {
                16 => avx512::block(from.cast(), bytes, to.cast(), width),
                _ => avx2::block(from.cast(), bytes, to.cast(), width),
            }
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            neon::block(from.cast(), bytes, to.cast(), width);
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        unreachable!("no kernel was detected: {from:?} {to:?}");
    }
    done
}

/// One module for each width of registers. Of a square of `lanes` times `lanes` words, rows `i` and `i + lanes / 2` are
/// interleaved: that turns the digits of a word's place, row and column, by one binary digit; after all of the digits of a row
/// rows are columns.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! width {
    ($name:ident, $features:literal, $lanes:literal, $load:ident, $store:ident, $interleave:ident) => {
        mod $name {
            use super::arch::*;

            /// # Safety
            /// The processor has the features; as many rows as a register has words can be read from `from` on, and written
            /// from `to` on, of as many words each: `stride` bytes and `width` words from one to the next.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn block(from: *const u8, stride: usize, to: *mut u32, width: usize) {
                // SAFETY: as this function's.
                let mut rows: [_; $lanes] = std::array::from_fn(|i| unsafe { $load(from.add(i * stride).cast()) });
                for _ in 0..u32::ilog2($lanes) {
                    let pairs: [_; $lanes / 2] =
                        std::array::from_fn(|i| super::$interleave(rows[i], rows[i + $lanes / 2]));
                    rows = std::array::from_fn(|i| pairs[i / 2][i % 2]);
                }
                for (i, row) in rows.into_iter().enumerate() {
                    // SAFETY: as this function's.
                    unsafe { $store(to.add(i * width).cast(), row) };
                }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
width!(avx512, "avx512f", 16, _mm512_loadu_si512, _mm512_storeu_si512, interleave_512);
#[cfg(target_arch = "x86_64")]
width!(avx2, "avx2", 8, _mm256_loadu_si256, _mm256_storeu_si256, interleave_256);

#[cfg(target_arch = "aarch64")]
width!(neon, "neon", 8, vld1q_u8_x2, vst1q_u8_x2, interleave_128);

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64 as arch;

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn interleave_512(a: arch::__m512i, b: arch::__m512i) -> [arch::__m512i; 2] {
    let low = arch::_mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    let high = arch::_mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    [arch::_mm512_permutex2var_epi32(a, low, b), arch::_mm512_permutex2var_epi32(a, high, b)]
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn interleave_256(a: arch::__m256i, b: arch::__m256i) -> [arch::__m256i; 2] {
    let (low, high) = (arch::_mm256_unpacklo_epi32(a, b), arch::_mm256_unpackhi_epi32(a, b));
    [arch::_mm256_permute2x128_si256(low, high, 0x20), arch::_mm256_permute2x128_si256(low, high, 0x31)]
}

#[cfg(target_arch = "aarch64")]
#[inline]
#[target_feature(enable = "neon")]
fn interleave_128(a: arch::uint8x16x2_t, b: arch::uint8x16x2_t) -> [arch::uint8x16x2_t; 2] {
    let words = |row: arch::uint8x16x2_t| [arch::vreinterpretq_u32_u8(row.0), arch::vreinterpretq_u32_u8(row.1)];
    let [a, b] = [words(a), words(b)];
    std::array::from_fn(|i| {
        let (low, high) = (arch::vzip1q_u32(a[i], b[i]), arch::vzip2q_u32(a[i], b[i]));
        arch::uint8x16x2_t(arch::vreinterpretq_u8_u32(low), arch::vreinterpretq_u8_u32(high))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        for kernel in Kernel::all() {
            let lanes = kernel.columns() / 2;
            for (steps, width, first, spare) in
                [(40, 2 * lanes, lanes, 3), (lanes, lanes, 0, 0), (lanes - 1, lanes, 0, 1), (0, lanes, 0, 0)]
            {
                let stride = 4 * steps + spare; // words that are not aligned
                let from: Vec<i8> = (0..lanes * stride).map(|i| (i * 37 % 251) as i8).collect();
                let mut to = vec![[9u8; 4]; steps * width];
                let done = transpose(kernel, &from, stride, &mut to, (steps, width, first));
                assert_eq!(done, steps / lanes * lanes);
                for (i, &found) in to.iter().enumerate() {
                    let (step, column) = (i / width, i % width);
                    let is_written = step < done && (first..first + lanes).contains(&column);
                    let word = |row: usize| {
                        let bytes = &from[row * stride + 4 * step..][..4];
                        std::array::from_fn(|i| bytes[i].cast_unsigned())
                    };
                    let want = if is_written { word(column - first) } else { [9; 4] };
                    assert_eq!(found, want, "{kernel:?} {steps} x {width}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "assertion failed")]
    fn rows_outside_are_refused() {
        let Some(kernel) = Kernel::detect() else { panic!("assertion failed: no kernel here") };
        let lanes = kernel.columns() / 2;
        let from = vec![0i8; lanes * lanes * 4 - 1];
        transpose(kernel, &from, lanes * 4, &mut vec![[0u8; 4]; lanes * lanes], (lanes, lanes, 0));
    }
}
