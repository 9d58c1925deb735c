//! `seed convert`: official files -> a bundle.

use std::{io::Write as _, path::PathBuf, time::Instant};

use anyhow::Context as _;
use seed_core::{
    DType, Error,
    tokenizer::{Conversion, ConvertOptions, SeedConfig, convert_until},
};

use crate::{interrupt, options::Global, outcome::Outcome};

/// Make a bundle of official files, and account for every key in them.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The files are read without running anything in them. Which detokenizer a checkpoint has is found from its keys; head
counts are those of the released models, or of --config. What became of each key is written to conversion.json in
the bundle.

Examples:
  seed convert --quantizer seed_quantizer.pt --vit eva_vit_g.pth --decoder stable-diffusion-2-1-unclip --out seed-2
  seed convert --quantizer seed_tokenizer.pth --qformer causal_qformer.pth --out seed-1"
)]
pub(crate) struct Args {
    /// seed_quantizer.pt (SEED-2) or seed_tokenizer.pth (SEED-1), or one file that holds everything
    #[arg(long, value_name = "FILE")]
    quantizer: PathBuf,
    /// eva_vit_g.pth, the vision transformer of SEED-2
    #[arg(long, value_name = "FILE")]
    vit: Option<PathBuf>,
    /// causal_qformer.pth of SEED-1
    #[arg(long, value_name = "FILE")]
    qformer: Option<PathBuf>,
    /// Diffusion decoder in diffusers layout
    #[arg(long, value_name = "DIR")]
    decoder: Option<PathBuf>,
    /// Sizes as JSON, for models that are not of a released size
    #[arg(long, value_name = "JSON")]
    config: Option<PathBuf>,
    /// Side of the images, if another than the files are for: position embeddings are interpolated
    #[arg(long, value_name = "PIXELS", value_parser = crate::options::positive)]
    image_size: Option<usize>,
    /// Element type on disk
    #[arg(long, value_name = "DTYPE", default_value = "f16")]
    dtype: DType,
    /// Name of the model [default: the bundle's folder]
    #[arg(long)]
    name: Option<String>,
    /// Folder of the bundle
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
    /// Print the account as a JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let config: Option<SeedConfig> = args.config.as_ref().map(read_config).transpose()?;
    let folder_name = || args.out.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let options = ConvertOptions {
        name: args.name.clone().unwrap_or_else(folder_name),
        quantizer: args.quantizer.clone(),
        vit: args.vit.clone(),
        qformer: args.qformer.clone(),
        decoder: args.decoder.clone(),
        config,
        image_size: args.image_size,
        dtype: args.dtype,
    };
    let conversion = match convert_until(&options, &args.out, &interrupt::STOP) {
        Err(Error::Interrupted) => {
            eprintln!("interrupted before {} was whole; the same command makes it", args.out.display());
            return Ok(Outcome::Interrupted);
        }
        conversion => conversion?,
    };
    let text = if args.json { serde_json::to_string_pretty(&conversion)? } else { table(&conversion, global.verbose) };
    writeln!(std::io::stdout(), "{text}")?;
    global.note(|| format!("bundle written: {}", args.out.display()));
    global.timed(start, || "converted".to_owned());
    Ok(Outcome::Done)
}

fn read_config(path: &PathBuf) -> anyhow::Result<SeedConfig> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} does not hold the sizes of a model", path.display()))
}

/// The account in words: a line a file and rule, with every key if `all`.
fn table(conversion: &Conversion, all: bool) -> String {
    let model = &conversion.model;
    let mut lines = vec![format!(
        "head {:?}, {} x {} pixels, {} codes of {} rows, {} features",
        model.head, model.image_size, model.image_size, model.num_queries, model.codebook_size, model.generation_dim
    )];
    if let Some(from) = conversion.interpolated_from {
        lines.push(format!("position embeddings interpolated from {from} to {} pixels", model.image_size));
    }
    for file in &conversion.files {
        lines.push(format!("{}  SHA-256 {}", file.file.display(), file.sha256));
        lines.push(format!("  {} keys used", file.used.len()));
        if all {
            lines.extend(file.used.iter().map(|key| format!("    {key}")));
        }
        let mut rules: Vec<&str> = file.ignored.values().copied().collect();
        rules.sort_unstable();
        rules.dedup();
        for rule in rules {
            let keys: Vec<&String> = file.ignored.iter().filter(|(_, why)| **why == rule).map(|(key, _)| key).collect();
            lines.push(format!("  {} ignored: {rule}", keys.len()));
            if all || keys.len() == 1 {
                lines.extend(keys.iter().map(|key| format!("    {key}")));
            }
        }
        for (key, kind) in &file.no_weights {
            lines.push(format!("  not a weight: {key} ({kind})"));
        }
    }
    lines.push("  none missing".to_owned());
    lines.join("\n")
}
