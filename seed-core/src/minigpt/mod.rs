//! The visual front end of MiniGPT-v2, on the vision transformer of step 2: image -> embeddings that a language model reads
//! among those of its words.
//!
//! | file | holds |
//! |---|---|
//! | `network` | [`MiniGptNetwork`]: normalized pixels `[B, 3, 448, 448]` -> embeddings `[B, 256, 4096]` |
//! | `checkpoint` | the released files -> the network, with an account of every key |
//! | `lora` | [`Adapters`]: what the checkpoint changes in the language model |
//! | `facade` | [`open`] and [`MiniGptVision`]: images -> embeddings, on a backend that is chosen at run time |
//! | `prompt` | the text that the language model is asked with, cut where images stand |
//! | `boxes` | boxes in text: `<p>phrase</p> {<x1><y1><x2><y2>}` |
//! | `draw` | boxes on an image |
//!
//! The language model itself is elsewhere: in transformers, for example, which takes embeddings as `inputs_embeds`.
//!
//! Sources: arXiv 2310.09478 and the reference implementation, Vision-CAIR/MiniGPT-4 at `minigpt4/models/minigpt_v2.py`.

pub mod boxes;
mod checkpoint;
pub mod draw;
mod facade;
mod lora;
mod network;
pub mod prompt;

pub use checkpoint::{FileAccount, MiniGptFiles, load};
pub use facade::{MiniGptVision, Vision, open};
pub use lora::{Adapter, Adapters, LoraPair, Projection};
pub use network::{MiniGptConfig, MiniGptNetwork};
