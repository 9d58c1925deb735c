//! A small language model that sees and draws: image -> caption and caption -> image, over the bundled tokenizer's codes.
//!
//! | file | in | out |
//! |---|---|---|
//! | `recipe` | TOML | sizes and plans |
//! | `sequence` | captions and codes | token sequences, batches, loss |
//! | `model` | tokens | logits; a causal transformer, LoRA |
//! | `train` | recipe | weights, in three stages |
//! | `generate` | prompt | words, or exactly as many codes as an image has |
//! | `attributes` | caption | what it says, and how much of that is right |
//! | `eval` | held-out scenes | the table of `docs/see-and-draw.md` |

mod attributes;
mod eval;
mod generate;
mod model;
mod progress;
mod recipe;
mod sequence;
#[cfg(test)]
mod tests;
mod train;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, ensure};
use burn_flex::Flex;
use clap::{Parser, Subcommand};
use seed_core::{
    DType, DecodeOptions, Model, SeedTokenizer as _,
    pixels::{self, RgbImage},
    tokenizer::Tokenizer,
};

use generate::Sampling;
use recipe::Recipe;
use sequence::Vocabulary;
use train::{Ended, Run, Stage};

/// Set once the user asked to stop.
static STOP: AtomicBool = AtomicBool::new(false);

/// Exit code of what was interrupted and can be gone on with.
const INTERRUPTED: u8 = 130;

/// A small language model that captions images and draws captions.
#[derive(Parser)]
#[command(name = "see-and-draw", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Folder of the run [default: runs/NAME, after the recipe's name]
    #[arg(long, global = true, value_name = "DIR")]
    run: Option<PathBuf>,
}

/// Where the committed recipe is, from the repository's root.
const RECIPE: &str = "examples/see-and-draw/recipe.toml";

