//! Recipes: one TOML file that says everything about a run, sizes and plans alike.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{
    atomic,
    contrast::ContrastConfig,
    detokenizer::Head,
    diffusion::{
        UNetConfig, VaeConfig,
        unet::{ClassEmbedding, DownBlockType, Heads, UpBlockType},
    },
    error::{Error, Result},
    scenes,
    tokenizer::SeedConfig,
};

use super::{data::DataOptions, plan::Plan};

/// A whole training run, from nothing to a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run.
    pub name: String,
    /// Seed of the weights' initial values and of the data.
    pub seed: u64,
    /// What is learned from; scenes unless given.
    #[serde(default, skip_serializing_if = "is_default")]
    pub data: DataOptions,
    /// Sizes of the tokenizer.
    pub model: SeedConfig,
    /// Sizes of the text tower.
    pub contrast: TextSizes,
    /// The vision transformer and the text tower by contrast on captions.
    pub vision: Plan,
    /// The causal Q-Former.
    pub stage1: Plan,
    /// Codebook and detokenizer.
    pub stage2: Plan,
    /// The autoencoder between pixels and latents.
    pub vae: Plan,
    /// The UNet.
    pub decoder: Plan,
    /// Sizes of the diffusion decoder.
    pub diffusion: DiffusionSizes,
}

/// Sizes of the diffusion decoder; the kinds of its blocks follow from them, see [`Recipe::unet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionSizes {
    /// Channels of each level of the autoencoder, from the image inwards.
    pub vae_channels: Vec<usize>,
    /// Residual blocks of an encoder level; one more in the decoder.
    pub vae_layers: usize,
    /// Groups of the autoencoder's group normalizations. As many as channels would hide each channel's level.
    pub vae_groups: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// Channels of each level of the UNet. The last level has no attention.
    pub unet_channels: Vec<usize>,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub unet_layers: usize,
    /// Features of an attention head.
    pub head_dim: usize,
    /// Groups of the UNet's group normalizations.
    pub unet_groups: usize,
    /// Features of the context, which is zeros: nothing is said in words.
    pub context: usize,
    /// Scenes that the UNet learns from.
    pub pool: usize,
    /// Sampling steps that the bundle decodes with unless told otherwise.
    pub steps: usize,
    /// Guidance that the bundle decodes with unless told otherwise.
    pub guidance: f64,
}

/// Sizes of the text tower; the words come from the data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSizes {
    /// Features of the common space.
    pub embed_dim: usize,
    /// Features of a word.
    pub width: usize,
    /// Blocks.
    pub depth: usize,
    /// Attention heads.
    pub heads: usize,
    /// Most words of a caption.
    pub context: usize,
}

/// Runs of before there was a choice go on.
fn is_default(data: &DataOptions) -> bool {
    *data == DataOptions::default()
}

