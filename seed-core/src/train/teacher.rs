//! What stage 2 makes the generation embedding of: embeddings by a network that does not learn.
//!
//! | teacher | reads | embedding |
//! |---|---|---|
//! | CLIP's vision tower with its projection | images | `[batch, 1, dim]`, not normalized; SEED-2's is ViT-H/14 of laion2B |
//! | CLIP's text tower | captions | `[batch, 77, width]`, its last states; SEED-1's is that of ViT-L/14 |
//! | a model of this crate with a caption side | images | `[batch, 1, dim]`, of unit variance |
//!
//! The vision towers see the pixels that the tokenizer sees, as in the reference.

use std::path::Path;

use burn::{
    module::Module,
    tensor::{Int, Tensor, TensorData, backend::Backend},
};
use serde_json::Value;

use crate::{
    checkpoint::{self, DType, Files, KeyTable, Weights},
    contrast::{Contrast, generation_target},
    diffusion::{
        image_encoder::{self, ImageEncoder, ImageEncoderConfig},
        text_encoder::{self, TextEncoder, TextEncoderConfig},
    },
    error::{Error, Result},
    nn::SeedBackend,
    tokenizer::{BundleConfig, CONFIG, SeedConfig, SeedNetwork},
};

use super::clip_words::ClipWords;

/// A network that does not learn.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant)] // there is one a run
pub(super) enum Teacher<B: Backend> {
    /// CLIP's vision tower.
    Vision(ImageEncoder<B>),
    /// CLIP's text tower.
    Text(TextEncoder<B>),
    /// A model of this crate.
    Own(Own<B>),
}

/// Vision transformer and caption side of a bundle.
#[derive(Module, Debug)]
pub(super) struct Own<B: Backend> {
    network: SeedNetwork<B>,
    contrast: Contrast<B>,
}

impl<B: SeedBackend> Teacher<B> {
    /// A model of this crate.
    pub(super) fn own(network: SeedNetwork<B>, contrast: Contrast<B>) -> Self {
        Self::Own(Own { network, contrast })
    }

    /// Opens what lies in `folder`, by what its `config.json` says, for a tokenizer of those sizes; with how it reads captions,
    /// if it does.
    ///
    /// # Errors
    /// Reading; [`Error::Config`] for a network of another kind, or whose embeddings are not those that the tokenizer makes.
    pub(super) fn open(folder: &Path, model: &SeedConfig, device: &B::Device) -> Result<(Self, Option<ClipWords>)> {
        let files = Files::folder(folder);
        let files = if files.exists(CONFIG) { files } else { files.sub("text_encoder") };
        let config: Value = files.json(CONFIG)?;
        let fail = |reason: String| Error::Config { file: files.describe(CONFIG), reason };
        let (teacher, words, made) = if config.get("format").is_some() {
            let bundle = BundleConfig::read(&files)?;
            let network = bundle.load_network(&files, device, DType::F32)?;
            let contrast = bundle.load_contrast(&files, device)?;
            let made = [bundle.model.image_size, 1, bundle.contrast.as_ref().map_or(0, |contrast| contrast.embed_dim)];
            (Self::own(network, contrast), None, made)
        } else if model.generation_tokens() > 1 {
            let sizes: TextEncoderConfig = section(&config, "text_config").map_err(&fail)?;
            sizes.check().map_err(&fail)?;
            let encoder = load_part(sizes.init(device), &files, &text_encoder::KEYS)?;
            let words = ClipWords::open(folder, sizes.max_position_embeddings)?;
            if words.vocabulary() > sizes.vocab_size {
                let (known, read) = (sizes.vocab_size, words.vocabulary());
                return Err(fail(format!("it knows {known} tokens, its tokenizer makes {read}")));
            }
            let made = [model.image_size, sizes.max_position_embeddings, sizes.layers.hidden_size];
            (Self::Text(encoder), Some(words), made)
        } else {
            let sizes: ImageEncoderConfig = section(&config, "vision_config").map_err(&fail)?;
            sizes.check().map_err(&fail)?;
            let encoder = load_part(sizes.init(device), &files, &image_encoder::KEYS)?;
            (Self::Vision(encoder), None, [sizes.image_size, 1, sizes.projection_dim])
        };
        let wanted = [model.image_size, model.generation_tokens(), model.generation_dim];
        if made != wanted {
            return Err(fail(format!(
                "as a teacher it has image size, tokens and features {made:?}, and the recipe's model {wanted:?}; set model.image_size, reverse_queries and generation_dim, or take another teacher"
            )));
        }
        Ok((teacher, words))
    }

