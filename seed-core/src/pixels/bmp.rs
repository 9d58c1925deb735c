//! BMP: bytes -> RGB, with Pillow's reading of the format.
//!
//! Differs from it in one case: with fewer than 8 bits a pixel and a palette that counts up from black, Pillow takes
//! bytes for pixels, and fails or shows noise. Here the bits are read as they stand.
//!
//! A palette of black and white means one bit a pixel, whatever the header says. 5 and 6 bits of a channel become
//! `level * 255 / 31` and `/ 63`, rounded down. In run-length encoded images an odd run of 4-bit pixels takes the
//! bytes that Pillow takes, one less than the format says.

use image::RgbImage;

use super::bytes::{Bytes, samples};
use super::decode::{Fault, Limits, Palette, from_pixels};

/// How a pixel is stored.
enum Layout {
    Indexed {
        depth: usize,
        palette: Box<Palette>,
    },
    RunLength {
        four_bits: bool,
        palette: Box<Palette>,
    },
    /// 16 bits, the number of them that are green.
    Packed {
        green: u32,
    },
    /// Bytes of a pixel, and the place of red, green and blue among them.
    Bytes {
        size: usize,
        rgb: [usize; 3],
    },
}

struct Header {
    width: u32,
    height: u32,
    top_down: bool,
    bits: u16,
    compression: u32,
    colors: u32,
    /// Masks of red, green, blue and alpha.
    masks: [u32; 4],
    core: bool,
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Fault> {
    let mut bytes = Bytes { all: bytes, at: 10 };
    let offset = bytes.u32_le()? as usize;
    let header = header(&mut bytes)?;
    limits.admit(header.width, header.height)?;
    let palette_at = bytes.at;
    let layout = layout(&header, &mut bytes)?;

    let mut start = if offset == 0 { bytes.at } else { offset };
    if offset == palette_at && header.bits <= 8 {
        start = palette_at.saturating_add(4 * header.colors as usize);
    }
    bytes.at = start;
    rows(&header, &layout, bytes)
}

fn header(bytes: &mut Bytes<'_>) -> Result<Header, Fault> {
    let size = bytes.u32_le()?;
    let mut data = Bytes::new(bytes.take(size.saturating_sub(4) as usize)?);
    if size == 12 {
        let [width, height, _planes, bits] = [data.u16_le()?, data.u16_le()?, data.u16_le()?, data.u16_le()?];
        let (width, height, colors) = (width.into(), height.into(), 1_u32.checked_shl(bits.into()).unwrap_or(0));
        return Ok(Header { width, height, top_down: false, bits, compression: 0, colors, masks: [0; 4], core: true });
    }
    if !matches!(size, 40 | 52 | 56 | 64 | 108 | 124) {
        return Err(Fault::Broken(format!("a BMP header of {size} bytes is not supported")));
    }
    let (width, height) = (data.u32_le()?, data.u32_le()?);
    let top_down = height >> 24 == 0xff;
    let height = if top_down { height.wrapping_neg() } else { height };
    let (_planes, bits) = (data.u16_le()?, data.u16_le()?);
    let compression = data.u32_le()?;
    data.take(12)?; // size of the data and resolution
    let colors = match data.u32_le()? {
        0 => 1_u32.checked_shl(bits.into()).unwrap_or(0),
        colors => colors,
    };
    data.take(4)?; // important colours
    let mut masks = [0; 4];
    if compression == 3 {
        // A header of 40 bytes is followed by three masks; longer ones hold them, and alpha's.
        let mut source = if size == 40 { bytes.clone() } else { data };
        let count = if size < 56 { 3 } else { 4 };
        for mask in &mut masks[..count] {
            *mask = source.u32_le()?;
        }
        if size == 40 {
            bytes.at = source.at;
        }
    }
    Ok(Header { width, height, top_down, bits, compression, colors, masks, core: false })
}

/// Reads the palette, if there is one.
fn layout(header: &Header, bytes: &mut Bytes<'_>) -> Result<Layout, Fault> {
    let unsupported = || {
        let Header { bits, compression, .. } = header;
        Fault::Broken(format!("BMP with {bits} bits a pixel and compression {compression} is not supported"))
    };
    match (header.bits, header.compression) {
        (1 | 4 | 8, 0..=2) => {}
        (16, 0) => return Ok(Layout::Packed { green: 5 }),
        (24, 0) => return Ok(Layout::Bytes { size: 3, rgb: [2, 1, 0] }),
        (32, 0) => return Ok(Layout::Bytes { size: 4, rgb: [2, 1, 0] }),
        (16 | 24 | 32, 3) => return masked(header).ok_or_else(unsupported),
        _ => return Err(unsupported()),
    }
    let Header { colors, bits, compression, .. } = *header;
    if !(1..=65_536).contains(&colors) {
        return Err(Fault::Broken(format!("a BMP palette of {colors} colours is not supported")));
    }
    let padding = if header.core { 3 } else { 4 };
    // A palette that the file cuts short is black from there on.
    let data = bytes.rest();
    let data = &data[..data.len().min(padding * colors as usize)];
    bytes.at += data.len();
    let mut palette = Box::new([[0; 3]; 256]);
    for (color, data) in palette.iter_mut().zip(data.chunks_exact(padding)) {
        *color = [data[2], data[1], data[0]];
    }
    let complete = data.len() / padding == colors as usize && colors <= 256;
    let grey = |(i, &color): (usize, &[u8; 3])| color == [if colors == 2 { 255 * i as u8 } else { i as u8 }; 3];
    let grey = complete && palette.iter().take(colors as usize).enumerate().all(grey);
    if grey && colors != 2 {
        // Pillow drops such a palette: indices are levels, also those beyond the palette.
        *palette = std::array::from_fn(|level| [level as u8; 3]);
    }
    Ok(match compression {
        0 => Layout::Indexed { depth: if grey && colors == 2 { 1 } else { bits.into() }, palette },
        _ => Layout::RunLength { four_bits: compression == 2, palette },
    })
}

/// The channel layouts that Pillow knows.
fn masked(header: &Header) -> Option<Layout> {
    let rgb = match (header.bits, header.masks) {
        (16, [0xf800, 0x7e0, 0x1f, _]) => return Some(Layout::Packed { green: 6 }),
        (16, [0x7c00, 0x3e0, 0x1f, _]) => return Some(Layout::Packed { green: 5 }),
        (24, [0xff_0000, 0xff00, 0xff, _]) => return Some(Layout::Bytes { size: 3, rgb: [2, 1, 0] }),
        (32, [0xff_0000, 0xff00, 0xff, 0 | 0xff00_0000] | [0, 0, 0, 0]) => [2, 1, 0],
        (32, [0xff00_0000, 0xff_0000, 0xff00, 0 | 0xff]) => [3, 2, 1],
        (32, [0xff00_0000, 0xff00, 0xff, 0 | 0xff_0000]) => [3, 1, 0],
        (32, [0xff, 0xff00, 0xff_0000, 0xff00_0000]) => [0, 1, 2],
        _ => return None,
    };
    Some(Layout::Bytes { size: 4, rgb })
}

fn rows(header: &Header, layout: &Layout, bytes: Bytes<'_>) -> Result<RgbImage, Fault> {
    let (width, height) = (header.width as usize, header.height as usize);
    let unpacked;
    let (data, stride, row_bytes) = match layout {
        Layout::RunLength { four_bits, .. } => {
            unpacked = run_length(bytes, *four_bits, width, height)?;
            (&unpacked[..], width, width)
        }
        _ => {
            let stride = (width * usize::from(header.bits)).div_ceil(32) * 4;
            let bits = match layout {
                Layout::Indexed { depth, .. } => *depth,
                _ => header.bits.into(),
            };
            (bytes.rest(), stride, (width * bits).div_ceil(8))
        }
    };
    let at = |y: usize| stride * if header.top_down { y } else { height - 1 - y };
    if data.len() < stride * (height - 1) + row_bytes || row_bytes > stride {
        return Err(Fault::Cut);
    }
    let rows = (0..height).map(|y| &data[at(y)..][..row_bytes]);
    let (width, height) = (header.width, header.height);
    match layout {
        Layout::Indexed { depth, palette } => {
            let indices = rows.flat_map(|row| samples(row, *depth, width as usize));
            from_pixels(width, height, indices.map(|index| palette[usize::from(index)]))
        }
        Layout::RunLength { palette, .. } => {
            from_pixels(width, height, rows.flatten().map(|&index| palette[usize::from(index)]))
        }
        Layout::Packed { green } => {
            let pixels = rows.flat_map(|row| row.chunks_exact(2));
            from_pixels(width, height, pixels.map(|pixel| packed(u16::from_le_bytes([pixel[0], pixel[1]]), *green)))
        }
        Layout::Bytes { size, rgb } => {
            let pixels = rows.flat_map(|row| row.chunks_exact(*size));
            from_pixels(width, height, pixels.map(|pixel| rgb.map(|channel| pixel[channel])))
        }
    }
}

fn packed(pixel: u16, green: u32) -> [u8; 3] {
    let channel = |shift: u32, bits: u32| {
        let most = (1_u32 << bits) - 1;
        ((u32::from(pixel) >> shift & most) * 255 / most) as u8
    };
    [channel(5 + green, 5), channel(5, green), channel(0, 5)]
}

/// Indices of run-length encoded rows, in the order of the file.
fn run_length(mut bytes: Bytes<'_>, four_bits: bool, width: usize, height: usize) -> Result<Vec<u8>, Fault> {
    let wanted = width * height;
    let mut data = Vec::with_capacity(wanted);
    let mut x = 0;
    while data.len() < wanted {
        let (count, value) = (usize::from(bytes.u8()?), bytes.u8()?);
        match (count, value) {
            (0, 0) => {
                data.resize(data.len().next_multiple_of(width), 0);
                x = 0;
            }
            (0, 1) => break,
            (0, 2) => {
                let (right, up) = (usize::from(bytes.u8()?), usize::from(bytes.u8()?));
                data.resize((data.len() + right + up * width).min(wanted), 0);
                x = data.len() % width;
            }
            (0, count) => {
                let literal = bytes.take(usize::from(if four_bits { count / 2 } else { count }))?;
                match four_bits {
                    true => data.extend(literal.iter().flat_map(|&pair| [pair >> 4, pair & 15])),
                    false => data.extend_from_slice(literal),
                }
                x += usize::from(count);
                bytes.at += bytes.at % 2; // literals are padded to an even place in the file
            }
            (count, value) => {
                let count = count.min(width.saturating_sub(x)); // a run ends with its row
                let pair = if four_bits { [value >> 4, value & 15] } else { [value; 2] };
                data.extend(pair.into_iter().cycle().take(count));
                x += count;
            }
        }
    }
    data.resize(wanted, 0); // an early end leaves the rest to colour 0, and the last run may reach beyond
    Ok(data)
}
