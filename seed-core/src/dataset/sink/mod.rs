//! What tokens are written as.
//!
//! A [`Sink`] writes one shard of the output; a [`SinkFormat`] makes sinks and reads back what they wrote, which is how
//! `verify` proves an output. The pipeline gives paths beside the files' places and renames the whole shard into place.

mod jsonl;
mod megatron;
mod npy;
mod parquet;
mod pickle;
mod tar;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::sample::{Layout, Row, Schema};
use crate::error::{Error, Result};

pub use megatron::MegatronIds;

/// Writes the rows of one shard.
pub trait Sink: Send {
    /// Appends a row.
    ///
    /// # Errors
    /// [`Error::Write`].
    fn write(&mut self, row: &Row) -> Result<()>;

    /// Ends the files, so that they are whole.
    ///
    /// # Errors
    /// [`Error::Write`].
    fn finish(self: Box<Self>) -> Result<()>;
}

/// What the codes of an output have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Codes of an image.
    pub tokens: usize,
    /// Every code is below it.
    pub codebook_size: usize,
    /// Images of a sample, and what travels along.
    pub schema: Schema,
}

/// A row as it was read back: its key, and the codes of its images.
pub type ReadBack<'a> = &'a mut dyn FnMut(&str, &[Vec<u64>]) -> Result<()>;

/// A format of output.
pub trait SinkFormat: Send + Sync {
    /// The files of a shard, relative to the output's folder.
    fn files(&self, shard: usize) -> Vec<PathBuf>;

    /// Holds when the format can say what the samples hold.
    ///
    /// # Errors
    /// [`Error::Argument`] with the formats that can.
    fn check(&self, shape: &Shape) -> Result<()>;

    /// Itself, as the manifest records it.
    fn describe(&self) -> serde_json::Value;

    /// Bytes of a row, about: for plans.
    fn bytes_of_a_row(&self, shape: &Shape) -> u64;

    /// Begins a shard whose files stand at `paths` in the end.
    ///
    /// # Errors
    /// [`Error::Write`].
    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>>;

    /// Reads the rows of a shard, in order.
    ///
    /// # Errors
    /// [`Error::Read`], or [`Error::Input`] for what this format's sinks do not write.
    fn read(&self, shape: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()>;
}

/// What each of the library's formats says for itself; see [`SinkFormat`].
trait Files {
    fn files(&self, shard: usize) -> Vec<PathBuf>;
    fn check(&self, shape: &Shape) -> Result<()>;
    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>>;
    fn read(&self, shape: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()>;
}

/// The formats that come with the library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputFormat {
    /// Parquet with a list of `tokens` numbers a row, which Hugging Face's `datasets` knows the features of.
    Parquet,
    /// A JSON object a line.
    Jsonl,
    /// The tars of pickles that the official SEED training reads.
    SeedTar,
    /// Tars with a JSON member a sample, a tar for each shard of the input.
    Webdataset,
    /// One array `[rows, tokens]` of `uint16`, and a parquet file of keys and columns.
    Npy,
    /// Megatron's token files: an image block a document.
    Megatron(MegatronIds),
}

impl OutputFormat {
    /// Every format, with its usual options.
    pub const ALL: [Self; 6] = [
        Self::Parquet,
        Self::Jsonl,
        Self::SeedTar,
        Self::Webdataset,
        Self::Npy,
        Self::Megatron(MegatronIds::SEED_LLAMA),
    ];

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Jsonl => "jsonl",
            Self::SeedTar => "seed-tar",
            Self::Webdataset => "webdataset",
            Self::Npy => "npy",
            Self::Megatron(_) => "megatron",
        }
    }

    fn files_of(self) -> Box<dyn Files> {
        match self {
            Self::Parquet => Box::new(parquet::Parquet),
            Self::Jsonl => Box::new(jsonl::Jsonl),
            Self::SeedTar => Box::new(tar::SeedTar),
            Self::Webdataset => Box::new(tar::Webdataset),
            Self::Npy => Box::new(npy::Npy),
            Self::Megatron(ids) => Box::new(megatron::Megatron(ids)),
        }
    }
}

impl std::str::FromStr for OutputFormat {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|format| format.name() == text).ok_or_else(|| {
            let reason = format!("the formats are {}", Self::ALL.map(Self::name).join(", "));
            Error::Argument { name: "format", value: text.to_owned(), reason }
        })
    }
}

