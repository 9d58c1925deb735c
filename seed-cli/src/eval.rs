//! `seed eval`: what a model is worth, measured on held-out scenes or on images of yours.

mod data;
mod text;

use std::{io::Write as _, ops::ControlFlow, path::PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use seed_core::{
    Error, SeedTokenizer,
    eval::{self, Captioned, Coded},
    pixels::{
        self, RgbImage,
        sheet::{Layout, side_by_side},
    },
};
use serde::Serialize;

use crate::{
    interrupt,
    options::{Global, ModelOptions, SamplingOptions},
    outcome::Outcome,
    progress::Progress,
};
use data::{Captions, Data, DataArgs};

/// Pairs on the sheet of `seed eval reconstruction`, and pairs in a row of it.
const SHEET_PAIRS: usize = 64;
const SHEET_COLUMNS: usize = 8;
/// Width and height of an image on the sheet, in pixels.
const SHEET_CELL: u32 = 128;

/// Measure a model on held-out scenes or on a dataset
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  seed eval retrieval --data flickr30k/*.parquet --count 5000 --model seed-2
  seed eval codes --html codebook.html
  seed eval reconstruction --count 200 --sheet sheet.png
  seed eval prefixes --count 200 --html prefixes.html")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Which caption belongs to which image, before and after the codes
    Retrieval(RetrievalArgs),
    /// Image to tokens to image: whether what comes back is the same to the model, to the eye, and to a detector of objects
    Reconstruction(ReconstructionArgs),
    /// Retrieval and reconstruction from the first 1, 2, 4 ... codes alone
    Prefixes(PrefixesArgs),
    /// How much of the codebook is used, how evenly and how clearly
    Codes(CodesArgs),
}

#[derive(clap::Args, Debug)]
struct Common {
    #[command(flatten)]
    data: DataArgs,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

#[derive(clap::Args, Debug)]
struct RetrievalArgs {
    #[command(flatten)]
    common: Common,
    /// Leave out images of --data with captions that the model cannot read, and say how many
    #[arg(long, requires = "data")]
    skip_unknown: bool,
}

#[derive(clap::Args, Debug)]
struct ReconstructionArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sampling: SamplingOptions,
    /// Write originals and reconstructions side by side to this PNG, the first 64
    #[arg(long, value_name = "FILE")]
    sheet: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
struct PrefixesArgs {
    #[command(flatten)]
    common: Common,
    /// Codes to keep [default: 1, 2, 4 ... and all]
    #[arg(long, value_name = "K", value_delimiter = ',', value_parser = crate::options::positive)]
    keep: Vec<usize>,
    /// Sampling steps [default: as the model says]
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Guidance scale [default: as the model says]
    #[arg(long, value_name = "SCALE")]
    guidance: Option<f64>,
    /// Seed of the random numbers
    #[arg(long, value_name = "N", default_value_t)]
    seed: u64,
    /// Measure retrieval alone, which takes no decoder
    #[arg(long)]
    no_images: bool,
    /// Write table and curves to this HTML file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(clap::Args, Debug)]
struct CodesArgs {
    #[command(flatten)]
    common: Common,
    /// Write the codebook to this HTML file: usage, entropies, margins, and the images nearest to the most used codes
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let done = match &args.what {
        What::Retrieval(args) => retrieval(args, global),
        What::Codes(args) => codes(args, global),
        What::Reconstruction(args) => reconstruction(args, global),
        What::Prefixes(args) => prefixes(args, global),
    };
    match done {
        Err(error) if matches!(error.downcast_ref(), Some(Error::Interrupted)) => {
            eprintln!("interrupted: nothing was measured"); // a part of the images would give other numbers
            Ok(Outcome::Interrupted)
        }
        done => done,
    }
}

fn retrieval(args: &RetrievalArgs, global: &Global) -> anyhow::Result<Outcome> {
    let common = &args.common;
    let (seed, data) = common.prepare(Captions::Needed { skip_unknown: args.skip_unknown }, global)?;
    let working = Progress::working("embedding images and captions", global);
    let table = eval::retrieval(seed.as_ref(), &data.captioned)?;
    drop(working);
    common.print(seed.as_ref(), &table, || text::retrieval(&table, &data.name))
}

fn codes(args: &CodesArgs, global: &Global) -> anyhow::Result<Outcome> {
    let common = &args.common;
    let (seed, data) = common.prepare(Captions::Unused, global)?;
    let bar = Progress::new(data.captioned.images.len(), "images", global);
    let coded = Coded::new(seed.as_ref(), &data.captioned.images, &mut |done, _| watch(&bar, done))?;
    drop(bar);
    if let Some(path) = &args.html {
        let title = format!("Codes of {} by {}", data.name, seed.config().name);
        eval::save_page(path, &coded.page(&title, &data.captioned.images))?;
        global.note(|| format!("the codebook is shown in {}", path.display()));
    }
    let usage = coded.usage();
    common.print(seed.as_ref(), &usage, || text::usage(&usage, &data.name))
}

fn reconstruction(args: &ReconstructionArgs, global: &Global) -> anyhow::Result<Outcome> {
    let common = &args.common;
    let (seed, data) = common.prepare(Captions::Unused, global)?;
    let options = args.sampling.resolve(seed.as_ref());
    let bar = Progress::new(data.captioned.images.len(), "images", global);
    let result = eval::reconstruction(seed.as_ref(), &data.captioned, &options, &mut |done, _| watch(&bar, done))?;
    drop(bar);
    if let Some(path) = &args.sheet {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        }
        pixels::write_png(path, &sheet(&data.captioned, &result.decoded))?;
        global.note(|| format!("originals and reconstructions side by side: {}", path.display()));
    }
    common.print(seed.as_ref(), &result, || text::reconstruction(&result, &data.name))
}

fn sheet(data: &Captioned, decoded: &[RgbImage]) -> RgbImage {
    let pairs = data.images.iter().cloned().zip(decoded.iter().cloned()).take(SHEET_PAIRS);
    let layout = Layout { cell: SHEET_CELL, columns: SHEET_COLUMNS, margin: 8, ..Layout::default() };
    side_by_side(&pairs.collect::<Vec<_>>(), &layout)
}

fn prefixes(args: &PrefixesArgs, global: &Global) -> anyhow::Result<Outcome> {
    let common = &args.common;
    let (seed, data) = common.prepare(Captions::Welcome, global)?;
    let lengths = match args.keep.is_empty() {
        true => eval::prefix_lengths(seed.config().model.num_queries),
        false => args.keep.clone(),
    };
    let own = seed.decode_options();
    let options = (!args.no_images).then(|| seed_core::DecodeOptions {
        steps: args.steps.unwrap_or(own.steps),
        guidance: args.guidance.unwrap_or(own.guidance),
        seed: args.seed,
        ..own
    });
    let bar = Progress::new(lengths.len() * data.captioned.images.len(), "images", global);
    let table =
        eval::prefixes(seed.as_ref(), &data.captioned, &lengths, options.as_ref(), &mut |done, _| watch(&bar, done))?;
    drop(bar);
    if let Some(path) = &args.html {
        let title = format!("The first tokens of {} by {}", data.name, seed.config().name);
        eval::save_page(path, &eval::prefixes_page(&title, &table))?;
        global.note(|| format!("table and curves are in {}", path.display()));
    }
    let record = serde_json::json!({ "prefixes": table });
    common.print(seed.as_ref(), &record, || text::prefixes(&table, &data.name))
}

/// Shows that `done` images are done, and stops when the user asks to.
fn watch(bar: &Progress, done: usize) -> ControlFlow<()> {
    bar.set(done);
    if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

impl Common {
    fn prepare(&self, captions: Captions, global: &Global) -> anyhow::Result<(Box<dyn SeedTokenizer>, Data)> {
        let seed = self.model.open(self.data.images.preprocess, global)?;
        let data = self.data.read(seed.as_ref(), captions, global)?;
        Ok((seed, data))
    }

    fn print<T: Serialize>(
        &self,
        seed: &dyn SeedTokenizer,
        result: &T,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<Outcome> {
        let text = match self.json {
            true => {
                let mut record = serde_json::to_value(result)?;
                record["tokenizer"] = serde_json::to_value(seed.provenance()?)?;
                match self.data.data.is_empty() {
                    true => record["scene_seed"] = self.data.scene_seed.into(),
                    false => record["data"] = self.data.data.clone().into(),
                }
                record.to_string()
            }
            false => text(),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(Outcome::Done)
    }
}
