//! Step 6 of 6: generation embedding `[batch, tokens, dim]` -> image `[batch, 3, height, width]`.
//!
//! Source: diffusers 0.20.2 and its pipelines; every file of this folder names the part that it follows.
//! [`Decoder`] is the whole step; the files, in the order of its flow:
//!
//! | file | in -> out |
//! |---|---|
//! | [`pipeline`] | generation embedding -> image; loads a folder in diffusers' layout |
//! | [`random`] | seed and image index -> latents and noise |
//! | [`image_noise`] | generation embedding -> class vector |
//! | [`text_encoder`], [`empty_prompt`] | the empty prompt -> context, once, when loading |
//! | [`mod@denoise`] | noise -> latents, by the two below |
//! | [`unet`], [`unet_blocks`] | latents, time, context, class vector -> prediction |
//! | [`sampler`] | `scheduler_config.json` or a name -> one of the four below |
//! | [`pndm`], [`ddim`], [`euler`], [`dpm_solver`] | predictions -> latents |
//! | [`schedule`], [`spacing`], [`sigmas`] | what they share: signal, timesteps, noise levels |
//! | [`vae`] | latents <-> pixels |
//! | [`image_encoder`] | pixels -> the image embedding that a generation embedding imitates |
//! | `clip_layer` | the layer of both CLIP towers |
//! | `config` | diffusers' JSON files, every field by name |
//!
//! The UNet and the autoencoder are generic over the backend and are trained by this crate as they stand.

mod blocks;
mod clip_layer;
mod config;
pub mod ddim;
pub mod denoise;
pub mod dpm_solver;
pub mod empty_prompt;
pub mod euler;
pub mod image_encoder;
pub mod image_noise;
pub mod pipeline;
pub mod pndm;
pub mod random;
pub mod sampler;
mod save;
pub mod schedule;
pub mod sigmas;
pub mod spacing;
pub mod text_encoder;
pub mod unet;
pub mod unet_blocks;
pub mod vae;

pub use blocks::{Downsample, ResnetBlock, Upsample};
pub use clip_layer::{Activation, ClipLayer, LayersConfig};
pub use denoise::denoise;
pub use pipeline::{Conditioning, DecodeOptions, Decoder, Start, load_unet, load_vae};
pub use sampler::SchedulerName;
pub use unet::{UNet, UNetConfig};
pub use vae::{Vae, VaeConfig};

#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_samplers;
