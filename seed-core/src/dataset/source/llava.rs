//! LLaVA: JSON or JSONL of records with an image, or a list of images, and conversations.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{
    Each, ShardInput, Source, SourceOptions, files,
    records::{RecordShards, key_of, values_of},
};
use crate::{
    dataset::sample::{Column, Layout, Piece, Sample, Schema, Skipped},
    error::Result,
};

/// The field that holds what was said about the image; it travels as JSON.
pub(super) const CONVERSATIONS: &str = "conversations";

/// Files of records.
#[derive(Debug)]
pub(super) struct Llava {
    schema: Schema,
    shards: Vec<ShardInput>,
    records: RecordShards,
    image: String,
    key: String,
}

impl Llava {
    pub(super) fn open(paths: &[PathBuf], options: &SourceOptions) -> Result<Self> {
        let image = options.image_column.clone().unwrap_or_else(|| "image".to_owned());
        let (mut one_each, mut talks) = (true, false);
        let (shards, records) = RecordShards::open(paths, options, |record| {
            one_each &= record.get(&image).is_some_and(Json::is_string);
            talks |= record.get(CONVERSATIONS).is_some();
        })?;
        let mut columns: Vec<Column> = talks.then(|| Column::text(CONVERSATIONS)).into_iter().collect();
        columns.extend(options.columns.iter().cloned());
        let layout = if one_each { Layout::One } else { Layout::Several };
        let key = options.key_column.clone().unwrap_or_else(|| "id".to_owned());
        Ok(Self { schema: Schema { layout, columns }, shards, records, image, key })
    }

    fn sample(&self, record: &Json, number: String, root: &Path) -> Result<Sample, Skipped> {
        let key = key_of(record.get(&self.key), number);
        let fail = |reason: String| Skipped::failed(&key, reason);
        let names: Vec<&str> = match record.get(&self.image) {
            None | Some(Json::Null) => Vec::new(),
            Some(Json::String(name)) => vec![name],
            Some(Json::Array(names)) => names
                .iter()
                .map(|name| name.as_str().ok_or_else(|| fail(format!("its image {name} is no path"))))
                .collect::<Result<_, _>>()?,
            Some(other) => return Err(fail(format!("its image {other} is no path"))),
        };
        let pieces = names.into_iter().map(|name| Piece::Image(files::image_at(root, name))).collect();
        let values = values_of(record, &self.schema.columns).map_err(fail)?;
        Ok(Sample { key, pieces, values })
    }
}

impl Source for Llava {
    fn schema(&self) -> &Schema {
        &self.schema
    }

    fn shards(&self) -> &[ShardInput] {
        &self.shards
    }

    fn read(&self, shard: usize, each: Each<'_>) -> Result<()> {
        self.records.read(shard, each, |record, number, root| self.sample(record, number, root))
    }
}
