//! The released files -> the network, with an account of every key.
//!
//! | part | file | keys |
//! |---|---|---|
//! | vision transformer | `eva_vit_g.pth` of BLIP-2 | as they are; or under `visual_encoder.`, as in a bundle of SEED's |
//! | norm | one with `ln_vision.*`, or none | `ln_vision.weight`, `ln_vision.bias` |
//! | projection | MiniGPT-v2's own | `llama_proj.weight`, `llama_proj.bias`; beside them LoRA, see [`Adapters`](super::Adapters) |
//!
//! MiniGPT-v2's file holds what was trained. The norm was not: the reference makes it anew, ones and zeros, and freezes it
//! (`init_vision_encoder`), other than BLIP-2, whose norm was trained. So the released model runs without a file for the norm;
//! where one is given, or the checkpoint itself holds a norm, that is taken.
//!
//! Difference: the reference loads what fits and passes over the rest in silence. Here every key is used, or is on the list
//! of what such files carry besides, or is an error.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::module::Module;

use crate::{
    checkpoint::{self, DType, KeyTable, Weights},
    error::{Error, Result},
    eva_vit::EvaVit,
    nn::SeedBackend,
};

use super::{
    MiniGptConfig, MiniGptNetwork,
    lora::{self, NORM},
};

const VIT: &str = "visual_encoder.";

const VIT_KEYS: KeyTable = KeyTable { renames: &[("", "visual_encoder")], ignored: &[] };
const NORM_KEYS: KeyTable = KeyTable { renames: &[("", "ln_vision")], ignored: &[] };
const PROJ_KEYS: KeyTable = KeyTable { renames: &[("", "llama_proj")], ignored: &[] };

/// The files that the front end is read from, in any format of [`Weights::open`].
#[derive(Clone, Debug)]
pub struct MiniGptFiles {
    /// `eva_vit_g.pth`, or any file with the vision transformer under `visual_encoder.`.
    pub vit: PathBuf,
    /// MiniGPT-v2's checkpoint.
    pub checkpoint: PathBuf,
    /// A file with `ln_vision.*`, for checkpoints that were trained on BLIP-2's norm; the released one was not.
    pub ln_vision: Option<PathBuf>,
}

/// What became of the keys of one file.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct FileAccount {
    /// The file.
    pub file: PathBuf,
    /// Keys that are in the network.
    pub used: Vec<String>,
    /// Keys that are not, and why.
    pub ignored: BTreeMap<String, &'static str>,
    /// Entries that are no weights, and what they are.
    pub no_weights: BTreeMap<String, &'static str>,
}

/// Reads the network. Layers' weights are kept in `dtype`.
///
/// # Errors
/// [`Error::Config`] for impossible sizes; reading; [`Error::TensorKeys`] with all keys that are missing or that nothing knows;
/// [`Error::TensorShape`]; [`Error::TensorValue`]; [`Error::WeightFile`] for a norm that is there twice and for LoRA that is
/// not whole.
pub fn load<B: SeedBackend>(
    files: &MiniGptFiles,
    config: &MiniGptConfig,
    device: &B::Device,
    dtype: DType,
) -> Result<(MiniGptNetwork<B>, Vec<FileAccount>)> {
    config.validate("the configuration")?;
    // The small files first: what is wrong with them is told before gigabytes are read.
    let own = Weights::open(&files.checkpoint)?;
    lora::list(&own)?; // every key is known, and no matrix without its partner
    let reason = |key: &str| lora::is_lora(key).then_some("LoRA of the language model, for whoever runs that");
    let mut accounts = vec![account(&files.checkpoint, &own, reason)];
    let norm = config.norm(device);
    let ln_vision = match (&files.ln_vision, own.keys().any(|key| key.starts_with(NORM))) {
        (None, false) => norm,
        (None, true) => checkpoint::load(norm, &only_norm(Weights::open(&files.checkpoint)?), &NORM_KEYS)?,
        (Some(path), false) => {
            let (norm, account) = load_norm(path, norm)?;
            accounts.push(account);
            norm
        }
        (Some(path), true) => {
            let reason = format!("it has {NORM}*, and so has {}; give it once", path.display());
            return Err(Error::WeightFile { file: own.describe().to_owned(), reason });
        }
    };
    let own = own.only(|key| reason(key).is_none() && !key.starts_with(NORM));
    let llama_proj = checkpoint::load_as(config.proj(device), &own, &PROJ_KEYS, dtype)?;

    let (visual_encoder, vit) = load_vit(&files.vit, config, device, dtype)?;
    accounts.insert(0, vit);
    Ok((MiniGptNetwork { visual_encoder, ln_vision, llama_proj }, accounts))
}

