//! Where samples come from.
//!
//! A [`Source`] is divided into shards, each of which becomes one shard of the output. What a shard is depends on the
//! format: one tar, some row groups of a parquet file, some thousand images of a folder.

mod arguments;
mod delimited;
mod documents;
mod files;
mod folder;
mod list;
mod llava;
mod mmc4;
mod parquet;
mod records;
mod webdataset;

use std::{ops::ControlFlow, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::sample::{Column, Sample, Schema, Skipped};
use crate::error::{Error, Result};

pub use arguments::open;

/// One unit of work: part of a source, and in the end one shard of the output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardInput {
    /// What it is, for people.
    pub name: String,
    /// Samples in it, where that is known without reading it.
    pub samples: Option<u64>,
    /// Changes when the input changes: of the names, sizes and numbers that say what belongs to the shard.
    pub fingerprint: String,
}

/// Calls for each input of a shard, in order. [`ControlFlow::Break`] ends the reading.
pub type Each<'a> = &'a mut dyn FnMut(Result<Sample, Skipped>) -> ControlFlow<()>;

/// Somewhere that samples come from.
pub trait Source: Send + Sync {
    /// What its samples look like.
    fn schema(&self) -> &Schema;

    /// Its shards, in order: the same for every process that opens the same inputs.
    fn shards(&self) -> &[ShardInput];

    /// Reads one shard: calls `each` for every input in it, with a sample or with the reason why there is none. The same
    /// inputs in the same order every time. What is wrong with an input is told through `each`, so that one bad input
    /// does not end the work.
    ///
    /// # Errors
    /// When nothing can be said about the shard's inputs at all.
    fn read(&self, shard: usize, each: Each<'_>) -> Result<()>;
}

/// How a source is opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceOptions {
    /// Format of the inputs; found by content unless given.
    pub format: Option<SourceFormat>,
    /// Samples of an output shard, where the inputs do not say; tars and parquet files that are smaller are one each.
    pub shard_size: usize,
    /// Folder that relative paths in lists and records start from; that of the list or the record file unless given.
    pub root: Option<PathBuf>,
    /// Column or field of the image; found by its type or name unless given.
    pub image_column: Option<String>,
    /// Column or field that tells samples apart; found by name unless given.
    pub key_column: Option<String>,
    /// Column or field of the caption; found by name unless given.
    pub caption_column: Option<String>,
    /// Columns that travel along besides.
    pub columns: Vec<Column>,
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            format: None,
            shard_size: 10_000,
            root: None,
            image_column: None,
            key_column: None,
            caption_column: None,
            columns: Vec::new(),
        }
    }
}

/// Formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceFormat {
    /// Folders of images, with metadata files or captions beside them.
    Folder,
    /// Lists of image paths: text, CSV, or a parquet file with a column of paths.
    List,
    /// Tars of samples; img2dataset's output among them.
    WebDataset,
    /// Parquet files with a column of images.
    Parquet,
    /// LLaVA's JSON or JSONL: records with image and conversations.
    Llava,
    /// Parquet files of documents: lists of images and texts.
    Obelics,
    /// JSONL of documents: lists of texts, and images that belong to them.
    Mmc4,
}

impl SourceFormat {
    /// Every format.
    pub const ALL: [Self; 7] =
        [Self::Folder, Self::List, Self::WebDataset, Self::Parquet, Self::Llava, Self::Obelics, Self::Mmc4];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Folder => "folder",
            Self::List => "list",
            Self::WebDataset => "webdataset",
            Self::Parquet => "parquet",
            Self::Llava => "llava",
            Self::Obelics => "obelics",
            Self::Mmc4 => "mmc4",
        }
    }
}

impl std::str::FromStr for SourceFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            let reason = format!("the formats are {}", Self::ALL.map(Self::name).join(", "));
            Error::Argument { name: "source", value: text.to_owned(), reason }
        })
    }
}

/// Names under which captions are looked for, in this order.
const CAPTIONS: [&str; 4] = ["caption", "text", "TEXT", "txt"];
/// Names under which keys are looked for, in this order.
const KEYS: [&str; 5] = ["key", "id", "uid", "__key__", "image_id"];
/// Name of the caption's column in the output.
pub(crate) const CAPTION: &str = "caption";

/// An input that cannot be a source.
fn unreadable(path: &std::path::Path, reason: impl ToString) -> Error {
    Error::Input { name: path.display().to_string(), reason: reason.to_string() }
}

/// A short hash of what a shard is made of.
fn fingerprint<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