    /// Normalized pixels `[batch, 3, size, size]` or captions -> embeddings `[batch, tokens, dim]`.
    ///
    /// # Errors
    /// A caption that cannot be read.
    pub(super) fn target(
        &self,
        pixels: Tensor<B, 4>,
        captions: &[String],
        words: Option<&ClipWords>,
    ) -> Result<Tensor<B, 3>> {
        match self {
            Self::Vision(encoder) => Ok(encoder.forward(pixels).unsqueeze_dim(1)),
            Self::Own(own) => {
                let image = own.contrast.image(own.network.features(pixels));
                Ok(generation_target(image).unsqueeze_dim(1))
            }
            Self::Text(encoder) => {
                let words = words.expect("a teacher that reads captions was opened with its words");
                let ids: Vec<i64> = captions.iter().flat_map(|caption| words.ids(caption)).collect();
                let shape = [captions.len(), words.length()];
                let ids = Tensor::<B, 2, Int>::from_data(TensorData::new(ids, shape), &pixels.device());
                Ok(encoder.forward(ids))
            }
        }
    }
}

/// Sizes of one tower: of the whole file, or of its section in the file of both towers. What both towers share stands
/// outside of the section there.
fn section<T: serde::de::DeserializeOwned>(config: &Value, name: &str) -> Result<T, String> {
    let mut own = config.get(name).unwrap_or(config).clone();
    if let (Some(own), Some(shared)) = (own.as_object_mut(), config.get("projection_dim")) {
        own.insert("projection_dim".to_owned(), shared.clone());
    }
    serde_json::from_value(own).map_err(|error| format!("it is no CLIP tower ({name}): {error}"))
}

/// One tower out of a file that may hold both.
fn load_part<B: SeedBackend, M: Module<B>>(module: M, files: &Files, table: &KeyTable) -> Result<M> {
    let names = ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"];
    let name = names.into_iter().find(|name| files.exists(name)).unwrap_or(names[0]);
    let weights: Weights = files.weights(name)?;
    checkpoint::load(module, &weights, &KeyTable { ignored: &["*"], ..*table })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use burn::tensor::Tolerance;
    use burn_flex::Flex;

    use super::*;

    fn golden(case: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(case)
    }

    fn sizes(case: &str) -> SeedConfig {
        Files::folder(golden(case)).json(CONFIG).unwrap()
    }

    fn tensor<const D: usize>(weights: &Weights, key: &str) -> Tensor<Flex, D> {
        let shape = weights.get(key).unwrap().shape.to_vec();
        Tensor::from_data(TensorData::new(weights.floats(key).unwrap(), shape), &Default::default())
    }

    /// Rounding of float32 sums.
    fn close(got: Tensor<Flex, 3>, want: Tensor<Flex, 3>) {
        got.into_data().assert_approx_eq::<f32>(&want.into_data(), Tolerance::rel_abs(1e-4, 1e-5));
    }

    #[test]
    fn images_are_embedded_as_by_transformers() {
        let (cases, model) =
            (Files::folder(golden("unclip")).weights("cases.safetensors").unwrap(), sizes("seed2-mlp"));
        let want = tensor::<2>(&cases, "clip_image_embeds").unsqueeze_dim(1);
        let alone = golden("unclip/image_encoder");
        // The same tower as a section of both towers' file, as the released ones are.
        let both = tempfile::tempdir().unwrap();
        let tower: Value = Files::folder(&alone).json(CONFIG).unwrap();
        let config = serde_json::json!({ "model_type": "clip", "projection_dim": 64, "vision_config": tower });
        std::fs::write(both.path().join(CONFIG), config.to_string()).unwrap();
        std::fs::copy(alone.join("model.safetensors"), both.path().join("model.safetensors")).unwrap();
        for folder in [alone, both.path().to_owned()] {
            let (teacher, words) = Teacher::<Flex>::open(&folder, &model, &Default::default()).unwrap();
            assert!(words.is_none());
            close(teacher.target(tensor(&cases, "pixels"), &[], None).unwrap(), want.clone());
        }
    }

    #[test]
    fn captions_are_embedded_as_by_transformers() {
        let cases = Files::folder(golden("sd1")).weights("cases.safetensors").unwrap();
        let (teacher, words) = Teacher::<Flex>::open(&golden("sd1"), &sizes("seed1"), &Default::default()).unwrap();
        let pixels = Tensor::zeros([1, 3, 56, 56], &Default::default());
        let got = teacher.target(pixels, &[String::new()], words.as_ref()).unwrap();
        close(got, tensor(&cases, "empty_prompt_embeds"));
    }

    #[test]
    fn a_teacher_of_other_sizes_is_refused() {
        let model = SeedConfig { generation_dim: 63, ..sizes("seed2-mlp") };
        let open = |folder: PathBuf, model: &SeedConfig| {
            Teacher::<Flex>::open(&folder, model, &Default::default()).unwrap_err().to_string()
        };
        let error = open(golden("unclip/image_encoder"), &model);
        assert!(error.contains("[56, 1, 64]") && error.contains("[56, 1, 63]"), "{error}");
        let error = open(golden("unclip/text_encoder"), &sizes("seed2-mlp"));
        assert!(error.contains("no CLIP tower (vision_config)"), "{error}");
    }
}
