//! `seed minigpt`: MiniGPT-v2's visual front end, its prompts and its boxes.

mod embed;

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use seed_core::{
    minigpt::{
        boxes::{self, Parsed},
        draw,
        prompt::{Task, pieces, prompt},
    },
    pixels::{self, Limits},
};
use serde_json::json;

use crate::{options::Global, outcome::Outcome};

/// Work with MiniGPT-v2: images to embeddings for its language model, prompts, and boxes in its answers.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  seed minigpt embed cat.jpg --vit eva_vit_g.pth --checkpoint minigptv2_checkpoint.pth --out cat.safetensors
  seed minigpt prompt --task vqa \"what colour is the cat?\"
  seed minigpt draw-boxes cat.jpg \"<p>a cat</p> {<10><20><80><90>}\" --out boxes.png")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Embed(embed::Args),
    Prompt(PromptArgs),
    DrawBoxes(DrawArgs),
}

/// Print the prompt about an image that a language model is given; <ImageHere> stands for the image's embeddings.
#[derive(clap::Args, Debug)]
struct PromptArgs {
    /// The question, the thing to find, the box to name, or whatever else the task is about
    #[arg(value_name = "TEXT")]
    text: String,
    /// Task: vqa, caption, grounding, refer, identify or detection [default: none, free conversation]
    #[arg(long, value_name = "NAME")]
    task: Option<Task>,
    /// Take TEXT as it is: no sentence is put around a question (vqa) or a thing (refer)
    #[arg(long)]
    verbatim: bool,
    /// Print a JSON object: the prompt, and the pieces around its image with whether the tokenizer adds its BOS
    #[arg(long)]
    json: bool,
}

/// Draw the boxes of an answer on its image, and print a line for each: colour, phrase, left, top, right and bottom in pixels.
#[derive(clap::Args, Debug)]
struct DrawArgs {
    /// The image, in any format that `seed encode` reads
    #[arg(value_name = "IMAGE")]
    image: PathBuf,
    /// The answer, such as "<p>a cat</p> {<10><20><80><90>}", or - to read it from standard input
    #[arg(value_name = "TEXT")]
    text: String,
    /// PNG file to write
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Draw what is well formed, and say what is not
    #[arg(long)]
    lenient: bool,
    /// Refuse images of more pixels than this
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_pixels)]
    max_pixels: u64,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    match &args.command {
        Command::Embed(args) => embed::run(args, global),
        Command::Prompt(args) => print_prompt(args),
        Command::DrawBoxes(args) => draw_boxes(args, global),
    }
}

fn print_prompt(args: &PromptArgs) -> anyhow::Result<Outcome> {
    let text = match args.task {
        Some(task) if !args.verbatim && !args.text.trim().is_empty() => task.instruction(&args.text),
        _ => args.text.clone(),
    };
    let made = prompt(args.task, &text)?;
    let mut out = std::io::stdout().lock();
    match args.json {
        true => {
            let parts = pieces(&made).into_iter().map(|piece| json!({ "text": piece.text, "bos": piece.bos }));
            writeln!(out, "{}", json!({ "prompt": made, "pieces": parts.collect::<Vec<_>>() }))?;
        }
        false => writeln!(out, "{made}")?,
    }
    out.flush()?;
    Ok(Outcome::Done)
}

fn draw_boxes(args: &DrawArgs, global: &Global) -> anyhow::Result<Outcome> {
    let mut text = args.text.clone();
    if text == "-" {
        text.clear();
        std::io::stdin().lock().read_to_string(&mut text).context("cannot read the text from standard input")?;
    }
    let groups = match args.lenient {
        true => {
            let Parsed { groups, skipped } = boxes::parse_lenient(&text);
            for part in skipped {
                global.note(|| format!("left out {:?}: {}", &text[part.range], part.reason));
            }
            groups
        }
        false => boxes::parse(&text).context("--lenient draws what is well formed")?,
    };
    if groups.is_empty() {
        bail!("the text holds no boxes; a phrase with a box is <p>phrase</p> {{<x1><y1><x2><y2>}}");
    }
    let same = |path: &PathBuf| path.canonicalize().ok();
    if same(&args.out).is_some() && same(&args.out) == same(&args.image) {
        bail!("{} is the image itself; choose another file with --out", args.out.display());
    }
    let image = pixels::open(&args.image, &Limits { max_pixels: args.max_pixels })?;
    pixels::write_png(&args.out, &draw::draw(&image, &groups))?;
    let mut out = std::io::stdout().lock();
    for (group, [red, green, blue]) in groups.iter().zip(draw::colors(&groups)) {
        for one in group.boxes() {
            let phrase = group.phrase().unwrap_or_default().replace(['\t', '\n', '\r'], " ");
            let [left, top, right, bottom] = one.to_pixels(image.width(), image.height());
            writeln!(out, "#{red:02x}{green:02x}{blue:02x}\t{phrase}\t{left:.2} {top:.2} {right:.2} {bottom:.2}")?;
        }
    }
    out.flush()?;
    Ok(Outcome::Done)
}
