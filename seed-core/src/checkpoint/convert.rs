//! Element types and layouts: bytes of a file to float32 values and back.

use half::{
    bf16, f16,
    slice::{HalfBitsSliceExt, HalfFloatSliceExt},
};
use rayon::prelude::*;
use safetensors::Dtype;

use super::DType;

/// Values converted at a time: 8 KiB of half floats, on the stack.
const CHUNK: usize = 4096;

/// Side of the square that a transposition handles at a time: two of them fit the first-level cache.
const TILE: usize = 32;

/// Whether weights can have this dtype.
pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16)
}

/// Little-endian elements as float32; `None` for a dtype that weights do not have.
pub(super) fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let (size, read) = reader(dtype)?;
    let mut values = vec![0.0; bytes.len() / size];
    values.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * size)).for_each(|(values, bytes)| read(bytes, values));
    Some(values)
}

/// How many values a dtype does not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// NaN or infinite in the file.
    pub(super) not_finite: usize,
    /// Finite there, and beyond the range of what they are to become.
    pub(super) beyond: usize,
}

/// Little-endian elements as 16-bit floats of the kind `to`, as [`to_halves`] makes them of [`floats`], without these in between:
/// one pass over memory, which is what it costs. `None` for a dtype that weights do not have.
pub(super) fn halves(dtype: Dtype, bytes: &[u8], to: DType) -> Option<(Vec<u16>, Lost)> {
    let (size, read) = reader(dtype)?;
    let narrow = narrower(to);
    let mut halves = vec![0; bytes.len() / size];
    let chunks = halves.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * size));
    let lost = chunks.map(|(halves, bytes)| {
        let mut values = [0.0; CHUNK];
        let values = &mut values[..halves.len()];
        read(bytes, values);
        Lost { not_finite: not_finite(values), beyond: narrow(values, halves) }
    });
    let sum = |a: Lost, b: Lost| Lost { not_finite: a.not_finite + b.not_finite, beyond: a.beyond + b.beyond };
    let lost = lost.reduce(Lost::default, sum);
    Some((halves, lost))
}

/// The number of little-endian elements that are NaN or infinite; `None` for a dtype that weights do not have.
pub(super) fn count_not_finite_in(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    let (size, _) = reader(dtype)?;
    let count = match dtype {
        Dtype::F32 => full_exponents_of_singles,
        Dtype::F16 => full_exponents_of_halves::<0x7c00>,
        _ => full_exponents_of_halves::<0x7f80>,
    };
    Some(bytes.par_chunks(CHUNK * size).map(count).sum())
}

/// The number of elements whose exponent, the bits of `EXPONENT`, is all ones: NaN and infinity.
fn full_exponents_of_halves<const EXPONENT: u16>(bytes: &[u8]) -> usize {
    let full = |&bytes: &[u8; 2]| u16::from_le_bytes(bytes) & EXPONENT == EXPONENT;
    bytes.as_chunks().0.iter().map(|bytes| usize::from(full(bytes))).sum()
}

fn full_exponents_of_singles(bytes: &[u8]) -> usize {
    let full = |&bytes: &[u8; 4]| u32::from_le_bytes(bytes) & 0x7f80_0000 == 0x7f80_0000;
    bytes.as_chunks().0.iter().map(|bytes| usize::from(full(bytes))).sum()
}

/// Turns at most [`CHUNK`] elements into float32.
type Read = fn(&[u8], &mut [f32]);

/// Size of an element in bytes, and what reads it.
fn reader(dtype: Dtype) -> Option<(usize, Read)> {
    match dtype {
        Dtype::F32 => Some((4, from_f32)),
        Dtype::F16 => Some((2, from_f16)),
        Dtype::BF16 => Some((2, from_bf16)),
        _ => None,
    }
}

fn from_f32(bytes: &[u8], values: &mut [f32]) {
    for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_le_bytes(bytes);
    }
}

