//! One numpy array `[rows, tokens]` of `uint16` a shard, and a parquet file with key and columns of each row.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use super::{
    Files, ReadBack, Shape, Sink, damaged, one_image_only,
    parquet::{self, Rows},
    read_error, write_error,
};
use crate::{dataset::sample::Row, error::Result};

/// Bytes of the header, for any number of rows: magic, version and a dict that is padded with spaces.
const HEADER: usize = 128;

pub(super) struct Npy;

struct ArrayAndIndex {
    path: PathBuf,
    array: BufWriter<File>,
    rows: usize,
    tokens: usize,
    index: Rows,
}

/// Format version 1.0 of numpy's `.npy`.
fn header(rows: usize, tokens: usize) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((HEADER - 10) as u16).to_le_bytes());
    bytes.extend(format!("{{'descr': '<u2', 'fortran_order': False, 'shape': ({rows}, {tokens}), }}").into_bytes());
    bytes.resize(HEADER - 1, b' ');
    bytes.push(b'\n');
    bytes
}

impl Files for Npy {
    fn files(&self, shard: usize) -> Vec<PathBuf> {
        vec![format!("{shard:05}.npy").into(), format!("{shard:05}.parquet").into()]
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        one_image_only("npy", shape)
    }

    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>> {
        let path = paths[0].clone();
        let mut array = BufWriter::new(File::create(&path).map_err(write_error(&path))?);
        array.write_all(&header(0, shape.tokens)).map_err(write_error(&path))?;
        let index = Rows::create(&paths[1], shape, false)?;
        Ok(Box::new(ArrayAndIndex { path, array, rows: 0, tokens: shape.tokens, index }))
    }

    fn read(&self, shape: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()> {
        let keys = parquet::keys(&paths[1])?;
        let mut file = BufReader::new(File::open(&paths[0]).map_err(read_error(&paths[0]))?);
        let mut found = vec![0; HEADER];
        file.read_exact(&mut found).map_err(read_error(&paths[0]))?;
        if found != header(keys.len(), shape.tokens) {
            return Err(damaged(&paths[0], format!("its header is not that of {} rows", keys.len())));
        }
        let mut row = vec![0; 2 * shape.tokens];
        for key in keys {
            file.read_exact(&mut row).map_err(read_error(&paths[0]))?;
            let codes = row.chunks_exact(2).map(|code| u64::from(u16::from_le_bytes([code[0], code[1]])));
            each(&key, &[codes.collect()])?;
        }
        at_its_end(&paths[0], file)
    }
}

/// Holds when nothing follows.
pub(super) fn at_its_end(path: &Path, mut file: impl std::io::Read) -> Result<()> {
    match file.read(&mut [0]).map_err(read_error(path))? {
        0 => Ok(()),
        _ => Err(damaged(path, "more follows than its rows")),
    }
}

impl Sink for ArrayAndIndex {
    fn write(&mut self, row: &Row) -> Result<()> {
        let codes: Vec<u8> = row.codes().flatten().flat_map(|code| code.to_le_bytes()).collect();
        self.array.write_all(&codes).map_err(write_error(&self.path))?;
        self.rows += 1;
        self.index.write(row)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let fail = write_error(&self.path);
        self.array.seek(SeekFrom::Start(0)).map_err(&fail)?; // flushes
        self.array.write_all(&header(self.rows, self.tokens)).map_err(&fail)?;
        self.array.flush().map_err(&fail)?;
        self.index.finish()
    }
}
