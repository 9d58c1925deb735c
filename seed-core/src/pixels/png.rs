//! PNG: bytes -> RGB, and RGB -> file.
//!
//! As Pillow reads it: greys of 1, 2 and 4 bits are spread over 0 to 255, grey of 16 bits is clipped to 255, other
//! channels of 16 bits lose their low byte, transparency is dropped, an animation gives its default image.

use std::io::{Cursor, ErrorKind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ::png::{BitDepth, ColorType, Decoder, DecodingError, Encoder, EncodingError, Transformations};
use image::RgbImage;

use super::bytes::samples;
use super::decode::{Fault, Limits, Palette, clip, from_pixels};
use crate::error::{Error, Result};

impl From<DecodingError> for Fault {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => Self::Cut,
            error => Self::Broken(format!("the PNG data is damaged: {error}")),
        }
    }
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Fault> {
    let mut decoder = Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info()?;
    let (width, height) = (header.width, header.height);
    limits.admit(width, height)?;
    // Rows are buffered, so the library's own limit must grow with the width.
    decoder.set_limits(::png::Limits { bytes: (64 << 20) + 64 * width as usize });
    let mut reader = decoder.read_info()?;
    let mut data = vec![0; reader.output_buffer_size().ok_or(Fault::TooLarge { width, height })?];
    let frame = reader.next_frame(&mut data)?;

    let count = width as usize;
    let rows = data.chunks_exact(frame.line_size);
    let depth = match frame.bit_depth {
        BitDepth::Sixteen => 16,
        depth => depth as usize,
    };
    match (frame.color_type, depth) {
        (ColorType::Grayscale, 16) => from_pixels(width, height, data.chunks_exact(2).map(clip_16)),
        (ColorType::Grayscale, _) => {
            let scale = 255 / ((1_u16 << depth) - 1) as u8;
            from_pixels(width, height, rows.flat_map(|row| samples(row, depth, count)).map(|level| [level * scale; 3]))
        }
        (ColorType::Indexed, 16) => Err(Fault::broken("a PNG palette has at most 8 bits")),
        (ColorType::Indexed, _) => {
            let palette = palette(reader.info().palette.as_deref().unwrap_or_default());
            let indices = rows.flat_map(|row| samples(row, depth, count));
            from_pixels(width, height, indices.map(|index| palette[usize::from(index)]))
        }
        (color, depth) => {
            let bytes = depth / 8;
            let pixels = data.chunks_exact(color.samples() * bytes);
            match color {
                ColorType::GrayscaleAlpha => from_pixels(width, height, pixels.map(|pixel| [pixel[0]; 3])),
                _ => from_pixels(width, height, pixels.map(|pixel| [pixel[0], pixel[bytes], pixel[2 * bytes]])),
            }
        }
    }
}

fn clip_16(level: &[u8]) -> [u8; 3] {
    clip(i64::from(level[0]) << 8 | i64::from(level[1]))
}

/// A palette from red, green, blue of each colour.
pub(super) fn palette(data: &[u8]) -> Palette {
    let mut palette = [[0; 3]; 256];
    for (color, data) in palette.iter_mut().zip(data.chunks_exact(3)) {
        color.copy_from_slice(data);
    }
    palette
}

/// Writes an image as PNG, beside its place and then renamed into it, so that no reader sees half a file.
///
/// # Errors
/// [`Error::Write`] when the folder does not exist, is not writable or is full.
///
/// # Panics
/// When the image is empty.
pub fn write_png(path: &Path, image: &RgbImage) -> Result<()> {
    write_whole(path, to_png(image))
}

/// As [`write_png`], with a text that readers of PNG find under `keyword` (an iTXt chunk; in Pillow `image.text[keyword]`).
///
/// # Errors
/// As [`write_png`].
///
/// # Panics
/// When the image is empty, or the keyword is or is longer than 79 characters of Latin-1.
pub fn write_png_with_text(path: &Path, image: &RgbImage, keyword: &str, text: &str) -> Result<()> {
    write_whole(path, encode(image, Some((keyword, text))).expect("the image is not empty and the keyword is allowed"))
}

fn write_whole(path: &Path, data: Vec<u8>) -> Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unique = format!(".{name}.{}-{}.part", std::process::id(), WRITTEN.fetch_add(1, Relaxed));
    let beside = path.with_file_name(unique);
    let written = std::fs::write(&beside, data).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|source| {
        let _ = std::fs::remove_file(&beside);
        Error::Write { path: path.to_owned(), source }
    })
}

/// An image as the bytes of a PNG file; the same bytes for the same image.
///
/// # Panics
/// When the image is empty.
pub fn to_png(image: &RgbImage) -> Vec<u8> {
    encode(image, None).expect("memory takes any image that is not empty")
}

fn encode(image: &RgbImage, text: Option<(&str, &str)>) -> std::result::Result<Vec<u8>, EncodingError> {
    let mut data = Vec::new();
    let mut encoder = Encoder::new(&mut data, image.width(), image.height());
    encoder.set_color(ColorType::Rgb);
    if let Some((keyword, text)) = text {
        encoder.add_itxt_chunk(keyword.to_owned(), text.to_owned())?;
    }
    encoder.write_header()?.write_image_data(image.as_raw())?;
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image.png");
        let image = RgbImage::from_fn(7, 5, |x, y| image::Rgb([x as u8 * 30, y as u8 * 50, 9]));
        for _ in 0..2 {
            write_png(&path, &image).unwrap();
            assert_eq!(decode(&std::fs::read(&path).unwrap(), &Limits::default()).unwrap(), image);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        let missing = folder.path().join("missing").join("image.png");
        let error = write_png(&missing, &image).unwrap_err().to_string();
        assert!(error.contains("missing") && error.contains("check that the folder exists"), "{error}");
    }
}
