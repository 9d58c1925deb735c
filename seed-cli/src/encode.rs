//! `seed encode`: images -> lines of codes.

use std::{io::Write as _, path::PathBuf, time::Instant};

use anyhow::bail;
use seed_core::{Codes, SeedTokenizer, checkpoint::Weights};

use crate::{
    input, interrupt,
    lines::{self, Form},
    options::{Global, ImageOptions, ModelOptions},
    outcome::{Outcome, Tally, report},
    progress::Progress,
};

/// Turn images into tokens: a line an image, its path, a tab and its codes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  seed encode cat.jpg dog.png            two lines
  seed encode photos/ > codes.txt        every image in a folder, sorted by name
  seed encode --text cat.jpg             for a language model: <img><img_00268>...</img>
  curl -s https://... | seed encode -    an image from standard input")]
pub(crate) struct Args {
    /// Image files, folders of images, or - for an image on standard input
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Write JSON lines: {"path": ..., "codes": [...], "tokenizer": {what made them}}
    #[arg(long)]
    json: bool,
    /// Write codes as a language model reads them: `<img><img_00268>...</img>`
    #[arg(long, conflicts_with = "json")]
    text: bool,
    /// Add how much farther the runner-up of each code is, in squared distance; small margins may flip on other devices
    #[arg(long, requires = "json")]
    margins: bool,
    /// The inputs are safetensors files of images that are normalized pixels already: a float tensor "pixels", images x 3 x
    /// size x size. Lines name them by file and number
    #[arg(long, conflicts_with = "preprocess")]
    pixels: bool,
    /// Images that are encoded at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = crate::options::positive)]
    batch_size: usize,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    reading: ImageOptions,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    if args.pixels {
        return encode_pixels(args, global);
    }
    let inputs = input::expand(&args.images)?;
    let total = inputs.len();
    let tokenizer = args.model.open(args.reading.preprocess, global)?;
    let preprocessor = tokenizer.preprocessor().clone();
    let form = form(tokenizer.as_ref(), args.json, args.text)?;
    let progress = Progress::new(total, "images", global);
    let start = Instant::now();
    let prepare = |image| preprocessor.apply(&image);
    let limits = args.reading.limits();
    let tally = input::batches(inputs, args.batch_size, &limits, &progress, prepare, |batch, tally| {
        let (paths, pixels): (Vec<String>, Vec<Vec<f32>>) =
            batch.into_iter().map(|loaded| (loaded.path, loaded.image)).unzip();
        let (codes, margins) = encode(tokenizer.as_ref(), &pixels, args.margins)?;
        print(&Encoded { paths, codes, margins }, &form, &progress, tally)
    })?;
    drop(progress);
    global.timed(start, || format!("{} images encoded", tally.done));
    Ok(tally.outcome(total))
}

fn encode(
    tokenizer: &dyn SeedTokenizer,
    pixels: &[Vec<f32>],
    margins: bool,
) -> seed_core::Result<(Codes, Option<Vec<f32>>)> {
    match margins {
        true => tokenizer.encode_pixels_with_margins(pixels).map(|(codes, margins)| (codes, Some(margins))),
        false => Ok((tokenizer.encode_pixels(pixels)?, None)),
    }
}

/// Encodes what somebody else has preprocessed.
fn encode_pixels(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let tokenizer = args.model.open(None, global)?;
    let form = form(tokenizer.as_ref(), args.json, args.text)?;
    let size = tokenizer.preprocessor().size as usize;
    let mut tally = Tally::default();
    let mut total = 0;
    for path in &args.images {
        let weights = Weights::open(path)?;
        let shape = weights.get("pixels").map(|stored| stored.shape.to_vec());
        match shape.as_deref() {
            Some(&[_, 3, height, width]) if [height, width] == [size, size] => {}
            Some(shape) => {
                bail!("{}: \"pixels\" is {shape:?}, the model reads [images, 3, {size}, {size}]", path.display())
            }
            None => bail!("{} has no tensor \"pixels\"", path.display()),
        }
        let images: Vec<Vec<f32>> = weights.floats("pixels")?.chunks(3 * size * size).map(<[f32]>::to_vec).collect();
        let progress = Progress::new(images.len(), "images", global);
        for (batch, images) in images.chunks(args.batch_size).enumerate() {
            if interrupt::requested() {
                break;
            }
            let name = |i: usize| format!("{}[{}]", path.display(), batch * args.batch_size + i);
            let (codes, margins) = encode(tokenizer.as_ref(), images, args.margins)?;
            let encoded = Encoded { paths: (0..images.len()).map(name).collect(), codes, margins };
            print(&encoded, &form, &progress, &mut tally)?;
        }
        total += images.len();
    }
    Ok(tally.outcome(total))
}

/// A batch of images as codes.
pub(crate) struct Encoded {
    pub(crate) paths: Vec<String>,
    pub(crate) codes: Codes,
    /// One a code.
    pub(crate) margins: Option<Vec<f32>>,
}

/// How lines are written that are asked for as JSON, as text or as neither.
pub(crate) fn form(tokenizer: &dyn SeedTokenizer, as_json: bool, as_text: bool) -> anyhow::Result<Form> {
    Ok(match (as_json, as_text) {
        (true, _) => Form::Json(serde_json::to_value(tokenizer.provenance()?)?),
        (false, true) => Form::Text(lines::template(&tokenizer.config().model)?),
        (false, false) => Form::Codes,
    })
}

/// Prints the codes of a batch, line after line.
pub(crate) fn print(batch: &Encoded, form: &Form, progress: &Progress, tally: &mut Tally) -> anyhow::Result<()> {
    progress.suspend(|| {
        let mut out = std::io::stdout().lock();
        for (i, (path, row)) in batch.paths.iter().zip(batch.codes.rows()).enumerate() {
            let margins = batch.margins.as_ref().map(|margins| &margins[i * row.len()..][..row.len()]);
            match lines::write(path, row, form, margins) {
                Ok(line) => {
                    writeln!(out, "{line}")?;
                    tally.done += 1;
                }
                Err(error) => {
                    report(&error);
                    tally.failed += 1;
                }
            }
        }
        out.flush()
    })?;
    progress.advance(batch.paths.len());
    Ok(())
}
