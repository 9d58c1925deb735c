//! Image file bytes -> RGB `[height, width, 3]`, exactly as Pillow's `Image.open(f).convert("RGB")`.
//!
//! The format is found in the content, never in the file's name. Sizes are read from the header and held against
//! [`Limits`] before memory is taken for pixels.

use std::path::Path;

use image::RgbImage;

use super::{bmp, gif, jpeg, png, tiff, webp};
use crate::error::{Error, Result};

/// What an image may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest number of pixels.
    pub max_pixels: u64,
}

impl Default for Limits {
    /// The size above which Pillow refuses an image as a decompression bomb, 178,956,970 pixels.
    fn default() -> Self {
        Self { max_pixels: 178_956_970 }
    }
}

impl Limits {
    /// Checks a size from a header.
    pub(super) fn admit(&self, width: u32, height: u32) -> Result<(), Fault> {
        if width == 0 || height == 0 {
            return Err(Fault::Broken(format!("its size is {width} x {height} pixels")));
        }
        match u64::from(width) * u64::from(height) <= self.max_pixels {
            true => Ok(()),
            false => Err(Fault::TooLarge { width, height }),
        }
    }
}

/// Why a decoder gave up; [`decode`] adds the name of the image.
#[derive(Debug)]
pub(super) enum Fault {
    /// The bytes end before the image does.
    Cut,
    /// The bytes contradict the format, or use a part of it that is not supported.
    Broken(String),
    /// [`Limits`] refuse the size.
    TooLarge { width: u32, height: u32 },
}

impl Fault {
    pub(super) fn broken(reason: impl Into<String>) -> Self {
        Self::Broken(reason.into())
    }
}

/// Decodes the first image of a file.
///
/// `name` stands in messages: the path, or what else tells the image from others.
///
/// # Errors
/// [`Error::Image`] for bytes that are empty, no image of an accepted format, damaged or cut off;
/// [`Error::ImageTooLarge`] beyond the limits.
pub fn decode(bytes: &[u8], name: &str, limits: &Limits) -> Result<RgbImage> {
    by_content(bytes, limits).map_err(|fault| {
        let name = name.to_owned();
        match fault {
            Fault::Cut => {
                Error::Image { name, reason: "it is cut off before the image ends; copy it again".to_owned() }
            }
            Fault::Broken(reason) => Error::Image { name, reason },
            Fault::TooLarge { width, height } => Error::ImageTooLarge { name, width, height, limit: limits.max_pixels },
        }
    })
}

/// Reads and decodes a file.
///
/// # Errors
/// [`Error::Read`] for a file that cannot be read, and those of [`decode`].
pub fn open(path: &Path, limits: &Limits) -> Result<RgbImage> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    decode(&bytes, &path.display().to_string(), limits)
}

fn by_content(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Fault> {
    match bytes {
        [] => Err(Fault::broken("it is empty")),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png::decode(bytes, limits),
        [0xff, 0xd8, 0xff, ..] => jpeg::decode(bytes, limits),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => webp::decode(bytes, limits),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => gif::decode(bytes, limits),
        [b'B', b'M', ..] => bmp::decode(bytes, limits),
        [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => tiff::decode(bytes, limits),
        _ => {
            let found = refused(bytes).unwrap_or("not an image");
            Err(Fault::Broken(format!("it is {found}; accepted formats are PNG, JPEG, WebP, GIF, BMP and TIFF")))
        }
    }
}

/// What a file is that is often found where images are expected.
fn refused(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    Some(match bytes {
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] if brand.starts_with(b"avi") => "AVIF",
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] if brand.starts_with(b"he") || brand.starts_with(b"mif1") => {
            "HEIF"
        }
        [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => "JPEG XL",
        [0, 0, 0, 12, b'j', b'P', b' ', b' ', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => "JPEG 2000",
        [b'q', b'o', b'i', b'f', ..] => "QOI",
        [b'%', b'P', b'D', b'F', ..] => "PDF",
        _ if text.starts_with(b"<") => "a web page or a vector image",
        _ => return None,
    })
}

/// 256 colours; those that the file does not set are black, as in Pillow.
pub(super) type Palette = [[u8; 3]; 256];

/// An image from one colour for each pixel, row after row.
pub(super) fn from_pixels(
    width: u32,
    height: u32,
    pixels: impl IntoIterator<Item = [u8; 3]>,
) -> Result<RgbImage, Fault> {
    let mut data = Vec::with_capacity(3 * width as usize * height as usize);
    pixels.into_iter().for_each(|pixel| data.extend_from_slice(&pixel));
    from_data(width, height, data)
}

/// An image from its bytes.
pub(super) fn from_data(width: u32, height: u32, data: Vec<u8>) -> Result<RgbImage, Fault> {
    RgbImage::from_raw(width, height, data).ok_or(Fault::Cut)
}

/// Grey of any depth as 8 bits: Pillow keeps 16 bits and more as numbers and clips them.
pub(super) fn clip(level: i64) -> [u8; 3] {
    [level.clamp(0, 255) as u8; 3]
}

/// Pillow's CMYK to RGB, 0 is no ink: `255 - k`, less `c * (255 - k) / 255`, rounded.
pub(super) fn cmyk([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    let white = 255 - u32::from(k);
    [c, m, y].map(|ink| {
        let product = u32::from(ink) * white + 128;
        (white - (((product >> 8) + product) >> 8)) as u8
    })
}

#[cfg(test)]
mod tests;
