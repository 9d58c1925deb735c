//! Stored samples -> RGB, by the tags that say what samples mean. The combinations are those of Pillow's `OPEN_INFO`.

use image::RgbImage;

use super::super::bytes::samples;
use super::super::decode::{Fault, Palette, clip, cmyk, from_pixels};
use super::directory::{Directory, tag};

/// How the pixels of a TIFF are stored.
pub(super) struct Color {
    meaning: Meaning,
    /// Bits of a sample.
    pub(super) bits: usize,
    /// Samples of a pixel, extra ones included.
    pub(super) samples: usize,
    big_endian: bool,
}

enum Meaning {
    /// Up to 8 bits, spread over 0 to 255.
    Grey {
        white_is_zero: bool,
    },
    /// Numbers that are clipped to 0 to 255.
    Unsigned,
    Signed,
    Float,
    Palette(Box<Palette>),
    Rgb {
        premultiplied: bool,
    },
    /// JPEG, whose decoder makes it RGB.
    YCbCr,
    Cmyk,
}

impl Color {
    pub(super) fn of(directory: &Directory<'_>) -> Result<Self, Fault> {
        let photometric = directory.number(tag::PHOTOMETRIC)?.unwrap_or(0);
        let compression = directory.number(tag::COMPRESSION)?.unwrap_or(1);
        let depths = directory.numbers(tag::BITS)?;
        let bits = depths.first().copied().unwrap_or(1);
        let samples = directory.number(tag::SAMPLES)?.unwrap_or(1);
        let format = directory.number(tag::SAMPLE_FORMAT)?.unwrap_or(1);
        let extra = directory.numbers(tag::EXTRA_SAMPLES)?;
        let unsupported = || {
            Fault::Broken(format!(
                "TIFF with {samples} samples of {bits} bits, interpretation {photometric}, format {format} is not supported"
            ))
        };
        if depths.iter().any(|&depth| depth != bits) || !(1..=6).contains(&samples) {
            return Err(unsupported());
        }
        let meaning = match (photometric, bits, samples, format) {
            (0 | 1, 1 | 2 | 4 | 8, 1, 1) | (1, 8, 1, 2) | (1, 8, 2, 1) => {
                Meaning::Grey { white_is_zero: photometric == 0 }
            }
            (0 | 1, 12 | 16, 1, 1) => Meaning::Unsigned,
            (1, 16, 1, 2) | (1, 32, 1, 1 | 2) => Meaning::Signed,
            (0 | 1, 32, 1, 3) => Meaning::Float,
            (2, 8 | 16, 3..=6, 1) => Meaning::Rgb { premultiplied: samples > 3 && extra.first() == Some(&1) },
            (3, 1 | 2 | 4, 1, 1) | (3, 8, 1 | 2, 1) => Meaning::Palette(Box::new(palette(directory)?)),
            (5, 8 | 16, 4..=6, 1) => Meaning::Cmyk,
            (6, 8, 1, 1) => Meaning::Grey { white_is_zero: false },
            (6, 8, 3, 1) if compression == 7 => Meaning::YCbCr,
            _ => return Err(unsupported()),
        };
        let (bits, samples) = (bits as usize, samples as usize);
        Ok(Self { meaning, bits, samples, big_endian: directory.big_endian })
    }

    /// Whether samples are YCbCr that the JPEG decoder must convert.
    pub(super) fn is_ycbcr(&self) -> bool {
        matches!(self.meaning, Meaning::YCbCr)
    }

