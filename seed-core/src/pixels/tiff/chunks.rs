//! Strips and tiles: compressed chunks -> rows of stored samples, interleaved, in the byte order of the file.

use std::io::Read;

use flate2::read::ZlibDecoder;
use weezl::{BitOrder, LzwStatus, decode::Decoder};

use super::super::decode::{Fault, Limits};
use super::super::jpeg::{self, Colors};
use super::color::Color;
use super::directory::{Directory, tag};

const LZW: u64 = 5;
const JPEG: u64 = 7;
const GROUP_4: u64 = 4;
const PACK_BITS: u64 = 32_773;

/// Where chunks lie in the image and in the file. Strips are tiles as wide as the image.
struct Chunks {
    width: usize,
    height: usize,
    offsets: Vec<u64>,
    sizes: Vec<u64>,
    tiled: bool,
}

/// What a chunk holds.
struct Content<'a> {
    compression: u64,
    predictor: u64,
    reversed: bool,
    tables: &'a [u8],
    /// Samples of a pixel in one chunk.
    samples: usize,
    bits: usize,
    /// JPEG that must be converted.
    ycbcr: bool,
}

/// All rows of the image: `height` times the bytes of `width` pixels, rows padded to whole bytes.
pub(super) fn read(
    directory: &Directory<'_>,
    width: u32,
    height: u32,
    color: &Color,
    limits: &Limits,
) -> Result<Vec<u8>, Fault> {
    let (image_width, image_height) = (width as usize, height as usize);
    let chunks = Chunks::of(directory, image_width, image_height)?;
    // Tiles may be larger than the image.
    limits.admit(chunks.width.try_into().unwrap_or(u32::MAX), chunks.height.try_into().unwrap_or(u32::MAX))?;
    let planes = if directory.number(tag::PLANAR)? == Some(2) { color.samples } else { 1 };
    if planes > 1 && !color.bits.is_multiple_of(8) {
        return Err(Fault::Broken(format!("planar TIFF with {} bits a sample is not supported", color.bits)));
    }
    let content = Content {
        compression: directory.number(tag::COMPRESSION)?.unwrap_or(1),
        predictor: directory.number(tag::PREDICTOR)?.unwrap_or(1),
        reversed: directory.number(tag::FILL_ORDER)? == Some(2),
        tables: directory.bytes(tag::JPEG_TABLES).unwrap_or_default(),
        samples: color.samples / planes,
        bits: color.bits,
        ycbcr: color.is_ycbcr() && planes == 1,
    };
    let (across, down) = (image_width.div_ceil(chunks.width), image_height.div_ceil(chunks.height));
    if chunks.offsets.len() < across * down * planes {
        return Err(Fault::broken("the TIFF file lists fewer strips or tiles than the image has"));
    }
    let row_bytes = (image_width * color.samples * color.bits).div_ceil(8);
    let mut image = vec![0; row_bytes * image_height];
    for (i, &offset) in chunks.offsets.iter().take(across * down * planes).enumerate() {
        let (plane, x, y) = (i / (across * down), i % across * chunks.width, i / across % down * chunks.height);
        let rows = chunks.height.min(image_height - y);
        let columns = chunks.width.min(image_width - x);
        let stored_rows = if chunks.tiled { chunks.height } else { rows };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let data = directory.file.get(start..).ok_or(Fault::Cut)?;
        let chunk_bytes = (chunks.width * content.samples * content.bits).div_ceil(8);
        let data = match chunks.sizes.get(i) {
            Some(&size) if content.compression != 1 => data.get(..size as usize).ok_or(Fault::Cut)?,
            _ => data,
        };
        let chunk = content.decompress(data, directory.big_endian, [chunks.width, stored_rows], limits)?;
        let kept = (columns * content.samples * content.bits).div_ceil(8);
        for (row, data) in chunk.chunks_exact(chunk_bytes).take(rows).enumerate() {
            let row = &mut image[(y + row) * row_bytes..][..row_bytes];
            match planes {
                1 => row[x * content.samples * content.bits / 8..][..kept].copy_from_slice(&data[..kept]),
                _ => interleave(&mut row[x * planes * color.bits / 8..], &data[..kept], color.bits / 8, planes, plane),
            }
        }
    }
    Ok(image)
}

/// Puts the samples of one plane into their places.
fn interleave(row: &mut [u8], data: &[u8], size: usize, planes: usize, plane: usize) {
    for (pixel, sample) in row.chunks_exact_mut(size * planes).zip(data.chunks_exact(size)) {
        pixel[plane * size..][..size].copy_from_slice(sample);
    }
}

