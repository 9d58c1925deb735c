//! TIFF: bytes -> RGB of the first image.
//!
//! ```text
//! directory -> chunks (strips or tiles), decompressed -> rows of stored samples -> RGB -> turned upright
//! ```
//! As Pillow with libtiff: classic and BigTIFF, both byte orders, strips and tiles, interleaved and planar; grey of 1
//! to 32 bits and float, palette, RGB, CMYK, YCbCr in JPEG; no compression, LZW, Deflate, PackBits, JPEG, CCITT group
//! 4.
//! Unlike the other formats a TIFF is turned upright, because Pillow does so while loading it.
//! Refused, with a message that says so: Lab, other YCbCr, old-style JPEG, group 3, Zstandard, LZMA and WebP inside
//! TIFF.
//! Differs where Pillow misreads: planar images of 16 bits, and compressed big-endian signed or float samples, come
//! out as they were stored.

mod chunks;
mod color;
mod directory;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};

use super::decode::{Fault, Limits};
use color::Color;
use directory::{Directory, tag};

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Fault> {
    let directory = Directory::first(bytes)?;
    let (width, height) = (directory.required(tag::WIDTH, "width")?, directory.required(tag::HEIGHT, "height")?);
    limits.admit(width, height)?;
    let color = Color::of(&directory)?;
    let rows = chunks::read(&directory, width, height, &color, limits)?;
    let image = color.convert(width, height, &rows)?;
    let orientation = directory.number(tag::ORIENTATION)?.and_then(|value| Orientation::from_exif(value as u8));
    let mut image = DynamicImage::ImageRgb8(image);
    image.apply_orientation(orientation.unwrap_or(Orientation::NoTransforms));
    Ok(image.into_rgb8())
}
