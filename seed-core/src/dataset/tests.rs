//! The pipeline as a library, on scenes that are made as they are read.

use std::{collections::BTreeMap, path::Path, sync::atomic::AtomicBool};

use super::*;
use crate::{
    Device, Model, SeedTokenizer,
    checkpoint::DType,
    error::{Error, Result},
    pixels,
};

/// Images of one colour each, three a shard; the last of each shard cannot be decoded.
struct Colours {
    schema: Schema,
    shards: Vec<ShardInput>,
}

impl Colours {
    fn new(shards: usize) -> Self {
        let input =
            |shard| ShardInput { name: format!("shard {shard}"), samples: Some(3), fingerprint: "1".to_owned() };
        let schema = Schema { layout: Layout::One, columns: vec![Column::text("caption")] };
        Self { schema, shards: (0..shards).map(input).collect() }
    }
}

impl Source for Colours {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shards(&self) -> &[ShardInput] {
        &self.shards
    }

    fn read(&self, shard: usize, each: source::Each<'_>) -> Result<()> {
        for index in 0..3u8 {
            let image = pixels::RgbImage::from_pixel(20, 30, image::Rgb([40 * shard as u8, 70 * index, 9]));
            let bytes = if index == 2 { b"nothing".to_vec() } else { pixels::to_png(&image) };
            let pieces = vec![Piece::Image(Image::Bytes(bytes))];
            let values = vec![Value::Text(format!("colour {index}"))];
            if each(Ok(Sample { key: format!("{shard}/{index}"), pieces, values })).is_break() {
                break;
            }
        }
        Ok(())
    }
}

fn bundled() -> Box<dyn SeedTokenizer> {
    crate::open(&Model::Bundled, Device::Cpu, DType::F32, None).unwrap()
}

fn files(folder: &Path) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(std::result::Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => drop(found.insert(
                    entry.path().strip_prefix(folder).unwrap().to_owned(),
                    std::fs::read(entry.path()).unwrap(),
                )),
            }
        }
    }
    found
}

#[test]
fn shards_one_by_one_are_the_same_as_all_at_once() {
    let (seed, source, options) = (bundled(), Colours::new(3), TokenizeOptions::default());
    let folder = tempfile::tempdir().unwrap();
    let (all, single) = (folder.path().join("all"), folder.path().join("single"));
    let mut seen = 0;
    let mut watch = Watch { progress: &mut |now| seen = now.inputs, stop: &AtomicBool::new(false) };
    let done = tokenize(seed.as_ref(), &source, &OutputFormat::Parquet, &all, &options, &mut watch).unwrap();
    assert_eq!((done.rows, done.failed, done.shards_done, seen), (6, 3, 3, 9));
    for shard in [2, 0, 1, 0] {
        let report = tokenize_shard(seed.as_ref(), &source, shard, &OutputFormat::Parquet, &single, &options).unwrap();
        assert_eq!((report.rows, report.failed, report.inputs), (2, 1, 3));
    }
    assert!(files(&all) == files(&single));
    let error = tokenize_shard(seed.as_ref(), &source, 3, &OutputFormat::Parquet, &single, &options).unwrap_err();
    assert!(matches!(error, Error::Argument { name: "shard", .. }), "{error}");
    // A source with more shards is another output.
    let more = Colours::new(4);
    let error = tokenize_shard(seed.as_ref(), &more, 0, &OutputFormat::Parquet, &single, &options).unwrap_err();
    assert!(matches!(error, Error::OtherRun { .. }), "{error}");
}

#[test]
fn a_stop_leaves_whole_shards_only() {
    let (seed, source, options) = (bundled(), Colours::new(2), TokenizeOptions::default());
    let folder = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(true);
    let mut watch = Watch { progress: &mut |_| {}, stop: &stop };
    let done = tokenize(seed.as_ref(), &source, &OutputFormat::Jsonl, folder.path(), &options, &mut watch).unwrap();
    assert!(done.stopped && done.rows == 0);
    let found = verify(folder.path(), &OutputFormat::Jsonl, &mut |_, _| {}).unwrap();
    assert_eq!((found.missing.len(), found.problems, found.is_whole()), (2, 0, false));
}

#[test]
fn columns_that_sinks_make_are_refused() {
    let seed = bundled();
    let mut source = Colours::new(1);
    for (name, more) in [("codes", false), ("caption", true)] {
        source.schema.columns = vec![Column::text(name)];
        if more {
            source.schema.columns.push(Column::text(name));
        }
        let error = plan(seed.as_ref(), &source, &OutputFormat::Jsonl, &TokenizeOptions::default()).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
}