/// The vision transformer, for the images of `config`.
fn load_vit<B: SeedBackend>(
    path: &Path,
    config: &MiniGptConfig,
    device: &B::Device,
    dtype: DType,
) -> Result<(EvaVit<B>, FileAccount)> {
    let weights = Weights::open(path)?;
    let bare = !weights.keys().any(|key| key.starts_with(VIT));
    let reason = |key: &str| match key.strip_prefix(VIT) {
        Some(key) => beyond(key, config.vit_depth),
        None if bare => beyond(key, config.vit_depth),
        None => Some("another part of the model that the file holds"),
    };
    let account = account(path, &weights, reason);
    let weights = weights.only(|key| reason(key).is_none());

    let side = match bare {
        true => positions_side(&weights, "pos_embed")?,
        false => positions_side(&weights, "visual_encoder.pos_embed")?,
    };
    let mut of_file = config.vit();
    of_file.image_size = side * config.patch_size;
    let keys = if bare { &KeyTable::EXACT } else { &VIT_KEYS };
    let encoder = checkpoint::load_as(of_file.init::<B>(device), &weights, keys, dtype)?;
    Ok((encoder.with_side(config.image_size / config.patch_size), account))
}

/// Patches a side that the position embeddings `key` are for.
fn positions_side(weights: &Weights, key: &str) -> Result<usize> {
    let file = || weights.describe().to_owned();
    let Some(stored) = weights.get(key) else {
        return Err(Error::TensorKeys { file: file(), missing: vec![key.to_owned()], unused: Vec::new() });
    };
    let side = match stored.shape {
        &[1, tokens @ (2..), _] => Some((tokens - 1).isqrt()).filter(|side| side * side == tokens - 1),
        _ => None,
    };
    side.ok_or_else(|| {
        let reason = format!("{key} has the shape {:?}, not [1, 1 + n * n, width]", stored.shape);
        Error::WeightFile { file: file(), reason }
    })
}

/// Why a key of the vision transformer has no place here, if that is known.
fn beyond(key: &str, depth: usize) -> Option<&'static str> {
    let block = key.strip_prefix("blocks.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    if block.is_some_and(|block| block >= depth) {
        return Some("a block after the last one that the model uses");
    }
    let end = ["norm.", "fc_norm.", "head.", "lm_head.", "mask_token"].iter().any(|name| key.starts_with(name));
    end.then_some("the vision transformer ends without norm and head here")
}

/// The norm, of a file that may be a whole other model.
fn load_norm<B: SeedBackend, M: Module<B>>(path: &Path, norm: M) -> Result<(M, FileAccount)> {
    let weights = Weights::open(path)?;
    let reason = |key: &str| (!key.starts_with(NORM)).then_some("another part of the model that the file holds");
    let account = account(path, &weights, reason);
    Ok((checkpoint::load(norm, &only_norm(weights), &NORM_KEYS)?, account))
}

fn only_norm(weights: Weights) -> Weights {
    weights.only(|key| key.starts_with(NORM))
}

/// What becomes of every key, by the reason that it is left out for.
fn account(path: &Path, weights: &Weights, reason: impl Fn(&str) -> Option<&'static str>) -> FileAccount {
    let mut made = FileAccount {
        file: path.to_owned(),
        used: Vec::new(),
        ignored: BTreeMap::new(),
        no_weights: weights.skipped().iter().map(|entry| (entry.key.clone(), entry.kind)).collect(),
    };
    for key in weights.keys() {
        match reason(key) {
            Some(reason) => drop(made.ignored.insert(key.to_owned(), reason)),
            None => made.used.push(key.to_owned()),
        }
    }
    made
}
