//! Steps 1 to 6 composed.
//!
//! [`SeedNetwork`] holds steps 2 to 5 as one module with the key table of the released checkpoints.

mod bundle;
mod network;

pub use bundle::{BundleConfig, DECODER, DecodeDefaults, FORMAT, Model};
pub use network::{Head, SeedConfig, SeedNetwork};
