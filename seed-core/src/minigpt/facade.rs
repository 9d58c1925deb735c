//! The front end as programs use it: images -> embeddings, with the backend chosen at run time.
//!
//! [`open`] gives a [`MiniGptVision`], which hides the backend; [`Vision`] is what stands behind it, for programs that chose
//! theirs when they were compiled.

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;

use crate::{
    checkpoint::DType,
    device::{Device, OnBackend},
    error::{Error, Result},
    nn::SeedBackend,
    pixels::{Preprocessor, Preset, RgbImage},
    tokenizer::Features,
};

use super::{FileAccount, MiniGptConfig, MiniGptFiles, MiniGptNetwork, checkpoint};

/// Most images that are in the network at a time; the inner features of a block's MLP alone are 25 MB an image.
const AT_ONCE: usize = 8;

/// MiniGPT-v2's visual front end on some backend. All methods may be called from several threads.
pub trait MiniGptVision: Send + Sync {
    /// Its sizes.
    fn config(&self) -> &MiniGptConfig;

    /// How images become pixels: squashed with a bicubic filter, normalized with CLIP's mean and standard deviation.
    fn preprocessor(&self) -> &Preprocessor;

    /// What became of every key of every file that it was read from.
    fn accounts(&self) -> &[FileAccount];

    /// Images -> embeddings `[images, tokens, width]` for a language model, `[images, 256, 4096]` in the released model.
    ///
    /// # Errors
    /// None that depend on the images.
    fn embed(&self, images: &[RgbImage]) -> Result<Features> {
        let pixels: Vec<Vec<f32>> = images.par_iter().map(|image| self.preprocessor().apply(image)).collect();
        self.embed_pixels(&pixels)
    }

    /// Pixels as [`preprocessor`](Self::preprocessor) makes them, `[3, size, size]` an image -> embeddings.
    ///
    /// # Errors
    /// [`Error::Argument`] for an image of another size.
    fn embed_pixels(&self, images: &[Vec<f32>]) -> Result<Features>;
}

/// Reads the front end.
///
/// # Errors
/// [`Error::Device`] for a device that is not there or does not compute in `dtype`; as [`load`](super::load) for the files.
pub fn open(
    files: &MiniGptFiles,
    config: &MiniGptConfig,
    device: Device,
    dtype: DType,
) -> Result<Box<dyn MiniGptVision>> {
    struct Open<'a>(&'a MiniGptFiles, &'a MiniGptConfig, (Device, DType));
    impl OnBackend for Open<'_> {
        type Output = Result<Box<dyn MiniGptVision>>;

        fn run<B: SeedBackend>(self, device: B::Device) -> Self::Output {
            let (place, dtype) = self.2;
            if !B::supports_dtype(&device, dtype.element()) {
                let reason = format!("it does not compute in {dtype}; choose another dtype");
                return Err(Error::Device { device: place.to_string(), reason });
            }
            Ok(Box::new(Vision::<B>::load(self.0, self.1, device, dtype)?))
        }
    }
    device.run(Open(files, config, (device, dtype)))?
}

/// A [`MiniGptVision`] on the backend `B`.
#[derive(Debug)]
pub struct Vision<B: SeedBackend> {
    config: MiniGptConfig,
    preprocessor: Preprocessor,
    accounts: Vec<FileAccount>,
    device: B::Device,
    network: MiniGptNetwork<B>,
}

impl<B: SeedBackend> Vision<B> {
    /// Reads the front end.
    ///
    /// # Errors
    /// As [`load`](super::load).
    pub fn load(files: &MiniGptFiles, config: &MiniGptConfig, device: B::Device, dtype: DType) -> Result<Self> {
        let (network, accounts) = checkpoint::load(files, config, &device, dtype)?;
        let preprocessor = Preprocessor::new(config.image_size as u32, Preset::Seed);
        Ok(Self { config: config.clone(), preprocessor, accounts, device, network })
    }

    /// The network.
    pub fn network(&self) -> &MiniGptNetwork<B> {
        &self.network
    }

    /// Preprocessed images as one tensor `[images, 3, size, size]`.
    fn tensor(&self, images: &[Vec<f32>]) -> Result<Tensor<B, 4>> {
        let size = self.config.image_size;
        if let Some((index, image)) = images.iter().enumerate().find(|(_, image)| image.len() != 3 * size * size) {
            let reason = format!("image {index} must have 3 * {size} * {size} values, as the preprocessor makes them");
            return Err(Error::Argument { name: "pixels", value: format!("{} values", image.len()), reason });
        }
        Ok(Tensor::from_data(TensorData::new(images.concat(), [images.len(), 3, size, size]), &self.device))
    }
}