#[derive(Subcommand)]
enum Command {
    /// Train by the recipe; Ctrl-C stops after the step at hand, with a checkpoint
    Train {
        /// The recipe, a TOML file
        #[arg(default_value = RECIPE)]
        recipe: PathBuf,
        /// Train one stage alone; several processes can train one each, after captions
        #[arg(long)]
        stage: Option<Stage>,
        /// Go on with a run that was interrupted, or skip what is finished
        #[arg(long)]
        resume: bool,
    },
    /// Say what images show, a line each: path, tab, caption
    Caption {
        /// The recipe that the run was trained by
        #[arg(long, default_value = RECIPE)]
        recipe: PathBuf,
        /// Images, as those of `seed scenes --held-out`
        #[arg(required = true)]
        images: Vec<PathBuf>,
    },
    /// Draw what captions say; prints the codes of each image
    Draw {
        /// The recipe that the run was trained by
        #[arg(long, default_value = RECIPE)]
        recipe: PathBuf,
        /// Captions, for example "a small red plain circle on the left, on a flat teal background"
        #[arg(required = true)]
        captions: Vec<String>,
        /// Where to write the image, or the images side by side; a PNG file
        #[arg(long, short)]
        out: PathBuf,
        /// Seed of the codes and of their decoding
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Instead of the recipe's; 0 takes the most probable code every time
        #[arg(long)]
        temperature: Option<f64>,
        /// Instead of the recipe's
        #[arg(long)]
        top_k: Option<usize>,
        /// Steps of the decoder [default: the model's own]
        #[arg(long)]
        steps: Option<usize>,
    },
    /// Measure both directions on held-out scenes, beside the baseline; prints a table
    Eval {
        /// The recipe that the run was trained by
        #[arg(long, default_value = RECIPE)]
        recipe: PathBuf,
        /// Held-out scenes
        #[arg(long, default_value_t = 500)]
        count: usize,
        /// Seed of the scenes, of the drawn codes and of their decoding
        #[arg(long, default_value_t = 5)]
        seed: u64,
        /// Steps of the decoder; 0 decodes nothing and leaves out what needs pixels
        #[arg(long, default_value_t = 20)]
        steps: usize,
        /// Print JSON instead
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(Ended::Finished) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<Ended> {
    ctrlc::set_handler(|| {
        if STOP.swap(true, Ordering::Relaxed) {
            std::process::exit(INTERRUPTED.into());
        }
        eprintln!("\nstopping when the work at hand is finished; once more stops at once");
    })
    .context("cannot listen for Ctrl-C")?;
    let (Command::Train { recipe, .. }
    | Command::Caption { recipe, .. }
    | Command::Draw { recipe, .. }
    | Command::Eval { recipe, .. }) = &cli.command;
    let recipe = Recipe::read(recipe)?;
    let folder = cli.run.clone().unwrap_or_else(|| Path::new("runs").join(&recipe.name));
    let tokenizer = Tokenizer::<Flex>::load(Model::Bundled.files(), Default::default(), DType::F32, None)?;
    let sizes = &tokenizer.config().model;
    let vocabulary = Vocabulary::new(sizes.num_queries, sizes.codebook_size)?;
    let run = Run { recipe: &recipe, vocabulary, folder, tokenizer: &tokenizer, stop: &STOP };
    match &cli.command {
        Command::Train { stage, resume, .. } => return train(&run, *stage, *resume),
        Command::Caption { images, .. } => caption(&run, images)?,
        Command::Draw { captions, out, seed, temperature, top_k, steps, .. } => {
            let own = recipe.sampling;
            let sampling =
                Sampling { temperature: temperature.unwrap_or(own.temperature), top_k: top_k.unwrap_or(own.top_k) };
            sampling.check()?;
            let own = run.tokenizer.decode_options();
            let options = DecodeOptions { seed: *seed, steps: steps.unwrap_or(own.steps), ..own };
            draw(&run, captions, out, sampling, &options)?;
        }
        Command::Eval { count, seed, steps, json, .. } => {
            let options = eval::Options { count: *count, seed: *seed, steps: (*steps > 0).then_some(*steps) };
            let table = eval::evaluate(&run, options)?;
            match json {
                true => println!("{}", serde_json::to_string(&table)?),
                false => print!("{}", table.markdown()),
            }
        }
    }
    Ok(Ended::Finished)
}

fn caption(run: &Run<'_>, paths: &[PathBuf]) -> anyhow::Result<()> {
    let (model, vocabulary) = (run.model(Stage::Images)?, &run.vocabulary);
    let images = paths.iter().map(|path| pixels::open(path, &pixels::Limits::default()));
    let codes = run.tokenizer.encode(&images.collect::<Result<Vec<_>, _>>()?)?;
    let ids = vocabulary.template().codes_to_ids(&codes)?;
    let blocks: Vec<&[u32]> = ids.chunks(vocabulary.template().block_len()).collect();
    let captions = generate::captions(&model, vocabulary, &blocks);
    for (path, words) in paths.iter().zip(captions) {
        println!("{}\t{}", path.display(), vocabulary.text(&words));
    }
    Ok(())
}

fn draw(
    run: &Run<'_>,
    captions: &[String],
    out: &Path,
    sampling: Sampling,
    options: &DecodeOptions,
) -> anyhow::Result<()> {
    let (model, vocabulary) = (run.model(Stage::Images)?, &run.vocabulary);
    let words = captions.iter().map(|caption| vocabulary.caption_ids(caption)).collect::<anyhow::Result<Vec<_>>>()?;
    let codes = generate::images(&model, vocabulary, &words, sampling, options.seed)?;
    for row in codes.rows() {
        println!("{}", seed_core::codes::to_text(row));
    }
    let images = run.tokenizer.decode(&codes, options)?;
    Ok(pixels::write_png(out, &side_by_side(&images))?)
}

/// Images of one size in a row.
fn side_by_side(images: &[RgbImage]) -> RgbImage {
    let (width, height) = images.first().map_or((0, 0), RgbImage::dimensions);
    let mut row = RgbImage::new(width * images.len() as u32, height);
    for (image, first) in images.iter().zip((0..).step_by(width.max(1) as usize)) {
        for (x, y, pixel) in image.enumerate_pixels() {
            row.put_pixel(first + x, y, *pixel);
        }
    }
    row
}

fn train(run: &Run<'_>, stage: Option<Stage>, resume: bool) -> anyhow::Result<Ended> {
    let place = run.folder.display();
    ensure!(
        resume || !run.has_begun(),
        "{place} holds a run; go on with --resume, or choose another folder with --run"
    );
    for stage in stage.map_or(Stage::ALL.to_vec(), |stage| vec![stage]) {
        if run.train(stage)? == Ended::Interrupted {
            eprintln!("interrupted; go on with --resume");
            return Ok(Ended::Interrupted);
        }
    }
    println!("{place}");
    Ok(Ended::Finished)
}
