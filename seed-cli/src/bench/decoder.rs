//! One image through the diffusion decoder.

use std::{io::Write as _, ops::ControlFlow, path::PathBuf, time::Instant};

use anyhow::Context as _;
use seed_core::{Codes, DecodeOptions, Error, Model};
use serde_json::json;

use super::Args;
use crate::{
    interrupt,
    options::Global,
    outcome::Outcome,
    peak::{gigabytes, peak},
    progress::Progress,
};

pub(super) fn run(args: &Args, bundle: PathBuf, global: &Global) -> anyhow::Result<Outcome> {
    let tokenizer = seed_core::open(&Model::Folder(bundle), args.device, args.dtype, None)?;
    let start = Instant::now();
    let size = tokenizer.decoded_size()?.context("the bundle has no decoder")?;
    let (load, loaded) = (start.elapsed().as_secs_f64(), peak());
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
    let text = match args.json {
        true => serde_json::to_string_pretty(&json!({
            "preset": "decoder",
            "version": env!("CARGO_PKG_VERSION"),
            "image_size": size,
            "guidance": options.guidance,
            "device": args.device.to_string(),
            "dtype": args.dtype.to_string(),
            "threads": rayon::current_num_threads(),
            "load_s": load,
            "network_calls": ends.len(),
            "step_s": step,
            "autoencoder_s": autoencoder,
            "peak_bytes_after_load": loaded,
            "peak_bytes": peak(),
        }))?,
        false => format!(
            "decoder, {size} x {size} pixels, guidance {}, {} in {}, {} threads\n\
             load         {load:.1} s\n\
             step         {step:.1} s\n\
             autoencoder  {autoencoder:.1} s\n\
             peak memory  {} after loading, {} in all",
            options.guidance,
            args.device,
            args.dtype,
            rayon::current_num_threads(),
            gigabytes(loaded),
            gigabytes(peak()),
        ),
    };
    writeln!(std::io::stdout(), "{text}")?;
    Ok(Outcome::Done)
}
