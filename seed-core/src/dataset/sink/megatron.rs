//! Megatron-LM's indexed datasets: `.bin` holds the token ids one after the other, `.idx` where each sequence begins.
//!
//! An image is a sequence and a document of its own: the begin id, its codes with the offset added, the end id. Layout of
//! the index: `MMIDIDX\0\0`, version 1 (u64), type of the ids (u8: 8 is uint16, 4 is int32), numbers of sequences and of
//! document boundaries (u64), lengths (i32), byte offsets (i64), document boundaries (i64); all little-endian. Keys and
//! columns are in a parquet file beside.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read as _, Write as _},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use super::{
    Files, ReadBack, Shape, Sink, damaged,
    npy::at_its_end,
    one_image_only,
    parquet::{self, Rows},
    read_error, write_error,
};
use crate::{
    codes::Codes,
    dataset::sample::Row,
    error::Result,
    llm::{Template, TemplateConfig},
};

const MAGIC: &[u8] = b"MMIDIDX\0\0";
const VERSION: u64 = 1;

/// Which ids of a language model's vocabulary an image becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MegatronIds {
    /// Added to every code.
    pub offset: u32,
    /// Stands before an image.
    pub begin: u32,
    /// Stands after it.
    pub end: u32,
}

impl MegatronIds {
    /// SEED-LLaMA's: 32000 ids of LLaMA, 8192 codes, then `<img>` and `</img>`.
    pub const SEED_LLAMA: Self = Self { offset: 32_000, begin: 40_192, end: 40_193 };

    /// How images are written; the texts do not matter here.
    fn template(self, shape: &Shape) -> Result<Template> {
        let Self { offset, begin, end } = self;
        let sizes = TemplateConfig::for_codebook(shape.codebook_size, shape.tokens, offset);
        Template::new(TemplateConfig { begin_id: begin, end_id: end, ..sizes })
    }
}

/// Code of the type and bytes of an id: uint16 where it suffices.
fn width(template: &Template) -> (u8, usize) {
    if template.last_id() <= u32::from(u16::MAX) { (8, 2) } else { (4, 4) }
}

pub(super) struct Megatron(pub(super) MegatronIds);

struct Documents {
    template: Template,
    kind: (u8, usize),
    bin: (PathBuf, BufWriter<File>),
    idx: PathBuf,
    lengths: Vec<i32>,
    index: Rows,
}

impl Files for Megatron {
    fn files(&self, shard: usize) -> Vec<PathBuf> {
        ["bin", "idx", "parquet"].iter().map(|ending| format!("{shard:05}.{ending}").into()).collect()
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        one_image_only("megatron", shape)?;
        self.0.template(shape).map(drop)
    }

    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>> {
        let template = self.0.template(shape)?;
        let bin = paths[0].clone();
        let file = BufWriter::new(File::create(&bin).map_err(write_error(&bin))?);
        Ok(Box::new(Documents {
            kind: width(&template),
            template,
            bin: (bin, file),
            idx: paths[1].clone(),
            lengths: Vec::new(),
            index: Rows::create(&paths[2], shape, false)?,
        }))
    }

    fn read(&self, shape: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()> {
        let keys = parquet::keys(&paths[2])?;
        let template = self.0.template(shape)?;
        let (kind, width) = width(&template);
        let lengths = vec![template.block_len() as i32; keys.len()];
        let found = std::fs::read(&paths[1]).map_err(read_error(&paths[1]))?;
        if found != index(kind, width, &lengths) {
            return Err(damaged(&paths[1], format!("it is not the index of {} images", keys.len())));
        }
        let mut file = BufReader::new(File::open(&paths[0]).map_err(read_error(&paths[0]))?);
        let mut bytes = vec![0; width * template.block_len()];
        for key in keys {
            file.read_exact(&mut bytes).map_err(read_error(&paths[0]))?;
            let id = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |id, &byte| id << 8 | u32::from(byte));
            let ids: Vec<u32> = bytes.chunks_exact(width).map(id).collect();
            let codes = template
                .ids_to_codes(&ids)
                .map_err(|error| damaged(&paths[0], format!("the ids of {key} are no image block: {error}")))?;
            each(&key, &[codes.as_slice().iter().map(|&code| code.into()).collect()])?;
        }
        at_its_end(&paths[0], file)
    }
}

/// The bytes of the `.idx` of sequences that are documents.
fn index(kind: u8, width: usize, lengths: &[i32]) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(VERSION.to_le_bytes());
    bytes.push(kind);
    bytes.extend((lengths.len() as u64).to_le_bytes());
    bytes.extend((lengths.len() as u64 + 1).to_le_bytes());
    lengths.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
    let mut offset = 0i64;
    for &length in lengths {
        bytes.extend(offset.to_le_bytes());
        offset += i64::from(length) * width as i64;
    }
    (0..=lengths.len() as i64).for_each(|document| bytes.extend(document.to_le_bytes()));
    bytes
}

impl Sink for Documents {
    fn write(&mut self, row: &Row) -> Result<()> {
        let codes = row.codes().next().unwrap_or_default();
        let config = self.template.config();
        let ids = self.template.codes_to_ids(&Codes::from_rows([codes], config.tokens, config.codebook_size)?)?;
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes().into_iter().take(self.kind.1)).collect();
        self.bin.1.write_all(&bytes).map_err(write_error(&self.bin.0))?;
        self.lengths.push(ids.len() as i32);
        self.index.write(row)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.bin.1.flush().map_err(write_error(&self.bin.0))?;
        let bytes = index(self.kind.0, self.kind.1, &self.lengths);
        std::fs::write(&self.idx, bytes).map_err(write_error(&self.idx))?;
        self.index.finish()
    }
}