impl Chunks {
    fn of(directory: &Directory<'_>, image_width: usize, image_height: usize) -> Result<Self, Fault> {
        let (mut offsets, mut sizes) = (directory.numbers(tag::STRIP_OFFSETS)?, directory.numbers(tag::STRIP_SIZES)?);
        let tiled = offsets.is_empty();
        let (mut width, mut height) = (image_width, image_height);
        if tiled {
            (offsets, sizes) = (directory.numbers(tag::TILE_OFFSETS)?, directory.numbers(tag::TILE_SIZES)?);
            width = directory.required(tag::TILE_WIDTH, "tile width")? as usize;
            height = directory.required(tag::TILE_HEIGHT, "tile height")? as usize;
            if width % 8 != 0 && width < image_width {
                return Err(Fault::Broken(format!("TIFF tiles of width {width} are not possible")));
            }
        } else if let Some(rows) = directory.number(tag::ROWS_PER_STRIP)? {
            height = usize::try_from(rows).unwrap_or(usize::MAX).min(image_height);
        }
        match width > 0 && height > 0 {
            true => Ok(Self { width, height, offsets, sizes, tiled }),
            false => Err(Fault::broken("the strips or tiles of the TIFF file are empty")),
        }
    }
}

impl Content<'_> {
    /// Exactly `rows` rows of `width` pixels.
    fn decompress(
        &self,
        data: &[u8],
        big_endian: bool,
        [width, rows]: [usize; 2],
        limits: &Limits,
    ) -> Result<Vec<u8>, Fault> {
        let row_bytes = (width * self.samples * self.bits).div_ceil(8);
        let wanted = row_bytes * rows;
        let reversed: Vec<u8>;
        let data = match self.reversed && self.compression != JPEG {
            true => {
                let needed = if self.compression == 1 { wanted.min(data.len()) } else { data.len() };
                reversed = data[..needed].iter().map(|byte| byte.reverse_bits()).collect();
                &reversed
            }
            false => data,
        };
        let mut chunk = match self.compression {
            1 => data.get(..wanted).ok_or(Fault::Cut)?.to_vec(),
            LZW => lzw(data, wanted)?,
            8 | 32_946 => deflate(data, wanted)?,
            PACK_BITS => pack_bits(data, wanted)?,
            JPEG => return self.jpeg(data, [width, rows], limits),
            GROUP_4 => group_4(data, width, rows)?,
            other => return Err(Fault::Broken(format!("TIFF compression {other} is not supported"))),
        };
        match (self.predictor, self.compression) {
            (2, LZW | 8 | 32_946) => add_previous(&mut chunk, row_bytes, self.samples, self.bits, big_endian)?,
            (3, LZW | 8 | 32_946) => join_floats(&mut chunk, row_bytes, self.samples, self.bits, big_endian)?,
            _ => {}
        }
        Ok(chunk)
    }

    /// A chunk is a JPEG stream whose tables may stand in a tag of their own.
    fn jpeg(&self, data: &[u8], [width, rows]: [usize; 2], limits: &Limits) -> Result<Vec<u8>, Fault> {
        let joined = match (self.tables, data) {
            ([tables @ .., 0xff, 0xd9], [0xff, 0xd8, data @ ..]) => [tables, data].concat(),
            _ => data.to_vec(),
        };
        let colors = if self.ycbcr { Colors::Converted } else { Colors::Stored };
        let image = jpeg::samples(&joined, limits, colors)?;
        let (image_width, image_rows) = (image.width as usize, image.height as usize);
        if self.bits != 8 || image.channels != self.samples || image_width != width || image_rows < rows {
            return Err(Fault::broken("a JPEG image in the TIFF file does not have the size of its strip or tile"));
        }
        Ok(image.data)
    }
}

fn lzw(data: &[u8], wanted: usize) -> Result<Vec<u8>, Fault> {
    let mut decoder = Decoder::with_tiff_size_switch(BitOrder::Msb, 8);
    let mut out = vec![0; wanted];
    let (mut read, mut done) = (0, 0);
    while done < wanted {
        let step = decoder.decode_bytes(&data[read..], &mut out[done..]);
        read += step.consumed_in;
        done += step.consumed_out;
        match step.status {
            Ok(LzwStatus::Ok) => {}
            Ok(LzwStatus::NoProgress | LzwStatus::Done) if done < wanted => return Err(Fault::Cut),
            Ok(_) => {}
            Err(error) => return Err(Fault::Broken(format!("the LZW data is damaged: {error}"))),
        }
    }
    Ok(out)
}

