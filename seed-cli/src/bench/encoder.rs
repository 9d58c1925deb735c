//! Normalized pixels to codes.

use std::{io::Write as _, path::PathBuf, time::Instant};

use seed_core::{Model, SeedTokenizer};
use serde::Serialize;
use serde_json::json;

use super::Args;
use crate::{
    interrupt,
    options::Global,
    outcome::Outcome,
    peak::{forget, gigabytes, peak},
    progress::Progress,
};

/// One step of a batch.
#[derive(Serialize)]
struct Step {
    name: &'static str,
    seconds: f64,
    /// The highest while it ran.
    peak_bytes: Option<u64>,
}

/// Everything that was measured.
#[derive(Serialize)]
struct Measured {
    preset: &'static str,
    parameters: usize,
    load_s: f64,
    peak_bytes_after_load: Option<u64>,
    /// Of the batches that were measured, sorted.
    batch_s: Vec<f64>,
    /// Of one batch more.
    steps: Vec<Step>,
    peak_bytes: Option<u64>,
}

pub(super) fn run(args: &Args, bundle: PathBuf, global: &Global) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let tokenizer = seed_core::open(&Model::Folder(bundle), args.device, args.dtype, None)?;
    let (load_s, peak_bytes_after_load) = (start.elapsed().as_secs_f64(), peak());
    let images = images(tokenizer.as_ref(), args.batch_size);
    let progress = Progress::new(args.rounds + 2, "batches", global);
    let mut batch_s = Vec::with_capacity(args.rounds);
    for round in 0..=args.rounds {
        if interrupt::requested() {
            return Ok(Outcome::Interrupted);
        }
        let start = Instant::now();
        tokenizer.encode_pixels(&images)?;
        if round > 0 {
            batch_s.push(start.elapsed().as_secs_f64());
        }
        progress.advance(1);
    }
    batch_s.sort_by(f64::total_cmp);
    let peak_bytes = peak();
    let steps = steps(tokenizer.as_ref(), &images)?;
    drop(progress);
    let parameters = tokenizer.parts()?.iter().map(|part| part.parameters).sum();
    let preset = args.preset.name();
    let measured = Measured { preset, parameters, load_s, peak_bytes_after_load, batch_s, steps, peak_bytes };
    writeln!(std::io::stdout(), "{}", if args.json { json(args, &measured)? } else { text(args, &measured) })?;
    Ok(Outcome::Done)
}

/// Noise in the place of preprocessed images.
fn images(tokenizer: &dyn SeedTokenizer, count: usize) -> Vec<Vec<f32>> {
    let size = tokenizer.preprocessor().size as usize;
    let noise = |i: usize| (i.wrapping_mul(2_654_435_761) >> 16 & 0xff) as f32 / 64.0 - 2.0;
    (0..count).map(|image| (0..3 * size * size).map(|i| noise(i + image * 7919)).collect()).collect()
}

fn steps(tokenizer: &dyn SeedTokenizer, images: &[Vec<f32>]) -> anyhow::Result<Vec<Step>> {
    let mut steps = Vec::new();
    let counted = forget();
    let mut start = Instant::now();
    tokenizer.encode_pixels_observed(images, &mut |name| {
        let peak_bytes = if counted { peak() } else { None };
        steps.push(Step { name, seconds: start.elapsed().as_secs_f64(), peak_bytes });
        forget();
        start = Instant::now();
    })?;
    Ok(steps)
}

fn json(args: &Args, measured: &Measured) -> serde_json::Result<String> {
    let mut record = serde_json::to_value(measured)?;
    record["version"] = json!(env!("CARGO_PKG_VERSION"));
    record["device"] = json!(args.device.to_string());
    record["dtype"] = json!(args.dtype.to_string());
    record["threads"] = json!(rayon::current_num_threads());
    record["batch_size"] = json!(args.batch_size);
    record["images_per_s"] = json!(args.batch_size as f64 / median(&measured.batch_s));
    serde_json::to_string_pretty(&record)
}

fn text(args: &Args, measured: &Measured) -> String {
    let Measured { preset, batch_s, .. } = measured;
    let median = median(batch_s);
    let head = format!(
        "{preset}, {:.2} billion parameters, {} in {}, {} threads\n\
         load         {:.1} s\n\
         batch of {}   {median:.2} s ({:.2} to {:.2} in {} rounds)\n\
         images/s     {:.3}\n\
         peak memory  {} after loading, {} in all\n\n\
         | step | seconds a batch | peak memory |\n|---|---:|---:|",
        measured.parameters as f64 / 1e9,
        args.device,
        args.dtype,
        rayon::current_num_threads(),
        measured.load_s,
        args.batch_size,
        batch_s[0],
        batch_s[batch_s.len() - 1],
        batch_s.len(),
        args.batch_size as f64 / median,
        gigabytes(measured.peak_bytes_after_load),
        gigabytes(measured.peak_bytes),
    );
    let row = |step: &Step| format!("\n| {} | {:.3} | {} |", step.name, step.seconds, gigabytes(step.peak_bytes));
    head + &measured.steps.iter().map(row).collect::<String>()
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}
