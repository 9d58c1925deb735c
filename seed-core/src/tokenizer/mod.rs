//! Steps 1 to 6 composed.
//!
//! [`SeedNetwork`] holds steps 2 to 5 as one module with the key table of the released checkpoints, a [`Model`]'s folder
//! is described by its [`BundleConfig`], and [`open`] makes of it a [`SeedTokenizer`], which goes from images to codes
//! and back. [`convert()`] makes bundles of the official files, [`copy()`] of other bundles.

mod bundle;
mod convert;
mod copy;
mod facade;
mod layout;
mod network;
mod random;

pub(crate) use bundle::CONFIG;
pub use bundle::{BundleConfig, DECODER, DecodeDefaults, FORMAT, Model, Written};
pub use convert::{Conversion, ConvertOptions, FileAccount, convert, convert_until};
pub use copy::copy;
pub use facade::{Embeddings, Features, Part, Progress, Provenance, SeedTokenizer, Tokenizer, open};
pub use network::{SeedConfig, SeedNetwork};
pub use random::{random_bundle, random_decoder};
