//! `seed inspect FILE`: what a checkpoint holds.

use std::{io::Write as _, path::Path};

use anyhow::bail;
use seed_core::checkpoint::Weights;
use serde_json::{Value, json};

use crate::{
    options::Global,
    outcome::{Outcome, is_broken_pipe},
    progress::Progress,
};

/// Lists the tensors of a checkpoint, of any format that `seed convert` reads, and what it holds besides.
pub(super) fn run(path: &Path, as_json: bool, global: &Global) -> anyhow::Result<Outcome> {
    let weights = Weights::open(path)?;
    let progress = Progress::working("reading", global);
    let hash = weights.sha256();
    drop(progress);
    if weights.keys().len() == 0 {
        bail!("{} holds no tensors", path.display());
    }
    let text = if as_json { json(&weights, &hash)? } else { text(&weights, &hash) };
    match writeln!(std::io::stdout(), "{text}").map_err(anyhow::Error::from) {
        Err(error) if is_broken_pipe(&error) => Ok(Outcome::Done), // `head` has seen enough
        written => written.map(|()| Outcome::Done),
    }
}

/// Key, dtype as safetensors calls it, and shape.
fn tensors(weights: &Weights) -> impl Iterator<Item = (&str, String, &[usize])> {
    let rows = weights.keys().filter_map(|key| Some((key, weights.get(key)?)));
    rows.map(|(key, stored)| (key, stored.dtype.to_string(), stored.shape))
}

fn elements(weights: &Weights) -> usize {
    tensors(weights).map(|(_, _, shape)| shape.iter().product::<usize>()).sum()
}

fn text(weights: &Weights, hash: &str) -> String {
    let width = weights.keys().map(str::len).max().unwrap_or_default();
    let mut lines: Vec<String> =
        tensors(weights).map(|(key, dtype, shape)| format!("{key:width$}  {dtype:4}  {shape:?}")).collect();
    lines.extend(weights.skipped().iter().map(|skipped| format!("no weight: {skipped}")));
    let (count, elements) = (weights.keys().len(), super::thousands(elements(weights)));
    lines.push(format!("{count} tensors, {elements} elements, SHA-256 {hash}"));
    lines.join("\n")
}

fn json(weights: &Weights, hash: &str) -> serde_json::Result<String> {
    let tensors: Vec<Value> =
        tensors(weights).map(|(key, dtype, shape)| json!({ "key": key, "dtype": dtype, "shape": shape })).collect();
    let skipped: Vec<String> = weights.skipped().iter().map(ToString::to_string).collect();
    let elements = elements(weights);
    serde_json::to_string_pretty(&json!({
        "tensors": tensors,
        "skipped": skipped,
        "elements": elements,
        "sha256": hash,
    }))
}
