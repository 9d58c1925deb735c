//! A source's samples in a random order, epoch after epoch, without end.
//!
//! Neither tars nor parquet can be read at random places cheaply, so the order is made in two steps: the shards of an epoch
//! are read in a random order, and their samples pass through a buffer that gives back a random one of those it holds
//! for each that comes in. Both follow from the seed and the epoch alone. What cannot be an image with a caption is left out
//! before it has a position; so a position is found again by reading, without decoding an image, and the length of an
//! epoch, once it is known, is jumped over.
//!
//! In memory are at most as many undecoded samples as the buffer holds.

use std::{ops::ControlFlow, sync::Arc};

use rand::{Rng, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    dataset::{Image, Piece, Sample, Skipped, Source, Value},
    error::{Error, Result},
};

use super::record::Record;

/// A sample on its way, not decoded yet.
#[derive(Debug)]
pub(super) struct Drawn {
    /// Its number in the sequence.
    pub(super) position: u64,
    /// Its epoch.
    pub(super) epoch: u64,
    pub(super) key: String,
    pub(super) caption: String,
    pub(super) image: Image,
}

/// What is read, and in which order.
pub(super) struct Stream {
    pub(super) source: Arc<dyn Source>,
    /// Column of the caption.
    pub(super) caption: usize,
    /// Decides the order.
    pub(super) seed: u64,
    /// Samples that the buffer holds.
    pub(super) buffer: usize,
    /// What is known of the data.
    pub(super) record: Arc<Record>,
}

/// An image with a caption.
struct Pair {
    key: String,
    caption: String,
    image: Image,
}

impl Stream {
    /// Calls `each` for every sample from the position `first` on, until it breaks.
    ///
    /// # Errors
    /// [`Error::Input`] when an epoch has no sample; what [`Record`] returns.
    pub(super) fn read(&self, first: u64, each: &mut dyn FnMut(Drawn) -> ControlFlow<()>) -> Result<()> {
        let (mut epoch, mut position) = (0, 0);
        loop {
            if let Some(samples) = self.record.samples() {
                let whole = first.saturating_sub(position) / samples;
                (epoch, position) = (epoch + whole, position + whole * samples);
            }
            let begin = position;
            let mut emit = |Pair { key, caption, image }: Pair| {
                let now = position;
                position += 1;
                match now < first {
                    true => ControlFlow::Continue(()),
                    false => each(Drawn { position: now, epoch, key, caption, image }),
                }
            };
            if self.epoch(epoch, &mut emit)?.is_break() {
                return Ok(());
            }
            match position - begin {
                0 => return Err(self.empty()),
                samples => self.record.set_samples(samples)?,
            }
            epoch += 1;
        }
    }

    /// One epoch from its beginning.
    fn epoch(&self, epoch: u64, emit: &mut dyn FnMut(Pair) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ 0x7368_7566_666c_6500); // "shuffle"
        random.set_stream(epoch);
        let mut shards: Vec<usize> = (0..self.source.shards().len()).collect();
        shards.shuffle(&mut random);
        let mut buffer: Vec<Pair> = Vec::with_capacity(self.buffer);
        for shard in shards {
            let mut outcome = Ok(ControlFlow::Continue(()));
            let read = self.source.read(shard, &mut |item| {
                let pair = match item.and_then(|sample| self.pair(sample)) {
                    Ok(pair) => pair,
                    Err(skipped) => {
                        outcome = self.record.skip(&skipped).map(|()| ControlFlow::Continue(()));
                        return if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
                    }
                };
                if buffer.len() < self.buffer {
                    buffer.push(pair);
                    return ControlFlow::Continue(());
                }
                let place = random.random_range(0..buffer.len());
                let flow = emit(std::mem::replace(&mut buffer[place], pair));
                outcome = Ok(flow);
                flow
            });
            if outcome?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
            if let Err(error) = read {
                self.record.skip(&Skipped::failed(&self.source.shards()[shard].name, error))?;
            }
        }
        buffer.shuffle(&mut random);
        for pair in buffer {
            if emit(pair).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The image and the caption of a sample.
    fn pair(&self, sample: Sample) -> Result<Pair, Skipped> {
        let Sample { key, pieces, mut values } = sample;
        let caption = match values.swap_remove(self.caption) {
            Value::Text(text) if !text.trim().is_empty() => text,
            _ => return Err(Skipped::failed(key, "it has no caption")),
        };
        match <[Piece<Image>; 1]>::try_from(pieces) {
            Ok([Piece::Image(Image::Missing(reason))]) => Err(Skipped::failed(key, reason)),
            Ok([Piece::Image(image)]) => Ok(Pair { key, caption, image }),
            Ok([Piece::Text(_)]) => Err(Skipped::failed(key, "it has no image")),
            Err(pieces) => {
                Err(Skipped::failed(key, format!("it has {} images and texts, not one image", pieces.len())))
            }
        }
    }

    fn empty(&self) -> Error {
        self.record.unusable("none of its samples is an image with a caption")
    }
}
