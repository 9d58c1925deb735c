//! JPEG: bytes -> RGB, by mozjpeg, whose decoder computes what libjpeg-turbo computes.
//!
//! Exact integer inverse DCT and smooth chroma upsampling, as Pillow has them by default. Four channels are CMYK that
//! Pillow takes as inverted whether or not an Adobe marker says so. Two rules differ from the library's own:
//! - Bytes that end early are an error, where the library warns and fills the rest with grey.
//! - Its errors unwind through C. They are caught here, and raise no panic message.

use std::any::Any;
use std::cell::Cell;
use std::io::{self, BufRead, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::RgbImage;
use mozjpeg::{ColorSpace, Decompress};

use super::decode::{Fault, Limits, cmyk, from_data, from_pixels};

/// What to do with the colours that a file stores.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Colors {
    /// Grey, RGB or CMYK.
    Converted,
    /// As they are stored.
    Stored,
}

/// Interleaved samples of 8 bits.
pub(super) struct Samples {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) channels: usize,
    pub(super) data: Vec<u8>,
}

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<RgbImage, Fault> {
    let Samples { width, height, channels, data } = samples(bytes, limits, Colors::Converted)?;
    match channels {
        1 => from_pixels(width, height, data.into_iter().map(|level| [level; 3])),
        3 => from_data(width, height, data),
        _ => from_pixels(width, height, data.chunks_exact(4).map(|ink| cmyk([!ink[0], !ink[1], !ink[2], !ink[3]]))),
    }
}

/// Decodes a whole stream, 1, 3 or 4 channels.
pub(super) fn samples(bytes: &[u8], limits: &Limits, colors: Colors) -> Result<Samples, Fault> {
    let cut = Cell::new(false);
    let source = Source { rest: bytes, cut: &cut };
    match catch_unwind(AssertUnwindSafe(|| unguarded(source, limits, colors))) {
        Ok(Ok(samples)) => Ok(samples),
        _ if cut.get() => Err(Fault::Cut),
        Ok(Err(fault)) => Err(fault),
        Err(payload) => Err(Fault::Broken(format!("the JPEG data is damaged: {}", message(payload.as_ref())))),
    }
}

/// May unwind with the library's message.
fn unguarded(source: Source<'_>, limits: &Limits, colors: Colors) -> Result<Samples, Fault> {
    let damaged = |error: io::Error| Fault::Broken(format!("the JPEG data is damaged: {error}"));
    let decoder = Decompress::new_reader(source).map_err(damaged)?;
    let (width, height) = (decoder.width() as u32, decoder.height() as u32); // each below 65,536
    limits.admit(width, height)?;
    let channels = decoder.components().len();
    let space = match (channels, colors) {
        (1 | 3 | 4, Colors::Stored) => decoder.color_space(),
        (1, _) => ColorSpace::JCS_GRAYSCALE,
        (3, _) => ColorSpace::JCS_RGB,
        (4, _) => ColorSpace::JCS_CMYK,
        _ => return Err(Fault::Broken(format!("JPEG with {channels} channels is not supported"))),
    };
    let mut decoder = decoder.to_colorspace(space).map_err(damaged)?;
    let mut data = vec![0_u8; width as usize * height as usize * channels];
    decoder.read_scanlines_into(&mut data).map_err(damaged)?;
    // Reads up to the end marker: a file without one is cut off.
    decoder.finish().map_err(damaged)?;
    Ok(Samples { width, height, channels, data })
}

fn message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.and_then(|text| text.split_once(": ")).map_or("unknown error", |(_, reason)| reason)
}

/// The bytes; asking for more than there are is an error and is noted.
struct Source<'a> {
    rest: &'a [u8],
    cut: &'a Cell<bool>,
}

impl Read for Source<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.rest.read(out)
    }
}

impl BufRead for Source<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            self.cut.set(true);
            // `UnexpectedEof` would be taken for an end marker.
            return Err(io::Error::other("the bytes end"));
        }
        Ok(self.rest)
    }

    fn consume(&mut self, count: usize) {
        self.rest = &self.rest[count..];
    }
}
