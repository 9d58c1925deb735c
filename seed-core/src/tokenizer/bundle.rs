//! A bundle: the folder that holds a model.
//!
//! | file | holds |
//! |---|---|
//! | `config.json` | [`BundleConfig`]: sizes, preprocessing, provenance |
//! | `model.safetensors` | steps 2 to 5, keys as in the released checkpoints |
//! | `contrast.safetensors` | text tower and projections; optional |
//! | `decoder/` | step 6 in diffusers layout; optional |

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use crate::{
    atomic,
    checkpoint::{self, DType, Files, KeyTable, Made},
    contrast::{Contrast, ContrastConfig},
    diffusion::DecodeOptions,
    error::{Error, Result},
    nn::SeedBackend,
    pixels::Preset,
};

use super::{SeedConfig, SeedNetwork};

pub(crate) const CONFIG: &str = "config.json";
pub(super) const WEIGHTS: &str = "model.safetensors";
pub(super) const CONTRAST: &str = "contrast.safetensors";
/// Folder of the diffusion decoder.
pub const DECODER: &str = "decoder";

/// Version of the bundle layout that this build reads and writes.
pub const FORMAT: u32 = 1;

/// Which model to open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Model {
    /// The tiny model that every build carries.
    #[default]
    Bundled,
    /// A bundle on disk.
    Folder(PathBuf),
}

impl Model {
    /// The model's files.
    pub fn files(&self) -> Files {
        match self {
            Self::Bundled => Files::embedded(seed_weights::SCENES_TINY),
            Self::Folder(path) => Files::folder(path),
        }
    }
}

/// `config.json` of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleConfig {
    /// Layout version, [`FORMAT`].
    pub format: u32,
    /// Name of the model.
    pub name: String,
    /// Where the weights come from, in a sentence.
    pub provenance: String,
    /// How images become pixels unless the caller says otherwise.
    pub preprocess: Preset,
    /// How codes become images unless the caller says otherwise; as SEED-2 does when it is not there.
    #[serde(default)]
    pub decode: DecodeDefaults,
    /// What `model.safetensors` is, written with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Written>,
    /// Sizes of steps 2 to 5.
    pub model: SeedConfig,
    /// Sizes and words of the caption side, when the bundle has one.
    pub contrast: Option<ContrastConfig>,
}

/// A file of weights, as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// Its element type.
    pub dtype: DType,
    /// Version of this library that wrote it.
    pub version: String,
}

/// Sampling that suits a model's decoder.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecodeDefaults {
    /// Sampling steps.
    pub steps: usize,
    /// Guidance scale.
    pub guidance: f64,
}

impl Default for DecodeDefaults {
    /// As SEED-2 decodes: 20 steps, guidance 10.
    fn default() -> Self {
        let DecodeOptions { steps, guidance, .. } = DecodeOptions::default();
        Self { steps, guidance }
    }
}

impl BundleConfig {
    /// Reads and checks `config.json`.
    ///
    /// # Errors
    /// [`Error::Bundle`] when there is none, [`Error::Config`] for what is wrong in it.
    pub fn read(files: &Files) -> Result<Self> {
        if !files.exists(CONFIG) {
            let path = match files {
                Files::Folder(path) => path.clone(),
                Files::Embedded(_) => PathBuf::from("the built-in model"),
            };
            let reason = match path.is_dir() {
                true => format!("it has no {CONFIG}; a bundle is what `seed train` writes"),
                false => "there is no such folder".to_owned(),
            };
            return Err(Error::Bundle { path, reason });
        }
        let config: Self = files.json(CONFIG)?;
        let file = files.describe(CONFIG);
        if config.format != FORMAT {
            let reason = format!("format = {} is not {FORMAT}, the only one that this version reads", config.format);
            return Err(Error::Config { file, reason });
        }
        config.model.validate(&file)?;
        if let Some(contrast) = &config.contrast {
            contrast.validate(&file, config.model.vit_features()[0])?;
        }
        Ok(config)
    }

