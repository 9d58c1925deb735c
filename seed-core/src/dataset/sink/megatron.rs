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
    dataset::sample::Row,
    error::{Error, Result},
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

    fn largest(self, codebook_size: usize) -> u64 {
        let last = u64::from(self.offset) + (codebook_size as u64).saturating_sub(1);
        last.max(u64::from(self.begin)).max(u64::from(self.end))
    }

    /// Code of the type and bytes of an id: uint16 where it suffices.
    fn width(self, codebook_size: usize) -> (u8, usize) {
        if self.largest(codebook_size) <= u64::from(u16::MAX) { (8, 2) } else { (4, 4) }
    }
}

pub(super) struct Megatron(pub(super) MegatronIds);

struct Documents {
    ids: MegatronIds,
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
        let MegatronIds { offset, begin, end } = self.0;
        let codes = u64::from(offset)..u64::from(offset) + shape.codebook_size as u64;
        let fail =
            |reason: String| Err(Error::Argument { name: "ids", value: format!("{begin}, {offset}.., {end}"), reason });
        if begin == end || codes.contains(&u64::from(begin)) || codes.contains(&u64::from(end)) {
            return fail(format!(
                "begin and end must differ from each other and from the {} ids of codes from the offset on",
                shape.codebook_size
            ));
        }
        match self.0.largest(shape.codebook_size) > i32::MAX as u64 {
            true => fail("ids must fit into 31 bits".to_owned()),
            false => Ok(()),
        }
    }

    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>> {
        let bin = paths[0].clone();
        let file = BufWriter::new(File::create(&bin).map_err(write_error(&bin))?);
        Ok(Box::new(Documents {
            ids: self.0,
            kind: self.0.width(shape.codebook_size),
            bin: (bin, file),
            idx: paths[1].clone(),
            lengths: Vec::new(),
            index: Rows::create(&paths[2], shape, false)?,
        }))
    }

    fn read(&self, shape: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()> {
        let keys = parquet::keys(&paths[2])?;
        let (kind, width) = self.0.width(shape.codebook_size);
        let lengths = vec![(shape.tokens + 2) as i32; keys.len()];
        let found = std::fs::read(&paths[1]).map_err(read_error(&paths[1]))?;
        if found != index(kind, width, &lengths) {
            return Err(damaged(&paths[1], format!("it is not the index of {} images", keys.len())));
        }
        let mut file = BufReader::new(File::open(&paths[0]).map_err(read_error(&paths[0]))?);
        let mut bytes = vec![0; width * (shape.tokens + 2)];
        for key in keys {
            file.read_exact(&mut bytes).map_err(read_error(&paths[0]))?;
            let id = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |id, &byte| id << 8 | u64::from(byte));
            let ids: Vec<u64> = bytes.chunks_exact(width).map(id).collect();
            let marks = [ids[0], ids[ids.len() - 1]];
            let code = |id: &u64| id.checked_sub(u64::from(self.0.offset));
            let codes: Option<Vec<u64>> = ids[1..ids.len() - 1].iter().map(code).collect();
            match codes.filter(|_| marks == [self.0.begin, self.0.end].map(u64::from)) {
                Some(codes) => each(&key, &[codes])?,
                None => return Err(damaged(&paths[0], format!("the ids of {key} are no image block"))),
            }
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
        let ids = [self.ids.begin].into_iter().chain(codes.iter().map(|&code| self.ids.offset + u32::from(code)));
        let ids: Vec<u32> = ids.chain([self.ids.end]).collect();
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
