//! `seed encode`: images -> lines of codes.

use std::{io::Write as _, path::PathBuf, time::Instant};

use seed_core::Codes;

use crate::{
    input, lines,
    options::{Global, ImageOptions, ModelOptions},
    outcome::{Outcome, Tally, report},
    progress::Progress,
};

/// Turn images into tokens: a line an image, its path, a tab and its codes.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  seed encode cat.jpg dog.png            two lines
  seed encode photos/ > codes.txt        every image in a folder, sorted by name
  curl -s https://... | seed encode -    an image from standard input")]
pub(crate) struct Args {
    /// Image files, folders of images, or - for an image on standard input
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// Write JSON lines: {"path": ..., "codes": [...]}
    #[arg(long)]
    json: bool,
    /// Images that are encoded at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = crate::options::positive)]
    batch_size: usize,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    reading: ImageOptions,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let inputs = input::expand(&args.images)?;
    let total = inputs.len();
    let tokenizer = args.model.open(args.reading.preprocess, global)?;
    let preprocessor = tokenizer.preprocessor().clone();
    let progress = Progress::new(total, "images", global);
    let start = Instant::now();
    let prepare = |image| preprocessor.apply(&image);
    let limits = args.reading.limits();
    let tally = input::batches(inputs, args.batch_size, &limits, &progress, prepare, |batch, tally| {
        let (paths, pixels): (Vec<String>, Vec<Vec<f32>>) =
            batch.into_iter().map(|loaded| (loaded.path, loaded.image)).unzip();
        let codes = tokenizer.encode_pixels(&pixels)?;
        print(&paths, &codes, args.json, &progress, tally)
    })?;
    drop(progress);
    global.timed(start, || format!("{} images encoded", tally.done));
    Ok(tally.outcome(total))
}

/// Prints the codes of a batch, line after line.
pub(crate) fn print(
    paths: &[String],
    codes: &Codes,
    as_json: bool,
    progress: &Progress,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    progress.suspend(|| {
        let mut out = std::io::stdout().lock();
        for (path, row) in paths.iter().zip(codes.rows()) {
            match lines::write(path, row, as_json) {
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
    progress.advance(paths.len());
    Ok(())
}
