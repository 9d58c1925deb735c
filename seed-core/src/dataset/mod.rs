//! Datasets: images in the formats that people hold -> tokens in the formats that trainers read.
//!
//! | module | what |
//! |---|---|
//! | [`source`] | where samples come from: folders, lists, tars, parquet, JSON |
//! | [`sample`] | what travels: samples, rows, columns |
//! | `pipeline`, `run`, `prepare` | [`tokenize`]: reading, decoding, the network and writing, overlapped |
//! | [`sink`] | what tokens are written as: parquet, JSON, tars, arrays, Megatron |
//! | `manifest`, `output` | what is done and from what: shards appear whole or not at all |
//! | `images` | [`read_images`]: the images themselves, with their captions |
//! | `verify` | [`verify()`]: proof that an output is whole |
//!
//! A source of your own needs its samples, its shards, and a way to read one:
//!
//! ```
//! use std::{ops::ControlFlow, sync::atomic::AtomicBool};
//! use seed_core::{DType, Device, Model, dataset::{self, *, sample::*, source::*}, pixels, scenes};
//!
//! struct Scenes {
//!     schema: Schema,
//!     shards: Vec<ShardInput>,
//! }
//!
//! impl Source for Scenes {
//!     fn schema(&self) -> &Schema {
//!         &self.schema
//!     }
//!
//!     fn shards(&self) -> &[ShardInput] {
//!         &self.shards
//!     }
//!
//!     fn read(&self, shard: usize, each: Each<'_>) -> seed_core::Result<()> {
//!         for index in 0..4 {
//!             let scene = scenes::Scene::sample(shard as u64, index, scenes::Split::Train);
//!             let image = Image::Bytes(pixels::to_png(&scene.render(64)));
//!             let values = vec![Value::Text(scene.caption())];
//!             let sample = Sample { key: format!("{shard}-{index}"), pieces: vec![Piece::Image(image)], values };
//!             if each(Ok(sample)).is_break() {
//!                 break;
//!             }
//!         }
//!         Ok(())
//!     }
//! }
//!
//! # fn main() -> seed_core::Result<()> {
//! let source = Scenes {
//!     schema: Schema { layout: Layout::One, columns: vec![Column::text("caption")] },
//!     shards: (0..2)
//!         .map(|seed| ShardInput { name: format!("seed {seed}"), samples: Some(4), fingerprint: "1".into() })
//!         .collect(),
//! };
//! let seed = seed_core::open(&Model::Bundled, Device::Cpu, DType::F32, None)?;
//! # let folder = tempfile::tempdir().unwrap();
//! # let out = folder.path().join("tokens");
//! let mut watch = Watch { progress: &mut |_| {}, stop: &AtomicBool::new(false) };
//! let options = TokenizeOptions::default();
//! let done = dataset::tokenize(seed.as_ref(), &source, &OutputFormat::Jsonl, &out, &options, &mut watch)?;
//! assert_eq!((done.rows, done.failed), (8, 0));
//! assert!(dataset::verify(&out, &OutputFormat::Jsonl, &mut |_, _| {})?.is_whole());
//! # Ok(())
//! # }
//! ```
//!
//! A sink of your own is a [`SinkFormat`]: it names the files of a shard, makes the [`Sink`] that writes rows to them, and
//! reads them back for [`verify()`].

mod filters;
mod images;
mod manifest;
mod output;
mod part;
mod pipeline;
pub(crate) mod prepare;
mod run;
pub mod sample;
pub mod sink;
pub mod source;
#[cfg(test)]
mod tests;
mod verify;

pub use filters::Filters;
pub use images::{DecodedImage, DecodedImages, read_images};
pub use manifest::{MadeBy, Manifest, ShardReport, WrittenFile};
pub use part::Part;
pub use pipeline::{Statistics, TokenizeOptions, Watch, plan, tokenize, tokenize_shard};
pub use sample::{Column, Image, Kind, Layout, Piece, Row, Sample, Schema, Skipped, Value, Why};
pub use sink::{MegatronIds, OutputFormat, Shape, Sink, SinkFormat};
pub use source::{ShardInput, Source, SourceFormat, SourceOptions};
pub use verify::{Verification, verify};
