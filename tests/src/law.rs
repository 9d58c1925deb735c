//! Which module may import which: the design's table, and a checker for it.
//!
//! A module may import itself, the modules and crates that [`LAW`] names, and the standard library. What a single file
//! does besides is an [`Exception`], with its reason. Code that is built for tests alone is free.

use std::collections::BTreeSet;

use crate::imports::{self, Import};

/// What one top-level module of `seed-core` may import.
#[derive(Debug)]
pub struct Rule {
    /// The module.
    pub module: &'static str,
    /// Modules of `seed-core`.
    pub modules: May,
    /// Other crates.
    pub crates: May,
}

/// A set of names, by what is in it or by what is not.
#[derive(Debug)]
pub enum May {
    /// These and no others.
    Only(&'static [&'static str]),
    /// All but these and the [`BACKENDS`].
    AllBut(&'static [&'static str]),
    /// These, the [`BACKENDS`] and no others.
    WithBackends(&'static [&'static str]),
}

impl May {
    fn allows(&self, name: &str) -> bool {
        match self {
            Self::Only(names) => names.contains(&name),
            Self::AllBut(names) => !names.contains(&name) && !BACKENDS.contains(&name),
            Self::WithBackends(names) => names.contains(&name) || BACKENDS.contains(&name),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Only([]) => "none".to_owned(),
            Self::Only(names) => names.join(", "),
            Self::AllBut(names) => format!("all but {}", [names, BACKENDS].concat().join(", ")),
            Self::WithBackends(names) => [names, BACKENDS].concat().join(", "),
        }
    }
}

const fn rule(module: &'static str, modules: May, crates: May) -> Rule {
    Rule { module, modules, crates }
}

/// What a model file needs: shared layers, errors, burn.
const MODEL: May = May::Only(&["nn", "error"]);
const MODEL_CRATES: May = May::Only(&["burn", "serde"]);

/// The concrete backends and what they stand on: `device` chooses one, `nn` makes the CPU's faster. [`May::AllBut`] leaves
/// them out too.
pub const BACKENDS: &[&str] =
    &["burn_flex", "burn_cuda", "burn_wgpu", "burn_cubecl", "cubecl", "cubek", "cudarc", "wgpu"];

/// The law of `seed-core`, in the order of its `lib.rs`. A module without a line here breaks it.
pub const LAW: &[Rule] = &[
    rule("atomic", May::Only(&["error"]), May::Only(&["tempfile"])),
    rule("codes", May::Only(&["error"]), May::Only(&[])),
    // burn's tensors are what CUDA multiplies: in float32, where the backend by itself takes TF32.
    rule("device", May::Only(&["error", "nn"]), May::WithBackends(&["burn"])),
    rule("error", May::Only(&[]), May::Only(&["thiserror"])),
    rule("pixels", May::Only(&["atomic", "error"]), May::AllBut(&["burn"])),
    // burn_flex, rayon and multiversion are the backend extension: fused operations on the CPU.
    rule("nn", May::Only(&["error"]), May::Only(&["burn", "burn_flex", "half", "rayon", "multiversion"])),
    rule("eva_vit", MODEL, MODEL_CRATES),
    rule("qformer", MODEL, MODEL_CRATES),
    rule("quantizer", MODEL, MODEL_CRATES),
    rule("detokenizer", May::Only(&["nn", "error", "qformer"]), MODEL_CRATES),
    // Its input is an embedding: it sees none of steps 1 to 5.
    rule("diffusion", MODEL, May::Only(&["burn", "serde", "serde_json", "rand", "rand_chacha"])),
    rule("tokenizer", May::AllBut(&["train", "dataset", "eval", "scenes"]), May::AllBut(&[])),
    rule("llm", May::Only(&["atomic", "codes", "error"]), May::Only(&["serde", "serde_json"])),
    rule("minigpt", May::Only(&["nn", "error", "eva_vit"]), May::Only(&["burn", "serde", "rayon"])),
    rule("contrast", MODEL, MODEL_CRATES),
    rule("checkpoint", May::Only(&["atomic", "error"]), May::AllBut(&["image", "mozjpeg", "seed_weights"])),
    rule(
        "dataset",
        May::Only(&["atomic", "codes", "error", "llm", "pixels", "tokenizer"]),
        May::AllBut(&["burn", "image", "mozjpeg", "seed_weights"]),
    ),
    rule("eval", May::AllBut(&["train"]), May::AllBut(&[])),
    rule("scenes", May::Only(&["atomic", "error", "pixels"]), May::AllBut(&["burn"])),
    rule("train", May::AllBut(&["eval"]), May::AllBut(&[])),
    rule("wordpiece", May::Only(&["error"]), May::Only(&["tokenizers"])),
];

