//! Steps 1 to 6 composed.
//!
//! [`SeedNetwork`] holds steps 2 to 5 as one module with the key table of the released checkpoints.

mod network;

pub use network::{Head, SeedConfig, SeedNetwork};
