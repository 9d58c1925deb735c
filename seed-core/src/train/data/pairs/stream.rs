//! A source's samples in a random order, epoch after epoch, without end.
//!
//! Neither tars nor parquet can be read at random places cheaply, so the order is made in two steps: the shards of an epoch
//! are read in a random order, and their samples pass through a buffer that gives back a random one of those it holds
//! for each that comes in. Both follow from the seed and the epoch alone. What cannot be an image with a caption is left out
//! before it has a position. So a position is found again without decoding an image; and once it is known how many samples
//! each shard has, without reading more than the shards of which something is in the buffer there.
//!
//! In memory are at most as many undecoded samples as the buffer holds.

use std::{
    collections::{BTreeMap, HashMap},
    ops::ControlFlow,
    sync::Arc,
};

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
struct Held {
    key: String,
    caption: String,
    image: Image,
}

/// What the buffer holds.
enum Slot {
    /// A sample.
    Here(Held),
    /// A sample of a shard that was passed over without reading it.
    There { shard: usize, number: u64 },
}

/// The buffer of an epoch.
struct Buffer {
    slots: Vec<Slot>,
    capacity: usize,
    random: ChaCha8Rng,
}

impl Buffer {
    /// Takes a sample in and gives one back, once it is full.
    fn exchange(&mut self, slot: Slot) -> Option<Slot> {
        if self.slots.len() < self.capacity {
            self.slots.push(slot);
            return None;
        }
        let place = self.random.random_range(0..self.slots.len());
        Some(std::mem::replace(&mut self.slots[place], slot))
    }
}

/// Where reading is.
struct Walk<'a> {
    /// The position that is looked for.
    first: u64,
    position: u64,
    epoch: u64,
    each: &'a mut dyn FnMut(Drawn) -> ControlFlow<()>,
}

impl Walk<'_> {
    /// Gives a sample the next position.
    fn emit(&mut self, slot: Slot) -> ControlFlow<()> {
        let position = self.position;
        self.position += 1;
        match slot {
            Slot::Here(Held { key, caption, image }) if position >= self.first => {
                (self.each)(Drawn { position, epoch: self.epoch, key, caption, image })
            }
            _ => ControlFlow::Continue(()),
        }
    }
}

impl Stream {
    /// Calls `each` for every sample from the position `first` on, until it breaks.
    ///
    /// # Errors
    /// [`Error::Input`] when an epoch has no sample, or a shard has not those that it had; what [`Record`] returns.
    pub(super) fn read(&self, first: u64, each: &mut dyn FnMut(Drawn) -> ControlFlow<()>) -> Result<()> {
        let mut walk = Walk { first, position: 0, epoch: 0, each };
        loop {
            if let Some(counts) = self.record.counts() {
                let samples: u64 = counts.iter().sum();
                let whole = first.saturating_sub(walk.position) / samples;
                walk.epoch += whole;
                walk.position += whole * samples;
            }
            if self.epoch(&mut walk)?.is_break() {
                return Ok(());
            }
            walk.epoch += 1;
        }
    }

