//! Normalized pixels `[batch, 3, 448, 448]` -> embeddings for a language model `[batch, 256, 4096]`.
//!
//! EVA ViT-g/14 at 448 pixels, with the position embeddings of 224 pixels interpolated; a LayerNorm; the class token is
//! dropped; each four tokens that follow one another in raster order (four in a row of the image, not a square of two by
//! two) become one of four times the width; a linear layer brings that to the width of the language model.
//!
//! Source: `encode_img` of the reference implementation's `minigpt_v2.py`. Difference: the reference runs in half precision
//! but for the norm; here activations are float32 throughout.

use burn::{
    module::Module,
    tensor::{Tensor, backend::Backend},
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    eva_vit::{EvaVit, EvaVitConfig},
    nn::{LayerNorm, LayerNormConfig, Linear, LinearConfig, SeedBackend},
};

/// Tokens that become one.
pub(super) const MERGED: usize = 4;

/// Sizes of the front end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MiniGptConfig {
    /// Side of the square input, in pixels.
    pub image_size: usize,
    /// Side of a square patch, in pixels.
    pub patch_size: usize,
    /// Features of a token in the vision transformer.
    pub vit_width: usize,
    /// Blocks of the vision transformer that are used.
    pub vit_depth: usize,
    /// Its attention heads.
    pub vit_heads: usize,
    /// Inner features of its MLP.
    pub vit_mlp: usize,
    /// Features of a token in the language model.
    pub llm_width: usize,
}

impl MiniGptConfig {
    /// The released model, for LLaMA-2-7B-chat.
    pub fn released() -> Self {
        Self {
            image_size: 448,
            patch_size: 14,
            vit_width: 1408,
            vit_depth: 39,
            vit_heads: 16,
            vit_mlp: 6144,
            llm_width: 4096,
        }
    }

    /// Refuses sizes that no network can have, so that building one cannot fail.
    ///
    /// # Errors
    /// [`Error::Config`] naming `file` and the field.
    pub fn validate(&self, file: &str) -> Result<()> {
        let fail = |reason: String| Err(Error::Config { file: file.to_owned(), reason });
        for (name, value) in [
            ("image_size", self.image_size),
            ("patch_size", self.patch_size),
            ("vit_width", self.vit_width),
            ("vit_heads", self.vit_heads),
            ("vit_mlp", self.vit_mlp),
            ("llm_width", self.llm_width),
        ] {
            if value == 0 {
                return fail(format!("{name} is 0"));
            }
        }
        for (of, value, by, divisor) in [
            ("image_size", self.image_size, "patch_size", self.patch_size),
            ("vit_width", self.vit_width, "vit_heads", self.vit_heads),
        ] {
            if value % divisor != 0 {
                return fail(format!("{of} = {value} is no multiple of {by} = {divisor}"));
            }
        }
        let patches = self.vit().patches();
        if !patches.is_multiple_of(MERGED) {
            return fail(format!(
                "{patches} patches cannot be merged by {MERGED}; an even number of them fits each side"
            ));
        }
        Ok(())
    }

    /// Sizes of the vision transformer.
    pub fn vit(&self) -> EvaVitConfig {
        EvaVitConfig {
            image_size: self.image_size,
            patch_size: self.patch_size,
            width: self.vit_width,
            depth: self.vit_depth,
            heads: self.vit_heads,
            hidden: self.vit_mlp,
        }
    }

    /// Embeddings of an image; 256 in the released model.
    pub fn tokens(&self) -> usize {
        self.vit().patches() / MERGED
    }

    /// A network with random weights and the norm of the reference, which begins as ones and zeros.
    pub fn init<B: Backend>(&self, device: &B::Device) -> MiniGptNetwork<B> {
        MiniGptNetwork {
            visual_encoder: self.vit().init(device),
            ln_vision: self.norm(device),
            llama_proj: self.proj(device),
        }
    }

    pub(super) fn norm<B: Backend>(&self, device: &B::Device) -> LayerNorm<B> {
        LayerNormConfig::new(self.vit_width).with_epsilon(1e-5).init(device)
    }

    pub(super) fn proj<B: Backend>(&self, device: &B::Device) -> Linear<B> {
        LinearConfig::new(MERGED * self.vit_width, self.llm_width).init(device)
    }
}

/// The front end.
#[derive(Module, Debug)]
pub struct MiniGptNetwork<B: Backend> {
    /// The vision transformer.
    pub visual_encoder: EvaVit<B>,
    /// Norm of what it makes; in float32 whatever the dtype.
    pub ln_vision: LayerNorm<B>,
    /// From four tokens to one of the language model.
    pub llama_proj: Linear<B>,
}

impl<B: SeedBackend> MiniGptNetwork<B> {
    /// Normalized pixels `[batch, 3, size, size]` -> embeddings `[batch, patches / 4, llm_width]`.
    pub fn forward(&self, pixels: Tensor<B, 4>) -> Tensor<B, 3> {
        self.project(self.merged(self.normed(self.visual_encoder.forward(pixels))))
    }

    /// Features `[batch, 1 + patches, width]` -> the same, normed.
    pub fn normed(&self, features: Tensor<B, 3>) -> Tensor<B, 3> {
        self.ln_vision.forward(features)
    }