fn from_f16(bytes: &[u8], values: &mut [f32]) {
    let mut halves = [f16::ZERO; CHUNK];
    let halves = &mut halves[..values.len()];
    for (half, &bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
        *half = f16::from_le_bytes(bytes);
    }
    halves.convert_to_f32_slice(values);
}

fn from_bf16(bytes: &[u8], values: &mut [f32]) {
    for (value, &bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
        *value = f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16);
    }
}

/// The number of values that are NaN or infinite.
pub(super) fn count_not_finite(values: &[f32]) -> usize {
    values.par_chunks(CHUNK).map(not_finite).sum()
}

fn not_finite(values: &[f32]) -> usize {
    values.iter().map(|value| usize::from(!value.is_finite())).sum()
}

/// float32 values as 16-bit floats of the kind `to`, or how many finite ones it cannot hold.
pub(super) fn to_halves(values: &[f32], to: DType) -> Result<Vec<u16>, String> {
    let narrow = narrower(to);
    let mut halves = vec![0; values.len()];
    let chunks = halves.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
    match chunks.map(|(halves, values)| narrow(values, halves)).sum() {
        0 => Ok(halves),
        lost => Err(beyond(lost, values.len(), to)),
    }
}

/// What rounds values to 16-bit floats and counts the finite ones that are not finite then.
fn narrower(to: DType) -> fn(&[f32], &mut [u16]) -> usize {
    match to {
        DType::F16 => |values, halves| {
            let halves: &mut [f16] = halves.reinterpret_cast_mut();
            halves.convert_from_f32_slice(values);
            halves.iter().zip(values).map(|(half, value)| usize::from(value.is_finite() && !half.is_finite())).sum()
        },
        // What is kept in 8 bits elsewhere; float32 is never narrowed.
        DType::BF16 | DType::Int8 | DType::F32 => |values, halves| {
            halves.iter_mut().zip(values).for_each(|(half, &value)| *half = rounded(value).to_bits());
            let lost = |half: u16, value: f32| value.is_finite() && half & 0x7f80 == 0x7f80;
            halves.iter().zip(values).map(|(&half, &value)| usize::from(lost(half, value))).sum()
        },
    }
}

/// The nearest bfloat16 of a number, the even one of two: half a unit less than the next value of the upper half is added. In
/// whole numbers alone, which the compiler vectorises.
fn rounded(value: f32) -> bf16 {
    let bits = value.to_bits();
    bf16::from_bits((bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16)
}

pub(super) fn beyond(lost: usize, of: usize, dtype: DType) -> String {
    format!("holds {lost} values of {of} beyond the range of {dtype}; choose f32")
}

/// Elements as little-endian bytes.
pub(super) fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| to_bytes(value)).collect()
}

/// A matrix `[rows, columns]` as `[columns, rows]`.
pub(super) fn transpose(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    if out.is_empty() {
        return out;
    }
    out.par_chunks_mut(TILE * rows).enumerate().for_each(|(tile, out)| {
        let first = tile * TILE;
        for top in (0..rows).step_by(TILE) {
            for (i, out) in out.chunks_exact_mut(rows).enumerate() {
                for row in top..(top + TILE).min(rows) {
                    out[row] = values[row * columns + first + i];
                }
            }
        }
    });
    out
}

