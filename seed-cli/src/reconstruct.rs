//! `seed reconstruct`: images -> codes -> images, and a sheet of both.

use std::{path::PathBuf, time::Instant};

use seed_core::pixels::{
    self, RgbImage, resize,
    sheet::{Layout, side_by_side},
};

use crate::{
    decode::Decoder,
    encode::{self, Encoded},
    input::{self, Input},
    names::Names,
    options::{Global, ImageOptions, ModelOptions, NegativeOption, SamplingOptions},
    outcome::Outcome,
    progress::Progress,
};

/// Name of the sheet, without its ending.
const SHEET: &str = "sheet";

/// Most pairs on the sheet: it is there to be looked at.
const PAIRS_SHOWN: usize = 64;

/// Turn images into tokens and back, and show both side by side.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Writes a PNG for each image and sheet.png, the originals with their reconstructions to the right, to
--out, and the codes to standard output as `seed encode` does.

Example:
  seed reconstruct cat.jpg dog.png --out out"
)]
pub(crate) struct Args {
    /// Image files, folders of images, or - for an image on standard input
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Folder for the images and the sheet
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Write codes as JSON lines: {"path": ..., "codes": [...]}
    #[arg(long)]
    json: bool,
    /// Images that are worked on at a time; it does not change them
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = crate::options::positive)]
    batch_size: usize,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    negative: NegativeOption,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    reading: ImageOptions,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let inputs = input::expand(&args.images)?;
    let total = inputs.len();
    let tokenizer = args.model.open(args.reading.preprocess, global)?;
    let form = encode::form(tokenizer.as_ref(), args.json, false)?;
    let options = args.sampling.resolve(tokenizer.as_ref());
    let negative = args.negative.resolve(tokenizer.as_ref())?;
    let mut names = Names::new(&args.out, &[SHEET], inputs.iter().filter_map(Input::file))?;
    let progress = Progress::new(total, "images", global);
    let decoder = Decoder::new(tokenizer.as_ref(), options, negative, &progress)?;
    let preprocessor = tokenizer.preprocessor().clone();
    let prepare = |image: RgbImage| {
        let seen = resize(&image, preprocessor.size, preprocessor.size, preprocessor.filter);
        (preprocessor.apply(&image), seen)
    };
    let (mut pairs, mut index) = (Vec::new(), 0);
    let start = Instant::now();
    let limits = args.reading.limits();
    let tally = input::batches(inputs, args.batch_size, &limits, &progress, prepare, |batch, tally| {
        let (paths, images): (Vec<String>, Vec<_>) =
            batch.into_iter().map(|loaded| (loaded.path, loaded.image)).unzip();
        let (pixels, seen): (Vec<Vec<f32>>, Vec<RgbImage>) = images.into_iter().unzip();
        let codes = tokenizer.encode_pixels(&pixels)?;
        let decoded = decoder.decode(&codes)?;
        for (((path, original), image), row) in paths.iter().zip(seen).zip(decoded).zip(codes.rows()) {
            decoder.write(&names.next(Some(path), index), &image, row)?;
            if pairs.len() < PAIRS_SHOWN {
                pairs.push((original, image));
            }
            index += 1;
        }
        encode::print(&Encoded { paths, codes, margins: None }, &form, &progress, tally)
    })?;
    drop(progress);
    if !pairs.is_empty() {
        let sheet = args.out.join(format!("{SHEET}.png"));
        pixels::write_png(&sheet, &side_by_side(&pairs, &layout(&pairs)))?;
        let shown = if pairs.len() < tally.done { format!(", the first {PAIRS_SHOWN}") } else { String::new() };
        global.note(|| format!("originals and reconstructions side by side{shown}: {}", sheet.display()));
    }
    global.timed(start, || format!("{} images reconstructed", tally.done));
    Ok(tally.outcome(total))
}

/// A sheet about as high as it is wide.
fn layout(pairs: &[(RgbImage, RgbImage)]) -> Layout {
    let columns = (pairs.len() as f64 / 2.0).sqrt().ceil() as usize;
    let cell = pairs.iter().map(|(_, image)| image.width().clamp(256, 512)).max().unwrap_or(256);
    Layout { cell, columns, ..Layout::default() }
}
