//! WebP: bytes -> RGB. An animation gives its first frame on a black canvas.
//!
//! The container is parsed here and the bitstream of the first image alone is decoded: alpha is dropped whatever its
//! encoding, and the first frame of an animation is never blended, as in libwebp's `WebPAnimDecoder`.

use std::io::{Cursor, ErrorKind};

use image::RgbImage;
use image_webp::{DecodingError, WebPDecoder};

use super::bytes::Bytes;
use super::decode::{Fault, Limits, from_data};

impl From<DecodingError> for Fault {
    fn from(error: DecodingError) -> Self {
        match error {
            DecodingError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => Self::Cut,
            error => Self::Broken(format!("the WebP data is damaged: {error}")),
        }
    }
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Fault> {
    let mut header = Bytes { all: bytes, at: 4 };
    let size = header.u32_le()? as usize;
    let mut chunks = Bytes::new(bytes.get(12..size.saturating_add(8)).ok_or(Fault::Cut)?);
    let mut canvas = None;
    while !chunks.rest().is_empty() {
        let (kind, data) = chunk(&mut chunks)?;
        match &kind {
            b"VP8X" => {
                let mut data = Bytes { all: data, at: 4 };
                let (width, height) = (u24(&mut data)? + 1, u24(&mut data)? + 1);
                limits.admit(width, height)?;
                canvas = Some((width, height));
            }
            b"ANMF" => return first_frame(data, canvas, limits),
            b"VP8 " | b"VP8L" => return bitstream(kind, data, limits),
            _ => {}
        }
    }
    Err(Fault::broken("the WebP file holds no image"))
}

/// Name and content of the next chunk; chunks are padded to an even length.
fn chunk<'a>(bytes: &mut Bytes<'a>) -> Result<([u8; 4], &'a [u8]), Fault> {
    let mut kind = [0; 4];
    kind.copy_from_slice(bytes.take(4)?);
    let size = bytes.u32_le()? as usize;
    let data = bytes.take(size)?;
    bytes.at += size % 2;
    Ok((kind, data))
}

fn u24(bytes: &mut Bytes<'_>) -> Result<u32, Fault> {
    let [low, high] = [bytes.u16_le()?, u16::from(bytes.u8()?)];
    Ok(u32::from(high) << 16 | u32::from(low))
}

fn first_frame(data: &[u8], canvas: Option<(u32, u32)>, limits: &Limits) -> Result<RgbImage, Fault> {
    let mut chunks = Bytes::new(data);
    let (x, y) = (2 * u24(&mut chunks)?, 2 * u24(&mut chunks)?);
    chunks.take(10)?; // size, which the bitstream repeats, duration and blending
    loop {
        let (kind, data) = chunk(&mut chunks)?;
        if matches!(&kind, b"VP8 " | b"VP8L") {
            let frame = bitstream(kind, data, limits)?;
            let (width, height) = canvas.ok_or_else(|| Fault::broken("the WebP animation has no canvas"))?;
            if x + frame.width() > width || y + frame.height() > height {
                return Err(Fault::broken("the first frame of the WebP animation exceeds its canvas"));
            }
            let mut image = RgbImage::new(width, height);
            image::imageops::replace(&mut image, &frame, x.into(), y.into());
            return Ok(image);
        }
    }
}

/// Decodes one bitstream, as a file of its own.
fn bitstream(kind: [u8; 4], data: &[u8], limits: &Limits) -> Result<RgbImage, Fault> {
    let mut file = Vec::with_capacity(data.len() + 21);
    file.extend_from_slice(b"RIFF");
    file.extend_from_slice(&(data.len() as u32 + data.len() as u32 % 2 + 12).to_le_bytes());
    file.extend_from_slice(b"WEBP");
    file.extend_from_slice(&kind);
    file.extend_from_slice(&(data.len() as u32).to_le_bytes());
    file.extend_from_slice(data);
    file.resize(file.len() + data.len() % 2, 0);

    let mut decoder = WebPDecoder::new(Cursor::new(file))?;
    let (width, height) = decoder.dimensions();
    limits.admit(width, height)?;
    let mut pixels = vec![0; decoder.output_buffer_size().ok_or(Fault::TooLarge { width, height })?];
    decoder.read_image(&mut pixels)?;
    if decoder.has_alpha() {
        pixels = pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    }
    from_data(width, height, pixels)
}