/// The elements of a view, `size` bytes each, in row order. Strides are in elements, from the first byte of `bytes`; the
/// caller has checked that the view stays inside.
pub(super) fn gather(bytes: &[u8], size: usize, shape: &[usize], strides: &[usize]) -> Vec<u8> {
    let count: usize = shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    for _ in 0..count {
        out.extend_from_slice(&bytes[at * size..][..size]);
        // The next index: the last dimension counts fastest, and one that is full returns to 0.
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                at += strides[axis];
                break;
            }
            at -= strides[axis] * (shape[axis] - 1);
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_becomes_its_float_at_any_length() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        for count in [65536, CHUNK + 1, 5, 0] {
            let f16s = floats(Dtype::F16, &bytes[..2 * count]).unwrap();
            let bf16s = floats(Dtype::BF16, &bytes[..2 * count]).unwrap();
            assert_eq!((f16s.len(), bf16s.len()), (count, count));
            for (bits, (a, b)) in f16s.into_iter().zip(bf16s).enumerate() {
                assert!(same(a, f16::from_bits(bits as u16).to_f32()), "f16 {bits:#x}");
                assert!(same(b, bf16::from_bits(bits as u16).to_f32()), "bf16 {bits:#x}");
            }
        }
        assert!(floats(Dtype::I64, &bytes).is_none() && floats(Dtype::F64, &bytes).is_none());
    }

    #[test]
    fn one_pass_equals_two() {
        let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        for (dtype, to) in [(Dtype::F16, DType::BF16), (Dtype::BF16, DType::F16), (Dtype::F32, DType::BF16)] {
            for count in [131_072, 4 * CHUNK + 4, 0] {
                let bytes = &bytes[..count];
                let values = floats(dtype, bytes).unwrap();
                let (halves, lost) = halves(dtype, bytes, to).unwrap();
                assert_eq!(lost.not_finite, count_not_finite(&values));
                assert_eq!(lost.not_finite, count_not_finite_in(dtype, bytes).unwrap());
                let finite: Vec<f32> = values.iter().copied().filter(|value| value.is_finite()).collect();
                let expected = |value: f32| match to {
                    DType::F16 => (f16::from_f32(value).to_bits(), f16::from_f32(value).is_infinite()),
                    _ => (bf16::from_f32(value).to_bits(), bf16::from_f32(value).is_infinite()),
                };
                assert_eq!(finite.iter().filter(|&&value| expected(value).1).count(), lost.beyond);
                for (&half, &value) in halves.iter().zip(&values).filter(|(_, value)| value.is_finite()) {
                    assert_eq!(half, expected(value).0, "{value:e} of {dtype:?} as {to}");
                }
                match to_halves(&finite, to) {
                    Ok(alone) => assert_eq!((alone.len(), lost.beyond), (finite.len(), 0)),
                    Err(reason) => assert!(reason.starts_with(&format!("holds {} values", lost.beyond)), "{reason}"),
                }
            }
        }
        assert!(halves(Dtype::I64, &bytes, DType::F16).is_none() && count_not_finite_in(Dtype::I64, &bytes).is_none());
    }

    #[test]
    fn views_are_gathered_in_row_order() {
        let bytes: Vec<u8> = (0..24).collect();
        let gathered = |shape: &[usize], strides: &[usize]| gather(&bytes, 1, shape, strides);
        assert_eq!(gathered(&[2, 3], &[3, 1]), [0, 1, 2, 3, 4, 5]);
        assert_eq!(gathered(&[3, 2], &[1, 3]), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gathered(&[2, 2, 3], &[12, 1, 4]), [0, 4, 8, 1, 5, 9, 12, 16, 20, 13, 17, 21]);
        assert_eq!(gathered(&[2, 2], &[0, 5]), [0, 5, 0, 5]);
        assert_eq!(gathered(&[2, 1], &[7, usize::MAX]), [0, 7]);
        assert_eq!(gather(&bytes, 2, &[2], &[3]), [0, 1, 6, 7]);
        assert_eq!(gather(&bytes, 4, &[], &[]), [0, 1, 2, 3]);
        assert!(gathered(&[2, 0], &[1, 1]).is_empty());
    }

    #[test]
    fn transposition_of_any_size() {
        for (rows, columns) in [(1, 1), (3, 5), (33, 64), (70, 31), (0, 4), (4, 0)] {
            let values: Vec<f32> = (0..rows * columns).map(|v| v as f32).collect();
            let turned = transpose(&values, rows, columns);
            for row in 0..rows {
                for column in 0..columns {
                    assert_eq!(turned[column * rows + row], values[row * columns + column]);
                }
            }
        }
    }
}
