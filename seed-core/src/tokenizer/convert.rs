//! Official files -> a bundle, with an account of every key.
//!
//! | model | files |
//! |---|---|
//! | SEED-2 | `seed_quantizer.pt`, `eva_vit_g.pth` |
//! | SEED-1 | `seed_tokenizer.pth`, `causal_qformer.pth` |
//!
//! Keys of a bundle are those of the official files, so tensors go from file to file one at a time, and the whole model is
//! never in memory. The head is found from the keys: the official loader ignores what does not fit, so that a checkpoint
//! of another head decodes to noise there.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use serde::Serialize;

use crate::{
    atomic,
    checkpoint::{self, DType, Files, Made, Weights},
    detokenizer::Head,
    device::{OnBackend, on_cpu},
    diffusion::Decoder,
    error::{Error, Result},
    eva_vit::resize_positions,
    nn::SeedBackend,
    pixels::Preset,
};

use super::{
    BundleConfig, DECODER, DecodeDefaults, FORMAT, SeedConfig, SeedNetwork, bundle,
    layout::{self, Shapes},
};

const POSITIONS: &str = "visual_encoder.pos_embed";
/// File of the bundle with the account.
pub(super) const REPORT: &str = "conversion.json";

/// What to convert.
#[derive(Clone, Debug)]
pub struct ConvertOptions {
    /// Name of the model.
    pub name: String,
    /// `seed_quantizer.pt` or `seed_tokenizer.pth`, or one file with everything.
    pub quantizer: PathBuf,
    /// `eva_vit_g.pth`; its keys need not begin with `visual_encoder.`.
    pub vit: Option<PathBuf>,
    /// `causal_qformer.pth`.
    pub qformer: Option<PathBuf>,
    /// Diffusion decoder in diffusers' layout, copied in `dtype`.
    pub decoder: Option<PathBuf>,
    /// Sizes, for models that are not of a released size; the official files say all of them but the head counts.
    pub config: Option<SeedConfig>,
    /// Side of the images, if another one than the position embeddings were trained for: they are interpolated.
    pub image_size: Option<usize>,
    /// Element type on disk.
    pub dtype: DType,
}

/// What became of every key of every file.
#[derive(Clone, Debug, Serialize)]
pub struct Conversion {
    /// Sizes of the model.
    pub model: SeedConfig,
    /// Element type on disk.
    pub dtype: DType,
    /// Side of the images that the files' position embeddings are for, if they were interpolated.
    pub interpolated_from: Option<usize>,
    /// One entry a file.
    pub files: Vec<FileAccount>,
}

/// What became of the keys of one file.
#[derive(Clone, Debug, Serialize)]
pub struct FileAccount {
    /// The file.
    pub file: PathBuf,
    /// Its SHA-256; of shards, one after another.
    pub sha256: String,
    /// Keys in the bundle.
    pub used: Vec<String>,
    /// Keys left out, and why.
    pub ignored: BTreeMap<String, &'static str>,
    /// Entries that are no weights, and what they are.
    pub no_weights: BTreeMap<String, &'static str>,
}

/// One tensor of one of the files.
struct Source<'a> {
    weights: &'a Weights,
    key: String,
    shape: Vec<usize>,
}

/// Makes the bundle `out` of official files and accounts for every key, in the bundle's `conversion.json` too.
///
/// # Errors
/// Reading; [`Error::TensorKeys`] with all keys that are missing or that no rule knows; [`Error::TensorShape`];
/// [`Error::TensorValue`] for values that are not finite or that the dtype cannot hold; [`Error::WeightFile`] for files of
/// different models; [`Error::Argument`] for head counts that must be given, and for a dtype that files are not of.
pub fn convert(options: &ConvertOptions, out: &Path) -> Result<Conversion> {
    convert_until(options, out, &AtomicBool::new(false))
}

