//! `seed decode`: lines of codes -> images.

use std::{
    io::Read as _,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, bail};
use seed_core::{
    Codes, DecodeOptions, SchedulerName, SeedTokenizer,
    pixels::{self, RgbImage},
};
use serde_json::{Value, json};

use crate::{
    interrupt,
    lines::{self, Line},
    names::Names,
    options::{Global, ModelOptions, NegativeOption, SamplingOptions},
    outcome::{Outcome, Tally},
    progress::Progress,
};

/// Bad lines that are named before the rest is only counted.
const BAD_LINES_NAMED: usize = 10;

/// Under what an image's PNG says what made it.
const KEYWORD: &str = "seed";

/// Turn tokens into images: a PNG for each line of codes.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Reads what `seed encode` writes, in every form, and lines of codes alone. Images are named after
the path on their line, or 000000.png and so on. Each says what made it, as JSON in its text \"seed\":
model, hash of the weights, codes and options.

Examples:
  seed decode codes.txt --out images
  seed encode cat.jpg | seed decode --out images --seed 7"
)]
pub(crate) struct Args {
    /// File with lines of codes, or - for standard input
    #[arg(default_value = "-", value_name = "FILE")]
    codes: PathBuf,
    /// Folder for the images
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Images that are decoded at a time; it does not change them
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = crate::options::positive)]
    batch_size: usize,
    #[command(flatten)]
    sampling: SamplingOptions,
    #[command(flatten)]
    negative: NegativeOption,
    #[command(flatten)]
    model: ModelOptions,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let (text, file) = read(&args.codes)?;
    let tokenizer = args.model.open(None, global)?;
    let (paths, codes) = parse(&text, &file, tokenizer.as_ref(), global)?;
    let options = args.sampling.resolve(tokenizer.as_ref());
    let negative = args.negative.resolve(tokenizer.as_ref())?;
    let mut names = Names::new(&args.out, &[], paths.iter().flatten().map(Path::new))?;
    let total = codes.batch();
    let progress = Progress::new(total, "images", global);
    let decoder = Decoder::new(tokenizer.as_ref(), options, negative, &progress)?;
    let start = Instant::now();
    let mut tally = Tally::default();
    for first in (0..total).step_by(args.batch_size) {
        let range = first..total.min(first + args.batch_size);
        let batch = codes.slice(range.clone());
        for ((index, image), row) in range.zip(decoder.decode(&batch)?).zip(batch.rows()) {
            decoder.write(&names.next(paths[index].as_deref(), index), &image, row)?;
            tally.done += 1;
        }
        if interrupt::requested() {
            break;
        }
    }
    drop(progress);
    global.timed(start, || format!("{} images decoded to {}", tally.done, args.out.display()));
    Ok(tally.outcome(total))
}

/// A tokenizer with everything that decoding needs besides codes.
pub(crate) struct Decoder<'a> {
    tokenizer: &'a dyn SeedTokenizer,
    options: DecodeOptions,
    negative: Option<Codes>,
    progress: &'a Progress,
    /// What is said of every image: its model and how it was drawn.
    record: Value,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(
        tokenizer: &'a dyn SeedTokenizer,
        options: DecodeOptions,
        negative: Option<Codes>,
        progress: &'a Progress,
    ) -> anyhow::Result<Self> {
        let record = json!({
            "tokenizer": tokenizer.provenance()?,
            "decode": {
                "steps": options.steps,
                "guidance": options.guidance,
                "seed": options.seed,
                "scheduler": options.scheduler.map(SchedulerName::name),
                "size": options.size,
                "keep_first": options.keep_first,
                "negative": negative.as_ref().map(Codes::as_slice),
            },
        });
        Ok(Self { tokenizer, options, negative, progress, record })
    }

    /// Writes an image with the codes and everything else that it was made from.
    pub(crate) fn write(&self, path: &Path, image: &RgbImage, codes: &[u16]) -> anyhow::Result<()> {
        let mut record = self.record.clone();
        record["codes"] = json!(codes);
        Ok(pixels::write_png_with_text(path, image, KEYWORD, &record.to_string())?)
    }

    /// Decodes a batch.
    pub(crate) fn decode(&self, codes: &Codes) -> seed_core::Result<Vec<RgbImage>> {
        let mut watch = |finished, steps| {
            self.progress.message(format!("step {finished}/{steps}"));
            ControlFlow::Continue(())
        };
        let negative = self.negative.as_ref();
        let images = self.tokenizer.decode_with(codes, negative, &self.options, &mut watch)?;
        self.progress.advance(images.len());
        Ok(images)
    }
}

/// The text of a file, or of standard input, and its name in messages.
fn read(path: &Path) -> anyhow::Result<(String, String)> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).context("cannot read codes from standard input")?;
        return Ok((text, "standard input".to_owned()));
    }
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read codes from {name}; give a file that `seed encode` wrote"))?;
    Ok((text, name))
}

/// Every line's path and codes. Empty lines are skipped, and lines that say that other weights made them are told of.
///
/// # Errors
/// When a line is not codes of this model; each such line is named on standard error.
fn parse(
    text: &str,
    file: &str,
    tokenizer: &dyn SeedTokenizer,
    global: &Global,
) -> anyhow::Result<(Vec<Option<String>>, Codes)> {
    let own = tokenizer.provenance()?.weights;
    let mut foreign: Vec<String> = Vec::new();
    let model = &tokenizer.config().model;
    let template = lines::template(model)?;
    let (mut paths, mut rows, mut bad) = (Vec::new(), Vec::new(), 0);
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let read = lines::read(line, &template).and_then(|line| {
            lines::check(&line.row, model.num_queries, model.codebook_size)?;
            Ok(line)
        });
        match read {
            Ok(Line { path, row, weights }) => {
                paths.push(path);
                rows.push(row);
                foreign.extend(weights.filter(|weights| *weights != own));
            }
            Err(error) => {
                bad += 1;
                if bad <= BAD_LINES_NAMED {
                    eprintln!("error: {file}, line {number}: {error:#}");
                }
            }
        }
    }
    if let Some(other) = foreign.first() {
        global.note(|| {
            let (lines, all) = (foreign.len(), rows.len());
            format!(
                "warning: {lines} of {all} lines were encoded with other weights than these (SHA-256 {other}, not {own}): the images are right \
                 only if it is the same model in another dtype; give the model that made them by --model"
            )
        });
    }
    match (bad, rows.len()) {
        (0, 0) => bail!("{file} holds no codes; give it lines that `seed encode` wrote"),
        (0, _) => Ok((paths, Codes::from_rows(rows, model.num_queries, model.codebook_size)?)),
        (bad, good) => bail!("{bad} of {} lines are no codes of this model; nothing was decoded", bad + good),
    }
}
