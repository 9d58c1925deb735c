//! What the tests of datasets stand on: a model that is quick, scenes, and outputs as they lie on disk.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use seed_core::{
    DType,
    tokenizer::{SeedConfig, random_bundle},
};
use serde_json::{Value, json};

use crate::world::{done, program, text};

/// A folder with a small model and `images/`, for one test.
pub(crate) struct Data {
    folder: tempfile::TempDir,
}

impl Data {
    /// `count` scenes of 16 x 16 pixels with captions, and a model that reads them.
    pub(crate) fn new(count: usize) -> Self {
        let data = Self { folder: tempfile::tempdir().unwrap() };
        let config: SeedConfig = serde_json::from_value(json!({
            "image_size": 16, "patch_size": 8, "vit_width": 32, "vit_depth": 1, "vit_heads": 2, "vit_mlp": 32,
            "qformer_width": 32, "qformer_depth": 1, "qformer_heads": 2, "qformer_mlp": 32, "cross_attention_every": 1,
            "num_queries": 32, "codebook_size": 64, "codebook_dim": 8, "decoder_depth": 1, "decoder_heads": 2,
            "head": "mlp", "generation_dim": 16, "reverse_queries": 1, "reverse_depth": 1, "recon_semantic": false,
        }))
        .unwrap();
        random_bundle(&config, 1, DType::F32, &data.path("bundle")).unwrap();
        let count = count.to_string();
        done(program().args(["scenes", "--count", &count, "--size", "16", "--out"]).arg(data.path("images")));
        data
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of the program in this folder.
    pub(crate) fn seed(&self, command: &str) -> Command {
        let mut seed = program();
        seed.current_dir(self.folder.path()).arg(command);
        for variable in ["RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS"] {
            seed.env_remove(variable);
        }
        seed
    }

    /// `seed tokenize ARGUMENTS... --out OUT` with the small model.
    pub(crate) fn tokenize(&self, arguments: &[&str], out: &str) -> Command {
        let mut seed = self.seed("tokenize");
        seed.args(arguments).args(["--model", "bundle", "--out", out]);
        seed
    }

    /// Holds when an output is whole; returns what verify found.
    pub(crate) fn verify(&self, out: &str) -> Value {
        serde_json::from_slice(&done(self.seed("verify").args([out, "--json"])).stdout).unwrap()
    }

    /// What `seed encode` says of the images in `images/`, by file name.
    pub(crate) fn codes(&self) -> BTreeMap<String, Vec<u64>> {
        let output = done(self.seed("encode").args(["images", "--model", "bundle", "--json"]));
        let line = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            let name = line["path"].as_str().unwrap().trim_start_matches("images/").to_owned();
            (name, serde_json::from_value(line["codes"].clone()).unwrap())
        };
        text(&output.stdout).lines().map(line).collect()
    }

    /// The rows of an output in JSON lines.
    pub(crate) fn rows(&self, out: &str) -> Vec<Value> {
        let files = tree(&self.path(out));
        let lines = files.iter().filter(|(path, _)| path.ends_with(".jsonl") && !path.starts_with("__seed__"));
        lines
            .flat_map(|(_, bytes)| text(bytes).lines().map(str::to_owned).collect::<Vec<_>>())
            .map(|l| serde_json::from_str(&l).unwrap())
            .collect()
    }

    /// The lines of the record of failures.
    pub(crate) fn failures(&self, out: &str) -> Vec<Value> {
        let files = tree(&self.path(out));
        let lines = files.iter().filter(|(path, _)| path.starts_with("__seed__/failures"));
        lines
            .flat_map(|(_, bytes)| text(bytes).lines().map(str::to_owned).collect::<Vec<_>>())
            .map(|l| serde_json::from_str(&l).unwrap())
            .collect()
    }
}

/// Every file in a folder, by its path from there.
pub(crate) fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    let name = entry.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                    files.insert(name, fs::read(entry.path()).unwrap());
                }
            }
        }
    }
    files
}
