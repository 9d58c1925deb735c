//! Files of a model: strict JSON, memory-mapped checkpoints, and weights in and out of any burn module.
//!
//! | file | holds |
//! |---|---|
//! | `files` | [`Files`]: a folder, or files embedded in the program |
//! | `weights` | [`Weights`]: the tensors of a checkpoint, memory-mapped |
//! | `format` | what kind of checkpoint a file is |
//! | `shards` | safetensors in several files, by their index |
//! | `pickle` | files of `torch.save`, read without running them |
//! | `keys` | [`KeyTable`]: module paths to checkpoint keys |
//! | `load` | [`load`]: file to module |
//! | `save` | [`save`]: module to file |
//! | `dtype` | [`DType`]: element types of weights |
//! | `convert` | numbers and layouts |
//! | `hub` | fetching published weights, with the feature `fetch` |
//!
//! Checkpoints are in PyTorch's layout and naming; burn's differs in two points, which loading and saving bridge by the
//! type of the layer that owns a parameter: the weight of a `Linear` is `[out, in]` in files and `[in, out]` in burn,
//! and `gamma` and `beta` of a normalization layer are `weight` and `bias` in files. Everything else is stored as it is.

mod convert;
mod dtype;
mod files;
mod format;
#[cfg(feature = "fetch")]
pub mod hub;
mod keys;
mod load;
mod pickle;
mod save;
mod shards;
mod weights;

pub use dtype::DType;
pub use files::Files;
pub use keys::KeyTable;
pub use load::{expected, load, load_as, load_each};
pub use save::{Made, save, save_tensors};
pub use weights::{Skipped, Stored, Weights};

#[cfg(test)]
mod tests;
