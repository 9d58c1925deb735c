//! `seed tokenize`: a dataset -> tokens that trainers read.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use seed_core::{
    SeedTokenizer,
    dataset::{
        self, Column, Filters, Manifest, MegatronIds, OutputFormat, Part, SinkFormat as _, Source, SourceFormat,
        SourceOptions, Statistics, TokenizeOptions, Watch, source,
    },
};
use serde_json::json;

use crate::{
    interrupt,
    options::{Global, ImageOptions, ModelOptions},
    outcome::Outcome,
    peak::peak,
    progress::Progress,
};

/// Tokenize a dataset: folders, lists, tars, parquet or JSON, shard by shard.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "Inputs are folders of images (with metadata.csv, metadata.jsonl or .txt captions), WebDataset tars (img2dataset's
too), Hugging Face parquet, LLaVA JSON or JSONL, OBELICS parquet, MMC4 JSONL, and lists of paths (text, CSV, parquet).
They are recognised by content; globs and braces may be quoted.

A run that ended early is gone on with by the same command. Every input becomes a row, or a line of
DIR/__seed__/failures with its reason; `seed verify DIR` proves it. Ctrl-C stops after the shard at hand.

Examples:
  seed tokenize photos/ --out tokens
  seed tokenize 'laion/{00000..00999}.tar' --out tokens --format webdataset
  seed tokenize 'data/*.parquet' --out tokens --columns width:int,similarity:float --min-similarity 0.3
  srun -n 8 seed tokenize /data/tars --out /shared/tokens"
)]
pub(crate) struct Args {
    /// Files, folders, globs or brace lists; - reads paths from standard input
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    /// Folder of the output
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Format of the output: parquet, jsonl, seed-tar, webdataset, npy or megatron
    #[arg(long, value_name = "FORMAT", default_value = "parquet")]
    format: OutputFormat,
    #[command(flatten)]
    reading: SourceArgs,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    ids: IdArgs,
    /// Do part I of N of the shards, I from 0 [default: as SLURM_PROCID and SLURM_NTASKS or RANK and WORLD_SIZE say, else all]
    #[arg(long, value_name = "I/N")]
    shard: Option<Part>,
    /// Stop after this many inputs
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    /// Give up after more failures than this
    #[arg(long, value_name = "N")]
    max_errors: Option<u64>,
    /// Do shards again that have failures
    #[arg(long)]
    retry_failures: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the statistics, or the plan, as JSON on standard output
    #[arg(long)]
    json: bool,
    /// Images that are encoded at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = crate::options::positive)]
    batch_size: usize,
    #[command(flatten)]
    model: ModelOptions,
    #[command(flatten)]
    images: ImageOptions,
}

/// How the inputs are read.
#[derive(clap::Args, Debug)]
struct SourceArgs {
    /// Format of the inputs: folder, list, webdataset, parquet, llava, obelics or mmc4 [default: by content]
    #[arg(long, value_name = "FORMAT")]
    source: Option<SourceFormat>,
    /// Samples of an output shard, where the inputs have no shards of their own
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = crate::options::positive)]
    shard_size: usize,
    /// Folder that relative paths start from [default: that of the list or JSON file]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Column or field of the image [default: by type or name]
    #[arg(long, value_name = "NAME")]
    image_column: Option<String>,
    /// Column or field of the key [default: key, id, uid ...]
    #[arg(long, value_name = "NAME")]
    key_column: Option<String>,
    /// Column or field of the caption [default: caption, text, txt]
    #[arg(long, value_name = "NAME")]
    caption_column: Option<String>,
    /// Columns or fields that travel along, as NAME or NAME:TYPE with text, int, float or bool
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<Column>,
}

/// What is left out.
#[derive(clap::Args, Debug)]
struct FilterArgs {
    /// Leave out images with a side below this many pixels
    #[arg(long, value_name = "PIXELS")]
    min_side: Option<u32>,
    /// Leave out images longer than this to 1
    #[arg(long, value_name = "RATIO")]
    max_aspect: Option<f64>,
    /// Leave out samples whose similarity is below this
    #[arg(long, value_name = "VALUE")]
    min_similarity: Option<f64>,
    /// Column of the similarity; it must be among --columns
    #[arg(long, value_name = "NAME", default_value = "similarity")]
    similarity_column: String,
}

/// The ids of `--format megatron`.
#[derive(clap::Args, Debug)]
struct IdArgs {
    /// For megatron: added to every code
    #[arg(long, value_name = "ID", default_value_t = MegatronIds::SEED_LLAMA.offset)]
    offset: u32,
    /// For megatron: stands before an image
    #[arg(long, value_name = "ID", default_value_t = MegatronIds::SEED_LLAMA.begin)]
    begin_id: u32,
    /// For megatron: stands after an image
    #[arg(long, value_name = "ID", default_value_t = MegatronIds::SEED_LLAMA.end)]
    end_id: u32,
}

impl Args {
    fn source(&self) -> seed_core::Result<Box<dyn Source>> {
        let reading = &self.reading;
        let options = SourceOptions {
            format: reading.source,
            shard_size: reading.shard_size,
            root: reading.root.clone(),
            image_column: reading.image_column.clone(),
            key_column: reading.key_column.clone(),
            caption_column: reading.caption_column.clone(),
            columns: reading.columns.clone(),
        };
        source::open(&self.inputs, &options)
    }

    fn format(&self) -> OutputFormat {
        let IdArgs { offset, begin_id, end_id } = self.ids;
        match self.format {
            OutputFormat::Megatron(_) => OutputFormat::Megatron(MegatronIds { offset, begin: begin_id, end: end_id }),
            format => format,
        }
    }

