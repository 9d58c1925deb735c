//! SEED, a discrete image tokenizer: an image becomes 32 tokens that read left to right like words, and the tokens
//! become an image again.
//!
//! The modules follow the data. Released sizes in brackets; `B` images, `T` = 32 tokens an image.
//!
//! | step | module | in | out |
//! |---|---|---|---|
//! | 1 | [`pixels`] | file bytes | normalized pixels `[B, 3, 224, 224]` |
//! | 2 | [`eva_vit`] | pixels | patch features `[B, 257, 1408]` |
//! | 3 | [`qformer`] | patch features | causal embeddings `[B, 32, 768]` |
//! | 4 | [`quantizer`] | causal embeddings | [`Codes`] `[B, 32]`, and back |
//! | 5 | [`detokenizer`] | codes | generation embedding `[B, 1024]` |
//! | 6 | [`diffusion`] | generation embedding | image `[B, 3, 768, 768]` |
//!
//! [`tokenizer`] composes the six and is what most programs call; [`minigpt`] is another model on step 2; the rest serves files ([`checkpoint`]), training
//! ([`train`]), datasets ([`dataset`]), measuring ([`eval`]) and procedural data ([`scenes`]).

mod atomic;
pub mod codes;
pub mod device;
pub mod error;

pub mod pixels;

pub mod nn;

pub mod eva_vit;
pub mod qformer;
pub mod quantizer;

pub mod detokenizer;

pub mod diffusion;

pub mod tokenizer;

pub mod minigpt;

pub mod contrast;

pub mod checkpoint;

#[cfg(feature = "dataset")]
pub mod dataset;
pub mod eval;
pub mod scenes;
#[cfg(feature = "train")]
pub mod train;

pub use checkpoint::DType;
pub use codes::Codes;
pub use device::Device;
pub use diffusion::{DecodeOptions, SchedulerName};
pub use error::{Error, Result};
pub use tokenizer::{Model, SeedTokenizer, open};
