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
    let options = DecodeOptions { steps: args.steps, size: args.size, ..DecodeOptions::default() };
    let size = args.size.unwrap_or(size);
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
    let autoencoder = all - ends.last().copied().unwrap_or_default();
    let starts = [0.0].iter().chain(&ends);
    let steps: Vec<f64> = ends.iter().zip(starts).map(|(end, start)| end - start).collect();
    let step = typical(&steps);
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
            "steps_s": steps,
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

/// The upper median of all steps but the first, which also makes what the others find made.
fn typical(steps: &[f64]) -> f64 {
    let mut counted = steps.get(1..).filter(|counted| !counted.is_empty()).unwrap_or(steps).to_vec();
    counted.sort_by(f64::total_cmp);
    counted.get(counted.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::typical;

    #[test]
    fn the_first_step_is_not_counted() {
        assert_eq!(typical(&[9.0, 1.0, 3.0, 2.0]), 2.0);
        assert_eq!(typical(&[9.0, 1.0]), 1.0);
        assert_eq!(typical(&[9.0]), 9.0);
        assert_eq!(typical(&[]), 0.0);
    }
}