/// What one file imports beyond its module's rule.
#[derive(Debug)]
pub struct Exception {
    /// The file, from the root of the repository.
    pub file: &'static str,
    /// The module that it imports; with one item, that item alone.
    pub import: &'static str,
    /// Why.
    pub reason: &'static str,
}

const fn exception(file: &'static str, import: &'static str, reason: &'static str) -> Exception {
    Exception { file, import, reason }
}

/// The exceptions. One that no file needs any more breaks the law.
pub const EXCEPTIONS: &[Exception] = &[
    exception(
        "seed-core/src/checkpoint/load.rs",
        "nn::SeedBackend",
        "a backend says how it keeps the weights of layers",
    ),
    exception("seed-core/src/diffusion/text_encoder.rs", "checkpoint::KeyTable", "models own their key tables"),
    exception("seed-core/src/diffusion/vae.rs", "checkpoint::KeyTable", "models own their key tables"),
    exception("seed-core/src/diffusion/vae.rs", "checkpoint::Weights", "which of two key tables a file needs"),
    exception("seed-core/src/diffusion/image_encoder.rs", "checkpoint", "a tower is a folder that loads itself"),
    exception("seed-core/src/diffusion/pipeline.rs", "checkpoint", "a decoder is a folder that loads itself"),
    exception("seed-core/src/diffusion/config.rs", "checkpoint", "a decoder is a folder that loads itself"),
    exception(
        "seed-core/src/diffusion/empty_prompt.rs",
        "checkpoint",
        "the prompt's embedding is a file of the folder",
    ),
    exception("seed-core/src/diffusion/save.rs", "checkpoint", "the inverse of loading the folder"),
    exception("seed-core/src/diffusion/save.rs", "atomic", "the inverse of loading the folder"),
    exception("seed-core/src/minigpt/checkpoint.rs", "checkpoint", "the official files, read as they are"),
    exception("seed-core/src/minigpt/lora.rs", "checkpoint::Weights", "what a checkpoint holds for the language model"),
    exception("seed-core/src/minigpt/facade.rs", "checkpoint::DType", "chosen at run time, with the backend"),
    exception("seed-core/src/minigpt/facade.rs", "device", "the facade chooses the backend"),
    exception("seed-core/src/minigpt/facade.rs", "pixels", "the facade takes images"),
    exception("seed-core/src/minigpt/facade.rs", "tokenizer::Features", "features of images, as plain numbers"),
    exception("seed-core/src/minigpt/draw.rs", "pixels::RgbImage", "boxes are drawn on an image"),
];

/// Crates that the command line and the Python package do without: they compute nothing, and the backend is chosen in
/// `seed_core::device`.
pub const NOT_IN_THE_COMMAND_LINE: May = May::AllBut(&["burn"]);

/// Where a feature may be asked for, other than in tests: the backends in one file, training where the module begins,
/// where a run is spread over devices and where the backend extension is differentiated, datasets where the module begins
/// and where training draws from them, fetching where the module begins.
fn feature_is_allowed(feature: &str, file: &str) -> bool {
    match feature {
        "train" => {
            ["seed-core/src/lib.rs", "seed-core/src/device.rs"].contains(&file) || file.starts_with("seed-core/src/nn/")
        }
        "dataset" => ["seed-core/src/lib.rs", "seed-core/src/train/data/mod.rs"].contains(&file),
        "fetch" => file == "seed-core/src/checkpoint/mod.rs",
        _ => file == "seed-core/src/device.rs",
    }
}