fn deflate(data: &[u8], wanted: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::new();
    let read = ZlibDecoder::new(data).take(wanted as u64).read_to_end(&mut out);
    match read {
        Ok(count) if count == wanted => Ok(out),
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            Err(Fault::Broken(format!("the Deflate data is damaged: {error}")))
        }
        _ => Err(Fault::Cut),
    }
}

fn pack_bits(data: &[u8], wanted: usize) -> Result<Vec<u8>, Fault> {
    let mut out = Vec::with_capacity(wanted);
    let mut rest = data;
    while out.len() < wanted {
        let (&count, after) = rest.split_first().ok_or(Fault::Cut)?;
        rest = match count {
            0..=127 => {
                let (literal, after) = after.split_at_checked(usize::from(count) + 1).ok_or(Fault::Cut)?;
                out.extend_from_slice(literal);
                after
            }
            128 => after,
            _ => {
                let (&value, after) = after.split_first().ok_or(Fault::Cut)?;
                out.resize(out.len() + 257 - usize::from(count), value);
                after
            }
        };
    }
    out.truncate(wanted);
    Ok(out)
}

/// Rows of bits, black as 1.
fn group_4(data: &[u8], width: usize, rows: usize) -> Result<Vec<u8>, Fault> {
    let (columns, lines) = (u16::try_from(width), u16::try_from(rows));
    let (Ok(columns), Ok(lines)) = (columns, lines) else {
        return Err(Fault::broken("a strip with CCITT compression has more than 65,535 rows or columns"));
    };
    let row_bytes = width.div_ceil(8);
    let mut out = Vec::with_capacity(row_bytes * rows);
    fax::decoder::decode_g4(data.iter().copied(), columns, Some(lines), |changes| {
        let start = out.len();
        out.resize(start + row_bytes, 0);
        for (x, color) in fax::decoder::pels(changes, columns).enumerate() {
            out[start + x / 8] |= u8::from(color == fax::Color::Black) << (7 - x % 8);
        }
    });
    match out.len() == row_bytes * rows {
        true => Ok(out),
        false => Err(Fault::Cut),
    }
}

/// Undoes horizontal differences: each sample was stored less that of the pixel before.
fn add_previous(
    chunk: &mut [u8],
    row_bytes: usize,
    samples: usize,
    bits: usize,
    big_endian: bool,
) -> Result<(), Fault> {
    match bits {
        8 => add::<1>(chunk, row_bytes, samples, big_endian),
        16 => add::<2>(chunk, row_bytes, samples, big_endian),
        32 => add::<4>(chunk, row_bytes, samples, big_endian),
        _ => return Err(Fault::Broken(format!("a TIFF predictor with {bits} bits a sample is not supported"))),
    }
    Ok(())
}

fn add<const N: usize>(chunk: &mut [u8], row_bytes: usize, samples: usize, big_endian: bool) {
    for row in chunk.chunks_exact_mut(row_bytes) {
        for at in (samples * N..row.len()).step_by(N) {
            let mut carry = 0;
            // From the least significant byte on.
            for i in 0..N {
                let byte = at + if big_endian { N - 1 - i } else { i };
                let sum = u16::from(row[byte]) + u16::from(row[byte - samples * N]) + carry;
                row[byte] = sum as u8;
                carry = sum >> 8;
            }
        }
    }
}

/// Undoes the floating point predictor: differences of bytes, the most significant bytes of a row first.
fn join_floats(chunk: &mut [u8], row_bytes: usize, samples: usize, bits: usize, big_endian: bool) -> Result<(), Fault> {
    if bits != 32 {
        return Err(Fault::Broken(format!("a TIFF float predictor with {bits} bits a sample is not supported")));
    }
    for row in chunk.chunks_exact_mut(row_bytes) {
        for at in samples..row.len() {
            row[at] = row[at].wrapping_add(row[at - samples]);
        }
        let planes = row.to_vec();
        let count = row.len() / 4;
        for (i, value) in row.chunks_exact_mut(4).enumerate() {
            for (byte, out) in value.iter_mut().enumerate() {
                let significance = if big_endian { byte } else { 3 - byte };
                *out = planes[significance * count + i];
            }
        }
    }
    Ok(())
}
