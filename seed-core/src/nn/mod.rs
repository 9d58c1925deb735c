//! Shared layers, the glossary of axes, and the backend extension trait.
//!
//! # Glossary of axes
//! | name | meaning | released size |
//! |---|---|---|
//! | `batch` | images | |
//! | `channels`, `height`, `width` | of pixels, latents and feature maps | |
//! | `patches` | image patches; with the class token `tokens` | 256, 257 |
//! | `queries` | learned queries, one for each code | 32 |
//! | `width` | features of a token (`vit_width` 1408, `qformer_width` 768) | |
//! | `hidden` | inner features of an MLP | 6144, 3072 |
//! | `heads`, `head_dim` | attention heads and their size | 16, 88 |
//! | `codes`, `dim` | rows of the codebook and their size | 8192, 32 |

mod attention;
mod backend;
mod conv;
mod eight_bit;
mod fast;
mod group_norm;
mod kernels;
mod layer_norm;
mod linear;
mod ops;
mod transpose;

pub use attention::{attention, attention_to_words};
pub use backend::SeedBackend;
#[cfg(feature = "train")]
pub(crate) use backend::{recomputes, recomputing};
pub use group_norm::Groups;
pub use layer_norm::{LayerNorm, LayerNormConfig};
pub use linear::{Linear, LinearConfig, Then};
pub use ops::{add, conv2d, conv2d_add, gelu, group_norm, group_norm_silu, multiply, narrow, silu, softmax, transpose};
use ops::{merge_heads, split_heads};
