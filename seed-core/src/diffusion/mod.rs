//! Step 6 of 6: generation embedding `[batch, 1024]` -> image `[batch, 3, height, width]`.
//!
//! Source: diffusers 0.20.2 and its `StableUnCLIPImg2ImgPipeline`; every file of this folder names the part that it
//! follows. The models are [`unet`] and [`vae`].

mod blocks;
pub mod unet;
pub mod unet_blocks;
pub mod vae;

pub use unet::{UNet, UNetConfig};
pub use vae::{Vae, VaeConfig};
