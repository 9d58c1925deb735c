//! `seed inspect`: what a model is, and whether it works here; of a file of weights, what it holds.

mod weights;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use seed_core::{
    Device, SeedTokenizer,
    checkpoint::Files,
    device::Found,
    pixels::RgbImage,
    scenes::{Scene, Split},
    tokenizer::Part,
};
use serde_json::{Value, json};

use crate::{
    options::{Global, ModelOptions},
    outcome::Outcome,
};

/// Images of the self-test.
const TEST_IMAGES: u64 = 5;

/// Show what a model is and test that it works on this machine; of a file of weights, show what it holds.
#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  seed inspect
  seed inspect runs/scenes-tiny/bundle --json
  seed inspect blip2_pretrained.pth | head")]
pub(crate) struct Args {
    /// Folder of a model bundle [default: the model that is built in], or a file of weights: safetensors, an index of
    /// shards, or what `torch.save` wrote, which is read without being run
    #[arg(value_name = "BUNDLE", conflicts_with = "model")]
    bundle: Option<PathBuf>,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelOptions,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Outcome> {
    if let Some(path) = args.bundle.as_ref().filter(|path| path.is_file()) {
        return weights::run(path, args.json, global);
    }
    let mut model = args.model.clone();
    model.model = args.bundle.clone().or(model.model);
    let tokenizer = model.open(None, global)?;
    let facts = Facts::gather(tokenizer.as_ref(), &model.which().files())?;
    let text = if args.json { facts.json(tokenizer.as_ref())? } else { facts.text(tokenizer.as_ref()) };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(Outcome::Done)
}

/// What is counted and measured; the rest is in the model's configuration.
struct Facts {
    parts: Vec<Part>,
    disk_bytes: u64,
    decoded_size: Option<usize>,
    weights_sha256: String,
}

impl Facts {
    fn gather(tokenizer: &dyn SeedTokenizer, files: &Files) -> anyhow::Result<Self> {
        tokenizer.config().verify(files)?;
        let weights_sha256 = tokenizer.config().weights_hash(files)?;
        self_test(tokenizer).context("the self-test failed")?;
        let disk_bytes = match files {
            Files::Folder(path) => folder_bytes(path).with_context(|| format!("cannot read {}", path.display()))?,
            Files::Embedded(files) => files.iter().map(|(_, bytes)| bytes.len() as u64).sum(),
        };
        Ok(Self { parts: tokenizer.parts()?, disk_bytes, decoded_size: tokenizer.decoded_size()?, weights_sha256 })
    }

    fn parameters(&self) -> usize {
        self.parts.iter().map(|part| part.parameters).sum()
    }

    /// Bytes of the weights in memory, which may be of another type than on disk.
    fn memory_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    fn text(&self, tokenizer: &dyn SeedTokenizer) -> String {
        let config = tokenizer.config();
        let model = &config.model;
        let mut lines: Vec<(String, String)> = Vec::new();
        let mut say = |name: &str, value: String| lines.push((name.to_owned(), value));
        say("name", config.name.clone());
        say("provenance", config.provenance.clone());
        say("image", format!("{0} x {0} pixels, preprocessed as {1}", model.image_size, config.preprocess));
        say(
            "tokens",
            format!("{} an image, {} codes of {} features", model.num_queries, model.codebook_size, model.codebook_dim),
        );
        say("generation", format!("{} features", model.generation_dim));
        match self.decoded_size {
            Some(size) => {
                let own = config.decode;
                say("decoder", format!("{size} x {size} pixels, {} steps, guidance {}", own.steps, own.guidance));
            }
            None => say("decoder", "none".to_owned()),
        }
        if let Some(contrast) = &config.contrast {
            say("captions", format!("{} words, {} features", contrast.words.len(), contrast.embed_dim));
        }
        for part in &self.parts {
            say(part.name, format!("{} parameters", thousands(part.parameters)));
        }
        say("all parts", format!("{} parameters", thousands(self.parameters())));
        say("weights", format!("SHA-256 {}", self.weights_sha256));
        say("on disk", megabytes(self.disk_bytes));
        say("in memory", format!("{} of weights", megabytes(self.memory_bytes())));
        say("devices", Device::found().iter().map(Found::to_string).collect::<Vec<_>>().join(", "));
        let left_out = Device::features_left_out();
        if !left_out.is_empty() {
            let features = left_out.join(",");
            say(
                "not in this build",
                format!("{}: cargo install --path seed-cli --features {features}", left_out.join(", ")),
            );
        }
        say("self-test", "passed".to_owned());
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        lines.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect::<Vec<_>>().join("\n")
    }

    fn json(&self, tokenizer: &dyn SeedTokenizer) -> anyhow::Result<String> {
        let config = tokenizer.config();
        let parts: Vec<Value> =
            self.parts.iter().map(|part| json!({ "name": part.name, "parameters": part.parameters })).collect();
        let decoder = self.decoded_size.map(
            |size| json!({ "image_size": size, "steps": config.decode.steps, "guidance": config.decode.guidance }),
        );
        let object = json!({
            "name": config.name,
            "provenance": config.provenance,
            "format": config.format,
            "preprocess": config.preprocess.to_string(),
            "sizes": serde_json::to_value(&config.model)?,
            "decoder": decoder,
            "parts": parts,
            "weights_sha256": self.weights_sha256,
            "parameters": self.parameters(),
            "disk_bytes": self.disk_bytes,
            "memory_bytes": self.memory_bytes(),
            "devices": Device::found().iter().map(|found| found.device.to_string()).collect::<Vec<_>>(),
            "not_in_this_build": Device::features_left_out(),
            "self_test": "passed",
        });
        Ok(serde_json::to_string_pretty(&object)?)
    }
}

/// Encodes generated scenes together and one by one: each must get as many codes as the model makes, and the same both
/// times.
fn self_test(tokenizer: &dyn SeedTokenizer) -> anyhow::Result<()> {
    let model = &tokenizer.config().model;
    let scene = |index| Scene::sample(0, index, Split::HeldOut).render(64);
    let images: Vec<RgbImage> = (0..TEST_IMAGES).map(scene).collect();
    let together = tokenizer.encode(&images)?;
    if (together.batch(), together.tokens()) != (images.len(), model.num_queries) {
        bail!("{} images gave {} rows of {} codes", images.len(), together.batch(), together.tokens());
    }
    for (index, (image, row)) in images.iter().zip(together.rows()).enumerate() {
        if tokenizer.encode(std::slice::from_ref(image))?.as_slice() != row {
            bail!("scene {index} has other codes alone than in a batch of {TEST_IMAGES}; please report this machine");
        }
    }
    Ok(())
}

/// Bytes of the files in a folder and the folders in it.
fn folder_bytes(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1234567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