    fn options(&self) -> seed_core::Result<TokenizeOptions> {
        let filters = &self.filters;
        let part = match self.shard {
            Some(part) => Some(part),
            None => Part::from_environment()?,
        };
        Ok(TokenizeOptions {
            filters: Filters {
                min_side: filters.min_side,
                max_aspect: filters.max_aspect,
                min_value: filters.min_similarity.map(|least| (filters.similarity_column.clone(), least)),
            },
            limits: self.images.limits(),
            batch_size: self.batch_size,
            part: part.unwrap_or_default(),
            limit: self.limit,
            max_errors: self.max_errors,
            retry_failures: self.retry_failures,
        })
    }
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let options = args.options()?;
    let source = args.source()?;
    let format = args.format();
    if options.part.of > 1 {
        global.note(|| format!("part {} of the shards", options.part));
    }
    let tokenizer = args.model.open(args.images.preprocess, global)?;
    if args.dry_run {
        return dry_run(args, tokenizer.as_ref(), source.as_ref(), &options);
    }
    let total: Option<u64> = own_shards(source.as_ref(), options.part).map(|(_, shard)| shard.samples).sum();
    let progress = Progress::new(total.unwrap_or(0) as usize, "samples", global);
    let mut shown = None;
    let mut watch = Watch {
        stop: &interrupt::STOP,
        progress: &mut |now: &Statistics| {
            // What was done before counts as done, and not for the estimate of the time that is left.
            let seen = shown.get_or_insert_with(|| {
                progress.start_from(now.inputs_before as usize);
                0
            });
            progress.advance((now.inputs - *seen) as usize);
            *seen = now.inputs;
            let failures = if now.failed > 0 { format!(", {} failed", now.failed) } else { String::new() };
            progress.message(format!("{:.0} images/s{failures}", now.images_per_second()));
        },
    };
    let done = dataset::tokenize(tokenizer.as_ref(), source.as_ref(), &format, &args.out, &options, &mut watch);
    drop(progress);
    let done = done?;
    finish(args, global, &done)
}

fn own_shards(source: &dyn Source, part: Part) -> impl Iterator<Item = (usize, &dataset::ShardInput)> {
    source.shards().iter().enumerate().filter(move |(shard, _)| part.holds(*shard))
}

fn finish(args: &Args, global: &Global, done: &Statistics) -> anyhow::Result<Outcome> {
    if args.json {
        println!(
            "{}",
            json!({"out": args.out, "statistics": done, "images_per_second": done.images_per_second(), "peak_memory_bytes": peak()})
        );
    }
    global.note(|| {
        let mut text = format!("{} rows from {} inputs", done.rows, done.inputs);
        if done.filtered > 0 {
            text += &format!(", {} left out", done.filtered);
        }
        if done.failed > 0 {
            text += &format!(", {} failed (see {})", done.failed, args.out.join("__seed__/failures").display());
        }
        let Statistics { shards, shards_before, shards_done, .. } = done;
        text += &format!("; {shards_done} of {shards} shards done now");
        if *shards_before > 0 {
            text += &format!(", {shards_before} before");
        }
        text + &format!("; {:.0} images/s in {:.0?}", done.images_per_second(), Duration::from_secs_f64(done.seconds))
    });
    Ok(match () {
        () if done.stopped => {
            global.note(|| "interrupted; the same command goes on from here".to_owned());
            Outcome::Interrupted
        }
        () if done.failed > 0 => Outcome::SomeFailed,
        () => Outcome::Done,
    })
}

/// Prints the plan.
fn dry_run(
    args: &Args,
    tokenizer: &dyn SeedTokenizer,
    source: &dyn Source,
    options: &TokenizeOptions,
) -> anyhow::Result<Outcome> {
    let format = args.format();
    let manifest = dataset::plan(tokenizer, source, &format, options)?;
    if manifest.inputs.is_empty() {
        bail!("the inputs hold nothing to tokenize");
    }
    let own: Vec<_> = own_shards(source, options.part).collect();
    let samples: Option<u64> = own.iter().map(|(_, shard)| shard.samples).sum();
    let bytes = samples.map(|samples| samples * format.bytes_of_a_row(&manifest.shape));
    if args.json {
        let Manifest { tokenizer, shape, inputs, .. } = manifest;
        let plan = json!({
            "tokenizer": tokenizer, "shape": shape, "format": format, "out": args.out, "part": options.part,
            "shards": inputs.len(), "own_shards": own.len(), "samples": samples, "bytes": bytes,
        });
        println!("{plan}");
        return Ok(Outcome::Done);
    }
    let known = |number: Option<u64>| number.map_or("unknown until they are read".to_owned(), |n| n.to_string());
    println!("model     {} ({})", manifest.tokenizer.model, &manifest.tokenizer.weights[..12]);
    println!("output    {} in {}", format.name(), args.out.display());
    println!("shards    {} of {}", own.len(), manifest.inputs.len());
    println!("samples   {}", known(samples));
    println!("codes     about {}", bytes.map_or("unknown".to_owned(), |bytes| format!("{:.1} MB", bytes as f64 / 1e6)));
    let columns: Vec<&str> = manifest.shape.schema.columns.iter().map(|column| column.name.as_str()).collect();
    println!("columns   {}", if columns.is_empty() { "none".to_owned() } else { columns.join(", ") });
    for (shard, input) in own.iter().take(10) {
        let file = format.files(*shard).remove(0);
        println!("  {} -> {}", input.name, file.display());
    }
    if own.len() > 10 {
        println!("  and {} more", own.len() - 10);
    }
    Ok(Outcome::Done)
}
