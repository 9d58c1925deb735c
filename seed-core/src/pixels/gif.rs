//! GIF: bytes -> RGB of the first frame, as Pillow shows it.
//!
//! The canvas is the logical screen, grown to hold the frame. Outside of the frame lies the transparent colour if
//! there is one, else colour 0. A palette that is the grey ramp is the same as no palette: its length does not matter
//! then, and a frame with such a palette of its own takes the colours of the whole file.

use image::RgbImage;
use weezl::{BitOrder, LzwStatus, decode::Decoder};

use super::bytes::Bytes;
use super::decode::{Fault, Limits, Palette, from_pixels};
use super::png::palette;

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Fault> {
    let mut bytes = Bytes { all: bytes, at: 6 };
    let screen = [bytes.u16_le()?, bytes.u16_le()?].map(usize::from);
    let flags = bytes.u8()?;
    bytes.take(2)?; // background colour and aspect ratio
    let mut colors = color_table(&mut bytes, flags)?.unwrap_or_else(grey_ramp);

    let mut background = 0;
    loop {
        match bytes.u8() {
            Ok(b'!') => background = extension(&mut bytes)?.unwrap_or(background),
            Ok(b',') => break,
            Ok(b';') | Err(_) => return Err(Fault::broken("the GIF file holds no image")),
            Ok(_) => {}
        }
    }

    let [left, top] = [bytes.u16_le()?, bytes.u16_le()?].map(usize::from);
    let [width, height] = [bytes.u16_le()?, bytes.u16_le()?].map(usize::from);
    let canvas = [screen[0].max(left + width), screen[1].max(top + height)];
    let size = canvas.map(|side| side as u32); // at most 2 * 65,535
    limits.admit(size[0], size[1])?;
    let flags = bytes.u8()?;
    match color_table(&mut bytes, flags)? {
        Some(local) if local != grey_ramp() => colors = local,
        _ => {}
    }

    let mut indices = vec![background; canvas[0] * canvas[1]];
    if width > 0 && height > 0 {
        let pixels = pixels(&mut bytes, width * height)?;
        let order = row_order(height, flags & 0x40 != 0);
        for (row, y) in pixels.chunks_exact(width).zip(order) {
            indices[(top + y) * canvas[0] + left..][..width].copy_from_slice(row);
        }
    }
    from_pixels(size[0], size[1], indices.iter().map(|&index| colors[usize::from(index)]))
}

/// The colour table that follows a descriptor, if its flags announce one.
fn color_table(bytes: &mut Bytes<'_>, flags: u8) -> Result<Option<Palette>, Fault> {
    if flags & 0x80 == 0 {
        return Ok(None);
    }
    let colors = palette(bytes.take(6 << (flags & 7))?);
    let grey = grey_ramp();
    let announced = 2 << (flags & 7);
    Ok(Some(if colors[..announced] == grey[..announced] { grey } else { colors }))
}

fn grey_ramp() -> Palette {
    std::array::from_fn(|level| [level as u8; 3])
}

/// Reads an extension; the graphic control extension may name a transparent colour.
fn extension(bytes: &mut Bytes<'_>) -> Result<Option<u8>, Fault> {
    let label = bytes.u8()?;
    let mut transparent = None;
    let mut first = true;
    loop {
        let size = bytes.u8()?;
        let block = bytes.take(usize::from(size))?;
        match block {
            [] => return Ok(transparent),
            &[flags, _, _, color, ..] if first && label == 0xf9 && flags & 1 != 0 => transparent = Some(color),
            _ => {}
        }
        first = false;
    }
}

/// Exactly `count` colour indices of the LZW data that follows.
fn pixels(bytes: &mut Bytes<'_>, count: usize) -> Result<Vec<u8>, Fault> {
    let bits = bytes.u8()?;
    if !(1..=11).contains(&bits) {
        return Err(Fault::Broken(format!("the GIF data is damaged: codes of {bits} bits")));
    }
    let mut decoder = Decoder::new(BitOrder::Lsb, bits);
    let mut pixels = vec![0; count];
    let mut done = 0;
    loop {
        let size = bytes.u8()?;
        let mut block = bytes.take(usize::from(size))?;
        loop {
            // Also without input: the decoder holds back bits.
            let step = decoder.decode_bytes(block, &mut pixels[done..]);
            block = &block[step.consumed_in..];
            done += step.consumed_out;
            if done == count {
                return Ok(pixels);
            }
            match step.status {
                Ok(LzwStatus::Ok) => {}
                Ok(LzwStatus::NoProgress) => break,
                Ok(LzwStatus::Done) => return Err(Fault::Cut),
                Err(error) => return Err(Fault::Broken(format!("the GIF data is damaged: {error}"))),
            }
        }
        if size == 0 {
            return Err(Fault::Cut);
        }
    }
}

/// The place of each row in the order of the file.
fn row_order(height: usize, interlaced: bool) -> Vec<usize> {
    if !interlaced {
        return (0..height).collect();
    }
    [(0, 8), (4, 8), (2, 4), (1, 2)].into_iter().flat_map(|(first, step)| (first..height).step_by(step)).collect()
}