/// As [`convert`], unless `stop` is set on the way: then `out` is not whole, and no bundle until the same call has made it one.
///
/// # Errors
/// As [`convert`]; [`Error::Interrupted`].
pub fn convert_until(options: &ConvertOptions, out: &Path, stop: &AtomicBool) -> Result<Conversion> {
    options.dtype.check_for_files()?;
    let given = [Some(&options.quantizer), options.vit.as_ref(), options.qformer.as_ref()];
    let paths: Vec<&PathBuf> = given.into_iter().flatten().collect();
    let files = paths.iter().map(|path| Weights::open(path)).collect::<Result<Vec<_>>>()?;
    let sources = sources(options, &files)?;
    let shapes: Shapes = sources.iter().map(|(key, source)| (key.clone(), source.shape.clone())).collect();
    let all = paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ");

    let found = layout::sizes(&shapes, options.config.as_ref(), &all)?;
    let asked = options.image_size.or(options.config.as_ref().map(|config| config.image_size));
    let model = SeedConfig { image_size: asked.unwrap_or(found.image_size), ..found.clone() };
    model.validate(&all)?;
    let interpolated_from = (model.image_size != found.image_size).then_some(found.image_size);

    let needed = keys_and_shapes(&model);
    let tensors = tensors(&sources, &needed, [&found, &model], &all)?;
    let account = |(path, file): (&&PathBuf, &Weights)| {
        go_on(stop)?; // a file's hash takes seconds
        Ok(account(path, file, &sources, &needed, &model))
    };
    let files = paths.iter().zip(&files).map(account).collect::<Result<Vec<_>>>()?;
    let conversion = Conversion { model: model.clone(), dtype: options.dtype, interpolated_from, files };
    let config = BundleConfig {
        format: FORMAT,
        name: options.name.clone(),
        provenance: format!("converted from {all}"),
        preprocess: Preset::Seed,
        decode: match model.head {
            Head::Text => DecodeDefaults { steps: 50, guidance: 7.5 }, // as SEED-1 decodes
            Head::Mlp | Head::Qformer | Head::Linear => DecodeDefaults::default(),
        },
        weights: None, // of what is written
        model,
        contrast: None,
    };
    if options.decoder.is_none() && out.join(DECODER).exists() {
        return Err(Error::FolderInUse { path: out.to_owned(), name: DECODER.to_owned() });
    }
    bundle::begin(out)?;
    let report = serde_json::to_vec_pretty(&conversion).expect("names and sizes are JSON");
    atomic::write(&out.join(REPORT), &report)?;
    if let Some(folder) = &options.decoder {
        go_on(stop)?;
        on_cpu(CopyDecoder { folder, out, model: &config.model, dtype: options.dtype })?;
    }
    let tensors = tensors.into_iter().map(|(key, made)| (key, unless(stop, made))).collect();
    let saved = config.save_tensors(out, tensors, options.dtype);
    match saved {
        Err(Error::TensorValue { .. }) if stop.load(Ordering::Relaxed) => Err(Error::Interrupted),
        saved => saved.map(|()| conversion),
    }
}

fn go_on(stop: &AtomicBool) -> Result<()> {
    if stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}

/// A tensor that is not made any more once `stop` is set.
fn unless<'a>(stop: &'a AtomicBool, made: Made<'a>) -> Made<'a> {
    let values = move || match stop.load(Ordering::Relaxed) {
        true => Err("was not reached".to_owned()),
        false => (made.values)(),
    };
    Made { shape: made.shape, values: Box::new(values) }
}

/// The bundle's tensors: those of the files, with position embeddings from `found`'s image size to `model`'s.
fn tensors<'a>(
    sources: &'a BTreeMap<String, Source<'a>>,
    needed: &BTreeMap<String, Vec<usize>>,
    [found, model]: [&SeedConfig; 2],
    files: &str,
) -> Result<BTreeMap<String, Made<'a>>> {
    let known = |key: &String| needed.contains_key(key) || layout::ignored(key, model).is_some();
    let missing: Vec<String> = needed.keys().filter(|key| !sources.contains_key(*key)).cloned().collect();
    let unused: Vec<String> = sources.keys().filter(|key| !known(key)).cloned().collect();
    if !missing.is_empty() || !unused.is_empty() {
        return Err(Error::TensorKeys { file: files.to_owned(), missing, unused });
    }
    let made = |key: &String, shape: &Vec<usize>| {
        let source = &sources[key];
        if model.image_size != found.image_size && key == POSITIONS {
            return Ok(interpolated(source, found, model));
        }
        match source.shape == *shape {
            true => Ok(whole(source)),
            false => Err(Error::TensorShape {
                file: source.weights.describe().to_owned(),
                key: key.clone(),
                expected: shape.clone(),
                found: source.shape.clone(),
            }),
        }
    };
    needed.iter().map(|(key, shape)| Ok((key.clone(), made(key, shape)?))).collect()
}

/// What becomes of every key of a file.
fn account(
    path: &Path,
    weights: &Weights,
    sources: &BTreeMap<String, Source<'_>>,
    needed: &BTreeMap<String, Vec<usize>>,
    model: &SeedConfig,
) -> FileAccount {
    let of_file = sources.iter().filter(|(_, source)| std::ptr::eq(source.weights, weights));
    let (used, ignored): (Vec<_>, Vec<_>) = of_file.partition(|(key, _)| needed.contains_key(*key));
    let reason = |key: &String| layout::ignored(key, model).unwrap_or_default();
    FileAccount {
        file: path.to_path_buf(),
        sha256: weights.sha256(),
        used: used.into_iter().map(|(_, source)| source.key.clone()).collect(),
        no_weights: weights.skipped().iter().map(|entry| (entry.key.clone(), entry.kind)).collect(),
        ignored: ignored.into_iter().map(|(key, source)| (source.key.clone(), reason(key))).collect(),
    }
}

