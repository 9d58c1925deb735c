//! `seed eval`: what a model is worth, on scenes that no training uses.

use std::{io::Write as _, ops::ControlFlow, time::Instant};

use clap::Subcommand;
use seed_core::{
    Codes, Error, SeedTokenizer,
    eval::{self, Captioned, CodeUsage, Recall, Reconstruction, Retrieval},
};

use crate::{
    interrupt,
    options::{Global, ModelOptions, SamplingOptions, positive},
    outcome::Outcome,
    progress::Progress,
};

/// Images between two looks at whether the user asked to stop.
const BATCH: usize = 32;

/// Measure a model on procedural scenes that no training uses.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  seed eval retrieval --model runs/scenes-tiny/bundle")]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Find captions by images and images by captions: from image embeddings, causal embeddings and codes
    Retrieval {
        #[command(flatten)]
        common: Common,
    },
    /// Turn images into tokens and back, and see whether the originals are recognised
    Reconstruction {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        sampling: SamplingOptions,
    },
    /// Count how much of the codebook is used, and how evenly
    Codes {
        #[command(flatten)]
        common: Common,
    },
}

#[derive(clap::Args, Debug)]
struct Common {
    /// Number of scenes, all with captions of their own
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = positive)]
    images: usize,
    /// Seed of the scenes
    #[arg(long, value_name = "N", default_value_t)]
    scenes_seed: u64,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

impl Common {
    fn data(&self, tokenizer: &dyn SeedTokenizer) -> Captioned {
        eval::held_out(self.images, self.scenes_seed, tokenizer.config().model.image_size as u32)
    }

    /// Prints what was measured: as JSON, or as `table` under a headline.
    fn print<T: serde::Serialize>(&self, measured: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<Outcome> {
        let text = match self.json {
            true => serde_json::to_string_pretty(measured)?,
            false => format!("{} held-out scenes, seed {}\n{}", self.images, self.scenes_seed, table(measured)),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(Outcome::Done)
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let (What::Retrieval { common } | What::Reconstruction { common, .. } | What::Codes { common }) = &args.what;
    let tokenizer = common.model.open(None, global)?;
    let tokenizer = tokenizer.as_ref();
    let start = Instant::now();
    let outcome = match &args.what {
        What::Retrieval { .. } => {
            let working = Progress::working("embedding scenes and captions", global);
            let measured = eval::retrieval(tokenizer, &common.data(tokenizer))?;
            drop(working);
            common.print(&measured, retrieval_table)?
        }
        What::Reconstruction { sampling, .. } => reconstruction(common, sampling, tokenizer, global)?,
        What::Codes { .. } => codes(common, tokenizer, global)?,
    };
    global.timed(start, || format!("{} scenes measured", common.images));
    Ok(outcome)
}

fn reconstruction(
    common: &Common,
    sampling: &SamplingOptions,
    tokenizer: &dyn SeedTokenizer,
    global: &Global,
) -> anyhow::Result<Outcome> {
    let options = sampling.resolve(tokenizer);
    let progress = Progress::new(common.images, "images", global);
    let mut watch = |finished, _| {
        progress.set(finished);
        match interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let measured = eval::reconstruction(tokenizer, &common.data(tokenizer).images, &options, &mut watch);
    drop(progress);
    match measured {
        Ok(measured) => common.print(&measured, reconstruction_table),
        Err(Error::Interrupted) => Ok(stopped()),
        Err(error) => Err(error.into()),
    }
}

fn codes(common: &Common, tokenizer: &dyn SeedTokenizer, global: &Global) -> anyhow::Result<Outcome> {
    let model = &tokenizer.config().model;
    let progress = Progress::new(common.images, "images", global);
    let mut rows = Vec::with_capacity(common.images);
    for images in common.data(tokenizer).images.chunks(BATCH) {
        rows.extend(tokenizer.encode(images)?.rows().map(<[u16]>::to_vec));
        progress.advance(images.len());
        if interrupt::requested() {
            return Ok(stopped());
        }
    }
    drop(progress);
    let measured = eval::code_usage(&Codes::from_rows(rows, model.num_queries, model.codebook_size)?);
    common.print(&measured, usage_table)
}

/// A part of the scenes would give other numbers, so there is nothing to print.
fn stopped() -> Outcome {
    eprintln!("interrupted: nothing was measured");
    Outcome::Interrupted
}

fn retrieval_table(measured: &Retrieval) -> String {
    let mut lines = vec![
        format!("{:16}  {:^20}  {:>16}", "", "image -> text", "text -> image"),
        format!("{0:16}  {1:>6} {2:>6} {3:>6}  {1:>6} {2:>6} {3:>6}  {4:>6}", "", "R@1", "R@5", "R@10", "mean"),
    ];
    let recall = |r: &Recall| format!("{:6.1} {:6.1} {:6.1}", 100.0 * r.at_1, 100.0 * r.at_5, 100.0 * r.at_10);
    for row in &measured.rows {
        let (text, image) = (recall(&row.image_to_text), recall(&row.text_to_image));
        lines.push(format!("{:16}  {text}  {image}  {:6.1}", row.name, 100.0 * row.mean));
    }
    lines.join("\n")
}

fn reconstruction_table(measured: &Reconstruction) -> String {
    let Reconstruction { nearest_original, similarity, psnr, steps, guidance, seed, .. } = measured;
    let Recall { at_1, at_5, at_10 } = nearest_original;
    let plural = if *steps == 1 { "step" } else { "steps" };
    [
        format!(
            "nearest original is the right one  {:.1} %  (among 5: {:.1} %, among 10: {:.1} %)",
            100.0 * at_1,
            100.0 * at_5,
            100.0 * at_10
        ),
        format!("cosine of the image embeddings     {similarity:.3}"),
        format!("signal to noise of the pixels      {psnr:.1} dB"),
        format!("sampling                           {steps} {plural}, guidance {guidance}, seed {seed}"),
    ]
    .join("\n")
}

fn usage_table(measured: &CodeUsage) -> String {
    let CodeUsage { codebook_size, used, usage, perplexity, position_bits, .. } = measured;
    let bits: Vec<String> = position_bits.iter().map(|bits| format!("{bits:.1}")).collect();
    [
        format!("codes used            {used} of {codebook_size}, {:.1} %", 100.0 * usage),
        format!("perplexity            {perplexity:.1}"),
        format!("bits by position      {}", bits.join(" ")),
    ]
    .join("\n")
}