/// What is known of `seed-core` as a whole.
#[derive(Debug, Default)]
pub struct Crate {
    /// Names of the crates that it depends on, and of the standard library's.
    pub crates: BTreeSet<String>,
    /// Items at its root, and the module that each comes from: `("Codes", "codes")`.
    pub exports: Vec<(String, String)>,
}

impl Crate {
    /// Reads the manifest and `lib.rs`.
    pub fn new(manifest: &str, lib: &str) -> Self {
        let crates = crate_names(manifest);
        let imports = imports::read(lib, &[], &crates).imports.into_iter();
        let exports = imports.filter_map(|import| match import {
            Import::Internal(path) => Some((path.last()?.clone(), path.first()?.clone())),
            Import::External(_) => None,
        });
        Self { exports: exports.collect(), crates }
    }
}

/// The crates that a manifest's `[dependencies]` and `[dev-dependencies]` name, as code names them, and the standard
/// library's.
pub fn crate_names(manifest: &str) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = ["std", "core", "alloc"].map(str::to_owned).into();
    let mut inside = false;
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.contains("dependencies");
        } else if inside && let Some((name, _)) = line.split_once(['.', '=', ' ']) {
            names.insert(name.replace('-', "_"));
        }
    }
    names
}

/// What `source`, the file `file` of `seed-core`, does against the law; and the exceptions that it used.
pub fn check(file: &str, source: &str, whole: &Crate) -> (Vec<String>, Vec<usize>) {
    let path = file.trim_start_matches("seed-core/src/").trim_end_matches(".rs");
    let mut parts: Vec<&str> = path.split('/').collect();
    if matches!(parts.last(), Some(&"mod" | &"lib")) {
        parts.pop();
    }
    let reading = imports::read(source, &parts, &whole.crates);
    let mut broken: Vec<String> = reading
        .features
        .iter()
        .filter(|feature| !feature_is_allowed(feature, file))
        .map(|feature| format!("{file} asks for the feature {feature:?}, which is not its concern"))
        .collect();
    let Some(&module) = parts.first() else {
        return (broken, Vec::new()); // lib.rs declares the modules and exports from them
    };
    let Some(rule) = LAW.iter().find(|rule| rule.module == module) else {
        broken.push(format!("{file} is of the module `{module}`, which the law does not know; add a rule"));
        return (broken, Vec::new());
    };
    let mut used = Vec::new();
    for import in &reading.imports {
        let (kind, may, name, item) = match import {
            Import::Internal(path) => {
                let Some(first) = path.first() else { continue };
                let export = whole.exports.iter().find(|(item, _)| path.len() == 1 && item == first);
                ("module", &rule.modules, export.map_or(first, |(_, module)| module), path)
            }
            Import::External(path) => match path.first().map(String::as_str) {
                None | Some("std" | "core" | "alloc") => continue,
                Some(_) => ("crate", &rule.crates, &path[0], path),
            },
        };
        if (kind == "module" && name == module) || may.allows(name) {
            continue;
        }
        let item = item.join("::");
        let excepted = |exception: &Exception| {
            let rest = item.strip_prefix(exception.import);
            kind == "module"
                && exception.file == file
                && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        match EXCEPTIONS.iter().position(excepted) {
            Some(index) => used.push(index),
            None => broken.push(format!(
                "{file} imports the {kind} `{name}` ({item}); `{module}` may import: {}",
                may.describe()
            )),
        }
    }
    (broken, used)
}

/// What `source`, the file `file` of the command line or the Python package, does against the law.
pub fn check_command_line(file: &str, source: &str, crates: &BTreeSet<String>) -> Vec<String> {
    let reading = imports::read(source, &[], crates);
    let features = reading.features.iter();
    let features = features.map(|feature| format!("{file} asks for the feature {feature:?}, which is not its concern"));
    let crates = reading.imports.iter().filter_map(|import| match import {
        Import::External(path) if !NOT_IN_THE_COMMAND_LINE.allows(&path[0]) => {
            Some(format!("{file} imports the crate `{}`; only seed_core's public API is used here", path[0]))
        }
        _ => None,
    });
    features.chain(crates).collect()
}