    /// `rows` holds `height` rows, each padded to whole bytes.
    pub(super) fn convert(&self, width: u32, height: u32, rows: &[u8]) -> Result<RgbImage, Fault> {
        let row_bytes = (width as usize * self.samples * self.bits).div_ceil(8);
        let pixel_bytes = self.samples * self.bits / 8;
        // Indices and greys below 8 bits have one sample; of two samples the first counts.
        let count = width as usize;
        let small = || {
            let (depth, step) = (self.bits, self.samples);
            rows.chunks_exact(row_bytes).flat_map(move |row| samples(row, depth, count * step).step_by(step))
        };
        let pixels = || rows.chunks_exact(pixel_bytes);
        match &self.meaning {
            Meaning::Grey { white_is_zero } => {
                let scale = 255 / ((1_u16 << self.bits) - 1) as u8;
                let flip = if *white_is_zero { 255 } else { 0 };
                from_pixels(width, height, small().map(|level| [(level * scale) ^ flip; 3]))
            }
            Meaning::Palette(palette) => from_pixels(width, height, small().map(|index| palette[usize::from(index)])),
            Meaning::Unsigned if self.bits == 12 => {
                let rows = rows.chunks_exact(row_bytes);
                from_pixels(width, height, rows.flat_map(|row| (0..count).map(|x| clip(twelve_bits(row, x)))))
            }
            Meaning::Unsigned => from_pixels(width, height, pixels().map(|pixel| clip(self.number(pixel)))),
            Meaning::Signed => {
                let shift = 64 - self.bits;
                from_pixels(width, height, pixels().map(|pixel| clip(self.number(pixel) << shift >> shift)))
            }
            Meaning::Float => {
                let level = |pixel| f32::from_bits(self.number(pixel) as u32) as u8;
                from_pixels(width, height, pixels().map(|pixel| [level(pixel); 3]))
            }
            Meaning::YCbCr | Meaning::Rgb { premultiplied: false } => {
                from_pixels(width, height, pixels().map(|pixel| self.high_bytes(pixel)))
            }
            Meaning::Rgb { premultiplied: true } => {
                from_pixels(width, height, pixels().map(|pixel| straight(self.high_bytes(pixel))))
            }
            Meaning::Cmyk => from_pixels(width, height, pixels().map(|pixel| cmyk(self.high_bytes(pixel)))),
        }
    }

    /// The first samples of a pixel, without the low byte of 16 bits.
    fn high_bytes<const N: usize>(&self, pixel: &[u8]) -> [u8; N] {
        let size = self.bits / 8;
        let high = if self.big_endian { 0 } else { size - 1 };
        std::array::from_fn(|i| pixel[i * size + high])
    }

    fn number(&self, pixel: &[u8]) -> i64 {
        let join = |value: i64, &byte: &u8| value << 8 | i64::from(byte);
        match self.big_endian {
            true => pixel.iter().fold(0, join),
            false => pixel.iter().rev().fold(0, join),
        }
    }
}

fn twelve_bits(row: &[u8], x: usize) -> i64 {
    let at = x / 2 * 3;
    let byte = |i: usize| i64::from(row.get(at + i).copied().unwrap_or(0));
    match x % 2 {
        0 => byte(0) << 4 | byte(1) >> 4,
        _ => (byte(1) & 15) << 8 | byte(2),
    }
}

/// Undoes the multiplication by alpha, rounding down.
fn straight([r, g, b, a]: [u8; 4]) -> [u8; 3] {
    match a {
        0 => [0; 3],
        255 => [r, g, b],
        _ => [r, g, b].map(|level| (u32::from(level) * 255 / u32::from(a)).min(255) as u8),
    }
}

/// All reds, then all greens, then all blues, of 16 bits each.
fn palette(directory: &Directory<'_>) -> Result<Palette, Fault> {
    let values = directory.numbers(tag::PALETTE)?;
    if values.is_empty() {
        return Err(Fault::broken("the TIFF file has a palette image and no palette"));
    }
    let colors = values.len() / 3;
    let mut palette = [[0; 3]; 256];
    for (i, color) in palette.iter_mut().enumerate().take(colors) {
        *color = std::array::from_fn(|channel| (values[channel * colors + i] >> 8) as u8);
    }
    Ok(palette)
}