impl<B: SeedBackend> MiniGptVision for Vision<B> {
    fn config(&self) -> &MiniGptConfig {
        &self.config
    }

    fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    fn accounts(&self) -> &[FileAccount] {
        &self.accounts
    }

    fn embed_pixels(&self, images: &[Vec<f32>]) -> Result<Features> {
        let shape = [images.len(), self.config.tokens(), self.config.llm_width];
        let mut all = Features { shape, values: Vec::with_capacity(shape.iter().product()) };
        let embed = |images: &[Vec<f32>]| -> Result<Vec<f32>> {
            Ok(self.network.forward(self.tensor(images)?).into_data().iter::<f32>().collect())
        };
        for images in images.chunks(AT_ONCE) {
            // On the CPU a thread that goes through the whole network alone never waits for another.
            let parts = if B::PARTS_SIDE_BY_SIDE { rayon::current_num_threads() } else { 1 };
            let parts = images.par_chunks(images.len().div_ceil(parts)).map(embed);
            all.values.extend(parts.collect::<Result<Vec<_>>>()?.concat());
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf};

    use super::*;
    use crate::{
        checkpoint::{Files, Made, Weights, save_tensors},
        pixels::{self, Limits},
    };

    /// As in the network's own test, relative to the largest value; half-precision weights are rounded to 11 bits.
    const TOLERANCE: f32 = 1e-5;
    const HALF: f32 = 1e-2;

    fn golden(name: &str) -> PathBuf {
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/minigpt").join(name)
    }

    fn files() -> MiniGptFiles {
        MiniGptFiles {
            vit: golden("eva_vit_g.pth"),
            checkpoint: golden("minigptv2.pth"),
            ln_vision: Some(golden("blip2.pth")),
        }
    }

    fn config() -> MiniGptConfig {
        Files::folder(golden("")).json("config.json").unwrap()
    }

    fn opened(files: &MiniGptFiles, dtype: DType) -> Result<Box<dyn MiniGptVision>> {
        open(files, &config(), Device::Cpu, dtype)
    }

    fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
        assert_eq!(got.len(), want.len());
        let size = want.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        got.iter().zip(want).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / size
    }

    #[test]
    fn an_image_file_becomes_the_references_embeddings() {
        let image = pixels::open(&golden("image.png"), &Limits::default()).unwrap();
        let want = Weights::open(&golden("cases.safetensors")).unwrap().floats("image_embeddings").unwrap();
        for (dtype, tolerance) in [(DType::F32, TOLERANCE), (DType::F16, HALF), (DType::BF16, 8.0 * HALF)] {
            let vision = opened(&files(), dtype).unwrap();
            let made = vision.embed(std::slice::from_ref(&image)).unwrap();
            assert_eq!(made.shape, [1, 16, 32]);
            let difference = largest_difference(&made.values, &want);
            assert!(difference <= tolerance, "{dtype}: {difference}");
        }
    }

    /// To the bit.
    #[test]
    fn an_image_has_the_same_embeddings_in_any_batch() {
        let vision = opened(&files(), DType::F32).unwrap();
        let image =
            |i: usize| -> Vec<f32> { (0..3 * 32 * 32).map(|k| ((k * 7 + i * 31) % 23) as f32 / 9.0 - 1.2).collect() };
        let images: Vec<Vec<f32>> = (0..2 * AT_ONCE + 3).map(image).collect();
        let together = vision.embed_pixels(&images).unwrap();
        assert_eq!(together.shape, [images.len(), 16, 32]);
        for (image, embeddings) in images.iter().zip(together.values.chunks(16 * 32)) {
            assert_eq!(vision.embed_pixels(std::slice::from_ref(image)).unwrap().values, embeddings);
        }
        assert_eq!(vision.embed_pixels(&[]).unwrap(), Features { shape: [0, 16, 32], values: Vec::new() });
        let text = vision.embed_pixels(&[vec![0.0; 5]]).unwrap_err().to_string();
        assert!(text.contains("5 values") && text.contains("3 * 32 * 32"), "{text}");
    }

