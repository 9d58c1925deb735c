//! A source -> its images, decoded, with their captions: for those who look at images instead of turning them into tokens.

use std::{cell::Cell, ops::ControlFlow};

use rayon::prelude::*;

use super::{Piece, Sample, Skipped, Source, Value, prepare, sample::Image, source::CAPTION};
use crate::{
    error::{Error, Result},
    pixels::{Limits, RgbImage},
};

/// Images that are decoded at a time.
const AT_ONCE: usize = 64;

/// An image of a source.
#[derive(Clone, Debug, PartialEq)]
pub struct DecodedImage {
    /// The key of its sample.
    pub key: String,
    /// Its pixels.
    pub image: RgbImage,
    /// The caption of its sample, unless there is none or it is empty.
    pub caption: Option<String>,
}

/// Images of a source, in order, and what could not be read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DecodedImages {
    /// The images.
    pub images: Vec<DecodedImage>,
    /// Inputs that are no images, with the reason.
    pub failed: Vec<Skipped>,
}

/// Reads the images of `source` until there are `most`. Each goes through `prepare`, which may make it smaller, as soon as
/// it is decoded. `progress` is called with the number of images that are read.
///
/// # Errors
/// As [`Source::read`]; [`Error::Interrupted`] when `progress` asks to stop.
pub fn read_images(
    source: &dyn Source,
    most: usize,
    limits: &Limits,
    prepare: &(dyn Fn(RgbImage) -> RgbImage + Sync),
    progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<DecodedImages> {
    let caption = source.schema().columns.iter().position(|column| column.name == CAPTION);
    let mut all = DecodedImages::default();
    let stopped = Cell::new(false);
    for shard in 0..source.shards().len() {
        let mut waiting = Vec::new();
        let mut decode = |waiting: &mut Vec<Sample>, all: &mut DecodedImages| {
            let decoded = waiting.par_iter().flat_map_iter(|sample| images_of(sample, caption, limits, prepare));
            for image in decoded.collect::<Vec<_>>() {
                match image {
                    Ok(image) => all.images.push(image),
                    Err(skipped) => all.failed.push(skipped),
                }
            }
            waiting.clear();
            all.images.truncate(most);
            stopped.set(stopped.get() || progress(all.images.len()).is_break());
            if stopped.get() || all.images.len() == most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        source.read(shard, &mut |sample| {
            match sample {
                Ok(sample) => waiting.push(sample),
                Err(skipped) => all.failed.push(skipped),
            }
            let enough = waiting.len() >= AT_ONCE.min(most - all.images.len());
            if enough { decode(&mut waiting, &mut all) } else { ControlFlow::Continue(()) }
        })?;
        if !waiting.is_empty() && !stopped.get() {
            let _ = decode(&mut waiting, &mut all); // what it says is looked at below
        }
        if stopped.get() {
            return Err(Error::Interrupted);
        }
        if all.images.len() == most {
            break;
        }
    }
    Ok(all)
}

/// The images of a sample.
fn images_of(
    sample: &Sample,
    caption: Option<usize>,
    limits: &Limits,
    prepare: &(dyn Fn(RgbImage) -> RgbImage + Sync),
) -> Vec<Result<DecodedImage, Skipped>> {
    let caption = caption.and_then(|column| match sample.values.get(column) {
        Some(Value::Text(text)) if !text.trim().is_empty() => Some(text.clone()),
        _ => None,
    });
    let images = sample.pieces.iter().filter_map(|piece| match piece {
        Piece::Image(image) => Some(image),
        Piece::Text(_) => None,
    });
    let load = |image: &Image| match prepare::load(image.clone(), &sample.key, limits) {
        Ok(image) => Ok(DecodedImage { key: sample.key.clone(), image: prepare(image), caption: caption.clone() }),
        Err(error) => Err(Skipped::failed(&sample.key, error)),
    };
    images.map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dataset::{SourceOptions, source},
        pixels,
        scenes::{self, Scene, Split},
    };

    fn read(folder: &std::path::Path, most: usize, stop_at: usize) -> Result<DecodedImages> {
        let source = source::open(&[folder.display().to_string()], &SourceOptions::default()).unwrap();
        let halve = |image: RgbImage| pixels::resize(&image, 16, 16, pixels::Filter::Bicubic);
        read_images(source.as_ref(), most, &Limits::default(), &halve, &mut |done| {
            if done >= stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
    }

    #[test]
    fn images_come_with_their_captions_and_failures_with_their_reasons() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("scenes");
        scenes::write_folder(&folder, 70, 3, Split::HeldOut, 32, |_| ControlFlow::Continue(())).unwrap();
        std::fs::write(folder.join("000001.png"), b"no image").unwrap();
        let all = read(&folder, 1000, usize::MAX).unwrap();
        assert_eq!((all.images.len(), all.failed.len()), (69, 1));
        assert!(all.failed[0].key.contains("000001"), "{:?}", all.failed);
        for (image, index) in all.images.iter().zip([0u64, 2, 3]) {
            assert_eq!(image.caption.as_deref(), Some(&*Scene::sample(3, index, Split::HeldOut).caption()));
            assert_eq!(image.image.dimensions(), (16, 16));
        }
        let few = read(&folder, 5, usize::MAX).unwrap();
        assert_eq!(few.images, all.images[..5]);
        assert!(matches!(read(&folder, 1000, 1), Err(Error::Interrupted)));
    }

    #[test]
    fn images_without_captions_have_none() {
        let folder = tempfile::tempdir().unwrap();
        pixels::write_png(&folder.path().join("a.png"), &RgbImage::new(4, 4)).unwrap();
        let all = read(folder.path(), 10, usize::MAX).unwrap();
        assert_eq!((all.images.len(), all.images[0].caption.as_deref()), (1, None));
    }
}
