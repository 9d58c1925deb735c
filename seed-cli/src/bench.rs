//! `seed bench`: how fast a model of a released size is here, and what memory it takes, without a download.

use std::{io::Write as _, ops::ControlFlow, path::PathBuf, time::Instant};

use anyhow::Context as _;
use seed_core::{
    Codes, DType, DecodeOptions, Device, Error, Model,
    checkpoint::Dtype,
    tokenizer::{SeedConfig, random_bundle, random_decoder},
};
use serde_json::json;

use crate::{interrupt, options::Global, outcome::Outcome, progress::Progress};

/// Measure a model of a released size with random weights.
#[derive(clap::Args, Debug)]
#[command(
    after_help = "The weights are written to a temporary folder (2.3 GB in half precision), read as any model is, and removed again.
Peak memory is that of the whole process.

Examples:
  seed bench --preset seed-2
  seed bench --preset seed-2 --batch-size 1 --rounds 5 --json
  seed bench --preset decoder --steps 2"
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
    /// Sampling steps of the decoder, which decodes one image with guidance
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = crate::options::positive)]
    steps: usize,
    /// Device to compute on: cpu, cuda or wgpu, with a number if there are several (wgpu:1)
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
    /// SEED-2's diffusion decoder, 768 x 768 pixels, behind an encoder of one block
    Decoder,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    args.device.check()?; // before gigabytes are written
    let (name, config) = match args.preset {
        Preset::Seed2 => ("seed-2", SeedConfig::seed_2()),
        Preset::Seed1 => ("seed-1", SeedConfig::seed_1()),
        Preset::Decoder => ("decoder", SeedConfig { vit_depth: 1, qformer_depth: 1, ..SeedConfig::seed_2() }),
    };
    let scratch = match &args.scratch {
        Some(folder) => tempfile::tempdir_in(folder),
        None => tempfile::tempdir(),
    };
    let scratch = scratch.context("cannot make a temporary folder; choose another with --scratch")?;
    let bundle = scratch.path().join(name);
    global.note(|| format!("writing random weights of {name} to {}", bundle.display()));
    random_bundle(&config, 0, Dtype::F16, &bundle)?;
    if matches!(args.preset, Preset::Decoder) {
        random_decoder(Dtype::F16, &bundle)?;
        return decode(args, bundle, global);
    }

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
        if interrupt::requested() {
            return Ok(Outcome::Interrupted);
        }
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

/// One image through the decoder. Its weights were drawn and written by this process, so that the peak is not below theirs.
fn decode(args: &Args, bundle: PathBuf, global: &Global) -> anyhow::Result<Outcome> {
    let written = peak();
    let tokenizer = seed_core::open(&Model::Folder(bundle), args.device, args.dtype, None)?;
    let start = Instant::now();
    let size = tokenizer.decoded_size()?.context("the bundle has no decoder")?;
    let load = start.elapsed().as_secs_f64();
    let codes = Codes::from_rows([vec![0u16; 32]], 32, tokenizer.config().model.codebook_size)?;
    let options = DecodeOptions { steps: args.steps, ..DecodeOptions::default() };
    let progress = Progress::new(args.steps + 1, "steps", global);
    let (start, mut ends) = (Instant::now(), Vec::new());
    let decoded = tokenizer.decode_with(&codes, None, &options, &mut |_, _| {
        ends.push(start.elapsed().as_secs_f64());
        progress.advance(1);
        match interrupt::requested() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    if matches!(decoded, Err(Error::Interrupted)) {
        return Ok(Outcome::Interrupted);
    }
    decoded?;
    let all = start.elapsed().as_secs_f64();
    drop(progress);
    let denoised = ends.last().copied().unwrap_or_default();
    let (step, autoencoder) = (denoised / ends.len().max(1) as f64, all - denoised);
    let result = json!({
        "preset": "decoder",
        "image_size": size,
        "guidance": options.guidance,
        "device": args.device.to_string(),
        "dtype": args.dtype.to_string(),
        "threads": rayon::current_num_threads(),
        "load_s": load,
        "network_calls": ends.len(),
        "step_s": step,
        "autoencoder_s": autoencoder,
        "peak_bytes_before": written,
        "peak_bytes": peak(),
    });
    let text = match args.json {
        true => serde_json::to_string_pretty(&result)?,
        false => format!(
            "decoder, {size} x {size} pixels, guidance {}, {} in {}, {} threads\n\
             load         {load:.1} s\n\
             step         {step:.1} s\n\
             autoencoder  {autoencoder:.1} s\n\
             peak memory  {}",
            options.guidance,
            args.device,
            args.dtype,
            rayon::current_num_threads(),
            gigabytes(peak()),
        ),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(Outcome::Done)
}

fn gigabytes(bytes: Option<u64>) -> String {
    bytes.map_or("unknown".to_owned(), |bytes| format!("{:.2} GB", bytes as f64 / 1e9))
}

/// Most bytes of this process that were in memory at any time so far, where the system counts them.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}
