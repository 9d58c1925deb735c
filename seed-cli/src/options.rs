//! Options that several commands share.

use std::{num::NonZeroUsize, path::PathBuf, time::Instant};

use anyhow::Context as _;
use clap::Args;
use seed_core::{
    Codes, DType, DecodeOptions, Device, Model, SchedulerName, SeedTokenizer, codes,
    pixels::{Limits, Preset},
};

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Threads to compute with [default: one for each core]
    #[arg(long, value_name = "N", global = true)]
    threads: Option<NonZeroUsize>,
    /// Print errors only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// Say what is done and how long it takes
    #[arg(long, short, global = true, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
}

impl Global {
    /// Sets the number of threads of everything that follows.
    pub(crate) fn use_threads(&self) -> anyhow::Result<()> {
        match self.threads {
            Some(count) => rayon::ThreadPoolBuilder::new()
                .num_threads(count.get())
                .build_global()
                .with_context(|| format!("cannot start {count} threads; choose fewer with --threads")),
            None => Ok(()),
        }
    }

    /// A word on standard error about what was done.
    pub(crate) fn note(&self, text: impl FnOnce() -> String) {
        if !self.quiet {
            eprintln!("{}", text());
        }
    }

    /// A word for `--verbose` about what was done, and how long it took since `start`.
    pub(crate) fn timed(&self, start: Instant, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{} in {:.2} s", what(), start.elapsed().as_secs_f64());
        }
    }
}

/// Which model, and where it computes.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelOptions {
    /// Folder of a model bundle [default: the model that is built in]
    #[arg(long, value_name = "BUNDLE")]
    pub(crate) model: Option<PathBuf>,
    /// Device to compute on: cpu, cuda or wgpu, with a number if there are several (wgpu:1)
    #[arg(long, default_value_t)]
    device: Device,
    /// Numbers that weights are kept in: f32, half the memory with f16 or bf16, a quarter with int8 (on cpu, where sums of
    /// the others are in f32 in any case)
    #[arg(long, default_value_t)]
    dtype: DType,
}

impl ModelOptions {
    /// Reads the model.
    pub(crate) fn open(
        &self,
        preprocess: Option<Preset>,
        global: &Global,
    ) -> seed_core::Result<Box<dyn SeedTokenizer>> {
        let start = Instant::now();
        let tokenizer = seed_core::open(&self.which(), self.device, self.dtype, preprocess)?;
        global.timed(start, || format!("model {} read", tokenizer.config().name));
        Ok(tokenizer)
    }

    /// The model that is meant.
    pub(crate) fn which(&self) -> Model {
        self.model.clone().map_or(Model::Bundled, Model::Folder)
    }
}

/// How images are read.
#[derive(Args, Clone, Debug)]
pub(crate) struct ImageOptions {
    /// Resize as SEED's tokenizer (seed, bicubic) or as its scripts (seed-scripts, bilinear) [default: as the model says]
    #[arg(long, value_name = "PRESET")]
    pub(crate) preprocess: Option<Preset>,
    /// Refuse images of more pixels than this
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_pixels)]
    max_pixels: u64,
}

impl ImageOptions {
    pub(crate) fn limits(&self) -> Limits {
        Limits { max_pixels: self.max_pixels }
    }
}

/// How codes become images.
#[derive(Args, Clone, Debug)]
pub(crate) struct SamplingOptions {
    /// Sampling steps, from 1 to 999 [default: as the model says]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Guidance scale; 1 and below is none and takes half the time [default: as the model says]
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f64>,
    /// Seed of the random numbers; each image has its own, by its place among all
    #[arg(long, value_name = "N", default_value_t)]
    seed: u64,
    /// Scheduler: pndm, ddim, euler or dpm++2m [default: as the decoder says]
    #[arg(long, value_name = "NAME")]
    scheduler: Option<SchedulerName>,
    /// Height and width of the images in pixels [default: what the decoder was trained on]
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// Decode from the first K codes of an image; the mean of the codebook stands for the others
    #[arg(long, value_name = "K")]
    keep_first: Option<usize>,
}

impl SamplingOptions {
    /// The options, with what was not said taken from the model.
    pub(crate) fn resolve(&self, tokenizer: &dyn SeedTokenizer) -> DecodeOptions {
        let own = tokenizer.decode_options();
        DecodeOptions {
            steps: self.steps.unwrap_or(own.steps),
            guidance: self.guidance.unwrap_or(own.guidance),
            seed: self.seed,
            scheduler: self.scheduler,
            size: self.size,
            keep_first: self.keep_first,
        }
    }
}

/// What images shall not become.
#[derive(Args, Clone, Debug)]
pub(crate) struct NegativeOption {
    /// Codes to move away from
    #[arg(long, value_name = "CODES")]
    negative: Option<String>,
}

impl NegativeOption {
    /// The codes, if there are any.
    pub(crate) fn resolve(&self, tokenizer: &dyn SeedTokenizer) -> anyhow::Result<Option<Codes>> {
        let model = &tokenizer.config().model;
        let read = |text: &String| {
            let row = codes::from_text(text)?;
            Codes::from_rows([row], model.num_queries, model.codebook_size)
        };
        self.negative.as_ref().map(read).transpose().context("--negative cannot be used")
    }
}

/// Reads a number of images.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("it must be at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}
