//! What is asked of the pipeline and what it says: options, plan, statistics. How it runs is `run`.

use std::{path::Path, sync::atomic::AtomicBool};

use serde::Serialize;

use super::{
    Filters, MadeBy, Manifest, Part, Schema, Shape, ShardReport, SinkFormat, Source, output::clear_finished, run::Run,
};
use crate::{
    error::{Error, Result},
    pixels::Limits,
    tokenizer::SeedTokenizer,
};

/// Names of columns that sinks make themselves.
const RESERVED: [&str; 3] = ["key", "codes", "texts"];

/// How a dataset is tokenized.
#[derive(Clone, Debug)]
pub struct TokenizeOptions {
    /// What is left out.
    pub filters: Filters,
    /// What an image may cost.
    pub limits: Limits,
    /// Images that are encoded at a time.
    pub batch_size: usize,
    /// Which shards are this process's.
    pub part: Part,
    /// Inputs after which this process stops, those of runs before counted in.
    pub limit: Option<u64>,
    /// Failures after which this process gives up.
    pub max_errors: Option<u64>,
    /// Whether shards with failures are done again.
    pub retry_failures: bool,
}

impl Default for TokenizeOptions {
    fn default() -> Self {
        Self {
            filters: Filters::default(),
            limits: Limits::default(),
            batch_size: 64,
            part: Part::default(),
            limit: None,
            max_errors: None,
            retry_failures: false,
        }
    }
}

/// What was done so far, and in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Shards of this process.
    pub shards: usize,
    /// Of these, finished by a run before.
    pub shards_before: usize,
    /// Inputs of the shards that were finished before.
    pub inputs_before: u64,
    /// Of the shards, finished by this run.
    pub shards_done: usize,
    /// Inputs that were read.
    pub inputs: u64,
    /// Samples that became rows.
    pub rows: u64,
    /// Images in the rows.
    pub images: u64,
    /// Inputs that could not be read.
    pub failed: u64,
    /// Inputs that the filters left out.
    pub filtered: u64,
    /// Since the beginning.
    pub seconds: f64,
    /// Whether this run was asked to stop before the last shard.
    pub stopped: bool,
}

impl Statistics {
    /// Images a second.
    pub fn images_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.images as f64 / self.seconds } else { 0.0 }
    }
}

/// Who watches, and who may stop the work after the shard at hand.
pub struct Watch<'a> {
    /// Called after every batch.
    pub progress: &'a mut dyn FnMut(&Statistics),
    /// Set from outside to stop after the shard at hand.
    pub stop: &'a AtomicBool,
}

/// What an output of `source` in `format` would be: what is recorded in it, before anything is written.
///
/// # Errors
/// [`Error::Argument`] for columns and filters that the source does not have and for a format that cannot hold its
/// samples; whatever [`SeedTokenizer::provenance`] returns.
pub fn plan(
    tokenizer: &dyn SeedTokenizer,
    source: &dyn Source,
    format: &dyn SinkFormat,
    options: &TokenizeOptions,
) -> Result<Manifest> {
    let schema = source.schema();
    check_columns(schema)?;
    options.filters.check(schema)?;
    let model = &tokenizer.config().model;
    let shape = Shape { tokens: model.num_queries, codebook_size: model.codebook_size, schema: schema.clone() };
    format.check(&shape)?;
    let made = tokenizer.provenance()?;
    let tokenizer = MadeBy {
        model: made.model,
        weights: made.weights,
        preprocess: made.preprocess,
        dtype: made.dtype,
        version: made.version.to_owned(),
    };
    let manifest = Manifest::new(tokenizer, shape, format.describe(), options.filters.clone());
    let inputs = source.shards().to_vec();
    Ok(Manifest { max_pixels: options.limits.max_pixels, limit: options.limit, inputs, ..manifest })
}

fn check_columns(schema: &Schema) -> Result<()> {
    let fail = |name: &str, reason: &str| {
        Err(Error::Argument { name: "columns", value: name.to_owned(), reason: reason.to_owned() })
    };
    for (i, column) in schema.columns.iter().enumerate() {
        if RESERVED.contains(&column.name.as_str()) {
            return fail(&column.name, "the output has a column of this name already");
        }
        if schema.columns[..i].iter().any(|other| other.name == column.name) {
            return fail(&column.name, "it travels along already");
        }
    }
    Ok(())
}

/// Tokenizes the shards of this process that are not done yet into `folder`.
///
/// A shard appears whole or not at all, whenever the process ends. Where `folder` holds an output already, it is gone on
/// with if it was made by the same tokenizer from the same inputs in the same way, and refused otherwise. Every input
/// ends as a row or as a line of the record of failures.
///
/// # Errors
/// [`Error::OtherRun`] and [`Error::FolderInUse`] for a folder that is not this run's; [`Error::TooManyFailures`];
/// [`Error::Busy`]; [`Error::Write`]; as [`plan`].
pub fn tokenize(
    tokenizer: &dyn SeedTokenizer,
    source: &dyn Source,
    format: &dyn SinkFormat,
    folder: &Path,
    options: &TokenizeOptions,
    watch: &mut Watch<'_>,
) -> Result<Statistics> {
    let manifest = plan(tokenizer, source, format, options)?;
    manifest.claim(folder)?;
    clear_finished(folder);
    let own = (0..source.shards().len()).filter(|&shard| options.part.holds(shard));
    let mut statistics = Statistics::default();
    let mut todo = Vec::new();
    for shard in own {
        statistics.shards += 1;
        match ShardReport::read(folder, shard)? {
            Some(report) if report.failed > 0 && options.retry_failures => {
                let path = ShardReport::path(folder, shard);
                std::fs::remove_file(&path).map_err(|source| Error::Write { path, source })?;
                todo.push(shard);
            }
            Some(report) => {
                statistics.shards_before += 1;
                statistics.inputs_before += report.inputs;
            }
            None => todo.push(shard),
        }
    }
    Run { tokenizer, source, format, folder, options, shape: &manifest.shape }.run(&todo, statistics, watch)
}

/// Tokenizes one shard into `folder`: what engines call for each of their tasks. It may be called again and from any
/// process: a shard that is done is left alone.
///
/// # Errors
/// As [`tokenize`]; [`Error::Argument`] for a shard that the source does not have.
pub fn tokenize_shard(
    tokenizer: &dyn SeedTokenizer,
    source: &dyn Source,
    shard: usize,
    format: &dyn SinkFormat,
    folder: &Path,
    options: &TokenizeOptions,
) -> Result<ShardReport> {
    let manifest = plan(tokenizer, source, format, options)?;
    if shard >= source.shards().len() {
        let reason = format!("the source has the shards 0 to {}", source.shards().len().saturating_sub(1));
        return Err(Error::Argument { name: "shard", value: shard.to_string(), reason });
    }
    manifest.claim(folder)?;
    if let Some(report) = ShardReport::read(folder, shard)? {
        return Ok(report);
    }
    let mut watch = Watch { progress: &mut |_| {}, stop: &AtomicBool::new(false) };
    let run = Run { tokenizer, source, format, folder, options, shape: &manifest.shape };
    run.run(&[shard], Statistics::default(), &mut watch)?;
    let report = ShardReport::read(folder, shard)?;
    report.ok_or_else(|| Error::Busy { folder: folder.to_owned(), shard })
}
