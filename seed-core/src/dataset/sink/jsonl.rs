//! A JSON object a line: `key`, `codes`, then the columns.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, BufWriter, Write as _},
    path::PathBuf,
};

use super::{Files, ReadBack, Shape, Sink, codes_of_json, damaged, read_error, row_json, write_error};
use crate::{dataset::sample::Row, error::Result};

pub(super) struct Jsonl;

struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
    shape: Shape,
}

impl Files for Jsonl {
    fn files(&self, shard: usize) -> Vec<PathBuf> {
        vec![format!("{shard:05}.jsonl").into()]
    }

    fn check(&self, _: &Shape) -> Result<()> {
        Ok(())
    }

    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>> {
        let path = paths[0].clone();
        let file = BufWriter::new(File::create(&path).map_err(write_error(&path))?);
        Ok(Box::new(Lines { path, file, shape: shape.clone() }))
    }

    fn read(&self, shape: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()> {
        let path = &paths[0];
        for (i, line) in BufReader::new(File::open(path).map_err(read_error(path))?).lines().enumerate() {
            let line = line.map_err(read_error(path))?;
            let fail = |reason: &str| damaged(path, format!("line {}: {reason}", i + 1));
            let json: serde_json::Value = serde_json::from_str(&line).map_err(|error| fail(&error.to_string()))?;
            let key = json.get("key").and_then(serde_json::Value::as_str).ok_or_else(|| fail("it has no key"))?;
            each(key, &codes_of_json(&json, shape).ok_or_else(|| fail("it has no codes"))?)?;
        }
        Ok(())
    }
}

impl Sink for Lines {
    fn write(&mut self, row: &Row) -> Result<()> {
        writeln!(self.file, "{}", row_json(row, &self.shape, true)).map_err(write_error(&self.path))
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.file.flush().map_err(write_error(&self.path))
    }
}
