//! Source -> tokenizer -> sink, overlapped: one thread reads, decodes and resizes ahead of the network (on all cores),
//! one encodes, one writes. What waits between them is bounded, so memory does not grow with the dataset.

use std::{
    ops::ControlFlow,
    path::Path,
    sync::{
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Instant,
};

use rayon::prelude::*;

use super::{
    Piece, Row, Sample, Shape, SinkFormat, Skipped, Source, Statistics, TokenizeOptions, Watch, Why,
    output::OpenShard,
    prepare::{Pixels, Prepared, Preparer},
};
use crate::{
    error::{Error, Result},
    tokenizer::SeedTokenizer,
};

/// Batches that wait between two stages.
const BATCHES_AHEAD: usize = 2;

/// What flows from the reader over the network to the writer; `I` are images, then codes.
enum Event<I> {
    Begin(usize),
    Batch(Vec<Result<Prepared<I>, Skipped>>),
    End,
}

/// Counted by the writer, shown by the network's thread.
#[derive(Default)]
struct Counts {
    rows: AtomicU64,
    images: AtomicU64,
    failed: AtomicU64,
    filtered: AtomicU64,
    shards: AtomicU64,
}

/// One run over some shards.
pub(super) struct Run<'a> {
    pub(super) tokenizer: &'a dyn SeedTokenizer,
    pub(super) source: &'a dyn Source,
    pub(super) format: &'a dyn SinkFormat,
    pub(super) folder: &'a Path,
    pub(super) options: &'a TokenizeOptions,
    pub(super) shape: &'a Shape,
}