    /// Features `[batch, 1 + patches, width]` -> `[batch, patches / 4, 4 * width]`, without the class token.
    pub fn merged(&self, features: Tensor<B, 3>) -> Tensor<B, 3> {
        let [batch, tokens, width] = features.dims();
        let patches = features.narrow(1, 1, tokens - 1); // [batch, patches, width]
        patches.reshape([batch, (tokens - 1) / MERGED, MERGED * width])
    }

    /// Merged tokens `[batch, patches / 4, 4 * width]` -> embeddings `[batch, patches / 4, llm_width]`.
    pub fn project(&self, merged: Tensor<B, 3>) -> Tensor<B, 3> {
        self.llama_proj.forward(merged)
    }
}

#[cfg(test)]
mod tests {
    //! Golden values of an independent implementation in PyTorch, `tests/golden/minigpt/make.py`: every intermediate, from
    //! the files in the layout of the released ones.

    use burn::tensor::{ElementConversion, TensorData};

    use super::*;
    use crate::{
        checkpoint::{DType, Files, Weights},
        device::every_backend::on_every_backend,
        eva_vit::resize_positions,
        minigpt::{MiniGptFiles, load},
    };

    /// Largest difference allowed, relative to the largest value: a few float32 roundings of sums of about 100 terms.
    const TOLERANCE: f32 = 1e-5;

    fn golden() -> Files {
        Files::folder(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/minigpt"))
    }

    fn network<B: SeedBackend>(files: &Files, ln_vision: Option<&str>) -> MiniGptNetwork<B> {
        let path = |name: &str| files.describe(name).into();
        let from = MiniGptFiles {
            vit: path("eva_vit_g.pth"),
            checkpoint: path("minigptv2.pth"),
            ln_vision: ln_vision.map(path),
        };
        let config = files.json("config.json").unwrap();
        load(&from, &config, &Default::default(), DType::F32).unwrap().0
    }

    fn case<B: SeedBackend, const D: usize>(cases: &Weights, name: &str) -> Tensor<B, D> {
        let shape = cases.get(name).unwrap().shape.to_vec();
        Tensor::from_data(TensorData::new(cases.floats(name).unwrap(), shape), &Default::default())
    }

    fn close<B: SeedBackend, const D: usize>(name: &str, got: Tensor<B, D>, want: Tensor<B, D>) {
        assert_eq!(got.dims(), want.dims(), "{name}");
        let size: f32 = want.clone().abs().max().into_scalar().elem();
        let difference: f32 = (got - want).abs().max().into_scalar().elem();
        println!("{name}: {:e}", difference / size);
        assert!(difference <= TOLERANCE * size, "{name} differs by {difference} where values reach {size}");
    }

    on_every_backend!(every_intermediate_equals_the_reference, without_a_file_of_its_own_the_norm_is_as_it_begins);

    fn every_intermediate_equals_the_reference<B: SeedBackend>() {
        let files = golden();
        let (network, cases) = (network::<B>(&files, Some("blip2.pth")), files.weights("cases.safetensors").unwrap());
        let case3 = |name: &str| case::<B, 3>(&cases, name);
        let pixels = case::<B, 4>(&cases, "pixels");
        close("positions", network.visual_encoder.positions(), case3("positions"));
        close("vit", network.visual_encoder.forward(pixels.clone()), case3("vit"));
        close("normed", network.normed(case3("vit")), case3("normed"));
        close("merged", network.merged(case3("normed")), case3("merged"));
        close("projected", network.project(case3("merged")), case3("embeddings"));
        close("from pixels to embeddings", network.forward(pixels), case3("embeddings"));
    }

    fn without_a_file_of_its_own_the_norm_is_as_it_begins<B: SeedBackend>() {
        let files = golden();
        let (network, cases) = (network::<B>(&files, None), files.weights("cases.safetensors").unwrap());
        close("plain", network.forward(case::<B, 4>(&cases, "pixels")), case::<B, 3>(&cases, "plain"));
    }

    /// The released model's positions are those of 16 x 16 patches at 32 x 32.
    #[test]
    fn positions_of_the_released_sizes_equal_the_reference() {
        let cases = golden().weights("cases.safetensors").unwrap();
        let (small, large) = (cases.floats("small").unwrap(), cases.floats("large").unwrap());
        let found = resize_positions(&small, 2, 16, 32);
        assert_eq!((found.len(), &found[..2]), (large.len(), &small[..2]));
        let most = large.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let difference = found.iter().zip(&large).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
        assert!(difference <= TOLERANCE * most, "{difference}");
    }

    #[test]
    fn the_released_sizes_are_those_of_the_paper() {
        let config = MiniGptConfig::released();
        config.validate("released").unwrap();
        assert_eq!((config.tokens(), MERGED * config.vit_width, config.vit().patches()), (256, 5632, 1024));
    }

    #[test]
    fn impossible_sizes_are_refused_by_name() {
        let with = |change: fn(&mut MiniGptConfig)| {
            let mut config = MiniGptConfig::released();
            change(&mut config);
            config.validate("sizes.json").unwrap_err().to_string()
        };
        for (text, words) in [
            (with(|c| c.vit_heads = 0), ["sizes.json", "vit_heads is 0"]),
            (with(|c| c.image_size = 450), ["image_size = 450", "patch_size = 14"]),
            (with(|c| c.vit_heads = 7), ["vit_width = 1408", "vit_heads = 7"]),
            (with(|c| c.image_size = 14 * 31), ["961 patches", "merged by 4"]),
        ] {
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
    }
}
