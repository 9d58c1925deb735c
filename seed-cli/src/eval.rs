//! `seed eval`: what a model is worth, measured on held-out scenes.

use std::{io::Write as _, ops::ControlFlow};

use clap::Subcommand;
use seed_core::{
    Error, SeedTokenizer,
    eval::{self, Captioned, CodeUsage, Recall, Reconstruction, Retrieval},
};
use serde::Serialize;

use crate::{
    interrupt,
    options::{Global, ModelOptions, SamplingOptions},
    outcome::Outcome,
    progress::Progress,
};

/// Measure a model on held-out scenes
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Which caption belongs to which image, before and after the codes
    Retrieval(Common),
    /// Image to tokens to image, and whether what comes back is the same to the model
    Reconstruction(ReconstructionArgs),
    /// How much of the codebook is used, and how evenly
    Codes(Common),
}

#[derive(clap::Args, Debug)]
struct Common {
    /// Number of scenes, all with captions of their own
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: u64,
    /// Seed of the scenes
    #[arg(long, default_value_t = 1)]
    scene_seed: u64,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

#[derive(clap::Args, Debug)]
struct ReconstructionArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    sampling: SamplingOptions,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    match &args.what {
        What::Retrieval(common) => {
            let (seed, data) = common.prepare(global)?;
            let working = Progress::working("embedding scenes and captions", global);
            let table = eval::retrieval(seed.as_ref(), &data)?;
            drop(working);
            common.print(seed.as_ref(), &table, retrieval_text)
        }
        What::Codes(common) => {
            let (seed, data) = common.prepare(global)?;
            let working = Progress::working("encoding scenes", global);
            let usage = eval::code_usage(&seed.encode(&data.images)?);
            drop(working);
            common.print(seed.as_ref(), &usage, usage_text)
        }
        What::Reconstruction(args) => reconstruction(args, global),
    }
}

fn reconstruction(args: &ReconstructionArgs, global: &Global) -> anyhow::Result<Outcome> {
    let (seed, data) = args.common.prepare(global)?;
    let options = args.sampling.resolve(seed.as_ref());
    let bar = Progress::new(data.images.len(), "images", global);
    let mut watch = |done: usize, _: usize| {
        bar.set(done);
        if interrupt::requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    match eval::reconstruction(seed.as_ref(), &data.images, &options, &mut watch) {
        Err(Error::Interrupted) => {
            drop(bar);
            eprintln!("interrupted: nothing was measured"); // a part of the scenes would give other numbers
            Ok(Outcome::Interrupted)
        }
        result => {
            drop(bar);
            args.common.print(seed.as_ref(), &result?, reconstruction_text)
        }
    }
}

impl Common {
    fn prepare(&self, global: &Global) -> anyhow::Result<(Box<dyn SeedTokenizer>, Captioned)> {
        let seed = self.model.open(None, global)?;
        let size = u32::try_from(seed.config().model.image_size)?;
        Ok((seed, eval::held_out(self.count as usize, self.scene_seed, size)))
    }

    fn print<T: Serialize>(
        &self,
        seed: &dyn SeedTokenizer,
        result: &T,
        text: fn(&T) -> String,
    ) -> anyhow::Result<Outcome> {
        let text = match self.json {
            true => {
                let mut record = serde_json::to_value(result)?;
                record["tokenizer"] = serde_json::to_value(seed.provenance()?)?;
                record["scene_seed"] = self.scene_seed.into();
                record.to_string()
            }
            false => text(result),
        };
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}")?;
        out.flush()?;
        Ok(Outcome::Done)
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn recalls(recall: &Recall) -> String {
    [recall.at_1, recall.at_5, recall.at_10].map(percent).join(" | ")
}

fn retrieval_text(table: &Retrieval) -> String {
    let mut text = format!(
        "Caption retrieval among {} held-out scenes, in percent\n\n\
         | from | image to text R@1 | R@5 | R@10 | text to image R@1 | R@5 | R@10 | mean |\n\
         |---|---|---|---|---|---|---|---|",
        table.images
    );
    for row in &table.rows {
        let (to_text, to_image) = (recalls(&row.image_to_text), recalls(&row.text_to_image));
        text += &format!("\n| {} | {to_text} | {to_image} | {} |", row.name, percent(row.mean));
    }
    text
}

fn usage_text(usage: &CodeUsage) -> String {
    let bits = usage.position_bits.iter().map(|bits| format!("{bits:.2}")).collect::<Vec<_>>().join(" ");
    format!(
        "Codes of {} held-out scenes\n\n| codebook | used | usage % | perplexity | different codes an image |\n|---|---|---|---|---|\n\
         | {} | {} | {} | {:.1} | {:.1} |\n\nEntropy of each position, in bits: {bits}",
        usage.images,
        usage.codebook_size,
        usage.used,
        percent(usage.usage),
        usage.perplexity,
        usage.distinct_per_image
    )
}

fn reconstruction_text(result: &Reconstruction) -> String {
    let asked = [
        result.scheduler.map(|name| format!(", scheduler {name}")),
        result.size.map(|size| format!(", {size} pixels")),
        result.keep_first.map(|codes| format!(", the first {codes} codes")),
    ];
    let asked: String = asked.into_iter().flatten().collect();
    format!(
        "Image to tokens to image for {} held-out scenes, {} steps, guidance {}, seed {}{asked}\n\n\
         | nearest original R@1 % | R@5 % | R@10 % | similarity | PSNR dB |\n|---|---|---|---|---|\n\
         | {} | {:.3} | {:.2} |",
        result.images,
        result.steps,
        result.guidance,
        result.seed,
        recalls(&result.nearest_original),
        result.similarity,
        result.psnr
    )
}