/// Every tensor of every file under its key in a bundle.
fn sources<'a>(options: &ConvertOptions, files: &'a [Weights]) -> Result<BTreeMap<String, Source<'a>>> {
    let mut all: BTreeMap<String, Source<'a>> = BTreeMap::new();
    for (i, weights) in files.iter().enumerate() {
        let is_vit = i == 1 && options.vit.is_some();
        let bare = is_vit && !weights.keys().any(|key| key.starts_with("visual_encoder."));
        for key in weights.keys() {
            let name = if bare { format!("visual_encoder.{key}") } else { key.to_owned() };
            let shape = weights.get(key).map(|stored| stored.shape.to_vec()).unwrap_or_default();
            let source = Source { weights, key: key.to_owned(), shape };
            if let Some(twice) = all.insert(name.clone(), source) {
                let reason = format!("it has {name}, and so has {}; give each part once", twice.weights.describe());
                return Err(Error::WeightFile { file: weights.describe().to_owned(), reason });
            }
        }
    }
    Ok(all)
}

fn whole<'a>(source: &'a Source<'_>) -> Made<'a> {
    let values = || source.weights.floats(&source.key).map_err(|error| error.to_string());
    Made { shape: source.shape.clone(), values: Box::new(values) }
}

/// The position embeddings of `found`'s image size as those of `model`'s.
fn interpolated<'a>(source: &'a Source<'_>, found: &SeedConfig, model: &SeedConfig) -> Made<'a> {
    let [from, to] = [found, model].map(|config| config.image_size / config.patch_size);
    let width = model.vit_width;
    let values = move || {
        let values = source.weights.floats(&source.key).map_err(|error| error.to_string())?;
        Ok(resize_positions(&values, width, from, to))
    };
    Made { shape: vec![1, 1 + to * to, width], values: Box::new(values) }
}

/// A decoder's folder, read and written in another dtype, with the empty prompt's embedding in the place of its text
/// encoder.
struct CopyDecoder<'a> {
    folder: &'a Path,
    out: &'a Path,
    model: &'a SeedConfig,
    dtype: DType,
}

impl OnBackend for CopyDecoder<'_> {
    type Output = Result<()>;

    fn run<B: SeedBackend>(self, device: B::Device) -> Result<()> {
        let decoder = Decoder::<B>::load(&Files::folder(self.folder), &device, DType::F32)?;
        self.model.check_decoder(decoder.embedding_shape(), self.folder.display().to_string())?;
        decoder.save(&self.out.join(DECODER), self.dtype)
    }
}

/// Keys and shapes of a bundle of these sizes, which must be possible.
pub(super) fn keys_and_shapes(model: &SeedConfig) -> Shapes {
    on_cpu(Expected(model))
}

/// As [`keys_and_shapes`], on a backend: nothing is initialized.
struct Expected<'a>(&'a SeedConfig);

impl OnBackend for Expected<'_> {
    type Output = Shapes;

    fn run<B: SeedBackend>(self, device: B::Device) -> Shapes {
        checkpoint::expected::<B, _>(&self.0.init::<B>(&device), &SeedNetwork::<B>::KEYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ConvertOptions {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/seed2-mlp");
        ConvertOptions {
            name: "golden".to_owned(),
            quantizer: golden.join("seed_quantizer.pt"),
            vit: Some(golden.join("eva_vit_g.pth")),
            qformer: None,
            decoder: None,
            config: Some(Files::folder(golden).json("config.json").unwrap()),
            image_size: None,
            dtype: DType::F32,
        }
    }

    #[test]
    fn an_interrupted_conversion_is_no_bundle_and_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("bundle");
        convert(&options(), &bundle).unwrap();
        let whole = std::fs::read(bundle.join("model.safetensors")).unwrap();
        let stopped = convert_until(&options(), &folder.path().join("none"), &AtomicBool::new(true));
        assert!(matches!(stopped, Err(Error::Interrupted)));

        // In the middle of the tensors: the third one asks for the end.
        let stop = AtomicBool::new(false);
        let made = |key: &str| {
            let (last, stop) = (key == "c", &stop);
            let values = move || {
                stop.store(last, Ordering::Relaxed);
                Ok(vec![1.0])
            };
            (key.to_owned(), unless(stop, Made { shape: vec![1], values: Box::new(values) }))
        };
        let path = folder.path().join("tensors");
        let saved = checkpoint::save_tensors(["a", "b", "c", "d"].map(made).into(), &path, DType::F32);
        assert!(matches!(saved, Err(Error::TensorValue { key, .. }) if key == "d"));
        assert!(!path.exists());

        convert(&options(), &bundle).unwrap();
        assert!(whole == std::fs::read(bundle.join("model.safetensors")).unwrap());
    }
}