    /// Loads steps 2 to 5, with the weights of their layers in `dtype`.
    ///
    /// # Errors
    /// Reading, and whatever [`checkpoint::load_as`] refuses.
    pub fn load_network<B: SeedBackend>(
        &self,
        files: &Files,
        device: &B::Device,
        dtype: DType,
    ) -> Result<SeedNetwork<B>> {
        let dtype_of = |key: &str| SeedNetwork::<B>::dtype_of(key, dtype);
        checkpoint::load_each(self.model.init(device), &files.weights(WEIGHTS)?, &SeedNetwork::<B>::KEYS, &dtype_of)
    }

    /// Loads the caption side.
    ///
    /// # Errors
    /// [`Error::MissingPart`] when the bundle has none; as [`load_network`](Self::load_network).
    pub fn load_contrast<B: SeedBackend>(&self, files: &Files, device: &B::Device) -> Result<Contrast<B>> {
        let config = self.contrast.as_ref().ok_or_else(|| Error::MissingPart {
            part: "caption side",
            reason: "captions are compared by models trained with `seed train`; this one was not".to_owned(),
        })?;
        let module = config.init(self.model.vit_features(), self.model.qformer_width, device);
        checkpoint::load(module, &files.weights(CONTRAST)?, &KeyTable::EXACT)
    }

    /// The SHA-256 of `model.safetensors`: as recorded, or computed where it is not.
    ///
    /// # Errors
    /// [`Error::Read`].
    pub fn weights_hash(&self, files: &Files) -> Result<String> {
        match &self.weights {
            Some(written) => Ok(written.sha256.clone()),
            None => files.sha256(WEIGHTS),
        }
    }

    /// Holds when `model.safetensors` is the file that was written with this configuration.
    ///
    /// # Errors
    /// [`Error::WeightFile`] when it is another one; [`Error::Read`].
    pub fn verify(&self, files: &Files) -> Result<()> {
        match &self.weights {
            Some(Written { sha256: recorded, .. }) if files.sha256(WEIGHTS)? != *recorded => Err(Error::WeightFile {
                file: files.describe(WEIGHTS),
                reason: format!(
                    "its SHA-256 is not {recorded}, which {CONFIG} records: it was changed or damaged; make the bundle again"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Writes everything but the decoder into `folder`; `config.json` last, so that a folder with one is whole.
    ///
    /// # Errors
    /// [`Error::Write`], [`Error::TensorValue`] for weights that `dtype` cannot hold.
    pub fn save<B: Backend>(
        &self,
        folder: &Path,
        network: &SeedNetwork<B>,
        contrast: Option<&Contrast<B>>,
        dtype: DType,
    ) -> Result<()> {
        begin(folder)?;
        checkpoint::save(network, &folder.join(WEIGHTS), &SeedNetwork::<B>::KEYS, dtype)?;
        if let Some(contrast) = contrast {
            checkpoint::save(contrast, &folder.join(CONTRAST), &KeyTable::EXACT, dtype)?;
        }
        self.save_config(folder, dtype)
    }

    /// As [`save`](Self::save), of steps 2 to 5 as tensors by key.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub(super) fn save_tensors(&self, folder: &Path, tensors: BTreeMap<String, Made<'_>>, dtype: DType) -> Result<()> {
        begin(folder)?;
        checkpoint::save_tensors(tensors, &folder.join(WEIGHTS), dtype)?;
        self.save_config(folder, dtype)
    }

    fn save_config(&self, folder: &Path, dtype: DType) -> Result<()> {
        let sha256 = Files::folder(folder).sha256(WEIGHTS)?;
        let written = Written { sha256, dtype, version: env!("CARGO_PKG_VERSION").to_owned() };
        let config = Self { weights: Some(written), ..self.clone() };
        let json = serde_json::to_vec_pretty(&config).expect("a configuration of numbers and names is JSON");
        atomic::write(&folder.join(CONFIG), &json)
    }
}

/// Makes the folder, and takes away an older `config.json`, so that weights are never read with the sizes of others.
pub(super) fn begin(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
    let path = folder.join(CONFIG);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(Error::Write { path, source }),
        _ => Ok(()),
    }
}