impl SinkFormat for OutputFormat {
    fn files(&self, shard: usize) -> Vec<PathBuf> {
        self.files_of().files(shard)
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        self.files_of().check(shape)
    }

    fn describe(&self) -> serde_json::Value {
        serde_json::to_value(self).expect("a name and numbers are JSON")
    }

    fn bytes_of_a_row(&self, shape: &Shape) -> u64 {
        let tokens = shape.tokens as u64;
        match self {
            Self::Parquet => 2 * tokens,
            Self::Jsonl => 5 * tokens + 40,
            // A header and a body, both in blocks of 512 bytes.
            Self::SeedTar | Self::Webdataset => 512 + (5 * tokens + 40).next_multiple_of(512),
            Self::Npy => 2 * tokens + 16,
            Self::Megatron(_) => 2 * (tokens + 2) + 36,
        }
    }

    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>> {
        self.files_of().create(shape, paths)
    }

    fn read(&self, shape: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()> {
        self.files_of().read(shape, paths, each)
    }
}

/// For formats that hold one image a row.
fn one_image_only(format: &str, shape: &Shape) -> Result<()> {
    match shape.schema.layout {
        Layout::One => Ok(()),
        _ => Err(Error::Argument {
            name: "format",
            value: format.to_owned(),
            reason: "it holds one image a sample, and these samples hold several; choose parquet, jsonl or webdataset"
                .to_owned(),
        }),
    }
}

fn write_error(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    |source| Error::Write { path: path.to_owned(), source }
}

fn read_error(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    |source| Error::Read { path: path.to_owned(), source }
}

fn damaged(path: &Path, reason: impl ToString) -> Error {
    Error::Input { name: path.display().to_string(), reason: reason.to_string() }
}

/// A row as JSON, with what was asked for in the order of the columns: `codes` is a list for one image, a list of lists
/// for several; documents have `texts` and `codes` of the same length, null where the other stands.
fn row_json(row: &Row, shape: &Shape, key: bool) -> String {
    use super::sample::Piece;
    let mut text = String::from("{");
    let json = |value: &serde_json::Value| value.to_string();
    let mut field = |name: &str, value: &str| {
        let comma = if text.len() > 1 { "," } else { "" };
        text.push_str(&format!("{comma}{}:{value}", json(&name.into())));
    };
    let list = |codes: &[u16]| format!("[{}]", codes.iter().map(u16::to_string).collect::<Vec<_>>().join(","));
    if key {
        field("key", &json(&row.key.as_str().into()));
    }
    match shape.schema.layout {
        Layout::One => field("codes", &row.codes().next().map_or("null".to_owned(), list)),
        Layout::Several => field("codes", &format!("[{}]", row.codes().map(list).collect::<Vec<_>>().join(","))),
        Layout::Interleaved => {
            let each = |of: &dyn Fn(&Piece<Vec<u16>>) -> Option<String>| {
                let values = row.pieces.iter().map(|piece| of(piece).unwrap_or_else(|| "null".to_owned()));
                format!("[{}]", values.collect::<Vec<_>>().join(","))
            };
            field(
                "texts",
                &each(&|piece| match piece {
                    Piece::Text(text) => Some(json(&text.as_str().into())),
                    Piece::Image(_) => None,
                }),
            );
            field(
                "codes",
                &each(&|piece| match piece {
                    Piece::Image(codes) => Some(list(codes)),
                    Piece::Text(_) => None,
                }),
            );
        }
    }
    for (column, value) in shape.schema.columns.iter().zip(&row.values) {
        field(&column.name, &json(&value.to_json()));
    }
    text.push('}');
    text
}

/// The codes in what [`row_json`] wrote.
fn codes_of_json(json: &serde_json::Value, shape: &Shape) -> Option<Vec<Vec<u64>>> {
    let list = |value: &serde_json::Value| value.as_array()?.iter().map(serde_json::Value::as_u64).collect();
    let codes = json.get("codes")?;
    match shape.schema.layout {
        Layout::One => Some(vec![list(codes)?]),
        _ => codes.as_array()?.iter().filter(|codes| !codes.is_null()).map(list).collect(),
    }
}