impl Recipe {
    /// Reads and checks a recipe.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Config`] naming the line and the field.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// As [`read`](Self::read), from text; `file` names it in errors.
    ///
    /// # Errors
    /// [`Error::Config`] naming the line and the field.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let fail = |reason: String| Error::Config { file: file.to_owned(), reason };
        let recipe: Self = toml::from_str(text).map_err(|e| fail(e.to_string()))?;
        recipe.model.validate(file)?;
        recipe.data.check().map_err(&fail)?;
        if recipe.model.generation_dim != recipe.contrast.embed_dim {
            return Err(fail(format!(
                "model.generation_dim = {} must equal contrast.embed_dim = {}: the image embedding is the target",
                recipe.model.generation_dim, recipe.contrast.embed_dim
            )));
        }
        if recipe.model.head == Head::Text || !recipe.model.recon_semantic {
            return Err(fail("model.head must be \"mlp\" or \"qformer\", with recon_semantic = true".to_owned()));
        }
        for (stage, plan) in recipe.plans() {
            if plan.parts > 1 && !matches!(stage, "vae" | "decoder") {
                return Err(fail(format!("{stage}: parts = {} must be 1: its loss compares the whole batch", plan.parts)));
            }
            plan.check().map_err(|reason| fail(format!("{stage}: {reason}")))?;
        }
        if recipe.diffusion.unet_channels.is_empty() || recipe.diffusion.head_dim == 0 || recipe.diffusion.pool == 0 {
            return Err(fail("diffusion.unet_channels, head_dim and pool must not be empty or 0".to_owned()));
        }
        recipe.vae().check().map_err(&fail)?;
        recipe.unet().check().map_err(&fail)?;
        recipe.text().validate(file)?;
        Ok(recipe)
    }

    /// The stages' plans by name, in order.
    pub fn plans(&self) -> [(&'static str, &Plan); 5] {
        [
            ("vision", &self.vision),
            ("stage1", &self.stage1),
            ("stage2", &self.stage2),
            ("vae", &self.vae),
            ("decoder", &self.decoder),
        ]
    }

    /// Makes `folder` this recipe's, with a given tokenizer's SHA-256 and a given decoder's place, or makes sure that it is:
    /// steps of two recipes do not mix.
    pub(super) fn claim(&self, folder: &Path, tokenizer: Option<&str>, decoder: Option<String>) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|source| Error::Write { path: folder.to_owned(), source })?;
        let path = folder.join("recipe.json");
        let mut own = serde_json::to_value(self).expect("a recipe of numbers and names is JSON");
        if let Some(hash) = tokenizer {
            own["tokenizer_sha256"] = hash.into();
        }
        if let Some(decoder) = decoder {
            own["decoder_from"] = decoder.into();
        }
        match std::fs::read(&path) {
            Ok(bytes) if serde_json::from_slice(&bytes).is_ok_and(|started: serde_json::Value| started == own) => {
                Ok(())
            }
            Ok(_) => Err(Error::Argument {
                name: "recipe",
                value: self.name.clone(),
                reason: format!(
                    "the run in {} was started with other values or from another model, see {}; choose another folder, or undo the change",
                    folder.display(),
                    path.display()
                ),
            }),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                atomic::write(&path, &serde_json::to_vec_pretty(&own).expect("a JSON value is JSON"))
            }
            Err(source) => Err(Error::Read { path, source }),
        }
    }

    /// Sizes of the autoencoder.
    pub fn vae(&self) -> VaeConfig {
        let sizes = &self.diffusion;
        let config = VaeConfig::sized(&sizes.vae_channels, sizes.vae_layers, sizes.vae_groups);
        VaeConfig { latent_channels: sizes.latent_channels, ..config }
    }

    /// Sizes of the UNet: transformers on every level but the last, as in Stable Diffusion 2.
    pub fn unet(&self) -> UNetConfig {
        let sizes = &self.diffusion;
        let plain = sizes.unet_channels.len() - 1;
        let levels = 0..sizes.unet_channels.len();
        UNetConfig {
            sample_size: self.model.image_size / self.vae().shrink(),
            in_channels: sizes.latent_channels,
            out_channels: sizes.latent_channels,
            down_block_types: levels
                .clone()
                .map(|level| match level == plain {
                    true => DownBlockType::DownBlock2D,
                    false => DownBlockType::CrossAttnDownBlock2D,
                })
                .collect(),
            up_block_types: levels
                .map(|level| match level == 0 {
                    true => UpBlockType::UpBlock2D,
                    false => UpBlockType::CrossAttnUpBlock2D,
                })
                .collect(),
            attention_head_dim: Heads::Each(sizes.unet_channels.iter().map(|c| c / sizes.head_dim).collect()),
            block_out_channels: sizes.unet_channels.clone(),
            layers_per_block: sizes.unet_layers,
            cross_attention_dim: sizes.context,
            use_linear_projection: true,
            class_embed_type: Some(ClassEmbedding::Projection),
            projection_class_embeddings_input_dim: Some(2 * self.model.generation_dim),
            norm_num_groups: sizes.unet_groups,
            norm_eps: 1e-5,
        }
    }

    /// The text tower's configuration for captions of scenes.
    pub fn text(&self) -> ContrastConfig {
        ContrastConfig {
            embed_dim: self.contrast.embed_dim,
            text_width: self.contrast.width,
            text_depth: self.contrast.depth,
            text_heads: self.contrast.heads,
            context: self.contrast.context,
            words: scenes::words().into_iter().map(str::to_owned).collect(),
        }
    }
}
