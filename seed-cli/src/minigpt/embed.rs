//! `seed minigpt embed`: images -> embeddings for the language model, in one safetensors file.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, bail};
use seed_core::{
    DType, Device,
    checkpoint::{Made, save_tensors},
    minigpt::{self, FileAccount, MiniGptConfig, MiniGptFiles, MiniGptVision},
    pixels::Limits,
};

use crate::{input, options::Global, outcome::Outcome, progress::Progress};

/// Turn images into the embeddings that MiniGPT-v2's language model reads: a line an image, its path, a tab and its row.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The file holds one float32 tensor, \"embeddings\": images x 256 x 4096 for the released model. Images that fail have no
row. All embeddings are in memory until the file is written, 4.2 MB an image.

The norm between the vision transformer and the projection is not part of the released checkpoint and was not trained: it
is ones and zeros unless --ln-vision names a file with ln_vision.weight and ln_vision.bias, such as BLIP-2's.

Example:
  seed minigpt embed cat.jpg dog.png --vit eva_vit_g.pth --checkpoint minigptv2_checkpoint.pth --out pets.safetensors"
)]
pub(super) struct Args {
    /// Image files, folders of images, or - for an image on standard input
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// The vision transformer: BLIP-2's eva_vit_g.pth, or a bundle's model.safetensors
    #[arg(long, value_name = "FILE")]
    vit: PathBuf,
    /// MiniGPT-v2's checkpoint, with llama_proj and LoRA
    #[arg(long, value_name = "FILE")]
    checkpoint: PathBuf,
    /// A file with a trained norm, for checkpoints that were trained with one
    #[arg(long, value_name = "FILE")]
    ln_vision: Option<PathBuf>,
    /// Sizes as JSON, for models that are not of the released size
    #[arg(long, value_name = "JSON")]
    config: Option<PathBuf>,
    /// File to write
    #[arg(long, short, value_name = "FILE")]
    out: PathBuf,
    /// Images that are read at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = crate::options::positive)]
    batch_size: usize,
    /// Device to compute on: cpu, cuda or wgpu, with a number if there are several (wgpu:1)
    #[arg(long, default_value_t)]
    device: Device,
    /// Numbers that weights are kept in: f32, or half the memory with f16 or bf16; on cpu sums are in f32 in any case
    #[arg(long, default_value_t)]
    dtype: DType,
    /// Refuse images of more pixels than this
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_pixels)]
    max_pixels: u64,
}

pub(super) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let folder = args.out.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!("there is no folder {} to write to; make it or choose another with --out", folder.display());
    }
    let inputs = input::expand(&args.images)?;
    let total = inputs.len();
    let vision = open(args, global)?;
    let preprocessor = vision.preprocessor().clone();
    let progress = Progress::new(total, "images", global);
    let start = Instant::now();
    let (mut names, mut values) = (Vec::new(), Vec::new());
    let limits = Limits { max_pixels: args.max_pixels };
    let prepare = |image| preprocessor.apply(&image);
    let tally = input::batches(inputs, args.batch_size, &limits, &progress, prepare, |batch, tally| {
        let (paths, pixels): (Vec<String>, Vec<Vec<f32>>) =
            batch.into_iter().map(|loaded| (loaded.path, loaded.image)).unzip();
        values.extend(vision.embed_pixels(&pixels)?.values);
        progress.advance(paths.len());
        tally.done += paths.len();
        names.extend(paths);
        Ok(())
    })?;
    drop(progress);
    if !names.is_empty() {
        let config = vision.config();
        write(&args.out, values, vec![names.len(), config.tokens(), config.llm_width])?;
        let mut out = std::io::stdout().lock();
        for (row, name) in names.iter().enumerate() {
            writeln!(out, "{name}\t{row}")?;
        }
        out.flush()?;
    }
    global.timed(start, || format!("{} images embedded", tally.done));
    Ok(tally.outcome(total))
}

fn open(args: &Args, global: &Global) -> anyhow::Result<Box<dyn MiniGptVision>> {
    let config = match &args.config {
        Some(path) => read_config(path)?,
        None => MiniGptConfig::released(),
    };
    let files =
        MiniGptFiles { vit: args.vit.clone(), checkpoint: args.checkpoint.clone(), ln_vision: args.ln_vision.clone() };
    let start = Instant::now();
    let working = Progress::working("reading weights", global);
    let vision = minigpt::open(&files, &config, args.device, args.dtype);
    drop(working);
    let vision = vision?;
    if global.verbose {
        vision.accounts().iter().flat_map(lines).for_each(|line| eprintln!("{line}"));
    }
    global.timed(start, || "weights read".to_owned());
    Ok(vision)
}

fn read_config(path: &Path) -> anyhow::Result<MiniGptConfig> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} does not hold the sizes of MiniGPT-v2", path.display()))
}

/// What became of the keys of a file, a line a rule.
fn lines(account: &FileAccount) -> Vec<String> {
    let mut lines = vec![format!("{}: {} keys used", account.file.display(), account.used.len())];
    let mut rules: Vec<&str> = account.ignored.values().copied().collect();
    rules.sort_unstable();
    rules.dedup();
    for rule in rules {
        let count = account.ignored.values().filter(|why| **why == rule).count();
        lines.push(format!("  {count} left out: {rule}"));
    }
    lines.extend(account.no_weights.iter().map(|(key, kind)| format!("  not a weight: {key} ({kind})")));
    lines
}

fn write(path: &Path, values: Vec<f32>, shape: Vec<usize>) -> anyhow::Result<()> {
    let once = RefCell::new(Some(values)); // handed over, not copied
    let values = move || once.take().ok_or_else(|| "is written once".to_owned());
    let tensors = BTreeMap::from([("embeddings".to_owned(), Made { shape, values: Box::new(values) })]);
    Ok(save_tensors(tensors, path, DType::F32)?)
}