    #[test]
    fn every_key_is_accounted_for() {
        let vision = opened(&files(), DType::F32).unwrap();
        let [vit, checkpoint, norm] = vision.accounts() else { panic!("three files") };
        for account in [vit, checkpoint, norm] {
            let weights = Weights::open(&account.file).unwrap();
            let mut all: Vec<&str> = account.used.iter().chain(account.ignored.keys()).map(String::as_str).collect();
            all.sort_unstable();
            assert_eq!(all, weights.keys().collect::<Vec<_>>());
        }
        assert!(vit.ignored["blocks.2.norm1.weight"].contains("after the last"));
        assert!(vit.ignored["head.weight"].contains("without norm and head"));
        assert_eq!(checkpoint.used, ["llama_proj.bias", "llama_proj.weight"]);
        assert_eq!(checkpoint.ignored.len(), 8);
        assert_eq!(checkpoint.no_weights["epoch"], "int");
        assert_eq!(norm.used, ["ln_vision.bias", "ln_vision.weight"]);
        assert!(norm.ignored["query_tokens"].contains("another part"));
    }

    /// Both styles of LoRA's keys, the transformer under its prefix, and a norm in the checkpoint.
    #[test]
    fn other_layouts_give_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let image = pixels::open(&golden("image.png"), &Limits::default()).unwrap();
        let embed =
            |files: &MiniGptFiles| opened(files, DType::F32).unwrap().embed(std::slice::from_ref(&image)).unwrap();
        let want = embed(&files());
        assert_eq!(embed(&MiniGptFiles { checkpoint: golden("minigptv2-default.pth"), ..files() }), want);

        // Tensors of golden files whose keys begin so, under longer keys.
        let gather = |sources: &[(&str, &str, &str)], to: &str| {
            let opened = sources.iter().map(|(file, ..)| Weights::open(&golden(file)).unwrap()).collect::<Vec<_>>();
            let mut all = BTreeMap::new();
            for ((_, beginning, prefix), weights) in sources.iter().zip(&opened) {
                for key in weights.keys().filter(|key| key.starts_with(beginning)) {
                    let shape = weights.get(key).unwrap().shape.to_vec();
                    let values = Box::new(move || weights.floats(key).map_err(|error| error.to_string()));
                    all.insert(format!("{prefix}{key}"), Made { shape, values });
                }
            }
            let path = folder.path().join(to);
            save_tensors(all, &path, DType::F32).unwrap();
            path
        };
        let whole = [("eva_vit_g.pth", "", "visual_encoder."), ("blip2.pth", "", "")];
        let whole = gather(&whole, "whole.safetensors");
        assert_eq!(embed(&MiniGptFiles { vit: whole.clone(), ln_vision: Some(whole), ..files() }), want);
        let with_norm = gather(&[("minigptv2.pth", "", ""), ("blip2.pth", "ln_vision.", "")], "with-norm.safetensors");
        assert_eq!(embed(&MiniGptFiles { checkpoint: with_norm.clone(), ln_vision: None, ..files() }), want);
        let text = opened(&MiniGptFiles { checkpoint: with_norm, ..files() }, DType::F32).err().unwrap().to_string();
        assert!(text.contains("blip2.pth") && text.contains("give it once"), "{text}");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let refused = |files: MiniGptFiles, words: &[&str]| {
            let text = opened(&files, DType::F32).err().unwrap().to_string();
            assert!(words.iter().all(|word| text.contains(word)), "{words:?} are not in: {text}");
        };
        let (vit, own, blip2) = (golden("eva_vit_g.pth"), golden("minigptv2.pth"), golden("blip2.pth"));
        refused(MiniGptFiles { vit: own.clone(), ..files() }, &["minigptv2.pth", "pos_embed"]);
        refused(MiniGptFiles { checkpoint: vit, ..files() }, &["eva_vit_g.pth", "no place for blocks.0"]);
        refused(MiniGptFiles { checkpoint: blip2, ..files() }, &["blip2.pth", "query_tokens"]);
        refused(MiniGptFiles { ln_vision: Some(own), ..files() }, &["minigptv2.pth", "lacks ln_vision.bias"]);
        refused(MiniGptFiles { checkpoint: golden("absent.pth"), ..files() }, &["absent.pth"]);
        let deeper = MiniGptConfig { vit_depth: 4, ..config() };
        let text = open(&files(), &deeper, Device::Cpu, DType::F32).err().unwrap().to_string();
        assert!(text.contains("lacks blocks.3."), "{text}");
        let wider = MiniGptConfig { llm_width: 40, ..config() };
        let text = open(&files(), &wider, Device::Cpu, DType::F32).err().unwrap().to_string();
        assert!(text.contains("[32, 64], the model needs [40, 64]"), "{text}");
    }
}
