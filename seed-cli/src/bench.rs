//! `seed bench`: how fast a model of a released size is here, and what memory it takes, without a download.

use std::{io::Write as _, path::PathBuf, time::Instant};

use anyhow::Context as _;
use seed_core::{
    DType, Device, Model,
    checkpoint::Dtype,
    tokenizer::{SeedConfig, random_bundle},
};
use serde_json::json;

use crate::{options::Global, outcome::Outcome, progress::Progress};

/// Measure encoding with a model of a released size and random weights.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The weights are written to a temporary folder (2.3 GB in half precision), read as any model is, and removed again.
Peak memory is that of the whole process.

Examples:
  seed bench --preset seed-2
  seed bench --preset seed-2 --batch-size 1 --rounds 5 --json"
)]
pub(crate) struct Args {
    /// Sizes of the model
    #[arg(long, value_enum, default_value_t = Preset::Seed2)]
    preset: Preset,
    /// Images that are encoded at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = crate::options::positive)]
    batch_size: usize,
    /// Batches that are measured, after one that is not
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = crate::options::positive)]
    rounds: usize,
    /// Device to compute on
    #[arg(long, default_value_t)]
    device: Device,
    /// Numbers to compute in
    #[arg(long, default_value_t)]
    dtype: DType,
    /// Where the weights are written for the time being [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum Preset {
    #[value(name = "seed-2")]
    Seed2,
    #[value(name = "seed-1")]
    Seed1,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    let (name, config) = match args.preset {
        Preset::Seed2 => ("seed-2", SeedConfig::seed_2()),
        Preset::Seed1 => ("seed-1", SeedConfig::seed_1()),
    };
    let scratch = match &args.scratch {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.context("cannot make a temporary folder; choose another with --scratch")?;
    let bundle = scratch.path().join(name);
    global.note(|| format!("writing random weights of {name} to {}", bundle.display()));
    random_bundle(&config, 0, Dtype::F16, &bundle)?;

    let start = Instant::now();
    let tokenizer = seed_core::open(&Model::Folder(bundle), args.device, args.dtype, None)?;
    let load = start.elapsed().as_secs_f64();
    let loaded = peak();
    let size = tokenizer.preprocessor().size as usize;
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 16 & 0xff) as f32 / 64.0 - 2.0;
    let images: Vec<Vec<f32>> =
        (0..args.batch_size).map(|image| (0..3 * size * size).map(|i| noise(i + image * 7919)).collect()).collect();
    let progress = Progress::new(args.rounds + 1, "batches", global);
    let mut seconds = Vec::with_capacity(args.rounds);
    for round in 0..=args.rounds {
        let start = Instant::now();
        tokenizer.encode_pixels(&images)?;
        if round > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
        progress.advance(1);
    }
    drop(progress);
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let parameters: usize = tokenizer.parts()?.iter().map(|part| part.parameters).sum();
    let result = json!({
        "preset": name,
        "parameters": parameters,
        "device": args.device.to_string(),
        "dtype": args.dtype.to_string(),
        "threads": rayon::current_num_threads(),
        "batch_size": args.batch_size,
        "load_s": load,
        "batch_s": { "median": median, "min": seconds[0], "max": seconds[seconds.len() - 1] },
        "images_per_s": args.batch_size as f64 / median,
        "peak_bytes_after_load": loaded,
        "peak_bytes": peak(),
    });
    let text = if args.json {
        serde_json::to_string_pretty(&result)?
    } else {
        let gigabytes =
            |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |b| format!("{:.2} GB", b as f64 / 1e9));
        format!(
            "{name}, {:.2} billion parameters, {} in {}, {} threads\n\
             load         {load:.1} s\n\
             batch of {}   {median:.2} s ({:.2} to {:.2} in {} rounds)\n\
             images/s     {:.3}\n\
             peak memory  {} after loading, {} in all",
            parameters as f64 / 1e9,
            args.device,
            args.dtype,
            rayon::current_num_threads(),
            args.batch_size,
            seconds[0],
            seconds[seconds.len() - 1],
            args.rounds,
            args.batch_size as f64 / median,
            gigabytes(loaded),
            gigabytes(peak()),
        )
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(Outcome::Done)
}

/// Most bytes of this process that were in memory at any time so far, where the system counts them.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