impl Run<'_> {
    /// Does the shards `todo`; `before` holds what is known already.
    pub(super) fn run(&self, todo: &[usize], before: Statistics, watch: &mut Watch<'_>) -> Result<Statistics> {
        let start = Instant::now();
        let counts = Counts::default();
        let now = |stopped| {
            let [rows, images, failed, filtered, shards] =
                [&counts.rows, &counts.images, &counts.failed, &counts.filtered, &counts.shards]
                    .map(|n| n.load(Relaxed));
            Statistics {
                shards_done: shards as usize,
                inputs: rows + failed + filtered,
                rows,
                images,
                failed,
                filtered,
                seconds: start.elapsed().as_secs_f64(),
                stopped,
                ..before
            }
        };
        let (to_network, from_reader) = sync_channel(BATCHES_AHEAD);
        let (to_writer, from_network) = sync_channel(BATCHES_AHEAD);
        let Watch { progress, stop } = watch;
        let stop: &AtomicBool = stop;
        thread::scope(|scope| {
            let left = self.options.limit.map_or(u64::MAX, |limit| limit.saturating_sub(before.inputs_before));
            let reader = scope.spawn(move || self.read(todo, left, to_network, stop));
            let writer = scope.spawn(|| self.write(from_network, &counts));
            let encoded = self.encode(from_reader, to_writer, || progress(&now(false)));
            // The writer's error is the cause where others only noticed that it went away.
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.and(encoded)?;
            let statistics = now(!read);
            progress(&statistics);
            Ok(statistics)
        })
    }

    /// Reads the shards, `left` inputs at the most, decodes and resizes; returns whether it came to the end.
    fn read(&self, todo: &[usize], mut left: u64, sender: SyncSender<Event<Pixels>>, stop: &AtomicBool) -> bool {
        let preparer = Preparer {
            schema: self.source.schema(),
            filters: &self.options.filters,
            limits: &self.options.limits,
            preprocessor: self.tokenizer.preprocessor(),
        };
        for &shard in todo {
            if stop.load(Relaxed) || left == 0 {
                return left == 0;
            }
            if sender.send(Event::Begin(shard)).is_err() {
                return false; // the network stopped
            }
            let mut batch = Batch {
                preparer: &preparer,
                size: self.options.batch_size,
                sender: &sender,
                waiting: Vec::new(),
                images: 0,
            };
            let mut gone = false;
            let read = self.source.read(shard, &mut |item| {
                left -= 1;
                gone = batch.add(item).is_break();
                if gone || left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if let Err(error) = read {
                gone |= batch.add(Err(Skipped::failed(&self.source.shards()[shard].name, error))).is_break();
            }
            if gone || batch.flush().is_break() || sender.send(Event::End).is_err() {
                return false;
            }
        }
        true
    }

    /// Pixels -> codes, batch by batch.
    fn encode(
        &self,
        events: Receiver<Event<Pixels>>,
        sender: SyncSender<Event<Vec<u16>>>,
        mut progress: impl FnMut(),
    ) -> Result<()> {
        for event in events {
            let event = match event {
                Event::Begin(shard) => Event::Begin(shard),
                Event::End => Event::End,
                Event::Batch(mut batch) => {
                    let mut pixels = Vec::new();
                    for piece in batch.iter_mut().flatten().flat_map(|sample| &mut sample.pieces) {
                        if let Piece::Image(image) = piece {
                            pixels.push(std::mem::take(image));
                        }
                    }
                    let codes = self.tokenizer.encode_pixels(&pixels)?;
                    let mut rows = codes.rows();
                    let mut with_codes = |piece| match piece {
                        Piece::Image(_) => Piece::Image(rows.next().expect("a row an image").to_vec()),
                        Piece::Text(text) => Piece::Text(text),
                    };
                    let samples = batch.into_iter().map(|item| {
                        item.map(|Prepared { key, pieces, values }| {
                            let pieces = pieces.into_iter().map(&mut with_codes).collect();
                            Prepared { key, pieces, values }
                        })
                    });
                    Event::Batch(samples.collect())
                }
            };
            if sender.send(event).is_err() {
                break; // the writer failed, and says why
            }
            progress();
        }
        Ok(())
    }

    fn write(&self, events: Receiver<Event<Vec<u16>>>, counts: &Counts) -> Result<()> {
        let mut open = None;
        for event in events {
            match event {
                Event::Begin(shard) => {
                    let input = &self.source.shards()[shard];
                    open = OpenShard::begin(self.folder, shard, input, self.format, self.shape)?;
                }
                Event::Batch(batch) => {
                    let Some(shard) = &mut open else { continue };
                    for item in batch {
                        self.write_item(shard, item, counts)?;
                    }
                }
                Event::End => {
                    if let Some(shard) = open.take() {
                        shard.finish()?;
                        counts.shards.fetch_add(1, Relaxed);
                    }
                }
            }
        }
        Ok(()) // a shard that was not ended is dropped: nothing of it is in place
    }

    fn write_item(
        &self,
        shard: &mut OpenShard,
        item: Result<Prepared<Vec<u16>>, Skipped>,
        counts: &Counts,
    ) -> Result<()> {
        match item {
            Ok(Prepared { key, pieces, values }) => {
                let row = Row { key, pieces, values };
                shard.write(&row)?;
                counts.rows.fetch_add(1, Relaxed);
                counts.images.fetch_add(row.codes().count() as u64, Relaxed);
            }
            Err(skipped) => {
                shard.skip(&skipped)?;
                if skipped.why == Why::Filtered {
                    counts.filtered.fetch_add(1, Relaxed);
                    return Ok(());
                }
                let failed = counts.failed.fetch_add(1, Relaxed) + 1;
                if let Some(limit) = self.options.max_errors.filter(|&limit| failed > limit) {
                    return Err(Error::TooManyFailures { limit, key: skipped.key, reason: skipped.reason });
                }
            }
        }
        Ok(())
    }
}

/// Samples that wait to be decoded together.
struct Batch<'a> {
    preparer: &'a Preparer<'a>,
    /// Images that are decoded together.
    size: usize,
    sender: &'a SyncSender<Event<Pixels>>,
    waiting: Vec<Result<Sample, Skipped>>,
    images: usize,
}

impl Batch<'_> {
    fn add(&mut self, item: Result<Sample, Skipped>) -> ControlFlow<()> {
        if let Ok(sample) = &item {
            self.images += sample.pieces.iter().filter(|piece| matches!(piece, Piece::Image(_))).count();
        }
        self.waiting.push(item);
        let full = self.images >= self.size || self.waiting.len() >= 4 * self.size;
        if full { self.flush() } else { ControlFlow::Continue(()) }
    }

    fn flush(&mut self) -> ControlFlow<()> {
        self.images = 0;
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            return ControlFlow::Continue(());
        }
        let prepare = |item: Result<Sample, Skipped>| item.and_then(|sample| self.preparer.prepare(sample));
        let batch = waiting.into_par_iter().map(prepare).collect();
        match self.sender.send(Event::Batch(batch)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}
