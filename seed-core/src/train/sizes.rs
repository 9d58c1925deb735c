//! Sizes of what a recipe trains besides the tokenizer, and the configurations that follow from them.

use serde::{Deserialize, Serialize};

use crate::{
    contrast::ContrastConfig,
    diffusion::{
        UNetConfig, VaeConfig,
        unet::{ClassEmbedding, DownBlockType, Heads, TimeScaleShift, UpBlockType},
    },
    scenes,
    tokenizer::SeedConfig,
};

/// Sizes of the diffusion decoder; the kinds of its blocks follow from them, see [`DiffusionSizes::unet`].
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
    /// How time and condition enter the UNet's residual blocks: "default", added, as in Stable Diffusion, or "scale_shift", which
    /// small UNets learn a condition by in far fewer steps.
    #[serde(default)]
    pub time_scale_shift: TimeScaleShift,
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
    /// Whether every patch has features of its own in the image embedding, see [`ContrastConfig::local`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub local: bool,
}

impl TextSizes {
    /// The text tower's configuration for captions of scenes.
    pub fn of_scenes(&self) -> ContrastConfig {
        ContrastConfig {
            embed_dim: self.embed_dim,
            text_width: self.width,
            text_depth: self.depth,
            text_heads: self.heads,
            context: self.context,
            local: self.local,
            words: scenes::words().into_iter().map(str::to_owned).collect(),
        }
    }
}

impl DiffusionSizes {
    /// What makes the sizes impossible for a tokenizer, in words.
    ///
    /// # Errors
    /// The field and the reason.
    pub fn check(&self, model: &SeedConfig) -> Result<(), String> {
        if self.unet_channels.is_empty() || self.head_dim == 0 || self.pool == 0 {
            return Err("diffusion.unet_channels, head_dim and pool must not be empty or 0".to_owned());
        }
        self.vae().check()?;
        self.unet(model).check()
    }

    /// Sizes of the autoencoder.
    pub fn vae(&self) -> VaeConfig {
        let config = VaeConfig::sized(&self.vae_channels, self.vae_layers, self.vae_groups);
        VaeConfig { latent_channels: self.latent_channels, ..config }
    }

    /// Sizes of the UNet for a tokenizer: transformers on every level but the last, as in Stable Diffusion 2.
    pub fn unet(&self, model: &SeedConfig) -> UNetConfig {
        let plain = self.unet_channels.len() - 1;
        let levels = 0..self.unet_channels.len();
        UNetConfig {
            sample_size: model.image_size / self.vae().shrink(),
            in_channels: self.latent_channels,
            out_channels: self.latent_channels,
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
            attention_head_dim: Heads::Each(self.unet_channels.iter().map(|c| c / self.head_dim).collect()),
            block_out_channels: self.unet_channels.clone(),
            layers_per_block: self.unet_layers,
            cross_attention_dim: self.context,
            use_linear_projection: true,
            class_embed_type: Some(ClassEmbedding::Projection),
            projection_class_embeddings_input_dim: Some(2 * model.generation_dim),
            norm_num_groups: self.unet_groups,
            norm_eps: 1e-5,
            resnet_time_scale_shift: self.time_scale_shift,
        }
    }
}
