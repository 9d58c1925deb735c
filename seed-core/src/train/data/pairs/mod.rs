//! Images with captions out of a dataset, in whatever format `dataset` reads.
//!
//! | file | what |
//! |---|---|
//! | `stream` | samples of a source in a random order |
//! | `loader` | decoded ahead on many threads, given out in order |
//! | `augment` | cut and mirrored at random |
//! | `record` | what a run's folder keeps: how long an epoch is, what cannot be used |
//!
//! Differences from the official training, which reads lists of files with torch's `DataLoader`: the order is random within a
//! buffer and of shards, not of all samples; an epoch's last batch takes its rest from the next epoch instead of being
//! left out; an image that cannot be decoded is replaced by the next one instead of by a random one.

mod augment;
mod loader;
mod record;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
};

use crate::{
    dataset::{Layout, Source, SourceOptions, source},
    error::{Error, Result},
};

use super::{Batch, Images, PairOptions, Pictures, Sequence};

use augment::Augment;
use loader::{Loader, Making};
use record::Record;
use stream::Stream;

pub use loader::Pair;

/// Samples of a shard where the inputs do not say: small, because shards are shuffled as a whole.
const SHARD: usize = 256;
/// Batches that may be on their way.
const AHEAD: usize = 2;

/// Images with captions, in a random order that follows from the seed, decoded ahead on many threads.
pub struct Pairs<'a> {
    learned: Inputs,
    /// What a run is validated on.
    held_out: Option<Inputs>,
    options: PairOptions,
    seed: u64,
    image_size: usize,
    workers: usize,
    stop: &'a AtomicBool,
    loaders: Mutex<HashMap<Sequence, Loader>>,
}

/// A source and what is known of it.
struct Inputs {
    source: Arc<dyn Source>,
    /// Column of the caption.
    caption: usize,
    record: Arc<Record>,
}

impl Inputs {
    fn open(names: &[String], options: &PairOptions, folder: &Path, file: &'static str) -> Result<Self> {
        let source = source::open(names, &source_options(options)?)?;
        let name = names.join(" ");
        let fail = |reason: &str| Err(Error::Input { name: name.clone(), reason: reason.to_owned() });
        if source.schema().layout != Layout::One {
            return fail("its samples hold several images; what is learned from is one image with one caption");
        }
        let Some(caption) = source.schema().columns.iter().position(|column| column.name == source::CAPTION) else {
            return fail(
                "it holds no captions; name their column with caption_column in [data], or put a text of the same name beside each image",
            );
        };
        let record = Arc::new(Record::open(folder, file, name, source.shards())?);
        Ok(Self { source: source.into(), caption, record })
    }
}

impl<'a> Pairs<'a> {
    /// Opens what `options` name. `folder` keeps what is known of the data and what of them cannot be used: `data.json` and
    /// `failures.jsonl`. `stop` ends a wait for the first images.
    ///
    /// # Errors
    /// [`Error::Input`] for inputs that are not there or hold no captions; [`Error::OtherRun`] when `folder` was begun with
    /// other data; reading.
    pub fn open(
        options: &PairOptions,
        seed: u64,
        image_size: usize,
        folder: &Path,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let learned = Inputs::open(&options.inputs, options, folder, "data.json")?;
        let held_out = match options.validation.is_empty() {
            true => None,
            false => Some(Inputs::open(&options.validation, options, folder, "validation.json")?),
        };
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            learned,
            held_out,
            options: options.clone(),
            seed,
            image_size,
            workers: options.workers.unwrap_or_else(cores),
            stop,
            loaders: Mutex::default(),
        })
    }

    /// The images at the positions `first..first + count` of an endless sequence of epochs, cut and mirrored at random as the
    /// options say. The same positions hold the same images in every process, for any number of threads. One that cannot be
    /// decoded gives its place to the next good one from behind the last.
    ///
    /// # Errors
    /// [`Error::Input`] when a whole epoch holds no image that can be used; [`Error::Interrupted`]; reading and writing.
    pub fn augmented(&self, first: usize, count: usize) -> Result<Vec<Pair>> {
        self.draw(Sequence::Contrast, first, count)
    }

    /// What a sequence is drawn from.
    fn inputs(&self, sequence: Sequence) -> Result<&Inputs> {
        match sequence {
            Sequence::HeldOut => self.held_out.as_ref().ok_or_else(|| Error::Input {
                name: self.options.inputs.join(" "),
                reason: "a run is validated on images that it does not learn from; name some as validation in [data]"
                    .to_owned(),
            }),
            _ => Ok(&self.learned),
        }
    }

    fn start(&self, sequence: Sequence, inputs: &Inputs, first: u64, count: usize) -> Loader {
        let learned_from = matches!(sequence, Sequence::Contrast | Sequence::Pixels);
        let augment = Augment { scale: self.options.crop, flip: self.options.flip };
        let making = Making {
            size: self.image_size as u32,
            augment: learned_from.then_some(augment),
            workers: self.workers,
            ahead: (AHEAD * count).max(self.workers),
        };
        let stream = Stream {
            source: inputs.source.clone(),
            caption: inputs.caption,
            seed: self.seed ^ (sequence as u64) << 56,
            buffer: self.options.shuffle,
            record: inputs.record.clone(),
        };
        Loader::start(stream, making, first)
    }
}

fn source_options(options: &PairOptions) -> Result<SourceOptions> {
    Ok(SourceOptions {
        format: options.format.as_deref().map(str::parse).transpose()?,
        shard_size: SHARD,
        root: options.root.clone(),
        image_column: options.image_column.clone(),
        key_column: options.key_column.clone(),
        caption_column: options.caption_column.clone(),
        columns: Vec::new(),
    })
}

impl Pairs<'_> {
    fn draw(&self, sequence: Sequence, first: usize, count: usize) -> Result<Vec<Pair>> {
        let first = first as u64;
        let mut loaders = self.loaders.lock().unwrap_or_else(PoisonError::into_inner);
        // A stage that is over does not go on reading. Some draw from two sequences by turns, the second now and then.
        let by_turns = |sequence| matches!(sequence, Sequence::Contrast | Sequence::Rows | Sequence::HeldOut);
        loaders.retain(
            |&other, loader| {
                if other == sequence { loader.reaches(first) } else { by_turns(other) && by_turns(sequence) }
            },
        );
        let inputs = self.inputs(sequence)?;
        if !loaders.contains_key(&sequence) {
            inputs.record.begin()?;
        }
        let loader = loaders.entry(sequence).or_insert_with(|| self.start(sequence, inputs, first, count));
        let pairs = loader.batch(first, count, self.stop);
        if pairs.is_err() {
            loaders.remove(&sequence);
        }
        pairs
    }
}

impl Pictures for Pairs<'_> {
    fn batch(&self, sequence: Sequence, first: usize, count: usize) -> Result<Batch> {
        let (mut keys, mut captions, mut images) = (Vec::new(), Vec::new(), Vec::new());
        for Pair { key, caption, image } in self.draw(sequence, first, count)? {
            keys.push(key);
            captions.push(caption);
            images.push(image);
        }
        Ok(Batch { keys, captions, images: Images::Pixels(images), size: self.image_size })
    }
}
