//! One sample: its images decoded, held against the filters, resized and normalized.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Filters, Image, Piece, Sample, Schema, Skipped, Value, Why};
use crate::{
    error::{Error, Result},
    pixels::{self, Limits, Preprocessor},
};

/// A sample between source and sink.
pub(super) struct Prepared<I> {
    pub(super) key: String,
    pub(super) pieces: Vec<Piece<I>>,
    pub(super) values: Vec<Value>,
}

/// Preprocessed pixels.
pub(super) type Pixels = Vec<f32>;

/// What preparing needs.
pub(super) struct Preparer<'a> {
    pub(super) schema: &'a Schema,
    pub(super) filters: &'a Filters,
    pub(super) limits: &'a Limits,
    pub(super) preprocessor: &'a Preprocessor,
}

impl Preparer<'_> {
    /// Decodes, filters and resizes one sample.
    pub(super) fn prepare(&self, sample: Sample) -> Result<Prepared<Pixels>, Skipped> {
        let Sample { key, pieces, values } = sample;
        let filters = self.filters;
        let filtered = |reason: String| Skipped { key: key.clone(), why: Why::Filtered, reason };
        filters.admit_values(self.schema, &values).map_err(filtered)?;
        let several = pieces.iter().filter(|piece| matches!(piece, Piece::Image(_))).count() > 1;
        let mut number = 0;
        let mut prepared = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let image = match piece {
                Piece::Text(text) => {
                    prepared.push(Piece::Text(text));
                    continue;
                }
                Piece::Image(image) => image,
            };
            let name = if several { format!("image {number} of {key}") } else { key.clone() };
            number += 1;
            if let Image::Missing(reason) = image {
                return Err(Skipped::failed(&key, if several { format!("{name}: {reason}") } else { reason }));
            }
            let image = load(image, &name, self.limits).map_err(|error| Skipped::failed(&key, error))?;
            filters.admit_size(image.width(), image.height()).map_err(filtered)?;
            prepared.push(Piece::Image(self.preprocessor.apply(&image)));
        }
        Ok(Prepared { key, pieces: prepared, values })
    }
}

/// The pixels of an image, wherever its bytes are; `name` is what errors call it.
pub(crate) fn load(image: Image, name: &str, limits: &Limits) -> Result<pixels::RgbImage> {
    match image {
        Image::Missing(reason) => Err(Error::Image { name: name.to_owned(), reason }),
        Image::Bytes(bytes) => decode(&bytes, name, limits),
        Image::File(path) => match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes, &path.display().to_string(), limits),
            Err(source) => Err(Error::Read { path, source }),
        },
    }
}

/// A decoder that breaks on an image breaks that image alone.
fn decode(bytes: &[u8], name: &str, limits: &Limits) -> Result<pixels::RgbImage> {
    catch_unwind(AssertUnwindSafe(|| pixels::decode(bytes, name, limits))).unwrap_or_else(|_| {
        let reason = "its decoder gave up on it; if other programs open it, report it".to_owned();
        Err(Error::Image { name: name.to_owned(), reason })
    })
}
