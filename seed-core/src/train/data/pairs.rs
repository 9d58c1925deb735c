//! Images with captions out of a dataset, in whatever format `dataset` reads.

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicBool},
};

use crate::{
    dataset::{Layout, Source, SourceOptions, source},
    error::{Error, Result},
};

use super::{
    Batch, Images, Pictures, Sequence,
    augment::Augment,
    loader::{Loaded, Loader, Making},
    options::PairOptions,
    record::Record,
    stream::Stream,
};

/// Samples of a shard where the inputs do not say: small, because shards are shuffled as a whole.
const SHARD: usize = 256;
/// Batches that may be on their way.
const AHEAD: usize = 2;

/// Draws images with captions.
pub(super) struct PairData<'a> {
    source: Arc<dyn Source>,
    /// Column of the caption.
    caption: usize,
    record: Arc<Record>,
    options: PairOptions,
    seed: u64,
    image_size: usize,
    workers: usize,
    stop: &'a AtomicBool,
    loaders: Mutex<HashMap<Sequence, Loader>>,
}

impl<'a> PairData<'a> {
    /// Opens what `options` name, for a run in `folder`.
    pub(super) fn open(
        options: &PairOptions,
        [seed, image_size]: [u64; 2],
        folder: &Path,
        stop: &'a AtomicBool,
    ) -> Result<Self> {
        let source = source::open(&options.inputs, &source_options(options)?)?;
        let name = options.inputs.join(" ");
        let fail = |reason: &str| Err(Error::Input { name: name.clone(), reason: reason.to_owned() });
        if source.schema().layout != Layout::One {
            return fail("its samples hold several images; what is learned from is one image with one caption");
        }
        let Some(caption) = source.schema().columns.iter().position(|column| column.name == source::CAPTION) else {
            return fail(
                "it holds no captions; name their column with caption_column in [data], or put a text of the same name beside each image",
            );
        };
        let record = Arc::new(Record::open(folder, name, source.shards())?);
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            source: source.into(),
            caption,
            record,
            options: options.clone(),
            seed,
            image_size: image_size as usize,
            workers: options.workers.unwrap_or_else(cores),
            stop,
            loaders: Mutex::default(),
        })
    }

    fn start(&self, sequence: Sequence, first: u64, count: usize) -> Loader {
        let learned_from = matches!(sequence, Sequence::Contrast | Sequence::Pixels);
        let augment = Augment { scale: self.options.crop, flip: self.options.flip };
        let making = Making {
            size: self.image_size as u32,
            augment: learned_from.then_some(augment),
            workers: self.workers,
            ahead: (AHEAD * count).max(self.workers),
        };
        let stream = Stream {
            source: self.source.clone(),
            caption: self.caption,
            seed: self.seed ^ (sequence as u64) << 56,
            buffer: self.options.shuffle,
            record: self.record.clone(),
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

impl Pictures for PairData<'_> {
    fn batch(&self, sequence: Sequence, first: usize, count: usize) -> Result<Batch> {
        let first = first as u64;
        let mut loaders = self.loaders.lock().unwrap_or_else(PoisonError::into_inner);
        // A stage that is over does not go on reading; stage 2 draws from two sequences by turns.
        let by_turns = |sequence| matches!(sequence, Sequence::Contrast | Sequence::Rows);
        loaders.retain(
            |&other, loader| {
                if other == sequence { loader.reaches(first) } else { by_turns(other) && by_turns(sequence) }
            },
        );
        let loader = loaders.entry(sequence).or_insert_with(|| self.start(sequence, first, count));
        let loaded = loader.batch(first, count, self.stop);
        if loaded.is_err() {
            loaders.remove(&sequence);
        }
        let (mut keys, mut captions, mut images) = (Vec::new(), Vec::new(), Vec::new());
        for Loaded { key, caption, image } in loaded? {
            keys.push(key);
            captions.push(caption);
            images.push(image);
        }
        Ok(Batch { keys, captions, images: Images::Pixels(images), size: self.image_size })
    }
}
