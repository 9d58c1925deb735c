//! Tars: the pickles of the official SEED training, and WebDataset with JSON.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufReader, BufWriter, Read as _, Write as _},
    path::PathBuf,
};

use super::{
    Files, ReadBack, Shape, Sink, codes_of_json, damaged, one_image_only, pickle, read_error, row_json, write_error,
};
use crate::{
    dataset::sample::{Row, Value},
    error::Result,
};

/// Tars in a part's folder, as the official data has it.
const SHARDS_OF_A_PART: usize = 1000;
/// The column that becomes the official sample's `text`.
const CAPTION: &str = "caption";

/// `part-0000/0000000.tar` with `KEY.pkl`.
pub(super) struct SeedTar;

/// `00000.tar` with `KEY.json`.
pub(super) struct Webdataset;

impl Files for SeedTar {
    fn files(&self, shard: usize) -> Vec<PathBuf> {
        vec![format!("part-{:04}/{shard:07}.tar", shard / SHARDS_OF_A_PART).into()]
    }

    fn check(&self, shape: &Shape) -> Result<()> {
        one_image_only("seed-tar", shape)
    }

    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Members::create(&paths[0], "pkl", shape, |row, shape| {
            let columns = || shape.schema.columns.iter().zip(&row.values);
            let caption = columns().find(|(column, _)| column.name == CAPTION).map(|(_, value)| value);
            let text = match caption {
                Some(Value::Text(text)) => text.as_str(),
                _ => "",
            };
            let mut metadata = vec![("key", row.key.as_str().into())];
            let others = columns().filter(|(column, _)| column.name != CAPTION);
            metadata.extend(others.map(|(column, value)| (column.name.as_str(), value.to_json())));
            pickle::sample(row.codes().next().unwrap_or_default(), text, &metadata)
        })?))
    }

    fn read(&self, _: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()> {
        read(&paths[0], "pkl", |name, bytes| {
            let ids = pickle::image_ids(bytes).ok_or_else(|| damaged(&paths[0], format!("{name}.pkl is damaged")))?;
            each(name, &[ids])
        })
    }
}

impl Files for Webdataset {
    fn files(&self, shard: usize) -> Vec<PathBuf> {
        vec![format!("{shard:05}.tar").into()]
    }

    fn check(&self, _: &Shape) -> Result<()> {
        Ok(())
    }

    fn create(&self, shape: &Shape, paths: &[PathBuf]) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Members::create(&paths[0], "json", shape, |row, shape| row_json(row, shape, true).into_bytes())?))
    }

    fn read(&self, shape: &Shape, paths: &[PathBuf], each: ReadBack<'_>) -> Result<()> {
        read(&paths[0], "json", |name, bytes| {
            let fail = |reason: &str| damaged(&paths[0], format!("{name}.json: {reason}"));
            let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| fail(&error.to_string()))?;
            let key = json.get("key").and_then(serde_json::Value::as_str).ok_or_else(|| fail("it has no key"))?;
            each(key, &codes_of_json(&json, shape).ok_or_else(|| fail("it has no codes"))?)
        })
    }
}

type Encode = fn(&Row, &Shape) -> Vec<u8>;

/// Writes a member a row.
struct Members {
    path: PathBuf,
    ending: &'static str,
    shape: Shape,
    encode: Encode,
    builder: tar::Builder<BufWriter<File>>,
    names: BTreeSet<String>,
}

impl Members {
    fn create(path: &std::path::Path, ending: &'static str, shape: &Shape, encode: Encode) -> Result<Self> {
        let file = BufWriter::new(File::create(path).map_err(write_error(path))?);
        let (builder, names) = (tar::Builder::new(file), BTreeSet::new());
        Ok(Self { path: path.to_owned(), ending, shape: shape.clone(), encode, builder, names })
    }
}

impl Sink for Members {
    fn write(&mut self, row: &Row) -> Result<()> {
        let mut name = member_name(&row.key);
        let plain = name.clone();
        let mut again = 1;
        while !self.names.insert(name.clone()) {
            again += 1;
            name = format!("{plain}_{again}");
        }
        let bytes = (self.encode)(row, &self.shape);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0); // the same input gives the same bytes
        let member = format!("{name}.{}", self.ending);
        self.builder.append_data(&mut header, member, bytes.as_slice()).map_err(write_error(&self.path))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let mut file = self.builder.into_inner().map_err(write_error(&self.path))?;
        file.flush().map_err(write_error(&self.path))
    }
}

/// A key as the name of a member: without dots, which would end the key, and inside of the folder that it is unpacked in.
fn member_name(key: &str) -> String {
    let part = |part: &str| match part {
        "." | ".." => "_".repeat(part.len()),
        part => part.replace(['.', '\\', '\0'], "_"),
    };
    let parts: Vec<String> = key.split('/').filter(|part| !part.is_empty()).map(part).collect();
    if parts.is_empty() { "_".to_owned() } else { parts.join("/") }
}

fn read(path: &std::path::Path, ending: &str, mut each: impl FnMut(&str, &[u8]) -> Result<()>) -> Result<()> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(path).map_err(read_error(path))?));
    for entry in archive.entries().map_err(read_error(path))? {
        let mut entry = entry.map_err(read_error(path))?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let stem = name.strip_suffix(ending).and_then(|name| name.strip_suffix('.'));
        let stem = stem.ok_or_else(|| damaged(path, format!("its member {name} is no .{ending}")))?;
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(read_error(path))?;
        each(stem, &bytes)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_dot_and_stay_inside() {
        for (key, name) in [
            ("a/b.png", "a/b_png"),
            ("/data/x", "data/x"),
            ("../../etc/passwd", "__/__/etc/passwd"),
            ("", "_"),
            ("000017", "000017"),
        ] {
            assert_eq!(member_name(key), name);
        }
    }
}
