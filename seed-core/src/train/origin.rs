//! What the official stages begin with: parts of released files, of bundles, and of stages before.
//!
//! Every part must be there; what a file holds besides is accounted for in `start.json` of the stage's folder.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use serde::Serialize;

use crate::{
    atomic,
    checkpoint::{self, DType, Files, KeyTable, Made, Weights},
    error::{Error, Result},
    eva_vit::EvaVit,
    nn::{LayerNorm, LayerNormConfig, SeedBackend},
    qformer::QFormer,
    tokenizer::{SeedConfig, SeedNetwork},
};

use super::{recipe::Origin, stage1::Aligner};

/// File of a bundle, and of a finished stage 1, with the weights.
pub(super) const WEIGHTS: &str = "model.safetensors";
/// File with the account.
const ACCOUNT: &str = "start.json";

/// Steps 2 and 3.
#[derive(Module, Debug)]
pub(super) struct Encoder<B: Backend> {
    pub(super) visual_encoder: EvaVit<B>,
    pub(super) ln_vision: LayerNorm<B>,
    pub(super) causal: QFormer<B>,
}

/// Step 3 and the norm before it.
#[derive(Module, Debug)]
struct Reader<B: Backend> {
    ln_vision: LayerNorm<B>,
    causal: QFormer<B>,
}

impl<B: SeedBackend> Encoder<B> {
    /// Normalized pixels `[batch, 3, size, size]` -> normed patch features `[batch, 1 + patches, vit_width]`.
    pub(super) fn features(&self, pixels: Tensor<B, 4>) -> Tensor<B, 3> {
        self.ln_vision.forward(self.visual_encoder.forward(pixels))
    }
}

/// What was taken of a file.
#[derive(Debug, Serialize)]
struct Taken {
    part: &'static str,
    file: PathBuf,
    /// Keys of the part.
    used: usize,
    /// Keys of the file that no part has a place for, unless another part takes them.
    unused: Vec<String>,
}

/// Reads parts and accounts for what is read.
pub(super) struct Opening<'a, B: Backend> {
    origin: &'a Origin,
    model: &'a SeedConfig,
    device: &'a B::Device,
    taken: Vec<Taken>,
}

impl<'a, B: SeedBackend> Opening<'a, B> {
    pub(super) fn new(origin: &'a Origin, model: &'a SeedConfig, device: &'a B::Device) -> Self {
        Self { origin, model, device, taken: Vec::new() }
    }

    /// The vision transformer, which the stages hold fixed, with its layers' weights in `dtype`.
    pub(super) fn vit(&mut self, dtype: DType) -> Result<EvaVit<B>> {
        let path = self.origin.vit.as_ref().or(self.origin.bundle.as_ref()).ok_or_else(|| {
            self.missing(
                "vision transformer",
                "vit = \"eva_vit_g.pth\" or bundle = \"FOLDER\", or train one in [vision]",
            )
        })?;
        let weights = open(path)?;
        const INSIDE: KeyTable = KeyTable { renames: &[("", "visual_encoder")], ignored: &["*"] };
        const ALONE: KeyTable = KeyTable { renames: &[], ignored: &["*"] };
        let inside = weights.keys().any(|key| key.starts_with("visual_encoder."));
        let table = if inside { INSIDE } else { ALONE };
        self.take("vision transformer", self.model.vit().init(self.device), &weights, path, &table, dtype)
    }

    /// What stage 1 begins with: weights of BLIP-2, or `fresh` with the norm of a bundle.
    pub(super) fn aligner(&mut self, mut fresh: Aligner<B>) -> Result<Aligner<B>> {
        if let Some(path) = &self.origin.qformer {
            return self.take("Q-Former", fresh, &open(path)?, path, &any(&Aligner::<B>::KEYS), DType::F32);
        }
        let Some(path) = &self.origin.bundle else { return Ok(fresh) };
        const NORM: KeyTable = KeyTable { renames: &[("", "ln_vision")], ignored: &["*"] };
        fresh.ln_vision = self.take("norm", fresh.ln_vision, &open(path)?, path, &NORM, DType::F32)?;
        Ok(fresh)
    }

    /// What stage 2 codes: steps 2 and 3.
    pub(super) fn encoder(&mut self, dtype: DType) -> Result<Encoder<B>> {
        let visual_encoder = self.vit(dtype)?;
        let path = self.origin.qformer.as_ref().or(self.origin.bundle.as_ref()).ok_or_else(|| {
            self.missing("Q-Former", "qformer = \"runs/NAME/stage1\" or bundle = \"FOLDER\", or train one in [stage1]")
        })?;
        let ln_vision = LayerNormConfig::new(self.model.vit_width).with_epsilon(1e-5).init(self.device);
        let fresh = Reader { ln_vision, causal: self.model.qformer().init(self.device) };
        let table = any(&SeedNetwork::<B>::KEYS);
        let Reader { ln_vision, causal } = self.take("Q-Former", fresh, &open(path)?, path, &table, DType::F32)?;
        Ok(Encoder { visual_encoder, ln_vision, causal })
    }

    /// Writes the account into a stage's folder.
    pub(super) fn account(self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        let json = serde_json::to_vec_pretty(&self.taken).expect("an account of names and numbers is JSON");
        atomic::write(&folder.join(ACCOUNT), &json)
    }

    fn missing(&self, part: &str, hint: &str) -> Error {
        Error::Config {
            file: "the recipe".to_owned(),
            reason: format!("the first stage needs a {part}: set in [from] {hint}"),
        }
    }

    fn take<M: Module<B>>(
        &mut self,
        part: &'static str,
        module: M,
        weights: &Weights,
        path: &Path,
        table: &KeyTable,
        dtype: DType,
    ) -> Result<M> {
        let expected = checkpoint::expected(&module, table);
        let needed: BTreeSet<&str> = expected.keys().map(String::as_str).collect();
        let unused = weights.keys().filter(|key| !needed.contains(key)).map(str::to_owned).collect();
        self.taken.push(Taken { part, file: path.to_owned(), used: needed.len(), unused });
        checkpoint::load_as(module, weights, table, dtype)
    }
}

/// Writes what stage 1 made as the reference writes it: under its keys, the temperature without an axis, which no tensor here
/// can be.
pub(super) fn save<B: SeedBackend>(model: &Aligner<B>, folder: &Path) -> Result<()> {
    let fail = |source| Error::Write { path: folder.to_owned(), source };
    let beside = tempfile::tempdir_in(folder).map_err(fail)?;
    checkpoint::save(model, &beside.path().join(WEIGHTS), &Aligner::<B>::KEYS, DType::F32)?;
    let weights = Files::folder(beside.path()).weights(WEIGHTS)?;
    let made = |key: &str| {
        let shape = weights.get(key).map(|stored| stored.shape.to_vec()).unwrap_or_default();
        let (name, weights) = (key.to_owned(), &weights);
        let values = move || weights.floats(&name).map_err(|error| error.to_string());
        let shape = if key == Aligner::<B>::SCALAR { Vec::new() } else { shape };
        (key.to_owned(), Made { shape, values: Box::new(values) })
    };
    checkpoint::save_tensors(weights.keys().map(made).collect(), &folder.join(WEIGHTS), DType::F32)
}

fn any(table: &KeyTable) -> KeyTable {
    KeyTable { ignored: &["*"], ..*table }
}

/// A file of weights, or the one of a bundle or of a finished stage.
fn open(path: &Path) -> Result<Weights> {
    match path.join(WEIGHTS).is_file() {
        true => Files::folder(path).weights(WEIGHTS),
        false => Weights::open(path),
    }
}