    /// One epoch from its beginning.
    fn epoch(&self, walk: &mut Walk<'_>) -> Result<ControlFlow<()>> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ 0x7368_7566_666c_6500); // "shuffle"
        random.set_stream(walk.epoch);
        let mut order: Vec<usize> = (0..self.source.shards().len()).collect();
        order.shuffle(&mut random);
        let mut buffer = Buffer { slots: Vec::new(), capacity: self.buffer, random };
        let known = self.record.counts();
        let passed = match &known {
            Some(counts) => self.pass(&order, counts, &mut buffer, walk)?,
            None => 0,
        };
        let mut counts = vec![0; order.len()];
        for &shard in &order[passed..] {
            let mut flow = ControlFlow::Continue(());
            self.read_shard(shard, &mut |held| {
                counts[shard] += 1;
                if let Some(slot) = buffer.exchange(Slot::Here(held)) {
                    flow = walk.emit(slot);
                }
                flow
            })?;
            if flow.is_break() {
                return Ok(flow);
            }
            if let Some(known) = &known
                && known[shard] != counts[shard]
            {
                let reason = format!(
                    "it had {} images with captions and has {} now; a run that goes on gets others than one that was not interrupted",
                    known[shard], counts[shard]
                );
                self.record.skip(&Skipped::failed(format!("{} (count)", self.source.shards()[shard].name), reason))?;
            }
        }
        let Buffer { mut slots, mut random, .. } = buffer;
        slots.shuffle(&mut random);
        for slot in slots {
            if walk.emit(slot).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if known.is_none() {
            if counts.iter().all(|&count| count == 0) {
                return Err(self.record.unusable("none of its samples is an image with a caption"));
            }
            self.record.set_counts(counts)?;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Passes over the shards whose samples all leave the buffer before the position that is looked for, or stay in it; then
    /// reads those that stayed. Returns how many shards that were.
    fn pass(&self, order: &[usize], counts: &[u64], buffer: &mut Buffer, walk: &mut Walk<'_>) -> Result<usize> {
        let mut passed = 0;
        for &shard in order {
            if walk.position + counts[shard] > walk.first {
                break;
            }
            for number in 0..counts[shard] {
                walk.position += u64::from(buffer.exchange(Slot::There { shard, number }).is_some());
            }
            passed += 1;
        }
        let mut wanted: BTreeMap<usize, HashMap<u64, usize>> = BTreeMap::new();
        for (place, slot) in buffer.slots.iter().enumerate() {
            if let Slot::There { shard, number } = slot {
                wanted.entry(*shard).or_default().insert(*number, place);
            }
        }
        for (shard, mut places) in wanted {
            let mut number = 0;
            self.read_shard(shard, &mut |held| {
                if let Some(place) = places.remove(&number) {
                    buffer.slots[place] = Slot::Here(held);
                }
                number += 1;
                if places.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            if !places.is_empty() {
                let reason = format!(
                    "it had {} images with captions when the run began and has {number} now; bring it back as it was, or remove {} to go on with what is there",
                    counts[shard],
                    self.record.file().display()
                );
                return Err(Error::Input { name: self.source.shards()[shard].name.clone(), reason });
            }
        }
        Ok(passed)
    }

    /// Calls `each` for the images with captions of a shard, and records what is none.
    fn read_shard(&self, shard: usize, each: &mut dyn FnMut(Held) -> ControlFlow<()>) -> Result<()> {
        let mut recorded = Ok(());
        let read = self.source.read(shard, &mut |item| match item.and_then(|sample| self.held(sample)) {
            Ok(held) => each(held),
            Err(skipped) => {
                recorded = self.record.skip(&skipped);
                if recorded.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }
        });
        recorded?;
        match read {
            Ok(()) => Ok(()),
            Err(error) => self.record.skip(&Skipped::failed(&self.source.shards()[shard].name, error)),
        }
    }

    /// The image and the caption of a sample.
    fn held(&self, sample: Sample) -> Result<Held, Skipped> {
        let Sample { key, pieces, mut values } = sample;
        let caption = match values.swap_remove(self.caption) {
            Value::Text(text) if !text.trim().is_empty() => text,
            _ => return Err(Skipped::failed(key, "it has no caption")),
        };
        match <[Piece<Image>; 1]>::try_from(pieces) {
            Ok([Piece::Image(Image::Missing(reason))]) => Err(Skipped::failed(key, reason)),
            Ok([Piece::Image(image)]) => Ok(Held { key, caption, image }),
            Ok([Piece::Text(_)]) => Err(Skipped::failed(key, "it has no image")),
            Err(pieces) => {
                Err(Skipped::failed(key, format!("it has {} images and texts, not one image", pieces.len())))
            }
        }
    }
}
